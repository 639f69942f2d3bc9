#include "engine/lang/reference_cycle.h"

#include <stdint.h>
#include <stdlib.h>

enum mark { NEW, OPEN, DONE };
enum { SHOWN_MAX = 16 }; /* names of a path in a message */

/* One artifact on the way, and where in its values the walk goes on. */
struct frame {
    size_t artifact;
    size_t value;
    size_t item;
};

struct walk {
    const struct lq_artifact *artifacts;
    struct lq_diagnostics *diagnostics;
    unsigned char *marks;
    struct frame *frames;
    size_t depth;
    unsigned reports;
};

/* The next reference of the artifact, or NULL; the frame moves behind it. */
static const struct lq_value *next_reference(const struct lq_artifact *artifact,
                                             struct frame *frame)
{
    if (artifact->values == NULL) {
        return NULL;
    }
    while (frame->value < artifact->rule->attr_count) {
        const struct lq_value *value = &artifact->values[frame->value];
        bool is_list = value->type == LQ_VALUE_LIST;
        size_t count = is_list ? value->count : 1;
        while (frame->item < count) {
            const struct lq_value *item = is_list ? &value->items[frame->item] : value;
            frame->item++;
            if (item->type == LQ_VALUE_REF && item->ref != NULL) {
                return item;
            }
        }
        frame->value++;
        frame->item = 0;
    }
    return NULL;
}

/* The frames from `start` to the top are a circle. */
static void report(struct walk *walk, size_t start)
{
    walk->reports++;
    size_t length = walk->depth - start;
    size_t first = start;
    for (size_t i = start; i < walk->depth; i++) {
        first = walk->frames[i].artifact < walk->frames[first].artifact ? i : first;
    }
    struct lq_buffer path;
    lq_buffer_init(&path);
    for (size_t i = 0; i < length && i < SHOWN_MAX; i++) {
        size_t place = start + (first - start + i) % length;
        lq_buffer_printf(&path, "%s -> ", walk->artifacts[walk->frames[place].artifact].name);
    }
    lq_buffer_append_string(&path, length > SHOWN_MAX ? "... -> " : "");
    const struct lq_artifact *artifact = &walk->artifacts[walk->frames[first].artifact];
    lq_buffer_append_string(&path, artifact->name);
    /* The place to look at is the attribute that leads on from the first artifact. */
    struct frame frame = {.artifact = artifact->index};
    size_t next = walk->frames[start + (first - start + 1) % length].artifact;
    const struct lq_value *value = next_reference(artifact, &frame);
    while (value != NULL && value->ref->index != next) {
        value = next_reference(artifact, &frame);
    }
    lq_diagnostics_add(walk->diagnostics, value == NULL ? &artifact->position : &value->position,
                       LQ_ERECIPE, "artifacts depend on themselves: %s", lq_buffer_text(&path));
    lq_buffer_fini(&path);
}

static void visit(struct walk *walk, size_t root)
{
    walk->frames[0] = (struct frame){.artifact = root};
    walk->depth = 1;
    walk->marks[root] = OPEN;
    while (walk->depth > 0 && walk->reports < LQ_DIAGNOSTICS_MAX) {
        struct frame *top = &walk->frames[walk->depth - 1];
        const struct lq_value *reference = next_reference(&walk->artifacts[top->artifact], top);
        if (reference == NULL) {
            walk->marks[top->artifact] = DONE;
            walk->depth--;
            continue;
        }
        size_t next = reference->ref->index;
        if (walk->marks[next] == NEW) {
            walk->marks[next] = OPEN;
            walk->frames[walk->depth++] = (struct frame){.artifact = next};
        } else if (walk->marks[next] == OPEN) {
            size_t start = walk->depth - 1;
            while (walk->frames[start].artifact != next) {
                start--;
            }
            report(walk, start);
        }
    }
}

bool lq_reference_cycle_check(const struct lq_artifact *artifacts, size_t count,
                              struct lq_diagnostics *diagnostics)
{
    unsigned before = diagnostics->count;
    struct walk walk = {.artifacts = artifacts, .diagnostics = diagnostics};
    walk.marks = calloc(count + 1, sizeof *walk.marks);
    walk.frames = calloc(count + 1, sizeof *walk.frames);
    if (walk.marks == NULL || walk.frames == NULL) {
        lq_diagnostics_nomem(diagnostics);
    } else {
        for (size_t i = 0; i < count; i++) {
            if (walk.marks[i] == NEW) {
                visit(&walk, i);
            }
        }
    }
    free(walk.marks);
    free(walk.frames);
    return diagnostics->count == before;
}
