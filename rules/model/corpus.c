#include "rules/model/corpus.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"
#include "engine/base/limits.h"
#include "rules/format/gguf.h"
#include "rules/model/tensor_ref.h"
#include "rules/model/tokens.h"

static const char *const usual_fields[] = {"text", "content", "prompt"};

/* The text of a list item; NULL when it has none. */
static const char *text_of(const cJSON *item, const char *field)
{
    if (cJSON_IsString(item)) {
        return item->valuestring;
    }
    const cJSON *member = NULL;
    if (field != NULL) {
        member = lq_json_find(item, field);
        return cJSON_IsString(member) ? member->valuestring : NULL;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(usual_fields); i++) {
        member = lq_json_find(item, usual_fields[i]);
        if (cJSON_IsString(member)) {
            return member->valuestring;
        }
    }
    return NULL;
}

static enum lq_status no_text(const char *where, const char *unit, size_t number, const char *field,
                              struct lq_error *err)
{
    return lq_error_set(
        err, LQ_ECALIBRATION, "%s: %s %zu has no text: expected a string or an object with %s%s%s",
        where, unit, number, field == NULL ? "text, content or prompt" : "a string '",
        field == NULL ? "; name another with field" : field, field == NULL ? "" : "'");
}

static void append_text(struct lq_buffer *out, const char *text, bool *first)
{
    if (!*first) {
        lq_buffer_append_char(out, '\n');
    }
    *first = false;
    lq_buffer_append_string(out, text);
}

/* The list of texts: the document itself, or the one list within it. */
static const cJSON *find_list(const cJSON *root)
{
    if (cJSON_IsArray(root)) {
        return root;
    }
    const cJSON *list = NULL;
    const cJSON *member = NULL;
    cJSON_ArrayForEach(member, root)
    {
        if (cJSON_IsArray(member)) {
            if (list != NULL) {
                return NULL;
            }
            list = member;
        }
    }
    return list;
}

static enum lq_status extract_document(const void *data, uint64_t size_bytes, const char *where,
                                       const char *field, struct lq_buffer *out,
                                       struct lq_error *err)
{
    cJSON *root = NULL;
    enum lq_status status =
        lq_json_parse(data, (size_t)size_bytes, where, LQ_ECALIBRATION, &root, err);
    if (status != LQ_OK) {
        return status;
    }
    const cJSON *list = find_list(root);
    if (list == NULL) {
        status =
            lq_error_set(err, LQ_ECALIBRATION,
                         "%s: expected a list of texts, or an object with one list in it", where);
    }
    bool first = true;
    size_t number = 0;
    const cJSON *item = NULL;
    cJSON_ArrayForEach(item, list)
    {
        number++;
        const char *text = text_of(item, field);
        if (text == NULL) {
            status = no_text(where, "item", number, field, err);
            break;
        }
        append_text(out, text, &first);
    }
    cJSON_Delete(root);
    return status;
}

static bool is_blank(const char *line, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        if (line[i] != ' ' && line[i] != '\t' && line[i] != '\r') {
            return false;
        }
    }
    return true;
}

static enum lq_status extract_line(const char *line, size_t length, const char *where,
                                   size_t number, const char *field, struct lq_buffer *out,
                                   bool *first, struct lq_error *err)
{
    char place[512];
    (void)snprintf(place, sizeof place, "%.480s:%zu", where, number);
    cJSON *root = NULL;
    enum lq_status status = lq_json_parse(line, length, place, LQ_ECALIBRATION, &root, err);
    if (status != LQ_OK) {
        return status;
    }
    const char *text = text_of(root, field);
    if (text != NULL) {
        append_text(out, text, first);
    } else {
        status = no_text(where, "line", number, field, err);
    }
    cJSON_Delete(root);
    return status;
}

