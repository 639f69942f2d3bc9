#include "engine/lang/unroll.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/limits.h"

static struct lq_diagnostics *diagnostics_of(const struct lq_unroll *unroll)
{
    return unroll->evaluator->diagnostics;
}

void lq_unroll_init(struct lq_unroll *unroll, struct lq_schema_check *check,
                    const struct lq_item *items)
{
    memset(unroll, 0, sizeof *unroll);
    unroll->evaluator = check->evaluator;
    unroll->check = check;
    unroll->items = items;
}

void lq_unroll_fini(struct lq_unroll *unroll)
{
    free(unroll->entries);
    free(unroll->defaults);
    free(unroll->is_default);
}

/* -------------------------------------------------------------------- lets ---- */

static void register_lets(struct lq_unroll *unroll, const struct lq_item *items)
{
    for (const struct lq_item *item = items; item != NULL; item = item->next) {
        if (item->kind == LQ_ITEM_INCLUDE) {
            register_lets(unroll, item->items);
        } else if (item->kind == LQ_ITEM_LET && item->symbol->let != NULL) {
            const struct lq_position *first = &item->symbol->let->position;
            lq_diagnostics_add(diagnostics_of(unroll), &item->position, LQ_ERECIPE,
                               "let '%s' is defined twice; first at %s:%u:%u", item->symbol->text,
                               first->file, first->line, first->column);
        } else if (item->kind == LQ_ITEM_LET) {
            item->symbol->let = item->let;
        }
    }
}

void lq_unroll_register_lets(struct lq_unroll *unroll)
{
    register_lets(unroll, unroll->items);
}

static bool is_clash(struct lq_unroll *unroll, const struct lq_symbol *symbol,
                     const struct lq_position *position)
{
    if (symbol->artifact == 0) {
        return false;
    }
    const struct lq_position *other = &unroll->entries[symbol->artifact - 1].position;
    lq_diagnostics_add(diagnostics_of(unroll), position, LQ_ERECIPE,
                       "let '%s' has the same name as artifact '%s' at %s:%u:%u", symbol->text,
                       symbol->text, other->file, other->line, other->column);
    return true;
}

/* Every let is evaluated, used or not, so that a mistake in it does not sleep. */
static void check_lets(struct lq_unroll *unroll, const struct lq_item *items)
{
    for (const struct lq_item *item = items; item != NULL && !diagnostics_of(unroll)->stop;
         item = item->next) {
        if (item->kind == LQ_ITEM_INCLUDE) {
            check_lets(unroll, item->items);
        } else if (item->kind == LQ_ITEM_LET && !is_clash(unroll, item->symbol, &item->position) &&
                   lq_evaluate_let(unroll->evaluator, item->let, &item->position)) {
            (void)lq_schema_check_names(unroll->check, item->let->value);
        }
    }
}

/* ------------------------------------------------------------------- loops ---- */

static void walk_item(struct lq_unroll *unroll, const struct lq_item *item);

/* True when a name that a loop wants to give a value is taken. Artifacts may be shadowed: the
 * variable of a loop is seen in a few lines only. */
static bool is_taken(struct lq_unroll *unroll, const struct lq_item *item, const char *what)
{
    const struct lq_symbol *symbol = item->symbol;
    if (symbol->let != NULL) {
        const struct lq_position *first = &symbol->let->position;
        lq_diagnostics_add(diagnostics_of(unroll), &item->position, LQ_ERECIPE,
                           "%s '%s' has the same name as let '%s' at %s:%u:%u", what, symbol->text,
                           symbol->text, first->file, first->line, first->column);
    } else if (symbol->local != NULL) {
        lq_diagnostics_add(diagnostics_of(unroll), &item->position, LQ_ERECIPE,
                           "%s '%s' has the same name as a variable of a loop around it", what,
                           symbol->text);
    }
    return symbol->let != NULL || symbol->local != NULL;
}

/* A `let` in a loop holds until the end of the round. */
static bool bind_local_let(struct lq_unroll *unroll, const struct lq_item *item)
{
    struct lq_evaluator *evaluator = unroll->evaluator;
    if (is_taken(unroll, item, "let") ||
        (unroll->defining && is_clash(unroll, item->symbol, &item->position))) {
        return false;
    }
    struct lq_value *value = lq_evaluator_get(evaluator, 1, sizeof *value, &item->position);
    if (value == NULL || !lq_evaluate(evaluator, item->expr, value)) {
        return false;
    }
    if (unroll->defining && !lq_schema_check_names(unroll->check, value)) {
        return false;
    }
    item->symbol->local = value;
    return true;
}

