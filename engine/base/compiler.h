/* Compiler help. The only header that may use GNU extensions: attributes that let the compiler
 * check our printf-like functions and unused results. No state, no functions. */
#ifndef LQ_BASE_COMPILER_H
#define LQ_BASE_COMPILER_H

#define LQ_PRINTF(format_index, first_index)                                                       \
    __attribute__((format(printf, format_index, first_index)))
#define LQ_NODISCARD __attribute__((warn_unused_result))
#define LQ_UNUSED __attribute__((unused))
#define LQ_THREAD_LOCAL _Thread_local
#define LQ_COUNT_OF(array) (sizeof(array) / sizeof((array)[0]))

/* Tells the processor that a loop waits for another thread. */
#if defined(__x86_64__) || defined(__i386__)
#define LQ_SPIN_PAUSE() __builtin_ia32_pause()
#elif defined(__aarch64__)
#define LQ_SPIN_PAUSE() __asm__ volatile("yield")
#else
#define LQ_SPIN_PAUSE() ((void)0)
#endif

#endif