static enum lq_status extract_lines(const char *data, uint64_t size_bytes, const char *where,
                                    const char *field, struct lq_buffer *out, struct lq_error *err)
{
    bool first = true;
    size_t number = 0;
    for (uint64_t at = 0; at < size_bytes;) {
        const char *line = data + at;
        const char *end = memchr(line, '\n', (size_t)(size_bytes - at));
        size_t length = end == NULL ? (size_t)(size_bytes - at) : (size_t)(end - line);
        number++;
        if (!is_blank(line, length)) {
            enum lq_status status =
                extract_line(line, length, where, number, field, out, &first, err);
            if (status != LQ_OK) {
                return status;
            }
        }
        at += length + 1;
    }
    return LQ_OK;
}

enum lq_status lq_corpus_extract(const void *data, uint64_t size_bytes, const char *where,
                                 bool lines, const char *field, struct lq_buffer *out,
                                 struct lq_error *err)
{
    const char *text = data;
    if (size_bytes >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0) {
        text += 3;
        size_bytes -= 3;
    }
    size_t before = out->size_bytes;
    enum lq_status status = lines ? extract_lines(text, size_bytes, where, field, out, err)
                                  : extract_document(text, size_bytes, where, field, out, err);
    if (status == LQ_OK && out->failed) {
        status = lq_error_nomem(err, "text");
    }
    if (status == LQ_OK && out->size_bytes == before) {
        status = lq_error_set(err, LQ_ECALIBRATION, "%s: there is no text in it", where);
    }
    return status;
}

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t next_random(uint64_t *state)
{
    *state += 0x9e3779b97f4a7c15ull;
    uint64_t z = *state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

/* A number below `bound` without bias: numbers of the incomplete last interval are thrown away. */
static uint64_t random_below(uint64_t *state, uint64_t bound)
{
    uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
    uint64_t value = next_random(state);
    while (value >= limit) {
        value = next_random(state);
    }
    return value % bound;
}

static int compare_numbers(const void *a, const void *b)
{
    size_t x = *(const size_t *)a;
    size_t y = *(const size_t *)b;
    return x < y ? -1 : x > y;
}

/* Chooses `count` of `total` chunks; the result has `count` ascending numbers and is freed by the
 * caller; NULL when memory is out. */
static size_t *choose_chunks(size_t total, size_t count, const struct lq_corpus_cut *cut)
{
    size_t *numbers = calloc(total, sizeof *numbers);
    if (numbers == NULL) {
        return NULL;
    }
    for (size_t i = 0; i < total; i++) {
        numbers[i] = i;
    }
    if (cut->random) {
        /* The first steps of a Fisher-Yates shuffle. */
        uint64_t state = cut->seed;
        for (size_t i = 0; i < count; i++) {
            size_t other = i + (size_t)random_below(&state, total - i);
            size_t swapped = numbers[i];
            numbers[i] = numbers[other];
            numbers[other] = swapped;
        }
        qsort(numbers, count, sizeof *numbers, compare_numbers);
    }
    return numbers;
}

/* Samples without which there is no result. */
static uint32_t samples_needed(const struct lq_corpus_cut *cut)
{
    return cut->samples == 0 || cut->at_most ? 1 : cut->samples;
}

static enum lq_status too_short(const struct lq_corpus_cut *cut, size_t count, const char *where,
                                struct lq_error *err)
{
    uint64_t needed = (uint64_t)cut->sequence * samples_needed(cut);
    return lq_error_set(err, LQ_ECALIBRATION,
                        "%s: the text has %zu tokens, but %llu are needed (%u sample%s of %u); "
                        "give more text, or ask for fewer or shorter samples",
                        where, count, (unsigned long long)needed, samples_needed(cut),
                        samples_needed(cut) == 1 ? "" : "s", cut->sequence);
}

/* Gathers the chosen chunks, with BOS first where there is one. */
static enum lq_status gather(const struct lq_vocab *vocab, const struct lq_token_list *list,
                             const struct lq_corpus_cut *cut, struct lq_buffer *out,
                             struct lq_error *err)
{
    size_t total = list->count / cut->sequence;
    bool all = cut->samples == 0 || (cut->at_most && cut->samples > total);
    size_t count = all ? total : cut->samples;
    if (count > LQ_SAMPLES_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "%zu samples of %u tokens exceed the limit of %d; give a shorter text",
                            count, cut->sequence, LQ_SAMPLES_MAX);
    }
    enum lq_status status = LQ_OK;
    size_t *numbers = choose_chunks(total, count, cut);
    int32_t *ids = calloc(count * cut->sequence, sizeof *ids);
    if (numbers == NULL || ids == NULL) {
        status = lq_error_nomem(err, "tokens");
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        int32_t *chunk = ids + i * cut->sequence;
        memcpy(chunk, list->ids + numbers[i] * cut->sequence, cut->sequence * sizeof *ids);
        chunk[0] = lq_vocab_adds_bos(vocab) ? lq_vocab_bos(vocab) : chunk[0];
    }
    const struct lq_tokens tokens = {.sample_count = (uint32_t)count,
                                     .sequence_length = cut->sequence,
                                     .bos = lq_vocab_adds_bos(vocab) ? (uint32_t)lq_vocab_bos(vocab)
                                                                     : LQ_TOKENS_NO_BOS,
                                     .tokens = ids};
    status = lq_tokens_format(&tokens, out, err);
out:
    free(numbers);
    free(ids);
    return status;
}

