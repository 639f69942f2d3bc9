#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "rules/model/calibrate_parts.h"
#include "rules/model/gradient.h"
#include "rules/quant/super_weights.h"

/* One blob for a whole model: a table, then the lists of ranks in its order. The table is a
 * little-endian u32, the bytes of the text behind it, which has a line "NAME COUNT" for each list.
 */
enum {
    JOIN_VERSION = 1,
    PICK_VERSION = 1,
    RANKS_MIN = 4096,
    RANKS_FRACTION = 1000,
    COPY_BYTES = 1 << 20,
};

uint64_t lq_gradient_rank_count(uint64_t elems)
{
    uint64_t count = elems / RANKS_FRACTION < RANKS_MIN ? RANKS_MIN : elems / RANKS_FRACTION;
    return count < elems ? count : elems;
}

/* ---- joining the layers ---- */

/* Layers write the lists of their matrices in the order of enum lq_layer_weight. */
static void put_table(const struct lq_hparams *hparams, struct lq_buffer *text)
{
    for (uint32_t layer = 0; layer < hparams->layer_count; layer++) {
        for (int w = 0; w < LQ_LAYER_WEIGHT_COUNT; w++) {
            enum lq_layer_weight weight = (enum lq_layer_weight)w;
            char name[LQ_WEIGHT_NAME_BYTES];
            uint64_t cols = 0;
            uint64_t rows = 0;
            if (lq_hparams_has_matrix(hparams, weight)) {
                lq_layer_weight_shape(hparams, weight, &cols, &rows);
                uint64_t elems = cols * rows * lq_layer_weight_mats(hparams, weight);
                lq_buffer_printf(text, "%s %" PRIu64 "\n",
                                 lq_layer_weight_path(layer, weight, name),
                                 lq_gradient_rank_count(elems));
            }
        }
    }
}

static enum lq_status run_join(struct lq_run *run, struct lq_error *err)
{
    struct lq_hparams hparams;
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = lq_hparams_parse(lq_run_param(run, "hparams"), &hparams, err);
    if (status == LQ_OK) {
        put_table(&hparams, &text);
        status = text.failed ? lq_error_nomem(err, "ranks") : LQ_OK;
    }
    if (status == LQ_OK) {
        unsigned char size[4];
        for (size_t i = 0; i < sizeof size; i++) {
            size[i] = (unsigned char)(text.size_bytes >> 8 * i);
        }
        status = lq_run_write(run, "ranks", size, sizeof size, err);
    }
    if (status == LQ_OK) {
        status = lq_run_write(run, "ranks", text.data, text.size_bytes, err);
    }
    for (uint32_t layer = 0; status == LQ_OK && layer < hparams.layer_count; layer++) {
        char input[LQ_WEIGHT_NAME_BYTES];
        (void)snprintf(input, sizeof input, "ranks.%u", (unsigned)layer);
        status = lq_run_write_input(run, "ranks", input, err);
    }
    lq_buffer_fini(&text);
    return status;
}

enum lq_status lq_gradient_join_ranks(struct lq_calibrate_expansion *expansion,
                                      const size_t *layers, struct lq_error *err)
{
    struct lq_arena *arena = lq_expand_arena(expansion->expand);
    uint32_t count = expansion->hparams.layer_count;
    struct lq_step_input *inputs = lq_arena_get_array(arena, count, sizeof *inputs);
    if (inputs == NULL) {
        return lq_error_nomem(err, "a calibration step");
    }
    for (uint32_t i = 0; i < count; i++) {
        inputs[i].name = lq_arena_printf(arena, "ranks.%u", (unsigned)i);
        inputs[i].ref = lq_ref_step(layers[i], "ranks");
        if (inputs[i].name == NULL) {
            return lq_error_nomem(err, "a calibration step");
        }
    }
    const struct lq_step_param params[] = {{"hparams", expansion->hparams_text}};
    static const struct lq_step_output outputs[] = {{"ranks", false}};
    const struct lq_step added = {
        .op = "imatrix.ranks",
        .version = JOIN_VERSION,
        .label = lq_artifact_name(lq_expand_artifact(expansion->expand)),
        .run = run_join,
        .params = params,
        .param_count = LQ_COUNT_OF(params),
        .inputs = inputs,
        .input_count = count,
        .outputs = outputs,
        .output_count = LQ_COUNT_OF(outputs),
    };
    size_t step = 0;
    enum lq_status status = lq_expand_add_step(expansion->expand, &added, &step, err);
    struct lq_ref ref = lq_ref_step(step, "ranks");
    return status == LQ_OK ? lq_expand_bind_output(expansion->expand, "ranks", &ref, err) : status;
}

