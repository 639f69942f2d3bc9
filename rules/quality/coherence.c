#include "rules/quality/coherence.h"

#include <math.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/json.h"

enum { GRAM = 4 };

/* What a continuation that starts like the original's is worth, at most. */
#define AGREEMENT_WEIGHT 0.2

const char *const lq_coherence_prompts[] = {
    "The function returns",
    "In the beginning of the year, the",
    "To install the program, first",
    "She opened the door and saw",
    "The main difference between the two is that",
    "If the value is not given, then",
    "The city lies on the river and is known for",
    "There are three reasons why",
};
const size_t lq_coherence_prompt_count = LQ_COUNT_OF(lq_coherence_prompts);

double lq_coherence_repeated(const int32_t *tokens, size_t count)
{
    size_t repeated = 0;
    if (count < GRAM + 1) {
        return 0.0;
    }
    size_t grams = count - GRAM + 1;
    for (size_t i = 1; i < grams; i++) {
        for (size_t k = 0; k < i; k++) {
            if (memcmp(tokens + i, tokens + k, GRAM * sizeof *tokens) == 0) {
                repeated++;
                break;
            }
        }
    }
    return (double)repeated / (double)grams;
}

void lq_coherence_judge(const int32_t *model, size_t model_count, double model_log_prob,
                        const int32_t *original, size_t original_count, double original_log_prob,
                        struct lq_coherence *out)
{
    size_t longer = model_count > original_count ? model_count : original_count;
    size_t same = 0;
    while (same < model_count && same < original_count && model[same] == original[same]) {
        same++;
    }
    double more =
        lq_coherence_repeated(model, model_count) - lq_coherence_repeated(original, original_count);
    out->likelihood = fmin(1.0, exp(model_log_prob - original_log_prob));
    out->repetition = 1.0 - fmax(0.0, more);
    out->agreement = longer == 0 ? 1.0 : (double)same / (double)longer;
    out->score = out->likelihood * out->repetition *
                 (1.0 - AGREEMENT_WEIGHT + AGREEMENT_WEIGHT * out->agreement);
}

enum lq_status lq_coherence_parse(const void *data, uint64_t size_bytes, struct lq_coherence *out,
                                  struct lq_error *err)
{
    static const struct lq_json_scope scope = {"coherence result", LQ_EFORMAT};
    const struct {
        const char *key;
        double *value;
    } members[] = {{"score", &out->score},
                   {"likelihood", &out->likelihood},
                   {"repetition", &out->repetition},
                   {"agreement", &out->agreement}};
    cJSON *root = NULL;
    enum lq_status status =
        lq_json_parse(data, (size_t)size_bytes, scope.where, scope.status, &root, err);
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(members); i++) {
        status = lq_json_get_number(&scope, root, members[i].key, members[i].value, NULL, err);
        if (status == LQ_OK && !(*members[i].value >= 0.0 && *members[i].value <= 1.0)) {
            status = lq_error_set(err, scope.status, "%s: '%s' is %g, expected 0 to 1", scope.where,
                                  members[i].key, *members[i].value);
        }
    }
    cJSON_Delete(root);
    return status;
}
