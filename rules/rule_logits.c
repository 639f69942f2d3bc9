/* The rule `logits`: llama-perplexity's base file, computed or loaded. A report that is given one
 * measures divergence against it. */
#include <inttypes.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "rules/model/corpus.h"
#include "rules/quality/logits_step.h"
#include "rules/quality/perplexity.h"
#include "rules/registry.h"

static const struct lq_attr_spec attrs[] = {
    {.name = "model",
     .type = LQ_ATTR_REF,
     .choices = "model",
     .help = "the model whose predictions are written; required unless file is given"},
    {.name = "text",
     .type = LQ_ATTR_REF,
     .choices = "text",
     .help = "the text it reads; required unless file is given"},
    {.name = "context",
     .type = LQ_ATTR_INT,
     .default_text = "0",
     .min = 0,
     .max = LQ_SEQUENCE_MAX,
     .help = "tokens in a chunk; 0 means 512, or the model's maximum if that is smaller"},
    {.name = "chunks",
     .type = LQ_ATTR_INT,
     .default_text = "0",
     .min = 0,
     .max = LQ_SAMPLES_MAX,
     .help = "chunks to write at most; 0 means all"},
    {.name = "file",
     .type = LQ_ATTR_PATH,
     .help = "take this file of llama-perplexity --save-all-logits instead of computing one"},
    {.name = "path", .type = LQ_ATTR_OUT_PATH, .help = "where to put it"},
};

static enum lq_status check(const struct lq_artifact *artifact, struct lq_error *err)
{
    bool has_file = lq_attr_is_set(artifact, "file");
    bool has_model = lq_attr_count(artifact, "model") != 0;
    bool has_text = lq_attr_count(artifact, "text") != 0;
    if (has_file ? has_model || has_text : !has_model || !has_text) {
        return lq_attr_error(artifact, NULL, err, LQ_ERECIPE,
                             "logits need 'model' and 'text' (to compute them), or 'file' alone "
                             "(to load them)");
    }
    return LQ_OK;
}

static enum lq_status sources(const struct lq_artifact *artifact, struct lq_sources *out,
                              struct lq_error *err)
{
    const char *path = lq_attr_path(artifact, "file");
    return path == NULL ? LQ_OK : lq_sources_add(out, path, NULL, LQ_EIO, err);
}

static enum lq_status compute(struct lq_expand *expand, const struct lq_artifact *artifact,
                              struct lq_ref *out, struct lq_error *err)
{
    const struct lq_artifact *model = lq_attr_ref(artifact, "model", 0);
    const struct lq_artifact *text = lq_attr_ref(artifact, "text", 0);
    struct lq_hparams hparams;
    size_t step = 0;
    enum lq_status status = lq_perplexity_hparams(expand, model, &hparams, err);
    if (status != LQ_OK) {
        return status;
    }
    uint32_t context =
        lq_perplexity_context(hparams.context_length, (uint32_t)lq_attr_int(artifact, "context"));
    if (context < 4) {
        return lq_attr_error(artifact, "context", err, LQ_ERECIPE,
                             "context is %" PRIu32 ", expected at least 4", context);
    }
    struct lq_corpus_cut cut = {
        .sequence = context, .samples = (uint32_t)lq_attr_int(artifact, "chunks"), .at_most = true};
    status = cut.samples == 0
                 ? lq_corpus_add_chunks_step(expand, model, text, context, &step, err)
                 : lq_corpus_add_cut_step(expand, "text.chunks", model, text, &cut, &step, err);
    if (status == LQ_OK) {
        status = lq_logits_add_step(expand, model, lq_ref_step(step, "main"), context, &step, err);
    }
    *out = lq_ref_step(step, "main");
    return status;
}

static enum lq_status expand(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_ref file = lq_ref_source(artifact, 0);
    enum lq_status status =
        lq_attr_is_set(artifact, "file") ? LQ_OK : compute(expand, artifact, &file, err);
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &file, err) : status;
}

const struct lq_rule lq_rule_logits = {
    .kind = "logits",
    .version = 2,
    .help = "what a model predicts on a text, as llama-perplexity's base file",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .check = check,
    .sources = sources,
    .expand = expand,
};
