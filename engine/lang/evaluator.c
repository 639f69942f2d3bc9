#include "engine/lang/evaluator.h"

#include <math.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/lang/literal.h"

void lq_evaluator_init(struct lq_evaluator *evaluator, struct lq_arena *arena,
                       struct lq_diagnostics *diagnostics, struct lq_symbols *symbols)
{
    memset(evaluator, 0, sizeof *evaluator);
    evaluator->arena = arena;
    evaluator->diagnostics = diagnostics;
    evaluator->symbols = symbols;
    lq_buffer_init(&evaluator->text);
}

void lq_evaluator_fini(struct lq_evaluator *evaluator)
{
    lq_buffer_fini(&evaluator->text);
}

const char *lq_value_type_text(enum lq_value_type type)
{
    switch (type) {
    case LQ_VALUE_STRING:
        return "a string";
    case LQ_VALUE_NUMBER:
        return "a number";
    case LQ_VALUE_BOOL:
        return "true or false";
    case LQ_VALUE_REF:
        return "an artifact";
    case LQ_VALUE_LIST:
        return "a list";
    case LQ_VALUE_MAP:
        return "a map";
    case LQ_VALUE_NONE:
    default:
        return "nothing";
    }
}

bool lq_evaluator_count(struct lq_evaluator *evaluator, const struct lq_position *position)
{
    if (evaluator->diagnostics->stop) {
        return false;
    }
    if (++evaluator->evaluations > LQ_RECIPE_EVALUATIONS_MAX) {
        lq_diagnostics_stop(evaluator->diagnostics, position, LQ_ERECIPE,
                            "the loops of the recipe need more than the limit of %d evaluations",
                            LQ_RECIPE_EVALUATIONS_MAX);
        return false;
    }
    return true;
}

static bool charge(struct lq_evaluator *evaluator, uint64_t size_bytes,
                   const struct lq_position *position)
{
    if (size_bytes > LQ_RECIPE_VALUE_BYTES_MAX ||
        evaluator->value_bytes > LQ_RECIPE_VALUE_BYTES_MAX - size_bytes) {
        lq_diagnostics_stop(evaluator->diagnostics, position, LQ_ERECIPE,
                            "the values of the recipe need more than the limit of %d bytes",
                            LQ_RECIPE_VALUE_BYTES_MAX);
        return false;
    }
    evaluator->value_bytes += size_bytes;
    return true;
}

void *lq_evaluator_get(struct lq_evaluator *evaluator, size_t count, size_t element_bytes,
                       const struct lq_position *position)
{
    size_t size_bytes = 0;
    if (!lq_mul_size(count, element_bytes, &size_bytes)) {
        size_bytes = SIZE_MAX;
    }
    if (!charge(evaluator, size_bytes, position)) {
        return NULL;
    }
    void *memory = lq_arena_get(evaluator->arena, size_bytes);
    if (memory == NULL) {
        lq_diagnostics_nomem(evaluator->diagnostics);
    }
    return memory;
}

bool lq_evaluate_let(struct lq_evaluator *evaluator, struct lq_let *let,
                     const struct lq_position *position)
{
    if (let->state == LQ_LET_DONE || let->state == LQ_LET_FAILED) {
        return let->state == LQ_LET_DONE;
    }
    if (let->state == LQ_LET_OPEN) {
        lq_diagnostics_add(evaluator->diagnostics, position, LQ_ERECIPE,
                           "the value of let '%s' depends on itself", let->symbol->text);
        return false;
    }
    if (evaluator->let_depth == LQ_RECIPE_DEPTH_MAX) {
        lq_diagnostics_stop(evaluator->diagnostics, position, LQ_ERECIPE,
                            "more than %d lets wait for each other; define them before their use",
                            LQ_RECIPE_DEPTH_MAX);
        return false;
    }
    let->state = LQ_LET_OPEN;
    evaluator->let_depth++;
    let->value = lq_evaluator_get(evaluator, 1, sizeof *let->value, position);
    bool done = let->value != NULL && lq_evaluate(evaluator, let->expr, let->value);
    evaluator->let_depth--;
    let->state = done ? LQ_LET_DONE : LQ_LET_FAILED;
    return done;
}

