#include <math.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "rules/model/hf_config.h"

#define FILE_NAME "config.json"

static const struct lq_json_scope scope = {.where = FILE_NAME, .status = LQ_EFORMAT};

struct reader {
    const cJSON *config;
    const cJSON *rope; /* NULL: only keys of config.json itself */
    struct lq_arena *arena;
    struct lq_hf_config *out;
    struct lq_error *err;
};

/* A positive number of `object`; left alone when it is missing (and not `required`). */
static enum lq_status read_positive(const struct reader *reader, const cJSON *object,
                                    const char *key, bool required, double *out)
{
    double value = 1.0;
    bool found = true;
    enum lq_status status =
        lq_json_get_number(&scope, object, key, &value, required ? NULL : &found, reader->err);
    if (status != LQ_OK || !found) {
        return status;
    }
    if (!(value > 0.0) || value > 1e30) {
        return lq_error_set(reader->err, LQ_EFORMAT, FILE_NAME ": %s must be positive, it is %g",
                            key, value);
    }
    *out = value;
    return LQ_OK;
}

/* The training length: in the rotary parameters, or in config.json itself. */
static enum lq_status read_original(const struct reader *reader, double *out)
{
    static const char key[] = "original_max_position_embeddings";
    *out = (double)reader->out->hparams.context_length;
    enum lq_status status = read_positive(reader, reader->config, key, false, out);
    if (status == LQ_OK) {
        status = read_positive(reader, reader->rope, key, false, out);
    }
    if (status == LQ_OK && (*out > (double)INT32_MAX || *out != floor(*out))) {
        status = lq_error_set(reader->err, LQ_EFORMAT, FILE_NAME ": %s is %g", key, *out);
    }
    reader->out->hparams.rope_original_context = status == LQ_OK ? (uint32_t)*out : 0;
    return status;
}

/* "Llama 3.1": low frequencies are divided by the factor, high ones are kept, and a ramp between.
 * GGUF has a divisor for each pair instead. */
static enum lq_status read_llama3(const struct reader *reader)
{
    const double two_pi = 6.28318530717958647692;
    struct lq_hparams *hparams = &reader->out->hparams;
    double factor = 1.0;
    double low = 1.0;
    double high = 4.0;
    double original = 0.0;
    enum lq_status status = read_positive(reader, reader->rope, "factor", true, &factor);
    if (status == LQ_OK) {
        status = read_positive(reader, reader->rope, "low_freq_factor", true, &low);
    }
    if (status == LQ_OK) {
        status = read_positive(reader, reader->rope, "high_freq_factor", true, &high);
    }
    if (status == LQ_OK) {
        status = read_original(reader, &original);
    }
    if (status == LQ_OK && !(high > low)) {
        return lq_error_set(reader->err, LQ_EFORMAT,
                            FILE_NAME ": high_freq_factor %g is not above low_freq_factor %g", high,
                            low);
    }
    hparams->rope_original_context = 0; /* the divisors say it all */
    size_t pairs = hparams->rope_dim / 2;
    float *divisors = lq_arena_get_array(reader->arena, pairs + 1, sizeof *divisors);
    if (status == LQ_OK && divisors == NULL) {
        return lq_error_nomem(reader->err, "rotary positions");
    }
    for (size_t i = 0; status == LQ_OK && i < pairs; i++) {
        double turn =
            two_pi * pow(hparams->rope_freq_base, 2.0 * (double)i / (double)hparams->rope_dim);
        double smooth = (original / turn - low) / (high - low);
        smooth = turn < original / high ? 1.0 : smooth;
        smooth = turn > original / low ? 0.0 : smooth;
        divisors[i] = (float)(1.0 / ((1.0 - smooth) / factor + smooth));
    }
    reader->out->rope_freqs = divisors;
    hparams->rope_factors = true;
    return status;
}

static double sharpening(double factor, double weight)
{
    return factor <= 1.0 ? 1.0 : 0.1 * weight * log(factor) + 1.0;
}