enum lq_status lq_corpus_cut(const struct lq_vocab *vocab, const char *text, uint64_t size_bytes,
                             const struct lq_corpus_cut *cut, const char *where,
                             bool (*cancelled)(const void *user), const void *cancelled_user,
                             struct lq_buffer *out, struct lq_error *err)
{
    if (cut->sequence == 0 || cut->sequence > LQ_SEQUENCE_MAX || cut->samples > LQ_SAMPLES_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION, "%u samples of %u tokens are beyond the limits",
                            cut->samples, cut->sequence);
    }
    if (size_bytes > LQ_TEXT_BYTES_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION, "%s: %llu bytes of text exceed the limit of %llu",
                            where, (unsigned long long)size_bytes,
                            (unsigned long long)LQ_TEXT_BYTES_MAX);
    }
    struct lq_token_list list;
    lq_token_list_init(&list);
    list.cancelled = cancelled;
    list.cancelled_user = cancelled_user;
    /* The first samples do not depend on what follows them. */
    list.limit = cut->random ? 0 : (size_t)cut->samples * cut->sequence;
    enum lq_status status = lq_tokenize(vocab, text, (size_t)size_bytes, true, false, &list, err);
    if (status == LQ_OK) {
        size_t needed = (size_t)cut->sequence * samples_needed(cut);
        status = list.count < needed ? too_short(cut, list.count, where, err)
                                     : gather(vocab, &list, cut, out, err);
    }
    lq_token_list_fini(&list);
    return status;
}

static bool run_is_cancelled(const void *user)
{
    return lq_run_cancelled(user);
}

/* How messages call what is cut and what cuts. */
struct cut_names {
    const char *text;
    const char *vocab;
};

/* Parameters are written by add_cut_step below. */
static void read_cut(const struct lq_run *run, struct lq_corpus_cut *cut)
{
    const char *seed = lq_run_param(run, "seed");
    cut->at_most = lq_run_param(run, "at_most") != NULL;
    cut->sequence = (uint32_t)strtoul(lq_run_param(run, "sequence"), NULL, 10);
    cut->samples = (uint32_t)strtoul(lq_run_param(run, "samples"), NULL, 10);
    cut->random = seed != NULL;
    cut->seed = seed == NULL ? 0 : strtoull(seed, NULL, 10);
}