static bool find_variable(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                          const struct lq_value **out)
{
    const struct lq_symbol *symbol = expr->is.symbol;
    *out = symbol->local;
    if (*out == NULL && symbol->let != NULL) {
        if (!lq_evaluate_let(evaluator, symbol->let, &expr->position)) {
            return false;
        }
        *out = symbol->let->value;
    }
    return true;
}

static bool evaluate_name(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                          struct lq_value *out)
{
    const struct lq_value *variable = NULL;
    if (!find_variable(evaluator, expr, &variable)) {
        return false;
    }
    if (variable != NULL) {
        *out = *variable;
    } else {
        out->type = LQ_VALUE_REF;
        out->string = expr->is.symbol->text;
    }
    out->position = expr->position;
    return true;
}

static bool unknown_variable(struct lq_evaluator *evaluator, const struct lq_expr *piece)
{
    const char *name = piece->is.symbol->text;
    const char *nearest = lq_symbols_nearest(evaluator->symbols, name, lq_symbol_is_variable);
    if (nearest != NULL) {
        lq_diagnostics_add(evaluator->diagnostics, &piece->position, LQ_ERECIPE,
                           "unknown variable '%s' in a string; did you mean '%s'?", name, nearest);
    } else {
        lq_diagnostics_add(evaluator->diagnostics, &piece->position, LQ_ERECIPE,
                           "unknown variable '%s' in a string; only names of let and for can stand "
                           "in braces",
                           name);
    }
    return false;
}

static bool append_piece(struct lq_evaluator *evaluator, struct lq_buffer *text,
                         const struct lq_expr *piece)
{
    const struct lq_value *value = NULL;
    if (piece->kind == LQ_EXPR_STRING) {
        lq_buffer_append_string(text, piece->is.string);
        return true;
    }
    if (!find_variable(evaluator, piece, &value)) {
        return false;
    }
    if (value == NULL) {
        return unknown_variable(evaluator, piece);
    }
    switch (value->type) {
    case LQ_VALUE_STRING:
    case LQ_VALUE_REF:
        lq_buffer_append_string(text, value->string);
        return true;
    case LQ_VALUE_NUMBER:
        lq_literal_format_number(text, value->number);
        return true;
    case LQ_VALUE_BOOL:
        lq_buffer_append_string(text, value->boolean ? "true" : "false");
        return true;
    default:
        lq_diagnostics_add(evaluator->diagnostics, &piece->position, LQ_ERECIPE,
                           "'%s' is %s, which cannot stand in a string", piece->is.symbol->text,
                           lq_value_type_text(value->type));
        return false;
    }
}

static bool finish_text(struct lq_evaluator *evaluator, struct lq_buffer *text,
                        const struct lq_expr *expr, struct lq_value *out)
{
    char *copy = lq_evaluator_get(evaluator, text->size_bytes + 1, 1, &expr->position);
    if (copy == NULL || text->failed) {
        if (text->failed) {
            lq_diagnostics_nomem(evaluator->diagnostics);
        }
        return false;
    }
    memcpy(copy, lq_buffer_text(text), text->size_bytes);
    out->type = LQ_VALUE_STRING;
    out->string = copy;
    return true;
}

static bool evaluate_template(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                              struct lq_value *out)
{
    /* A `let` may have to be evaluated first, which uses the scratch buffer too. */
    for (const struct lq_expr *piece = expr->is.children; piece != NULL; piece = piece->next) {
        const struct lq_value *value = NULL;
        if (piece->kind == LQ_EXPR_NAME && !find_variable(evaluator, piece, &value)) {
            return false;
        }
    }
    lq_buffer_clear(&evaluator->text);
    for (const struct lq_expr *piece = expr->is.children; piece != NULL; piece = piece->next) {
        if (!append_piece(evaluator, &evaluator->text, piece)) {
            return false;
        }
        if (evaluator->text.size_bytes > LQ_RECIPE_VALUE_BYTES_MAX) {
            return charge(evaluator, evaluator->text.size_bytes, &expr->position);
        }
    }
    return finish_text(evaluator, &evaluator->text, expr, out);
}