static enum lq_status read_yarn(const struct reader *reader)
{
    struct lq_hparams *hparams = &reader->out->hparams;
    double original = 0.0;
    double mscale = 0.0;
    double mscale_all = 0.0;
    bool truncate = true;
    bool found = false;
    hparams->rope_scaling = LQ_ROPE_YARN;
    hparams->rope_beta_fast = 32.0;
    hparams->rope_beta_slow = 1.0;
    enum lq_status status = read_original(reader, &original);
    hparams->rope_scale = (double)hparams->context_length / (original > 0.0 ? original : 1.0);
    const struct {
        const char *key;
        double *value;
    } numbers[] = {{"factor", &hparams->rope_scale},
                   {"beta_fast", &hparams->rope_beta_fast},
                   {"beta_slow", &hparams->rope_beta_slow},
                   {"mscale", &mscale},
                   {"mscale_all_dim", &mscale_all}};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(numbers); i++) {
        status = read_positive(reader, reader->rope, numbers[i].key, false, numbers[i].value);
    }
    if (status == LQ_OK) {
        status = lq_json_get_bool(&scope, reader->rope, "truncate", &truncate, &found, reader->err);
    }
    if (status == LQ_OK && (!truncate || hparams->rope_scale < 1.0)) {
        return lq_error_set(reader->err, LQ_EUNSUPPORTED,
                            FILE_NAME ": yarn scaling %s is not supported",
                            truncate ? "by a factor below 1" : "with 'truncate' false");
    }
    double own = sharpening(hparams->rope_scale, 1.0);
    double wanted = own;
    if (mscale > 0.0 && mscale_all > 0.0) {
        wanted =
            sharpening(hparams->rope_scale, mscale) / sharpening(hparams->rope_scale, mscale_all);
    }
    if (status == LQ_OK) {
        status = read_positive(reader, reader->rope, "attention_factor", false, &wanted);
    }
    hparams->rope_attn_factor = wanted == own ? 1.0 : (double)(float)(wanted / own);
    return status;
}

static enum lq_status read_divisors(const struct reader *reader, const char *key, const float **out)
{
    const cJSON *list = NULL;
    size_t pairs = reader->out->hparams.rope_dim / 2;
    enum lq_status status = lq_json_get_array(&scope, reader->rope, key, &list, NULL, reader->err);
    if (status != LQ_OK) {
        return status;
    }
    float *values = lq_arena_get_array(reader->arena, pairs + 1, sizeof *values);
    if (values == NULL) {
        return lq_error_nomem(reader->err, "rotary positions");
    }
    size_t count = 0;
    for (const cJSON *item = list->child; item != NULL; item = item->next, count++) {
        float value = cJSON_IsNumber(item) ? (float)item->valuedouble : 0.0f;
        if (count < pairs && value > 0.0f && isfinite(value)) {
            values[count] = value;
        } else {
            break;
        }
    }
    if (count != pairs || (size_t)cJSON_GetArraySize(list) != pairs) {
        return lq_error_set(reader->err, LQ_EFORMAT,
                            FILE_NAME ": %s must list %zu positive numbers, one for each rotary "
                                      "pair",
                            key, pairs);
    }
    *out = values;
    return LQ_OK;
}

static enum lq_status read_longrope(const struct reader *reader)
{
    struct lq_hparams *hparams = &reader->out->hparams;
    double original = 0.0;
    hparams->rope_scaling = LQ_ROPE_LONGROPE;
    enum lq_status status = read_original(reader, &original);
    if (status == LQ_OK && strcmp(reader->out->arch->gguf, "phi3") != 0) {
        return lq_error_set(reader->err, LQ_EUNSUPPORTED,
                            FILE_NAME ": rotary scaling of type 'longrope' is not supported for "
                                      "the architecture '%s'",
                            reader->out->arch->class_name);
    }
    double factor = (double)hparams->context_length / (original > 0.0 ? original : 1.0);
    if (status == LQ_OK) {
        status = read_positive(reader, reader->rope, "factor", false, &factor);
    }
    double attention =
        factor <= 1.0 || original <= 1.0 ? 1.0 : sqrt(1.0 + log(factor) / log(original));
    if (status == LQ_OK) {
        status = read_positive(reader, reader->rope, "attention_factor", false, &attention);
    }
    hparams->rope_attn_factor = (double)(float)attention;
    if (status == LQ_OK) {
        status = read_divisors(reader, "long_factor", &reader->out->rope_long);
    }
    return status == LQ_OK ? read_divisors(reader, "short_factor", &reader->out->rope_short)
                           : status;
}

