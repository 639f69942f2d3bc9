/* The rule "calibration": a text cut into samples of tokens with a model's vocabulary. By default
 * the first whole chunks of the text in order, as llama-imatrix takes them; on request chunks drawn
 * at random with a seed. Only the vocabulary of the model is an input of the step: other weights
 * with the same tokenizer give the same samples. */
#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "engine/rule.h"
#include "rules/format/gguf.h"
#include "rules/model/corpus.h"
#include "rules/registry.h"

enum { SEQUENCE_DEFAULT = 512 };

static const struct lq_attr_spec attrs[] = {
    {.name = "model",
     .type = LQ_ATTR_REF,
     .required = true,
     .choices = "model",
     .help = "whose tokenizer cuts the text"},
    {.name = "text", .type = LQ_ATTR_REF, .required = true, .choices = "text", .help = "the text"},
    {.name = "samples",
     .type = LQ_ATTR_INT,
     .default_text = "512",
     .min = 128,
     .max = 1024,
     .range_status = LQ_ECALIBRATION,
     .help = "number of samples, 128 to 1024"},
    {.name = "sequence",
     .type = LQ_ATTR_INT,
     .min = 1,
     .max = LQ_SEQUENCE_MAX,
     .range_status = LQ_ECALIBRATION,
     .help = "tokens in a sample (default: 512, or the model's context if that is smaller)"},
    {.name = "order",
     .type = LQ_ATTR_ENUM,
     .default_text = "first",
     .choices = "first random",
     .help = "which chunks of the text are taken: the first ones, or a random choice"},
    {.name = "seed",
     .type = LQ_ATTR_INT,
     .default_text = "0",
     .min = 0,
     .max = 9007199254740992.0,
     .help = "seed of the random choice"},
};

/* The longest sequence that the model was made for; 0 when it does not say. */
static enum lq_status read_context(struct lq_expand *expand, const struct lq_artifact *model,
                                   uint64_t *context, struct lq_error *err)
{
    const struct lq_ref ref = lq_ref_artifact(model, "meta");
    const void *data = NULL;
    uint64_t size = 0;
    struct lq_gguf gguf;
    enum lq_status status = lq_expand_read(expand, &ref, &data, &size, err);
    if (status == LQ_OK) {
        status = lq_gguf_parse(data, size, size, "model keys", LQ_EFORMAT, lq_expand_arena(expand),
                               &gguf, NULL, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    const char *architecture = lq_gguf_get_string(&gguf, "general.architecture");
    char key[256];
    (void)snprintf(key, sizeof key, "%.200s.context_length",
                   architecture == NULL ? "" : architecture);
    *context = lq_gguf_get_uint(&gguf, key, 0);
    return LQ_OK;
}

static enum lq_status expand_calibration(struct lq_expand *expand, struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    const struct lq_artifact *model = lq_attr_ref(artifact, "model", 0);
    const struct lq_artifact *text = lq_attr_ref(artifact, "text", 0);
    uint64_t context = 0;
    enum lq_status status = read_context(expand, model, &context, err);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t sequence = (uint64_t)lq_attr_int(artifact, "sequence");
    if (!lq_attr_is_set(artifact, "sequence")) {
        sequence = context != 0 && context < SEQUENCE_DEFAULT ? context : SEQUENCE_DEFAULT;
    }
    if (context != 0 && sequence > context) {
        return lq_attr_error(artifact, "sequence", err, LQ_ECALIBRATION,
                             "samples of %llu tokens are longer than the context of model '%s' "
                             "(%llu); ask for shorter ones",
                             (unsigned long long)sequence, lq_artifact_name(model),
                             (unsigned long long)context);
    }
    const struct lq_corpus_cut cut = {.sequence = (uint32_t)sequence,
                                      .samples = (uint32_t)lq_attr_int(artifact, "samples"),
                                      .random =
                                          strcmp(lq_attr_string(artifact, "order"), "random") == 0,
                                      .seed = (uint64_t)lq_attr_int(artifact, "seed")};
    size_t index = 0;
    status = lq_corpus_add_cut_step(expand, "calibration.tokens", model, text, &cut, &index, err);
    const struct lq_ref out = lq_ref_step(index, "main");
    return status == LQ_OK ? lq_expand_bind_output(expand, "main", &out, err) : status;
}

const struct lq_rule lq_rule_calibration = {
    .kind = "calibration",
    .version = 1,
    .help = "samples of tokens for importance matrices",
    .attrs = attrs,
    .attr_count = LQ_COUNT_OF(attrs),
    .expand = expand_calibration,
};