/* Values of the children, in the arena. */
static struct lq_value *evaluate_children(struct lq_evaluator *evaluator,
                                          const struct lq_expr *expr)
{
    struct lq_value *values =
        lq_evaluator_get(evaluator, expr->child_count, sizeof *values, &expr->position);
    if (values == NULL) {
        return NULL;
    }
    size_t i = 0;
    for (const struct lq_expr *child = expr->is.children; child != NULL; child = child->next) {
        if (!lq_evaluate(evaluator, child, &values[i++])) {
            return NULL;
        }
    }
    return values;
}

static bool evaluate_list(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                          struct lq_value *out)
{
    out->type = LQ_VALUE_LIST;
    out->items = evaluate_children(evaluator, expr);
    out->count = expr->child_count;
    return out->items != NULL;
}

static bool keys_differ(struct lq_evaluator *evaluator, const struct lq_value *map);

static bool evaluate_map(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                         struct lq_value *out)
{
    struct lq_value *pairs = evaluate_children(evaluator, expr);
    size_t count = expr->child_count / 2;
    const char **keys =
        pairs == NULL ? NULL : lq_evaluator_get(evaluator, count, sizeof *keys, &expr->position);
    if (keys == NULL) {
        return false;
    }
    /* The pairs keep their place: keys move out, values move together. */
    for (size_t i = 0; i < count; i++) {
        keys[i] = pairs[2 * i].string;
        pairs[i] = pairs[2 * i + 1];
    }
    out->type = LQ_VALUE_MAP;
    out->keys = keys;
    out->items = pairs;
    out->count = count;
    return keys_differ(evaluator, out);
}

/* A table of keys as large as the map needs, so that large maps stay linear. */
static bool keys_differ(struct lq_evaluator *evaluator, const struct lq_value *map)
{
    struct lq_arena arena;
    struct lq_symbols keys;
    lq_arena_init(&arena);
    bool fine = map->count < 2 || lq_symbols_init(&keys, &arena);
    if (!fine) {
        lq_diagnostics_nomem(evaluator->diagnostics);
    }
    for (size_t i = 0; fine && map->count > 1 && i < map->count; i++) {
        uint32_t before = keys.count;
        if (lq_symbols_get(&keys, map->keys[i], strlen(map->keys[i])) == NULL) {
            lq_diagnostics_nomem(evaluator->diagnostics);
            fine = false;
        } else if (keys.count == before) {
            lq_diagnostics_add(evaluator->diagnostics, &map->items[i].position, LQ_ERECIPE,
                               "the key '%.80s' stands twice in the map", map->keys[i]);
            fine = false;
        }
    }
    lq_arena_fini(&arena);
    return fine;
}

static bool numbers_chain(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                          const struct lq_value *values, struct lq_value *out)
{
    double result = values[0].number;
    size_t i = 1;
    for (const struct lq_expr *child = expr->is.children->next; child != NULL;
         child = child->next, i++) {
        double operand = values[i].number;
        if (child->sign == '/' && operand == 0) {
            lq_diagnostics_add(evaluator->diagnostics, &child->position, LQ_ERECIPE,
                               "division by zero");
            return false;
        }
        switch (child->sign) {
        case '+':
            result += operand;
            break;
        case '-':
            result -= operand;
            break;
        case '*':
            result *= operand;
            break;
        default:
            result /= operand;
            break;
        }
    }
    if (!isfinite(result)) {
        lq_diagnostics_add(evaluator->diagnostics, &expr->position, LQ_ERECIPE,
                           "the result is too large for a number");
        return false;
    }
    out->type = LQ_VALUE_NUMBER;
    out->number = result;
    return true;
}

static bool strings_chain(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                          const struct lq_value *values, struct lq_value *out)
{
    lq_buffer_clear(&evaluator->text);
    for (size_t i = 0; i < expr->child_count; i++) {
        lq_buffer_append_string(&evaluator->text, values[i].string);
        if (evaluator->text.size_bytes > LQ_RECIPE_VALUE_BYTES_MAX) {
            return charge(evaluator, evaluator->text.size_bytes, &expr->position);
        }
    }
    return finish_text(evaluator, &evaluator->text, expr, out);
}