static void walk_round(struct lq_unroll *unroll, const struct lq_item *body)
{
    const struct lq_item *item = body;
    for (; item != NULL && !diagnostics_of(unroll)->stop; item = item->next) {
        if (item->kind != LQ_ITEM_LET) {
            walk_item(unroll, item);
        } else if (!bind_local_let(unroll, item)) {
            unroll->check->incomplete = true;
            break;
        }
    }
    for (const struct lq_item *bound = body; bound != item; bound = bound->next) {
        if (bound->kind == LQ_ITEM_LET) {
            bound->symbol->local = NULL;
        }
    }
}

static void walk_loop(struct lq_unroll *unroll, const struct lq_item *loop)
{
    struct lq_evaluator *evaluator = unroll->evaluator;
    struct lq_value list;
    bool fine =
        !is_taken(unroll, loop, "loop variable") && lq_evaluate(evaluator, loop->expr, &list);
    if (fine && list.type != LQ_VALUE_LIST) {
        lq_diagnostics_add(diagnostics_of(unroll), &list.position, LQ_ERECIPE,
                           "'for' expects a list, got %s", lq_value_type_text(list.type));
        fine = false;
    }
    if (fine && unroll->defining) {
        fine = lq_schema_check_names(unroll->check, &list);
    }
    if (!fine) {
        unroll->check->incomplete = true;
        return;
    }
    for (size_t i = 0; i < list.count && lq_evaluator_count(evaluator, &loop->position); i++) {
        loop->symbol->local = &list.items[i];
        walk_round(unroll, loop->items);
        loop->symbol->local = NULL;
    }
}

/* --------------------------------------------------------------- artifacts ---- */

static struct lq_unroll_entry *add_entry(struct lq_unroll *unroll,
                                         const struct lq_position *position)
{
    if (unroll->entry_count == LQ_RECIPE_ARTIFACTS_MAX) {
        lq_diagnostics_stop(diagnostics_of(unroll), position, LQ_ERECIPE,
                            "the recipe declares more than the limit of %d artifacts",
                            LQ_RECIPE_ARTIFACTS_MAX);
        return NULL;
    }
    if (unroll->entry_count == unroll->entry_capacity) {
        size_t capacity = unroll->entry_capacity == 0 ? 256 : unroll->entry_capacity * 2;
        struct lq_unroll_entry *entries =
            realloc(unroll->entries, capacity * sizeof *unroll->entries);
        if (entries == NULL) {
            lq_diagnostics_nomem(diagnostics_of(unroll));
            return NULL;
        }
        unroll->entries = entries;
        unroll->entry_capacity = capacity;
    }
    struct lq_unroll_entry *entry = &unroll->entries[unroll->entry_count++];
    memset(entry, 0, sizeof *entry);
    entry->position = *position;
    return entry;
}

static bool is_good_name(struct lq_unroll *unroll, const char *name,
                         const struct lq_position *position)
{
    size_t length = strlen(name);
    const char *problem = NULL;
    for (const char *c = name; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20) {
            problem = "has a control character";
        }
    }
    problem = length == 0 ? "is empty" : problem;
    problem = length > LQ_NAME_BYTES_MAX ? "is longer than 255 bytes" : problem;
    if (problem != NULL) {
        lq_diagnostics_add(diagnostics_of(unroll), position, LQ_ERECIPE,
                           "the name of the artifact %s", problem);
    }
    return problem == NULL;
}

static void report_twice(struct lq_unroll *unroll, const struct lq_symbol *symbol,
                         const struct lq_position *position)
{
    const struct lq_position *first = &unroll->entries[symbol->artifact - 1].position;
    if (first->file == position->file && first->line == position->line &&
        first->column == position->column) {
        lq_diagnostics_add(diagnostics_of(unroll), position, LQ_ERECIPE,
                           "artifact '%s' is declared in several rounds of the loop; put the loop "
                           "variable into its name",
                           symbol->text);
        return;
    }
    lq_diagnostics_add(diagnostics_of(unroll), position, LQ_ERECIPE,
                       "artifact '%s' is declared twice; first at %s:%u:%u", symbol->text,
                       first->file, first->line, first->column);
}

