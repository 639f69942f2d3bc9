#include "rules/quant/gguf_check.h"

#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/text.h"
#include "kernels/kernels.h"
#include "rules/quant/levels.h"

static enum lq_status check_type(const struct lq_artifact *artifact, const char *attr,
                                 const char *text, struct lq_error *err)
{
    enum lq_dtype dtype = LQ_DTYPE_F32;
    if (lq_level_dtype_find(text, &dtype)) {
        return LQ_OK;
    }
    const char *names[LQ_DTYPE_COUNT];
    size_t count = 0;
    for (uint32_t i = 0; i < LQ_DTYPE_COUNT; i++) {
        if (lq_dtype_info(i) != NULL && lq_kernels()->encode[i] != NULL) {
            names[count++] = lq_dtype_info(i)->name;
        }
    }
    const char *nearest = lq_text_nearest(text, names, count);
    return lq_attr_error(artifact, attr, err, LQ_ERECIPE, "unknown tensor type '%s'%s%s%s", text,
                         nearest == NULL ? "; Q6_K is one, for example" : "; did you mean '",
                         nearest == NULL ? "" : nearest, nearest == NULL ? "" : "'?");
}

static enum lq_status check_level(const struct lq_artifact *artifact, struct lq_error *err)
{
    const char *text = lq_attr_string(artifact, "level");
    if (text == NULL) {
        return lq_attr_is_set(artifact, "profile")
                   ? LQ_OK
                   : lq_attr_error(artifact, NULL, err, LQ_ERECIPE,
                                   "a gguf needs a level or a profile, for example level = "
                                   "\"Q4_K_M\"");
    }
    if (lq_level_find(text) != NULL) {
        return LQ_OK;
    }
    const char *nearest = lq_level_suggest(text);
    return nearest != NULL
               ? lq_attr_error(artifact, "level", err, LQ_ERECIPE,
                               "unknown level '%s'; did you mean '%s'?", text, nearest)
               : lq_attr_error(artifact, "level", err, LQ_ERECIPE,
                               "unknown level '%s'; common ones are Q8_0, Q6_K, Q5_K_M, "
                               "Q4_K_M, Q3_K_M and Q2_K",
                               text);
}

enum lq_status lq_gguf_check(const struct lq_artifact *artifact, struct lq_error *err)
{
    enum lq_status status = check_level(artifact, err);
    static const char *const single[] = {"output_type", "embedding_type"};
    for (size_t i = 0; status == LQ_OK && i < LQ_COUNT_OF(single); i++) {
        if (lq_attr_is_set(artifact, single[i])) {
            status = check_type(artifact, single[i], lq_attr_string(artifact, single[i]), err);
        }
    }
    for (size_t i = 0; status == LQ_OK && i < lq_attr_count(artifact, "tensors"); i++) {
        status = check_type(artifact, "tensors", lq_attr_item(artifact, "tensors", i), err);
    }
    for (size_t i = 0; status == LQ_OK && i < lq_attr_count(artifact, "promote"); i++) {
        bool masked = strcmp(lq_attr_item(artifact, "promote", i), "masked") == 0;
        if (masked && !lq_attr_is_set(artifact, "protect")) {
            status = lq_attr_error(artifact, "promote", err, LQ_ERECIPE,
                                   "promote = [\"masked\"] needs a mask: add protect = NAME");
        }
    }
    return status;
}
