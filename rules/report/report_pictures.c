#include "rules/report/report_pictures.h"

#include <stdio.h>
#include <string.h>

#include "rules/report/picture.h"

static const struct lq_artifact *find_ref(const struct lq_artifact *artifact, const char *attr)
{
    bool is_gguf = strcmp(lq_artifact_kind(artifact), "gguf") == 0;
    return is_gguf && lq_attr_count(artifact, attr) != 0 ? lq_attr_ref(artifact, attr, 0) : NULL;
}

static const char *name_of(const struct lq_artifact *artifact)
{
    return artifact == NULL ? NULL : lq_artifact_name(artifact);
}

/* Names are unique within a recipe. */
static bool is_same(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static bool is_planned(const struct lq_report_pictures *pictures,
                       const struct lq_report_picture *wanted)
{
    for (size_t i = 0; i < pictures->count; i++) {
        if (is_same(pictures->items[i].imatrix, wanted->imatrix) &&
            is_same(pictures->items[i].mask, wanted->mask)) {
            return true;
        }
    }
    return false;
}

static enum lq_status add_input(struct lq_expand *expand, size_t number, const char *what,
                                const struct lq_artifact *artifact, const char *output,
                                struct lq_step_input *inputs, size_t *count, struct lq_error *err)
{
    if (artifact == NULL) {
        return LQ_OK;
    }
    struct lq_step_input *input = &inputs[(*count)++];
    input->name = lq_arena_printf(lq_expand_arena(expand), "picture%zu.%s", number, what);
    input->ref = lq_ref_artifact(artifact, output);
    return input->name == NULL ? lq_error_nomem(err, "a report") : LQ_OK;
}

enum lq_status lq_report_pictures_plan(struct lq_expand *expand, const struct lq_artifact *report,
                                       struct lq_report_pictures *out, struct lq_step_input *inputs,
                                       size_t *input_count, struct lq_error *err)
{
    size_t models = lq_attr_count(report, "quantized");
    *out = (struct lq_report_pictures){0};
    out->items = lq_arena_get_array(lq_expand_arena(expand), models + 1, sizeof *out->items);
    if (out->items == NULL) {
        return lq_error_nomem(err, "a report");
    }
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < models && status == LQ_OK; i++) {
        const struct lq_artifact *model = lq_attr_ref(report, "quantized", i);
        const struct lq_artifact *imatrix = find_ref(model, "imatrix");
        const struct lq_artifact *mask = find_ref(model, "protect");
        const struct lq_report_picture picture = {name_of(imatrix), name_of(mask)};
        if ((imatrix == NULL && mask == NULL) || is_planned(out, &picture)) {
            continue;
        }
        status =
            add_input(expand, out->count, "imatrix", imatrix, "gguf", inputs, input_count, err);
        if (status == LQ_OK) {
            status = add_input(expand, out->count, "mask", mask, "main", inputs, input_count, err);
        }
        out->items[out->count++] = picture;
    }
    return status;
}

/* False when the picture has no such part. */
static bool load_part(struct lq_run *run, size_t number, const char *what, const void **data,
                      uint64_t *size_bytes, enum lq_status *status, struct lq_error *err)
{
    char name[40];
    (void)snprintf(name, sizeof name, "picture%zu.%s", number, what);
    if (*status != LQ_OK || !lq_run_has_input(run, name)) {
        return false;
    }
    *status = lq_run_input_load(run, name, data, size_bytes, err);
    return *status == LQ_OK;
}

enum lq_status lq_report_pictures_draw(struct lq_run *run,
                                       const struct lq_report_pictures *pictures,
                                       struct lq_buffer *out, struct lq_error *err)
{
    struct lq_arena *arena = lq_run_arena(run);
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < pictures->count && status == LQ_OK; i++) {
        const struct lq_report_picture *item = &pictures->items[i];
        struct lq_picture_source source = {0};
        struct lq_picture picture;
        struct lq_imatrix imatrix;
        struct lq_mask mask;
        enum lq_imatrix_format format;
        const void *data = NULL;
        uint64_t size_bytes = 0;
        if (load_part(run, i, "imatrix", &data, &size_bytes, &status, err)) {
            status =
                lq_imatrix_parse(data, size_bytes, item->imatrix, arena, &imatrix, &format, err);
            source.imatrix = &imatrix;
            source.imatrix_name = item->imatrix;
        }
        if (load_part(run, i, "mask", &data, &size_bytes, &status, err)) {
            status = lq_mask_parse(data, size_bytes, item->mask, arena, &mask, err);
            source.mask = &mask;
            source.mask_name = item->mask;
        }
        if (status == LQ_OK) {
            status = lq_picture_make(&source, arena, &picture, err);
        }
        if (status == LQ_OK) {
            lq_picture_write_svg(&picture, true, out);
        }
    }
    return status;
}
