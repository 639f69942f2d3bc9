#include "rules/quant/levels.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/text.h"
#include "rules/quant/level_table.h"

enum column {
    COLUMN_VALUE,
    COLUMN_KEY,
    COLUMN_QUERY,
    COLUMN_OUT,
    COLUMN_DOWN,
    COLUMN_GATE,
    COLUMN_UP,
    COLUMN_OTHER,
    COLUMN_COUNT
};

static enum column column_of(const char *name)
{
    static const struct {
        const char *part;
        enum column column;
    } parts[] = {
        {"attn_qkv.weight", COLUMN_VALUE},
        {"attn_kv_b.weight", COLUMN_VALUE},
        {"attn_v.weight", COLUMN_VALUE},
        {"attn_k.weight", COLUMN_KEY},
        {"attn_q.weight", COLUMN_QUERY},
        {"attn_output.weight", COLUMN_OUT},
        {"ffn_up", COLUMN_UP},
        {"ffn_gate", COLUMN_GATE},
        {"ffn_down", COLUMN_DOWN},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(parts); i++) {
        if (strstr(name, parts[i].part) != NULL) {
            return parts[i].column;
        }
    }
    return COLUMN_OTHER;
}

/* What a mixture looks at while it walks over the tensors. */
struct walk {
    const struct lq_level_request *request;
    bool is_tied;
    bool is_falcon;
    bool is_70b;
    uint64_t value_count;
    uint64_t next[COLUMN_COUNT]; /* running numbers */
};

static bool more_bits(uint64_t i, uint64_t count)
{
    return i < count / 8 || i >= 7 * count / 8 || (i - count / 8) % 3 == 2;
}

static bool condition_holds(const struct walk *walk, enum lq_level_condition when, uint64_t i,
                            uint64_t count)
{
    const struct lq_level_model *model = &walk->request->model;
    bool has_imatrix = walk->request->has_imatrix;
    bool grouped = model->head_count_kv > 0 && model->head_count / model->head_count_kv >= 4;
    switch (when) {
    case NEVER:
        return false;
    case ALWAYS:
        return true;
    case MORE:
        return more_bits(i, count);
    case EIGHTH:
        return i < count / 8;
    case SIXTEENTH:
        return i < count / 16;
    case FIRST_2:
        return i < 2;
    case FIRST_4:
        return i < 4;
    case MIDDLE:
        return i >= count / 8 && i < 7 * count / 8;
    case GROUPED:
        return grouped;
    case GROUPED_OR_EXPERT:
        return grouped || model->expert_count >= 4;
    case IMATRIX:
        return has_imatrix;
    case NO_IMATRIX:
        return !has_imatrix;
    case IMATRIX_EIGHTH:
        return has_imatrix && i < count / 8;
    case NO_IMATRIX_EIGHTH:
        return !has_imatrix && i < count / 8;
    case EIGHTH_OR_MOE_MORE:
        return i < count / 8 || (model->expert_count == 8 && more_bits(i, count));
    }
    return false;
}

static enum lq_dtype first_rule(const struct walk *walk, const struct lq_mix_rule *rules,
                                size_t rule_count, uint64_t i, uint64_t count)
{
    for (size_t r = 0; r < rule_count; r++) {
        if (condition_holds(walk, (enum lq_level_condition)rules[r].when, i, count)) {
            return (enum lq_dtype)rules[r].dtype;
        }
    }
    return (enum lq_dtype)walk->request->level->base;
}

static enum lq_dtype value_type(const struct walk *walk, uint64_t i)
{
    const struct lq_level *level = walk->request->level;
    enum lq_dtype dtype = first_rule(walk, level->value, MIX_RULES, i, walk->value_count);
    if (level->flags & LOW) {
        return dtype;
    }
    if (walk->is_70b && (dtype == LQ_DTYPE_Q3_K || dtype == LQ_DTYPE_Q4_K)) {
        dtype = LQ_DTYPE_Q5_K;
    }
    return walk->request->model.expert_count == 8 ? LQ_DTYPE_Q8_0 : dtype;
}

