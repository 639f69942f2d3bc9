#include "engine/lang/recipe.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "engine/lang/literal.h"
#include "engine/lang/recipe_store.h"
#include "engine/lang/reference_cycle.h"
#include "engine/lang/schema_check.h"
#include "engine/lang/unroll.h"

/* One load: everything that is needed until the recipe stands. */
struct load {
    struct lq_recipe *recipe;
    struct lq_diagnostics diagnostics;
    struct lq_parse_options parse;
    struct lq_evaluator evaluator;
    struct lq_schema_check check;
    struct lq_unroll unroll;
    const struct lq_define *defines;
    size_t define_count;
};

void lq_recipe_destroy(struct lq_recipe *recipe)
{
    if (recipe != NULL) {
        if (recipe->store != NULL) {
            lq_arena_fini(&recipe->store->arena);
        }
        free(recipe->store);
        free(recipe);
    }
}

static struct lq_recipe *create_recipe(void)
{
    struct lq_recipe *recipe = calloc(1, sizeof *recipe);
    if (recipe == NULL) {
        return NULL;
    }
    recipe->store = calloc(1, sizeof *recipe->store);
    if (recipe->store != NULL) {
        lq_arena_init(&recipe->store->arena);
        lq_recipe_sources_init(&recipe->store->sources, &recipe->store->arena);
    }
    if (recipe->store == NULL || !lq_symbols_init(&recipe->store->symbols, &recipe->store->arena)) {
        lq_recipe_destroy(recipe);
        return NULL;
    }
    return recipe;
}

/* ----------------------------------------------------------------- defines ---- */

/* Numbers, true, false and quoted strings as in a recipe; anything else is a string as it stands.
 */
static bool read_define(struct load *load, const struct lq_define *define, struct lq_value *out)
{
    const char *text = define->value;
    bool negative = text[0] == '-';
    const char *problem = NULL;
    if (strcmp(text, "true") == 0 || strcmp(text, "false") == 0) {
        out->type = LQ_VALUE_BOOL;
        out->boolean = text[0] == 't';
    } else if (lq_literal_number(text + negative, strlen(text + negative), &out->number,
                                 &problem)) {
        out->type = LQ_VALUE_NUMBER;
        out->number = negative ? -out->number : out->number;
    } else {
        out->type = LQ_VALUE_STRING;
        out->string = lq_arena_dup_string(load->parse.arena, text);
        if (out->string == NULL) {
            lq_diagnostics_nomem(&load->diagnostics);
        }
        return out->string != NULL;
    }
    return true;
}

static bool read_quoted_define(struct load *load, struct lq_recipe_source *source,
                               struct lq_value *out)
{
    const struct lq_expr *expr = lq_parse_expression(&load->parse, source);
    return expr != NULL && lq_evaluate(&load->evaluator, expr, out);
}

static void apply_define(struct load *load, const struct lq_define *define)
{
    struct lq_symbols *symbols = load->parse.symbols;
    const struct lq_symbol *symbol = lq_symbols_find(symbols, define->name, strlen(define->name));
    if (symbol == NULL || symbol->let == NULL) {
        const char *nearest = lq_symbols_nearest(symbols, define->name, lq_symbol_is_variable);
        if (nearest != NULL) {
            lq_diagnostics_add(&load->diagnostics, NULL, LQ_ERECIPE,
                               "-D %.80s: the recipe has no let of this name; did you mean '%s'?",
                               define->name, nearest);
        } else {
            lq_diagnostics_add(&load->diagnostics, NULL, LQ_ERECIPE,
                               "-D %.80s: the recipe has no let of this name", define->name);
        }
        return;
    }
    struct lq_let *let = symbol->let;
    struct lq_recipe_source *source = NULL;
    struct lq_error err = {0};
    const char *name = lq_arena_printf(load->parse.arena, "-D %s", define->name);
    if (name == NULL || lq_recipe_sources_add(load->parse.sources, name, ".", define->value,
                                              strlen(define->value), &source, &err) != LQ_OK) {
        lq_diagnostics_add(&load->diagnostics, NULL, LQ_ERECIPE, "-D %.80s: %s", define->name,
                           name == NULL ? "out of memory" : err.message);
        return;
    }
    size_t valid = lq_recipe_utf8_check(source->text, source->size_bytes);
    if (valid < source->size_bytes) {
        struct lq_position position = lq_recipe_source_position(source, valid);
        lq_diagnostics_add(&load->diagnostics, &position, LQ_ERECIPE, "the value is no UTF-8 text");
        return;
    }
    let->value = lq_evaluator_get(&load->evaluator, 1, sizeof *let->value, &let->position);
    let->state = LQ_LET_FAILED;
    if (let->value != NULL &&
        (define->value[0] == '"' ? read_quoted_define(load, source, let->value)
                                 : read_define(load, define, let->value))) {
        let->value->position = (struct lq_position){source->name, 1, 1};
        let->state = LQ_LET_DONE;
    }
}

