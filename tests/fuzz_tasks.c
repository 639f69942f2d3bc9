/* Task files: the first byte chooses the format, the rest is the file. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "rules/format/tasks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_task_list list;
    struct lq_error err;
    if (size == 0) {
        return 0;
    }
    lq_arena_init(&arena);
    enum lq_task_format format = (enum lq_task_format)(data[0] % LQ_TASK_FORMAT_COUNT);
    if (lq_tasks_parse(data + 1, size - 1, "tasks", format, &arena, &list, &err) == LQ_OK) {
        for (size_t t = 0; t < list.count; t++) {
            for (size_t i = 0; i < list.tasks[t].choice_count; i++) {
                if (list.tasks[t].texts[i] == NULL || list.tasks[t].is_right[i] > 1) {
                    abort();
                }
            }
        }
    }
    lq_arena_fini(&arena);
    return 0;
}
