/* What runs next: the ready task with the longest chain of work behind it, as far as threads and
 * memory allow. */
#include <stdlib.h>
#include <unistd.h>

#include "engine/build_state.h"

static bool comes_first(const struct lq_task *a, const struct lq_task *b)
{
    return a->priority != b->priority ? a->priority > b->priority : a->number < b->number;
}

static void swap(struct lq_ready_heap *heap, size_t a, size_t b)
{
    struct lq_task *task = heap->items[a];
    heap->items[a] = heap->items[b];
    heap->items[b] = task;
}

bool lq_ready_push(struct lq_build *build, struct lq_task *task)
{
    struct lq_ready_heap *heap = &build->ready;
    if (heap->count == heap->capacity) {
        size_t capacity = heap->capacity == 0 ? 64 : heap->capacity * 2;
        struct lq_task **items = realloc(heap->items, capacity * sizeof(struct lq_task *));
        if (items == NULL) {
            return false;
        }
        heap->items = items;
        heap->capacity = capacity;
    }
    size_t at = heap->count++;
    heap->items[at] = task;
    while (at > 0 && comes_first(heap->items[at], heap->items[(at - 1) / 2])) {
        swap(heap, at, (at - 1) / 2);
        at = (at - 1) / 2;
    }
    return true;
}

static struct lq_task *remove_top(struct lq_ready_heap *heap)
{
    struct lq_task *top = heap->items[0];
    heap->items[0] = heap->items[--heap->count];
    size_t at = 0;
    for (;;) {
        size_t best = at;
        for (size_t child = 2 * at + 1; child <= 2 * at + 2 && child < heap->count; child++) {
            if (comes_first(heap->items[child], heap->items[best])) {
                best = child;
            }
        }
        if (best == at) {
            return top;
        }
        swap(heap, at, best);
        at = best;
    }
}

static bool fits(const struct lq_build *build, const struct lq_task *task)
{
    if (task->spec.parallel && build->parallel_under_way) {
        return false;
    }
    /* A step that alone exceeds the limit still runs, but by itself. */
    return build->memory_under_way == 0 || (task->spec.memory_bytes <= build->memory_max &&
                                            build->memory_under_way + build->held_bytes <=
                                                build->memory_max - task->spec.memory_bytes);
}

struct lq_task *lq_ready_pop(struct lq_build *build)
{
    enum { PASSED_OVER_MAX = 16 };
    struct lq_task *passed[PASSED_OVER_MAX];
    size_t passed_count = 0;
    struct lq_task *found = NULL;
    while (build->ready.count > 0 && passed_count < PASSED_OVER_MAX) {
        struct lq_task *task = remove_top(&build->ready);
        if (fits(build, task)) {
            found = task;
            break;
        }
        passed[passed_count++] = task;
    }
    for (size_t i = 0; i < passed_count; i++) {
        (void)lq_ready_push(build, passed[i]); /* room is there: it was just taken out */
    }
    return found;
}

void lq_schedule_claim(struct lq_build *build, const struct lq_task *task)
{
    build->parallel_under_way = build->parallel_under_way || task->spec.parallel;
    build->memory_under_way += task->spec.memory_bytes;
}

void lq_schedule_release(struct lq_build *build, const struct lq_task *task)
{
    if (task->spec.parallel) {
        build->parallel_under_way = false;
    }
    build->memory_under_way -= task->spec.memory_bytes;
}

void lq_schedule_prioritise(struct lq_node *node)
{
    /* Tasks only refer to tasks added before them: one walk from the end is enough. `priority`
     * holds the longest chain behind a task until the task itself is reached. */
    for (size_t i = node->task_count; i-- > 0;) {
        struct lq_task *task = node->tasks[i];
        uint64_t behind = task->priority > node->depth_cost ? task->priority : node->depth_cost;
        task->priority = behind + task->eta_cost;
        for (size_t k = 0; k < task->spec.input_count; k++) {
            const struct lq_ref *ref = &task->spec.inputs[k].ref;
            if (ref->kind == LQ_REF_STEP && node->tasks[ref->index]->priority < task->priority) {
                node->tasks[ref->index]->priority = task->priority;
            }
        }
    }
}

uint64_t lq_schedule_default_memory(void)
{
    long pages = sysconf(_SC_PHYS_PAGES);
    long page_bytes = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page_bytes <= 0) {
        return (uint64_t)4 << 30;
    }
    return (uint64_t)pages * (uint64_t)page_bytes / 4 * 3;
}