/* ------------------------------------------------------------ whole recipe ---- */

/* "./out//x" and "out/x" are one place. */
static const char *clean_path(struct lq_arena *arena, const char *path)
{
    char *clean = lq_arena_dup_string(arena, path);
    char *to = clean;
    for (const char *from = path; clean != NULL && *from != '\0';) {
        bool at_start = from == path || from[-1] == '/';
        if (at_start && from[0] == '.' && from[1] == '/') {
            from += 2;
        } else if (*from == '/' && from > path && from[-1] == '/') {
            from++;
        } else {
            *to++ = *from++;
        }
    }
    if (clean != NULL) {
        *to = '\0';
    }
    return clean;
}

static void add_output(struct load *load, const struct lq_artifact *artifact,
                       const struct lq_value *value)
{
    const char *path = clean_path(load->parse.arena, value->string);
    struct lq_symbol *symbol =
        path == NULL ? NULL : lq_symbols_get(load->parse.symbols, path, strlen(path));
    if (symbol == NULL) {
        lq_diagnostics_nomem(&load->diagnostics);
    } else if (symbol->output != 0) {
        const struct lq_artifact *other = &load->recipe->artifacts[symbol->output - 1];
        lq_diagnostics_add(&load->diagnostics, &value->position, LQ_ERECIPE,
                           "the path '%.80s' is the output of '%s' at %s:%u:%u already",
                           value->string, other->name, other->position.file, other->position.line,
                           other->position.column);
    } else {
        symbol->output = (uint32_t)artifact->index + 1;
    }
}

/* Two artifacts at one path would overwrite each other. */
static void collect_outputs(struct load *load)
{
    const struct lq_recipe *recipe = load->recipe;
    for (size_t i = 0; i < recipe->artifact_count && !load->diagnostics.stop; i++) {
        const struct lq_artifact *artifact = &recipe->artifacts[i];
        for (size_t j = 0; artifact->values != NULL && j < artifact->rule->attr_count; j++) {
            const struct lq_value *value = &artifact->values[j];
            enum lq_attr_type type = artifact->rule->attrs[j].type;
            if (type == LQ_ATTR_OUT_PATH && value->type == LQ_VALUE_STRING && value->path != NULL) {
                add_output(load, artifact, value);
            }
            for (size_t k = 0; type == LQ_ATTR_OUT_PATH_LIST && k < value->count; k++) {
                add_output(load, artifact, &value->items[k]);
            }
        }
    }
}

/* Messages of lq_attr_error are complete; a bare sentence gets the place of the artifact. */
static void run_checks(struct load *load)
{
    const struct lq_recipe *recipe = load->recipe;
    for (size_t i = 0; i < recipe->artifact_count && !load->diagnostics.stop; i++) {
        const struct lq_artifact *artifact = &recipe->artifacts[i];
        struct lq_error err = {0};
        enum lq_status status =
            artifact->rule->check == NULL ? LQ_OK : artifact->rule->check(artifact, &err);
        if (status == LQ_OK) {
            continue;
        }
        if (strstr(err.message, "\n    ") != NULL) {
            lq_diagnostics_add_text(&load->diagnostics, status, err.message);
        } else {
            lq_diagnostics_add(&load->diagnostics, &artifact->position, status, "%s", err.message);
        }
    }
}

static enum lq_status take_defaults(struct load *load, struct lq_error *err)
{
    struct lq_recipe *recipe = load->recipe;
    bool all = load->unroll.default_count == 0;
    size_t count = all ? recipe->artifact_count : load->unroll.default_count;
    const struct lq_artifact **defaults =
        lq_arena_get_array(&recipe->store->arena, count, sizeof *defaults);
    if (defaults == NULL) {
        return lq_error_nomem(err, "the recipe");
    }
    for (size_t i = 0; i < count; i++) {
        defaults[i] = all ? &recipe->artifacts[i] : load->unroll.defaults[i];
    }
    recipe->defaults = defaults;
    recipe->default_count = count;
    return LQ_OK;
}

/* Each stage needs the one before to be without errors, except that names and attributes are
 * checked together. */