static enum lq_status read_scaling(const struct reader *reader)
{
    const char *type = "default";
    bool found = false;
    struct lq_hparams *hparams = &reader->out->hparams;
    enum lq_status status =
        lq_json_get_string(&scope, reader->rope, "rope_type", &type, &found, reader->err);
    if (status == LQ_OK && !found) {
        status = lq_json_get_string(&scope, reader->rope, "type", &type, &found, reader->err);
    }
    if (status != LQ_OK || strcmp(type, "default") == 0) {
        return status;
    }
    if (strcmp(type, "linear") == 0) {
        hparams->rope_scaling = LQ_ROPE_LINEAR;
        return read_positive(reader, reader->rope, "factor", true, &hparams->rope_scale);
    }
    if (strcmp(type, "llama3") == 0) {
        return read_llama3(reader);
    }
    if (strcmp(type, "yarn") == 0) {
        return read_yarn(reader);
    }
    if (strcmp(type, "longrope") == 0 || strcmp(type, "su") == 0) {
        return read_longrope(reader);
    }
    return lq_error_set(reader->err, LQ_EUNSUPPORTED,
                        FILE_NAME ": rotary scaling of type '%.100s' is not supported; default, "
                                  "linear, llama3, yarn and longrope are",
                        type);
}

static enum lq_status read_partial(const struct reader *reader, const cJSON *object)
{
    double share = 1.0;
    struct lq_hparams *hparams = &reader->out->hparams;
    enum lq_status status = read_positive(reader, object, "partial_rotary_factor", false, &share);
    if (status != LQ_OK || share == 1.0) {
        return status;
    }
    double turning = floor(share * (double)hparams->head_dim);
    if (share > 1.0 || turning < 2.0 || fmod(turning, 2.0) != 0.0) {
        return lq_error_set(reader->err, LQ_EFORMAT,
                            FILE_NAME ": partial_rotary_factor %g of %u values is no even number "
                                      "of values",
                            share, (unsigned)hparams->head_dim);
    }
    hparams->rope_dim = (uint32_t)turning;
    return LQ_OK;
}

/* Where the parameters stand: "rope_parameters" of newer files, in parts when layers differ; or
 * "rope_scaling". */
static enum lq_status find_rope(struct reader *reader, const cJSON **local)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(keys); i++) {
        const cJSON *found_rope = NULL;
        bool found = false;
        status =
            lq_json_get_object(&scope, reader->config, keys[i], &found_rope, &found, reader->err);
        if (status != LQ_OK || !found) {
            continue;
        }
        const cJSON *full = NULL;
        status =
            lq_json_get_object(&scope, found_rope, "full_attention", &full, &found, reader->err);
        if (status == LQ_OK && found) {
            status = lq_json_get_object(&scope, found_rope, "sliding_attention", local, &found,
                                        reader->err);
        }
        reader->rope = full == NULL ? found_rope : full;
    }
    return status;
}

enum lq_status lq_hf_rope_read(const cJSON *config, struct lq_arena *arena,
                               struct lq_hf_config *out, struct lq_error *err)
{
    struct reader reader = {.config = config, .arena = arena, .out = out, .err = err};
    struct lq_hparams *hparams = &out->hparams;
    const cJSON *local = NULL;
    hparams->rope_dim = hparams->head_dim;
    hparams->rope_freq_base = 10000.0;
    hparams->rope_local_base = 10000.0;
    hparams->rope_scale = 1.0;
    hparams->rope_attn_factor = 1.0;
    enum lq_status status = find_rope(&reader, &local);
    if (status == LQ_OK) {
        status = read_positive(&reader, config, "rope_theta", false, &hparams->rope_freq_base);
    }
    if (status == LQ_OK) {
        status = read_positive(&reader, config, "rope_local_base_freq", false,
                               &hparams->rope_local_base);
    }
    if (status == LQ_OK) {
        status = read_partial(&reader, config);
    }
    if (status == LQ_OK && local != NULL) {
        status = read_positive(&reader, local, "rope_theta", false, &hparams->rope_local_base);
    }
    if (status == LQ_OK && reader.rope != NULL) {
        status = read_positive(&reader, reader.rope, "rope_theta", false, &hparams->rope_freq_base);
        if (status == LQ_OK) {
            status = read_partial(&reader, reader.rope);
        }
        if (status == LQ_OK) {
            status = read_scaling(&reader);
        }
    }
    return status;
}