static bool lists_chain(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                        const struct lq_value *values, struct lq_value *out)
{
    size_t count = 0;
    for (size_t i = 0; i < expr->child_count; i++) {
        count += values[i].count;
    }
    out->type = LQ_VALUE_LIST;
    out->count = count;
    out->items = lq_evaluator_get(evaluator, count, sizeof *out->items, &expr->position);
    if (out->items == NULL) {
        return false;
    }
    struct lq_value *next = out->items;
    for (size_t i = 0; i < expr->child_count; i++) {
        if (values[i].count > 0) {
            memcpy(next, values[i].items, values[i].count * sizeof *next);
            next += values[i].count;
        }
    }
    return true;
}

/* Numbers have + - * /, strings and lists have +; both sides are of one type. */
static bool evaluate_chain(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                           struct lq_value *out)
{
    const struct lq_value *values = evaluate_children(evaluator, expr);
    if (values == NULL) {
        return false;
    }
    enum lq_value_type type = values[0].type;
    bool joins = type == LQ_VALUE_STRING || type == LQ_VALUE_LIST;
    const struct lq_expr *child = expr->is.children->next;
    for (size_t i = 1; child != NULL; i++, child = child->next) {
        bool works =
            values[i].type == type && (type == LQ_VALUE_NUMBER || (joins && child->sign == '+'));
        if (!works) {
            lq_diagnostics_add(evaluator->diagnostics, &child->position, LQ_ERECIPE,
                               "'%c' does not work between %s and %s", child->sign,
                               lq_value_type_text(type), lq_value_type_text(values[i].type));
            return false;
        }
    }
    if (type == LQ_VALUE_NUMBER) {
        return numbers_chain(evaluator, expr, values, out);
    }
    return type == LQ_VALUE_STRING ? strings_chain(evaluator, expr, values, out)
                                   : lists_chain(evaluator, expr, values, out);
}

static bool evaluate_negate(struct lq_evaluator *evaluator, const struct lq_expr *expr,
                            struct lq_value *out)
{
    if (!lq_evaluate(evaluator, expr->is.children, out)) {
        return false;
    }
    if (out->type != LQ_VALUE_NUMBER) {
        lq_diagnostics_add(evaluator->diagnostics, &expr->position, LQ_ERECIPE,
                           "'-' does not work on %s", lq_value_type_text(out->type));
        return false;
    }
    out->number = -out->number;
    return true;
}

bool lq_evaluate(struct lq_evaluator *evaluator, const struct lq_expr *expr, struct lq_value *out)
{
    memset(out, 0, sizeof *out);
    bool done = lq_evaluator_count(evaluator, &expr->position);
    if (!done) {
        return false;
    }
    switch (expr->kind) {
    case LQ_EXPR_STRING:
        out->type = LQ_VALUE_STRING;
        out->string = expr->is.string;
        break;
    case LQ_EXPR_NUMBER:
        out->type = LQ_VALUE_NUMBER;
        out->number = expr->is.number;
        break;
    case LQ_EXPR_BOOL:
        out->type = LQ_VALUE_BOOL;
        out->boolean = expr->boolean;
        break;
    case LQ_EXPR_TEMPLATE:
        done = evaluate_template(evaluator, expr, out);
        break;
    case LQ_EXPR_NAME:
        done = evaluate_name(evaluator, expr, out);
        break;
    case LQ_EXPR_LIST:
        done = evaluate_list(evaluator, expr, out);
        break;
    case LQ_EXPR_MAP:
        done = evaluate_map(evaluator, expr, out);
        break;
    case LQ_EXPR_NEGATE:
        done = evaluate_negate(evaluator, expr, out);
        break;
    case LQ_EXPR_SUM:
    case LQ_EXPR_PRODUCT:
    default:
        done = evaluate_chain(evaluator, expr, out);
        break;
    }
    out->position = expr->position;
    return done;
}