static void evaluate(struct load *load)
{
    lq_unroll_register_lets(&load->unroll);
    for (size_t i = 0; i < load->define_count && !load->diagnostics.stop; i++) {
        apply_define(load, &load->defines[i]);
    }
    if (load->diagnostics.count > 0) {
        return;
    }
    lq_unroll_declare(&load->unroll);
    if (load->diagnostics.stop) {
        return;
    }
    lq_unroll_define(&load->unroll, load->recipe->store);
    if (load->diagnostics.stop) {
        return;
    }
    load->recipe->artifacts = load->unroll.artifacts;
    load->recipe->artifact_count = load->unroll.entry_count;
    collect_outputs(load);
    (void)lq_reference_cycle_check(load->recipe->artifacts, load->recipe->artifact_count,
                                   &load->diagnostics);
    if (load->diagnostics.count == 0) {
        run_checks(load);
    }
}

static enum lq_status finish(struct load *load, struct lq_recipe_source *source,
                             const struct lq_registry *registry, struct lq_recipe **out,
                             struct lq_error *err)
{
    struct lq_recipe_store *store = load->recipe->store;
    lq_diagnostics_init(&load->diagnostics, &store->sources);
    load->parse = (struct lq_parse_options){&store->arena, &load->diagnostics, &store->symbols,
                                            &store->sources};
    lq_evaluator_init(&load->evaluator, &store->arena, &load->diagnostics, &store->symbols);
    const struct lq_item *items = lq_parse_items(&load->parse, source);
    if (load->diagnostics.count == 0 &&
        lq_schema_check_init(&load->check, &load->evaluator, &load->parse, registry, source->dir)) {
        lq_unroll_init(&load->unroll, &load->check, items);
        evaluate(load);
    }
    enum lq_status status = lq_diagnostics_finish(&load->diagnostics, err);
    if (status == LQ_OK) {
        status = take_defaults(load, err);
    }
    lq_unroll_fini(&load->unroll);
    lq_evaluator_fini(&load->evaluator);
    lq_diagnostics_fini(&load->diagnostics);
    if (status == LQ_OK) {
        *out = load->recipe;
    } else {
        lq_recipe_destroy(load->recipe);
    }
    return status;
}

enum lq_status lq_recipe_load(struct lq_recipe **out, const char *path,
                              const struct lq_registry *registry, const struct lq_define *defines,
                              size_t define_count, struct lq_error *err)
{
    *out = NULL;
    struct load load = {.defines = defines, .define_count = define_count};
    load.recipe = create_recipe();
    if (load.recipe == NULL) {
        return lq_error_nomem(err, path);
    }
    struct lq_recipe_source *source = NULL;
    bool known = false;
    enum lq_status status =
        lq_recipe_sources_open(&load.recipe->store->sources, path, &source, &known, err);
    if (status != LQ_OK) {
        lq_recipe_destroy(load.recipe);
        return status;
    }
    return finish(&load, source, registry, out, err);
}

enum lq_status lq_recipe_parse(struct lq_recipe **out, const char *text, size_t size_bytes,
                               const char *name, const char *dir,
                               const struct lq_registry *registry, const struct lq_define *defines,
                               size_t define_count, struct lq_error *err)
{
    *out = NULL;
    struct load load = {.defines = defines, .define_count = define_count};
    load.recipe = create_recipe();
    if (load.recipe == NULL) {
        return lq_error_nomem(err, name);
    }
    struct lq_recipe_source *source = NULL;
    enum lq_status status = lq_recipe_sources_add(&load.recipe->store->sources, name, dir, text,
                                                  size_bytes, &source, err);
    if (status != LQ_OK) {
        lq_recipe_destroy(load.recipe);
        return status;
    }
    return finish(&load, source, registry, out, err);
}

/* ----------------------------------------------------------------- look-up ---- */

const char *lq_recipe_file(const struct lq_recipe *recipe, size_t index)
{
    const struct lq_recipe_source *source = recipe->store->sources.first;
    while (source != NULL && (!source->is_file || index > 0)) {
        index -= source->is_file ? 1 : 0;
        source = source->next;
    }
    return source == NULL ? NULL : source->name;
}

const struct lq_artifact *lq_recipe_find(const struct lq_recipe *recipe, const char *name)
{
    const struct lq_symbols *symbols = &recipe->store->symbols;
    const struct lq_symbol *symbol = lq_symbols_find(symbols, name, strlen(name));
    if (symbol != NULL && symbol->artifact != 0) {
        return &recipe->artifacts[symbol->artifact - 1];
    }
    struct lq_arena arena;
    lq_arena_init(&arena);
    const char *path = clean_path(&arena, name);
    symbol = path == NULL ? NULL : lq_symbols_find(symbols, path, strlen(path));
    lq_arena_fini(&arena);
    return symbol == NULL || symbol->output == 0 ? NULL : &recipe->artifacts[symbol->output - 1];
}

const char *lq_recipe_suggest(const struct lq_recipe *recipe, const char *name)
{
    return lq_symbols_nearest(&recipe->store->symbols, name, lq_symbol_is_target);
}
