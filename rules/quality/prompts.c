#include "rules/quality/prompts.h"

#include <string.h>

#include "engine/base/buffer.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"

enum {
    /* Of a pass over a group, about, when prompts have PROMPT_TOKENS. Larger groups gain nothing:
     * decoding the weights takes a hundredth of the time then. */
    GROUP_TOKENS = 8192,
    PROMPT_TOKENS = 32,
    GROUPS_MAX = 64,
};

/* A prompt; the bytes belong to whoever listed them. */
struct prompt {
    const char *text;
    size_t length;
};

/* The lines of a text that are not empty: at most LQ_PROMPTS_MAX + 1 of them go to `out`, which may
 * be NULL; returns their number. */
static size_t split_lines(const char *data, uint64_t size_bytes, struct prompt *out)
{
    size_t count = 0;
    for (uint64_t at = 0; at < size_bytes && count <= LQ_PROMPTS_MAX; at++) {
        const char *end = memchr(data + at, '\n', (size_t)(size_bytes - at));
        size_t length = end == NULL ? (size_t)(size_bytes - at) : (size_t)(end - (data + at));
        size_t kept = length > 0 && data[at + length - 1] == '\r' ? length - 1 : length;
        if (kept > 0 && out != NULL) {
            out[count] = (struct prompt){data + at, kept};
        }
        count += kept > 0;
        at += length;
    }
    return count;
}

static enum lq_status read_lines(struct lq_expand *expand, const struct lq_artifact *text,
                                 struct prompt **out, size_t *count, struct lq_error *err)
{
    struct lq_ref ref = lq_ref_artifact(text, "main");
    const void *data = NULL;
    uint64_t size_bytes = 0;
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size_bytes, err);
    if (status != LQ_OK) {
        return status;
    }
    *count = split_lines(data, size_bytes, NULL);
    if (*count == 0 || *count > LQ_PROMPTS_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "the text of the prompts has %s lines that are not empty, expected 1 "
                            "to %d",
                            *count == 0 ? "no" : "too many", LQ_PROMPTS_MAX);
    }
    *out = lq_arena_get_array(lq_expand_arena(expand), *count, sizeof **out);
    if (*out == NULL) {
        return lq_error_nomem(err, "prompts");
    }
    (void)split_lines(data, size_bytes, *out);
    return LQ_OK;
}

static enum lq_status read_list(struct lq_expand *expand, const char *const *list, size_t count,
                                struct prompt **out, struct lq_error *err)
{
    *out = lq_arena_get_array(lq_expand_arena(expand), count + 1, sizeof **out);
    for (size_t i = 0; *out != NULL && i < count; i++) {
        (*out)[i] = (struct prompt){list[i], strlen(list[i])};
    }
    return *out == NULL ? lq_error_nomem(err, "prompts") : LQ_OK;
}

/* The bytes of a group, in the arena. */
static enum lq_status format_group(struct lq_expand *expand, const struct prompt *prompts,
                                   struct lq_prompt_group *group, struct lq_error *err)
{
    struct lq_buffer bytes;
    lq_buffer_init(&bytes);
    for (size_t i = 0; i < group->count; i++) {
        lq_buffer_append_u32(&bytes, (uint32_t)prompts[i].length);
        lq_buffer_append(&bytes, prompts[i].text, prompts[i].length);
    }
    const char *copy =
        bytes.failed ? NULL : lq_arena_dup(lq_expand_arena(expand), bytes.data, bytes.size_bytes);
    group->bytes = lq_ref_bytes(copy, bytes.size_bytes);
    lq_buffer_fini(&bytes);
    return copy == NULL ? lq_error_nomem(err, "prompts") : LQ_OK;
}

enum lq_status lq_prompts_group(struct lq_expand *expand, const struct lq_artifact *text,
                                const char *const *list, size_t list_count, uint32_t length,
                                struct lq_prompts *out, struct lq_error *err)
{
    struct prompt *prompts = NULL;
    size_t count = list_count;
    enum lq_status status = text != NULL ? read_lines(expand, text, &prompts, &count, err)
                                         : read_list(expand, list, list_count, &prompts, err);
    if (status != LQ_OK) {
        return status;
    }
    size_t size = GROUP_TOKENS / (PROMPT_TOKENS + length) + 1;
    size_t least = (count + GROUPS_MAX - 1) / GROUPS_MAX;
    size = size < least ? least : size;
    *out = (struct lq_prompts){.group_count = (count + size - 1) / size};
    out->groups =
        lq_arena_get_array(lq_expand_arena(expand), out->group_count, sizeof *out->groups);
    if (out->groups == NULL) {
        return lq_error_nomem(err, "prompts");
    }
    for (size_t g = 0; status == LQ_OK && g < out->group_count; g++) {
        struct lq_prompt_group *group = &out->groups[g];
        group->first = g * size;
        group->count = count - group->first < size ? count - group->first : size;
        status = format_group(expand, prompts + group->first, group, err);
    }
    for (size_t i = 0; i < count; i++) {
        size_t bytes = prompts[i].length;
        out->longest_bytes = bytes > out->longest_bytes ? bytes : out->longest_bytes;
    }
    return status;
}

enum lq_status lq_prompts_tokenize(const void *data, uint64_t size_bytes,
                                   const struct lq_vocab *vocab, struct lq_token_list *lists,
                                   size_t *count, struct lq_error *err)
{
    struct lq_reader reader;
    enum lq_status status = LQ_OK;
    lq_reader_init(&reader, data, size_bytes);
    for (*count = 0; status == LQ_OK && lq_reader_left(&reader) > 0; (*count)++) {
        uint32_t length = lq_read_u32(&reader);
        const char *text = lq_read_bytes(&reader, length);
        if (text == NULL || *count == LQ_PROMPTS_MAX) {
            return lq_error_set(err, LQ_EFORMAT, "the list of prompts is malformed");
        }
        struct lq_token_list *list = &lists[*count];
        status = lq_tokenize(vocab, text, length, true, false, list, err);
        /* What is continued must not end. */
        if (status == LQ_OK && lq_vocab_adds_eos(vocab) && list->count > 0) {
            list->count--;
        }
    }
    return status;
}