/* ---- picking a tensor ---- */

static enum lq_status read_table(struct lq_run *run, char **text, size_t *size_bytes,
                                 struct lq_error *err)
{
    unsigned char size[4];
    *text = NULL;
    *size_bytes = 0;
    enum lq_status status = lq_run_input_read(run, "ranks", 0, size, sizeof size, err);
    if (status != LQ_OK) {
        return status;
    }
    for (size_t i = 0; i < sizeof size; i++) {
        *size_bytes |= (size_t)size[i] << 8 * i;
    }
    if (*size_bytes > lq_run_input_size(run, "ranks") - sizeof size) {
        return lq_error_set(err, LQ_EINTERNAL, "ranks whose table is longer than they are");
    }
    *text = lq_arena_get(lq_run_arena(run), *size_bytes + 1);
    if (*text == NULL) {
        return lq_error_nomem(err, "ranks");
    }
    (*text)[*size_bytes] = '\0';
    return lq_run_input_read(run, "ranks", sizeof size, *text, *size_bytes, err);
}

/* Where the list of `name` stands, in ranks behind the table. */
static enum lq_status find_list(const char *text, const char *name, uint64_t *first,
                                uint64_t *count, struct lq_error *err)
{
    size_t length = strlen(name);
    *first = 0;
    for (const char *line = text; *line != '\0';) {
        const char *space = strchr(line, ' ');
        const char *end = strchr(line, '\n');
        if (space == NULL || end == NULL || space > end) {
            break;
        }
        *count = strtoull(space + 1, NULL, 10);
        if ((size_t)(space - line) == length && memcmp(line, name, length) == 0) {
            return LQ_OK;
        }
        if (!lq_add_u64(*first, *count, first)) {
            break;
        }
        line = end + 1;
    }
    return lq_error_set(err, LQ_EINTERNAL, "the importance matrix has no ranks of '%s'", name);
}

static enum lq_status copy_list(struct lq_run *run, uint64_t offset, uint64_t size_bytes,
                                struct lq_error *err)
{
    void *piece = lq_arena_get(lq_run_arena(run), COPY_BYTES);
    enum lq_status status = piece == NULL ? lq_error_nomem(err, "ranks") : LQ_OK;
    for (uint64_t at = 0; status == LQ_OK && at < size_bytes; at += COPY_BYTES) {
        size_t count = (size_t)(size_bytes - at < COPY_BYTES ? size_bytes - at : COPY_BYTES);
        status = lq_run_input_read(run, "ranks", offset + at, piece, count, err);
        if (status == LQ_OK) {
            status = lq_run_write(run, "candidates", piece, count, err);
        }
    }
    return status;
}

static enum lq_status run_pick(struct lq_run *run, struct lq_error *err)
{
    char *text = NULL;
    size_t table_bytes = 0;
    uint64_t first = 0;
    uint64_t count = 0;
    uint64_t offset = 0;
    uint64_t size_bytes = 0;
    enum lq_status status = read_table(run, &text, &table_bytes, err);
    if (status == LQ_OK) {
        status = find_list(text, lq_run_param(run, "tensor"), &first, &count, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    if (!lq_mul_u64(first, LQ_WEIGHT_RANK_BYTES, &offset) ||
        !lq_add_u64(offset, 4 + (uint64_t)table_bytes, &offset) ||
        !lq_mul_u64(count, LQ_WEIGHT_RANK_BYTES, &size_bytes) ||
        offset > lq_run_input_size(run, "ranks") ||
        size_bytes > lq_run_input_size(run, "ranks") - offset) {
        return lq_error_set(err, LQ_EINTERNAL, "ranks that end before their last list");
    }
    return copy_list(run, offset, size_bytes, err);
}

enum lq_status lq_gradient_pick_ranks(struct lq_expand *expand, const struct lq_artifact *imatrix,
                                      const char *tensor_name, size_t *step, struct lq_error *err)
{
    const struct lq_step_input inputs[] = {{"ranks", lq_ref_artifact(imatrix, "ranks")}};
    const struct lq_step_param params[] = {{"tensor", tensor_name}};
    static const struct lq_step_output outputs[] = {{"candidates", false}};
    const struct lq_step added = {
        .op = "mask.ranks",
        .version = PICK_VERSION,
        .label = tensor_name,
        .run = run_pick,
        .params = params,
        .param_count = LQ_COUNT_OF(params),
        .inputs = inputs,
        .input_count = LQ_COUNT_OF(inputs),
        .outputs = outputs,
        .output_count = LQ_COUNT_OF(outputs),
    };
    return lq_expand_add_step(expand, &added, step, err);
}