static void declare_artifact(struct lq_unroll *unroll, const struct lq_item *item)
{
    const struct lq_position *position = &item->expr->position;
    struct lq_unroll_entry *entry = add_entry(unroll, position);
    struct lq_value name;
    if (entry == NULL) {
        return;
    }
    entry->schema = lq_schema_get(unroll->check, item->symbol, &item->position);
    if (!lq_evaluate(unroll->evaluator, item->expr, &name) ||
        !is_good_name(unroll, name.string, position)) {
        unroll->check->incomplete = true;
        return;
    }
    struct lq_symbol *symbol =
        lq_symbols_get(unroll->evaluator->symbols, name.string, strlen(name.string));
    if (symbol == NULL) {
        lq_diagnostics_nomem(diagnostics_of(unroll));
    } else if (symbol->artifact != 0) {
        report_twice(unroll, symbol, position);
    } else {
        symbol->artifact = (uint32_t)unroll->entry_count;
        entry->symbol = symbol;
    }
}

static void define_artifact(struct lq_unroll *unroll, const struct lq_item *item)
{
    size_t index = unroll->next++;
    if (index >= unroll->entry_count) {
        return;
    }
    const struct lq_unroll_entry *entry = &unroll->entries[index];
    if (entry->symbol != NULL && entry->schema != NULL) {
        (void)lq_schema_fill(unroll->check, entry->schema, &unroll->artifacts[index], item);
    }
}

static void define_defaults(struct lq_unroll *unroll, const struct lq_item *item)
{
    for (const struct lq_expr *expr = item->expr; expr != NULL; expr = expr->next) {
        struct lq_value value;
        if (!lq_evaluate(unroll->evaluator, expr, &value)) {
            continue;
        }
        const struct lq_artifact *artifact = lq_schema_resolve(unroll->check, &value);
        if (artifact != NULL && !unroll->is_default[artifact->index]) {
            unroll->is_default[artifact->index] = true;
            unroll->defaults[unroll->default_count++] = artifact;
        }
    }
}

static void walk(struct lq_unroll *unroll, const struct lq_item *items)
{
    for (const struct lq_item *item = items; item != NULL && !diagnostics_of(unroll)->stop;
         item = item->next) {
        walk_item(unroll, item);
    }
}

static void walk_item(struct lq_unroll *unroll, const struct lq_item *item)
{
    switch (item->kind) {
    case LQ_ITEM_FOR:
        walk_loop(unroll, item);
        break;
    case LQ_ITEM_INCLUDE:
        walk(unroll, item->items);
        break;
    case LQ_ITEM_DEFAULT:
        if (unroll->defining) {
            define_defaults(unroll, item);
        }
        break;
    case LQ_ITEM_ARTIFACT:
        if (unroll->defining) {
            define_artifact(unroll, item);
        } else {
            declare_artifact(unroll, item);
        }
        break;
    case LQ_ITEM_LET: /* those of the top level are evaluated on demand */
    default:
        break;
    }
}

void lq_unroll_declare(struct lq_unroll *unroll)
{
    unroll->defining = false;
    walk(unroll, unroll->items);
}

void lq_unroll_define(struct lq_unroll *unroll, const struct lq_recipe_store *store)
{
    size_t count = unroll->entry_count;
    struct lq_arena *arena = unroll->evaluator->arena;
    unroll->artifacts = lq_arena_get_array(arena, count, sizeof *unroll->artifacts);
    unroll->defaults = calloc(count + 1, sizeof *unroll->defaults);
    unroll->is_default = calloc(count + 1, sizeof *unroll->is_default);
    if (unroll->artifacts == NULL || unroll->defaults == NULL || unroll->is_default == NULL) {
        lq_diagnostics_nomem(diagnostics_of(unroll));
        return;
    }
    for (size_t i = 0; i < count; i++) {
        const struct lq_unroll_entry *entry = &unroll->entries[i];
        struct lq_artifact *artifact = &unroll->artifacts[i];
        artifact->name = entry->symbol == NULL ? "" : entry->symbol->text;
        artifact->rule = entry->schema == NULL ? NULL : entry->schema->rule;
        artifact->dir = unroll->check->dir;
        artifact->position = entry->position;
        artifact->index = i;
        artifact->store = store;
    }
    unroll->check->artifacts = unroll->artifacts;
    unroll->defining = true;
    check_lets(unroll, unroll->items);
    walk(unroll, unroll->items);
}