static enum lq_status run_cut(struct lq_run *run, struct lq_error *err)
{
    const struct cut_names *names = lq_run_state(run);
    struct lq_corpus_cut cut;
    struct lq_gguf gguf;
    struct lq_vocab *vocab = NULL;
    const void *data = NULL;
    uint64_t size = 0;
    struct lq_buffer out;
    lq_buffer_init(&out);
    read_cut(run, &cut);
    enum lq_status status = lq_run_input_load(run, "vocab", &data, &size, err);
    if (status == LQ_OK) {
        status = lq_gguf_parse(data, size, size, "vocabulary", LQ_EFORMAT, lq_run_arena(run), &gguf,
                               NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_vocab_load(&vocab, &gguf, names->vocab, err);
    }
    if (status == LQ_OK) {
        status = lq_run_input_load(run, "text", &data, &size, err);
    }
    const void *nul = status == LQ_OK && size > 0 ? memchr(data, 0, (size_t)size) : NULL;
    if (nul != NULL) {
        lq_run_warn(run, "%s has a zero byte at byte %zu: is it really text?", names->text,
                    (size_t)((const char *)nul - (const char *)data));
    }
    if (status == LQ_OK) {
        status =
            lq_corpus_cut(vocab, data, size, &cut, names->text, run_is_cancelled, run, &out, err);
    }
    if (status == LQ_OK) {
        status = out.failed ? lq_error_nomem(err, "tokens")
                            : lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    lq_vocab_destroy(vocab);
    lq_buffer_fini(&out);
    return status;
}

static const struct cut_names *name_cut(struct lq_expand *expand, const struct lq_artifact *model,
                                        const struct lq_artifact *text)
{
    struct lq_arena *arena = lq_expand_arena(expand);
    struct cut_names *names = lq_arena_get(arena, sizeof *names);
    if (names == NULL) {
        return NULL;
    }
    bool has_file = lq_expand_source_count(expand, text) > 0;
    names->text = lq_arena_printf(
        arena, "text '%s'%s%s%s", lq_artifact_name(text), has_file ? " (" : "",
        has_file ? lq_expand_source_name(expand, text, 0) : "", has_file ? ")" : "");
    names->vocab =
        lq_arena_printf(arena, "the vocabulary of model '%s'", lq_tensor_model_name(expand, model));
    return names->text == NULL || names->vocab == NULL ? NULL : names;
}

enum lq_status lq_corpus_add_cut_step(struct lq_expand *expand, const char *op,
                                      const struct lq_artifact *model,
                                      const struct lq_artifact *text,
                                      const struct lq_corpus_cut *cut, size_t *index,
                                      struct lq_error *err)
{
    char sequence[32];
    char samples[32];
    char seed[32];
    (void)snprintf(sequence, sizeof sequence, "%u", cut->sequence);
    (void)snprintf(samples, sizeof samples, "%u", cut->samples);
    (void)snprintf(seed, sizeof seed, "%llu", (unsigned long long)cut->seed);
    /* The rest are parameters only where they matter: a seed must not rerun what ignores it. */
    struct lq_step_param params[4] = {{.name = "sequence", .value = sequence},
                                      {.name = "samples", .value = samples}};
    size_t param_count = 2;
    if (cut->random) {
        params[param_count++] = (struct lq_step_param){.name = "seed", .value = seed};
    }
    if (cut->at_most) {
        params[param_count++] = (struct lq_step_param){.name = "at_most", .value = "true"};
    }
    const struct lq_step_input inputs[] = {{"vocab", lq_ref_artifact(model, "vocab")},
                                           {"text", lq_ref_artifact(text, "main")}};
    static const struct lq_step_output outputs[] = {{.name = "main"}};
    const struct cut_names *names = name_cut(expand, model, text);
    if (names == NULL) {
        return lq_error_nomem(err, "tokens");
    }
    const struct lq_step step = {.op = op,
                                 .version = 1,
                                 .label = lq_artifact_name(text),
                                 .run = run_cut,
                                 .state = names,
                                 .params = params,
                                 .param_count = param_count,
                                 .inputs = inputs,
                                 .input_count = LQ_COUNT_OF(inputs),
                                 .outputs = outputs,
                                 .output_count = LQ_COUNT_OF(outputs),
                                 .memory_bytes = (uint64_t)64 << 20,
                                 .cost = 200000};
    return lq_expand_add_step(expand, &step, index, err);
}

enum lq_status lq_corpus_add_chunks_step(struct lq_expand *expand, const struct lq_artifact *model,
                                         const struct lq_artifact *text, uint32_t context,
                                         size_t *index, struct lq_error *err)
{
    const struct lq_corpus_cut cut = {.sequence = context};
    return lq_corpus_add_cut_step(expand, "text.chunks", model, text, &cut, index, err);
}
