/* The guard: what happens when a damaged data file makes LMDB, or the reading of what it returned,
 * touch memory that is not there. LMDB trusts its tree pages; a flipped bit in one can end in an
 * assertion, a segmentation fault or a bus error. A thread says when it works inside the store; a
 * fault on such a thread, and an assertion, end in one sentence and the callback of
 * lq_cache_options, which ends the process like a kill: the file keeps its last transaction. Faults
 * elsewhere are left to whoever handled them before. Thread rule: any thread; the handler is
 * installed once for the process and stays. */
#ifndef LQ_CACHE_STORE_GUARD_H
#define LQ_CACHE_STORE_GUARD_H

struct lq_guard {
    void (*fatal)(const char *message); /* async-signal-safe, does not return; NULL: no guard */
    const char *message;
};

/* Does nothing without a callback. */
void lq_guard_install(const struct lq_guard *guard);
/* Around everything that touches the map. Calls nest; `guard` outlives the leave. */
void lq_guard_enter(const struct lq_guard *guard);
void lq_guard_leave(void);

#endif