static enum lq_dtype out_type(const struct walk *walk)
{
    const struct lq_level *level = walk->request->level;
    enum lq_dtype base = (enum lq_dtype)level->base;
    if (walk->is_falcon && !(level->flags & LOW)) {
        return strcmp(level->name, "Q3_K_L") == 0 ? LQ_DTYPE_Q4_K : base;
    }
    if (walk->request->model.expert_count == 8) {
        return level->flags & (MOE_OUT | LOW) ? LQ_DTYPE_Q5_K : base;
    }
    return first_rule(walk, &level->out, 1, 0, 0);
}

static enum lq_dtype falcon_down_type(const struct walk *walk, uint64_t i, uint64_t count,
                                      enum lq_dtype dtype)
{
    const char *name = walk->request->level->name;
    if (strcmp(name, "Q3_K_M") == 0 && i >= count / 16) {
        return more_bits(i, count) ? LQ_DTYPE_Q4_K : LQ_DTYPE_Q3_K;
    }
    if (strcmp(name, "Q3_K_L") == 0) {
        return LQ_DTYPE_Q4_K;
    }
    if (strcmp(name, "Q4_K_M") == 0) {
        return i < count / 16 ? LQ_DTYPE_Q6_K : more_bits(i, count) ? LQ_DTYPE_Q5_K : LQ_DTYPE_Q4_K;
    }
    return strcmp(name, "Q4_K_S") == 0 ? LQ_DTYPE_Q4_K : dtype;
}

static enum lq_dtype layer_type(struct walk *walk, const struct lq_model_tensor *tensor)
{
    const struct lq_level *level = walk->request->level;
    const struct lq_level_model *model = &walk->request->model;
    enum column column = column_of(tensor->name);
    uint64_t i = walk->next[column]++;
    uint64_t count = model->layer_count;
    bool is_low = (level->flags & LOW) != 0;
    if (column >= COLUMN_DOWN && column <= COLUMN_UP && model->expert_count > 1 && !is_low) {
        int64_t layer = lq_level_layer_of(tensor->name);
        i = layer < 0 ? i : (uint64_t)layer;
    }
    if (level->flags & MOE_FILE) {
        return tensor->ne[2] > 1 ? (enum lq_dtype)level->base : LQ_DTYPE_Q8_0;
    }
    switch (column) {
    case COLUMN_VALUE:
        return value_type(walk, i);
    case COLUMN_KEY:
        if (model->expert_count == 8) {
            return is_low ? LQ_DTYPE_Q4_K : LQ_DTYPE_Q8_0;
        }
        return first_rule(walk, &level->key_query, 1, i, count);
    case COLUMN_QUERY:
        return first_rule(walk, &level->key_query, 1, i, count);
    case COLUMN_OUT:
        return out_type(walk);
    case COLUMN_DOWN: {
        enum lq_dtype dtype = first_rule(walk, level->down, MIX_RULES, i, count);
        return walk->is_falcon && !is_low ? falcon_down_type(walk, i, count, dtype) : dtype;
    }
    case COLUMN_GATE:
    case COLUMN_UP:
        return first_rule(walk, &level->gate_up, 1, i, count);
    default:
        return (enum lq_dtype)level->base;
    }
}

static enum lq_dtype mixture_type(struct walk *walk, const struct lq_model_tensor *tensor)
{
    const struct lq_level *level = walk->request->level;
    enum lq_dtype base = (enum lq_dtype)level->base;
    bool is_embedding = lq_level_is_embedding(tensor->name);
    if (lq_level_is_output(tensor->name) || (walk->is_tied && is_embedding)) {
        if (level->output == AS_BASE) {
            return base;
        }
        if (!(level->flags & MOE_FILE) &&
            (walk->is_falcon || tensor->ne[0] % lq_dtype_info(level->base)->block_elems != 0)) {
            return LQ_DTYPE_Q8_0;
        }
        return (enum lq_dtype)level->output;
    }
    if (is_embedding) {
        return level->embedding == AS_BASE ? base : (enum lq_dtype)level->embedding;
    }
    return layer_type(walk, tensor);
}

/* The type that the user asked for, before anything else is considered. */
static bool chosen_type(const struct walk *walk, const struct lq_model_tensor *tensor,
                        bool *matched, enum lq_dtype *dtype)
{
    const struct lq_level_request *request = walk->request;
    bool found = false;
    for (size_t i = 0; i < request->override_count; i++) {
        if (lq_text_glob(request->overrides[i].pattern, tensor->name)) {
            matched[i] = true;
            if (!found) {
                *dtype = request->overrides[i].dtype;
                found = true;
            }
        }
    }
    if (found) {
        return true;
    }
    bool is_embedding = lq_level_is_embedding(tensor->name);
    if (is_embedding && request->embedding_type != NULL) {
        *dtype = *request->embedding_type;
        return true;
    }
    bool is_output = lq_level_is_output(tensor->name) || (is_embedding && walk->is_tied);
    if (is_output && request->output_type != NULL) {
        *dtype = *request->output_type;
        return true;
    }
    return false;
}

struct ordered {
    int64_t layer;
    const char *name;
    size_t index;
};

static int compare_ordered(const void *a, const void *b)
{
    const struct ordered *x = a;
    const struct ordered *y = b;
    if (x->layer != y->layer) {
        return x->layer < y->layer ? -1 : 1;
    }
    return strcmp(x->name, y->name);
}

static void walk_init(struct walk *walk, const struct lq_level_request *request,
                      const struct lq_tensor_index *index)
{
    const struct lq_level_model *model = &request->model;
    *walk = (struct walk){
        .request = request,
        .is_tied = true,
        .is_falcon = strcmp(model->architecture, "falcon") == 0,
        .is_70b = strcmp(model->architecture, "llama") == 0 && model->layer_count == 80 &&
                  model->head_count != model->head_count_kv,
    };
    for (size_t i = 0; i < index->tensor_count; i++) {
        walk->value_count += column_of(index->tensors[i].name) == COLUMN_VALUE;
        walk->is_tied = walk->is_tied && !lq_level_is_output(index->tensors[i].name);
    }
}

static enum lq_status check_matched(const struct lq_level_request *request, const bool *matched,
                                    struct lq_error *err)
{
    for (size_t i = 0; i < request->override_count; i++) {
        if (!matched[i]) {
            return lq_error_set(
                err, LQ_ERECIPE,
                "pattern '%s' matches no tensor that can be quantized; patterns are "
                "globs over GGUF names such as 'blk.*.ffn_down.weight'",
                request->overrides[i].pattern);
        }
    }
    return LQ_OK;
}

enum lq_status lq_level_assign(const struct lq_level_request *request,
                               const struct lq_tensor_index *index, enum lq_dtype *types,
                               struct lq_error *err)
{
    struct walk walk;
    struct ordered *order = calloc(index->tensor_count + 1, sizeof *order);
    bool *matched = calloc(request->override_count + 1, sizeof *matched);
    if (order == NULL || matched == NULL) {
        free(order);
        free(matched);
        return lq_error_nomem(err, "the order of tensors");
    }
    walk_init(&walk, request, index);
    bool keeps = lq_level_keeps_types(request->level);
    bool is_plain =
        keeps || request->pure || !lq_level_is_quantized_type((enum lq_dtype)request->level->base);
    for (size_t i = 0; i < index->tensor_count; i++) {
        const char *name = index->tensors[i].name;
        order[i] = (struct ordered){lq_level_layer_of(name), name, i};
    }
    qsort(order, index->tensor_count, sizeof *order, compare_ordered);
    for (size_t i = 0; i < index->tensor_count; i++) {
        const struct lq_model_tensor *tensor = &index->tensors[order[i].index];
        enum lq_dtype *dtype = &types[order[i].index];
        if (!lq_level_is_quantizable(tensor)) {
            *dtype = lq_level_kept_type(tensor);
            continue;
        }
        *dtype = mixture_type(&walk, tensor);
        if (is_plain) {
            *dtype = keeps ? tensor->dtype : (enum lq_dtype)request->level->base;
        }
        (void)chosen_type(&walk, tensor, matched, dtype);
        *dtype = lq_level_fallback(*dtype, tensor->ne[0]);
    }
    enum lq_status status = check_matched(request, matched, err);
    free(order);
    free(matched);
    return status;
}
