#include "engine/lang/schema_check.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "engine/base/fs.h"
#include "engine/base/text.h"
#include "engine/lang/literal.h"

enum { WORDS_BYTES = 320, WORDS_MAX = 128 };

/* What is being converted, for messages. */
struct target {
    struct lq_schema_check *check;
    const struct lq_rule *rule;
    const struct lq_attr_spec *spec;
};

static struct lq_diagnostics *diagnostics_of(const struct lq_schema_check *check)
{
    return check->evaluator->diagnostics;
}

/* ------------------------------------------------------------------- words ---- */

/* Schemas list choices and kinds as words with spaces between. */
static bool has_word(const char *words, const char *word)
{
    size_t length = strlen(word);
    for (const char *at = strstr(words, word); length > 0 && at != NULL;
         at = strstr(at + 1, word)) {
        if ((at == words || at[-1] == ' ') && (at[length] == ' ' || at[length] == '\0')) {
            return true;
        }
    }
    return false;
}

/* Copies the words apart; returns how many there are. */
static size_t split_words(const char *words, char *copy, size_t copy_bytes, const char **out)
{
    size_t count = 0;
    (void)snprintf(copy, copy_bytes, "%s", words);
    for (char *at = copy; *at != '\0' && count < WORDS_MAX;) {
        at += strspn(at, " ");
        if (*at != '\0') {
            out[count++] = at;
        }
        at += strcspn(at, " ");
        if (*at == ' ') {
            *at++ = '\0';
        }
    }
    return count;
}

/* "a, b or c" */
static const char *join_words(const char *words, char *out, size_t out_bytes)
{
    char copy[2048];
    const char *list[WORDS_MAX];
    size_t count = split_words(words, copy, sizeof copy, list);
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < count && used < out_bytes; i++) {
        const char *before = i == 0 ? "" : i + 1 == count ? " or " : ", ";
        int length = snprintf(out + used, out_bytes - used, "%s%s", before, list[i]);
        used += length < 0 ? 0 : (size_t)length;
    }
    if (used >= out_bytes && out_bytes > 4) {
        memcpy(out + out_bytes - 4, "...", 4);
    }
    return out;
}

static const char *nearest_word(const char *text, const char *words, char *copy, size_t copy_bytes)
{
    const char *list[WORDS_MAX];
    size_t count = split_words(words, copy, copy_bytes, list);
    return lq_text_nearest(text, list, count);
}

/* -------------------------------------------------------------- references ---- */

static void unknown_name(struct lq_schema_check *check, const struct lq_value *value,
                         const struct lq_attr_spec *spec)
{
    if (check->incomplete) {
        return;
    }
    bool wants_text = spec != NULL && spec->type != LQ_ATTR_REF && spec->type != LQ_ATTR_REF_LIST;
    const char *name = value->string;
    if (wants_text && spec->type == LQ_ATTR_ENUM && has_word(spec->choices, name)) {
        lq_diagnostics_add(diagnostics_of(check), &value->position, LQ_ERECIPE,
                           "unknown name '%s'; did you mean \"%s\" in quotes?", name, name);
        return;
    }
    const char *nearest = lq_symbols_nearest(
        check->evaluator->symbols, name, wants_text ? lq_symbol_is_variable : lq_symbol_is_name);
    if (nearest != NULL) {
        lq_diagnostics_add(diagnostics_of(check), &value->position, LQ_ERECIPE,
                           "unknown name '%.80s'; did you mean '%s'?", name, nearest);
    } else if (wants_text) {
        lq_diagnostics_add(diagnostics_of(check), &value->position, LQ_ERECIPE,
                           "unknown name '%.80s'; text stands in quotes", name);
    } else {
        lq_diagnostics_add(diagnostics_of(check), &value->position, LQ_ERECIPE,
                           "unknown name '%.80s'", name);
    }
}

static struct lq_artifact *find_artifact(const struct lq_schema_check *check, const char *name)
{
    const struct lq_symbol *symbol = lq_symbols_find(check->evaluator->symbols, name, strlen(name));
    return symbol == NULL || symbol->artifact == 0 ? NULL : &check->artifacts[symbol->artifact - 1];
}

struct lq_artifact *lq_schema_resolve(struct lq_schema_check *check, const struct lq_value *value)
{
    if (value->type != LQ_VALUE_STRING && value->type != LQ_VALUE_REF) {
        lq_diagnostics_add(diagnostics_of(check), &value->position, LQ_ERECIPE,
                           "expected the name of an artifact, got %s",
                           lq_value_type_text(value->type));
        return NULL;
    }
    struct lq_artifact *artifact = find_artifact(check, value->string);
    if (artifact == NULL) {
        unknown_name(check, value, NULL);
    }
    return artifact;
}

bool lq_schema_check_names(struct lq_schema_check *check, const struct lq_value *value)
{
    if (value->type == LQ_VALUE_REF && find_artifact(check, value->string) == NULL) {
        unknown_name(check, value, NULL);
        return false;
    }
    bool fine = true;
    bool has_items = value->type == LQ_VALUE_LIST || value->type == LQ_VALUE_MAP;
    for (size_t i = 0; has_items && i < value->count && !diagnostics_of(check)->stop; i++) {
        fine = lq_schema_check_names(check, &value->items[i]) && fine;
    }
    return fine;
}

/* ------------------------------------------------------------------ values ---- */

static enum lq_status range_status(const struct lq_attr_spec *spec)
{
    return spec->range_status == LQ_OK ? LQ_ERECIPE : spec->range_status;
}

static bool wrong_type(const struct target *target, const char *wanted,
                       const struct lq_value *value)
{
    if (value->type == LQ_VALUE_REF) {
        if (target->check->artifacts == NULL ||
            find_artifact(target->check, value->string) == NULL) {
            unknown_name(target->check, value, target->spec);
        } else {
            lq_diagnostics_add(diagnostics_of(target->check), &value->position, LQ_ERECIPE,
                               "attribute '%s' expects %s, got the artifact '%s'",
                               target->spec->name, wanted, value->string);
        }
        return false;
    }
    lq_diagnostics_add(diagnostics_of(target->check), &value->position, LQ_ERECIPE,
                       "attribute '%s' expects %s, got %s", target->spec->name, wanted,
                       lq_value_type_text(value->type));
    return false;
}

static bool convert_string(const struct target *target, const struct lq_value *in)
{
    return in->type == LQ_VALUE_STRING || wrong_type(target, "a string", in);
}

static bool convert_path(const struct target *target, const struct lq_value *in,
                         struct lq_value *out)
{
    if (in->type != LQ_VALUE_STRING) {
        return wrong_type(target, "a path in quotes", in);
    }
    if (in->string[0] == '\0') {
        lq_diagnostics_add(diagnostics_of(target->check), &in->position, LQ_ERECIPE,
                           "attribute '%s' expects a path, got an empty string",
                           target->spec->name);
        return false;
    }
    out->path = lq_path_join(target->check->evaluator->arena, target->check->dir, in->string);
    if (out->path == NULL) {
        lq_diagnostics_nomem(diagnostics_of(target->check));
    }
    return out->path != NULL;
}

static bool convert_path_list(const struct target *target, const struct lq_value *in,
                              struct lq_value *out)
{
    if (in->type != LQ_VALUE_LIST) {
        return wrong_type(target, "a list of paths in brackets", in);
    }
    /* The list may belong to a variable that others use too. */
    out->items =
        lq_evaluator_get(target->check->evaluator, in->count, sizeof *out->items, &in->position);
    bool fine = out->items != NULL;
    for (size_t i = 0; out->items != NULL && i < in->count; i++) {
        out->items[i] = in->items[i];
        fine = convert_path(target, &in->items[i], &out->items[i]) && fine;
        if (diagnostics_of(target->check)->stop) {
            return false;
        }
    }
    return fine;
}

static bool check_range(const struct target *target, const struct lq_value *in)
{
    const struct lq_attr_spec *spec = target->spec;
    if (!(spec->min < spec->max) || (in->number >= spec->min && in->number <= spec->max)) {
        return true;
    }
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_literal_format_number(&text, spec->min);
    lq_buffer_append_string(&text, " to ");
    lq_literal_format_number(&text, spec->max);
    lq_buffer_append_string(&text, ", got ");
    lq_literal_format_number(&text, in->number);
    lq_diagnostics_add(diagnostics_of(target->check), &in->position, range_status(spec),
                       "attribute '%s' must be from %s", spec->name, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return false;
}

static bool convert_number(const struct target *target, const struct lq_value *in)
{
    const double whole_max = 9007199254740992.0; /* 2^53 */
    bool whole = target->spec->type == LQ_ATTR_INT;
    if (in->type != LQ_VALUE_NUMBER) {
        return wrong_type(target, whole ? "a whole number" : "a number", in);
    }
    if (whole && (in->number != floor(in->number) || fabs(in->number) > whole_max)) {
        struct lq_buffer text;
        lq_buffer_init(&text);
        lq_literal_format_number(&text, in->number);
        lq_diagnostics_add(diagnostics_of(target->check), &in->position, LQ_ERECIPE,
                           "attribute '%s' expects a whole number, got %s", target->spec->name,
                           lq_buffer_text(&text));
        lq_buffer_fini(&text);
        return false;
    }
    return check_range(target, in);
}

static bool convert_enum(const struct target *target, const struct lq_value *in)
{
    const struct lq_attr_spec *spec = target->spec;
    char words[2048];
    if (in->type != LQ_VALUE_STRING) {
        char wanted[WORDS_BYTES];
        return wrong_type(target, join_words(spec->choices, wanted, sizeof wanted), in);
    }
    if (has_word(spec->choices, in->string)) {
        return true;
    }
    const char *nearest = nearest_word(in->string, spec->choices, words, sizeof words);
    if (nearest != NULL) {
        lq_diagnostics_add(diagnostics_of(target->check), &in->position, range_status(spec),
                           "attribute '%s' cannot be '%.80s'; did you mean '%s'?", spec->name,
                           in->string, nearest);
    } else {
        char known[WORDS_BYTES];
        lq_diagnostics_add(diagnostics_of(target->check), &in->position, range_status(spec),
                           "attribute '%s' cannot be '%.80s'; expected %s", spec->name, in->string,
                           join_words(spec->choices, known, sizeof known));
    }
    return false;
}

static bool convert_ref(const struct target *target, const struct lq_value *in,
                        struct lq_value *out)
{
    const struct lq_attr_spec *spec = target->spec;
    if (in->type != LQ_VALUE_REF && in->type != LQ_VALUE_STRING) {
        return wrong_type(target, "the name of an artifact", in);
    }
    const struct lq_artifact *artifact = lq_schema_resolve(target->check, in);
    if (artifact == NULL) {
        return false;
    }
    /* An artifact of an unknown rule has been complained about already. */
    if (artifact->rule != NULL && spec->choices != NULL &&
        !has_word(spec->choices, artifact->rule->kind)) {
        char wanted[WORDS_BYTES];
        lq_diagnostics_add(diagnostics_of(target->check), &in->position, range_status(spec),
                           "attribute '%s' expects an artifact of kind %s, but '%s' is of kind %s",
                           spec->name, join_words(spec->choices, wanted, sizeof wanted),
                           artifact->name, artifact->rule->kind);
        return false;
    }
    out->type = LQ_VALUE_REF;
    out->string = artifact->name;
    out->ref = artifact;
    return true;
}

static bool convert_ref_list(const struct target *target, const struct lq_value *in,
                             struct lq_value *out)
{
    if (in->type != LQ_VALUE_LIST) {
        return wrong_type(target, "a list of artifacts in brackets", in);
    }
    /* The list may belong to a variable that others use too. */
    out->items =
        lq_evaluator_get(target->check->evaluator, in->count, sizeof *out->items, &in->position);
    bool fine = out->items != NULL;
    for (size_t i = 0; out->items != NULL && i < in->count; i++) {
        out->items[i] = in->items[i];
        fine = convert_ref(target, &in->items[i], &out->items[i]) && fine;
        if (diagnostics_of(target->check)->stop) {
            return false;
        }
    }
    return fine;
}

static bool convert_strings(const struct target *target, const struct lq_value *in)
{
    bool is_map = target->spec->type == LQ_ATTR_STRING_MAP;
    if (in->type != (is_map ? LQ_VALUE_MAP : LQ_VALUE_LIST)) {
        return wrong_type(
            target, is_map ? "a map { \"key\" = \"value\" }" : "a list of strings in brackets", in);
    }
    bool fine = true;
    for (size_t i = 0; i < in->count && !diagnostics_of(target->check)->stop; i++) {
        if (in->items[i].type != LQ_VALUE_STRING) {
            fine = wrong_type(target, is_map ? "strings as values" : "strings in the list",
                              &in->items[i]);
        }
    }
    return fine;
}

/* `out` is a copy of `in` already. */
static bool convert(const struct target *target, const struct lq_value *in, struct lq_value *out)
{
    switch (target->spec->type) {
    case LQ_ATTR_STRING:
        return convert_string(target, in);
    case LQ_ATTR_PATH:
    case LQ_ATTR_OUT_PATH:
        return convert_path(target, in, out);
    case LQ_ATTR_OUT_PATH_LIST:
        return convert_path_list(target, in, out);
    case LQ_ATTR_INT:
    case LQ_ATTR_NUMBER:
        return convert_number(target, in);
    case LQ_ATTR_BOOL:
        return in->type == LQ_VALUE_BOOL || wrong_type(target, "true or false", in);
    case LQ_ATTR_ENUM:
        return convert_enum(target, in);
    case LQ_ATTR_REF:
        return convert_ref(target, in, out);
    case LQ_ATTR_REF_LIST:
        return convert_ref_list(target, in, out);
    case LQ_ATTR_STRING_LIST:
    case LQ_ATTR_STRING_MAP:
    default:
        return convert_strings(target, in);
    }
}

/* ----------------------------------------------------------------- schemas ---- */

bool lq_schema_check_init(struct lq_schema_check *check, struct lq_evaluator *evaluator,
                          const struct lq_parse_options *parse, const struct lq_registry *registry,
                          const char *dir)
{
    memset(check, 0, sizeof *check);
    check->evaluator = evaluator;
    check->parse = parse;
    check->registry = registry;
    check->dir = dir;
    size_t longest = 1;
    for (size_t i = 0; i < registry->rule_count; i++) {
        size_t count = registry->rules[i]->attr_count;
        longest = count > longest ? count : longest;
    }
    check->seen = lq_arena_get_array(evaluator->arena, longest, sizeof *check->seen);
    if (check->seen == NULL) {
        lq_diagnostics_nomem(evaluator->diagnostics);
    }
    return check->seen != NULL;
}

static bool is_text(enum lq_attr_type type)
{
    return type == LQ_ATTR_STRING || type == LQ_ATTR_ENUM || type == LQ_ATTR_PATH ||
           type == LQ_ATTR_OUT_PATH;
}

static bool read_default(struct lq_schema_check *check, const struct lq_rule *rule,
                         const struct lq_attr_spec *spec, struct lq_value *out)
{
    /* Text may be given without quotes. */
    if (is_text(spec->type) && spec->default_text[0] != '"') {
        out->type = LQ_VALUE_STRING;
        out->string = spec->default_text;
        return true;
    }
    char name[128];
    (void)snprintf(name, sizeof name, "(default of %s.%s)", rule->kind, spec->name);
    struct lq_recipe_source *source = NULL;
    struct lq_error err = {0};
    enum lq_status status =
        lq_recipe_sources_add(check->parse->sources, name, ".", spec->default_text,
                              strlen(spec->default_text), &source, &err);
    const struct lq_expr *expr = status == LQ_OK ? lq_parse_expression(check->parse, source) : NULL;
    return expr != NULL && lq_evaluate(check->evaluator, expr, out);
}

/* A default that does not fit is a mistake in the rule, not in the recipe, and the error says so.
 */
static bool make_default(struct lq_schema_check *check, const struct lq_rule *rule,
                         const struct lq_attr_spec *spec, struct lq_value *out)
{
    const struct target target = {check, rule, spec};
    bool fine = spec->type != LQ_ATTR_REF && spec->type != LQ_ATTR_REF_LIST &&
                read_default(check, rule, spec, out);
    const struct lq_value in = *out;
    fine = fine && convert(&target, &in, out);
    out->is_default = true;
    if (!fine) {
        lq_diagnostics_stop(diagnostics_of(check), NULL, LQ_EINTERNAL,
                            "rule '%s': the default '%s' of attribute '%s' does not fit its schema",
                            rule->kind, spec->default_text, spec->name);
        diagnostics_of(check)->status = LQ_EINTERNAL;
    }
    return fine;
}

static const struct lq_schema *make_schema(struct lq_schema_check *check,
                                           const struct lq_rule *rule,
                                           const struct lq_position *position)
{
    struct lq_evaluator *evaluator = check->evaluator;
    struct lq_schema *schema = lq_evaluator_get(evaluator, 1, sizeof *schema, position);
    if (schema == NULL) {
        return NULL;
    }
    schema->rule = rule;
    schema->defaults =
        lq_evaluator_get(evaluator, rule->attr_count, sizeof *schema->defaults, position);
    for (size_t i = 0; schema->defaults != NULL && i < rule->attr_count; i++) {
        if (rule->attrs[i].default_text != NULL &&
            !make_default(check, rule, &rule->attrs[i], &schema->defaults[i])) {
            return NULL;
        }
    }
    return schema->defaults == NULL ? NULL : schema;
}

static void unknown_rule(struct lq_schema_check *check, const char *kind,
                         const struct lq_position *position)
{
    const struct lq_registry *registry = check->registry;
    const char **kinds =
        lq_arena_get_array(check->evaluator->arena, registry->rule_count, sizeof *kinds);
    for (size_t i = 0; kinds != NULL && i < registry->rule_count; i++) {
        kinds[i] = registry->rules[i]->kind;
    }
    const char *nearest = kinds == NULL ? NULL : lq_text_nearest(kind, kinds, registry->rule_count);
    if (nearest != NULL) {
        lq_diagnostics_add(diagnostics_of(check), position, LQ_ERECIPE,
                           "unknown rule '%s'; did you mean '%s'?", kind, nearest);
    } else {
        lq_diagnostics_add(diagnostics_of(check), position, LQ_ERECIPE,
                           "unknown rule '%s'; 'lqbuild rules' lists them", kind);
    }
}

const struct lq_schema *lq_schema_get(struct lq_schema_check *check, struct lq_symbol *symbol,
                                      const struct lq_position *position)
{
    if (!symbol->schema_known) {
        const struct lq_rule *rule = lq_registry_find(check->registry, symbol->text);
        symbol->schema_known = true;
        symbol->schema = rule == NULL ? NULL : make_schema(check, rule, position);
    }
    if (symbol->schema == NULL && !diagnostics_of(check)->stop) {
        unknown_rule(check, symbol->text, position);
    }
    return symbol->schema;
}

/* -------------------------------------------------------------- attributes ---- */

static void unknown_attr(struct lq_schema_check *check, const struct lq_rule *rule,
                         const struct lq_attr_node *attr)
{
    const char *names[WORDS_MAX];
    size_t count = 0;
    for (; count < rule->attr_count && count < WORDS_MAX; count++) {
        names[count] = rule->attrs[count].name;
    }
    const char *nearest = lq_text_nearest(attr->symbol->text, names, count);
    if (nearest != NULL) {
        lq_diagnostics_add(diagnostics_of(check), &attr->position, LQ_ERECIPE,
                           "unknown attribute '%s' of %s; did you mean '%s'?", attr->symbol->text,
                           rule->kind, nearest);
    } else {
        lq_diagnostics_add(diagnostics_of(check), &attr->position, LQ_ERECIPE,
                           "unknown attribute '%s' of %s; 'lqbuild rules %s' lists them",
                           attr->symbol->text, rule->kind, rule->kind);
    }
}

static bool fill_attr(struct lq_schema_check *check, struct lq_artifact *artifact,
                      const struct lq_attr_node *attr)
{
    const struct lq_rule *rule = artifact->rule;
    size_t i = 0;
    while (i < rule->attr_count && strcmp(rule->attrs[i].name, attr->symbol->text) != 0) {
        i++;
    }
    if (i == rule->attr_count) {
        unknown_attr(check, rule, attr);
        return false;
    }
    if (check->seen[i] != NULL) {
        lq_diagnostics_add(diagnostics_of(check), &attr->position, LQ_ERECIPE,
                           "attribute '%s' is set twice; first at %s:%u:%u", rule->attrs[i].name,
                           check->seen[i]->position.file, check->seen[i]->position.line,
                           check->seen[i]->position.column);
        return false;
    }
    check->seen[i] = attr;
    struct lq_value value;
    if (!lq_evaluate(check->evaluator, attr->expr, &value)) {
        return false;
    }
    const struct target target = {check, rule, &rule->attrs[i]};
    artifact->values[i] = value;
    return convert(&target, &value, &artifact->values[i]);
}

static bool check_required(struct lq_schema_check *check, const struct lq_artifact *artifact)
{
    char missing[WORDS_BYTES] = "";
    size_t used = 0;
    size_t count = 0;
    for (size_t i = 0; i < artifact->rule->attr_count && used < sizeof missing; i++) {
        const struct lq_attr_spec *spec = &artifact->rule->attrs[i];
        if (spec->required && check->seen[i] == NULL && spec->default_text == NULL) {
            int length = snprintf(missing + used, sizeof missing - used, "%s'%s'",
                                  count == 0 ? "" : ", ", spec->name);
            used += length < 0 ? 0 : (size_t)length;
            count++;
        }
    }
    if (count > 0) {
        lq_diagnostics_add(diagnostics_of(check), &artifact->position, LQ_ERECIPE,
                           "%s '%s' lacks the attribute%s %s", artifact->rule->kind, artifact->name,
                           count == 1 ? "" : "s", missing);
    }
    return count == 0;
}

/* Paths that are not given but follow from another one. */
static bool derive_paths(struct lq_schema_check *check, struct lq_artifact *artifact)
{
    const struct lq_rule *rule = artifact->rule;
    for (size_t i = 0; i < rule->attr_count; i++) {
        const struct lq_attr_spec *spec = &rule->attrs[i];
        struct lq_value *value = &artifact->values[i];
        const struct lq_value *base =
            spec->beside == NULL ? NULL : lq_artifact_value(artifact, spec->beside);
        if (base == NULL || value->type != LQ_VALUE_NONE) {
            continue;
        }
        struct lq_value in = {
            .type = LQ_VALUE_STRING, .is_default = true, .position = artifact->position};
        in.string = lq_arena_printf(check->evaluator->arena, "%s%s", base->string, spec->suffix);
        if (in.string == NULL) {
            lq_diagnostics_nomem(diagnostics_of(check));
            return false;
        }
        const struct target target = {check, rule, spec};
        *value = in;
        if (!convert(&target, &in, value)) {
            return false;
        }
    }
    return true;
}

bool lq_schema_fill(struct lq_schema_check *check, const struct lq_schema *schema,
                    struct lq_artifact *artifact, const struct lq_item *item)
{
    size_t count = schema->rule->attr_count;
    /* Not counted as evaluated: the limit on artifacts bounds these. */
    artifact->values = lq_arena_get_array(check->evaluator->arena, count, sizeof *artifact->values);
    if (artifact->values == NULL) {
        lq_diagnostics_nomem(diagnostics_of(check));
        return false;
    }
    memset(check->seen, 0, count * sizeof *check->seen);
    bool fine = true;
    for (const struct lq_attr_node *attr = item->attrs; attr != NULL; attr = attr->next) {
        fine = fill_attr(check, artifact, attr) && fine;
        if (diagnostics_of(check)->stop) {
            return false;
        }
    }
    for (size_t i = 0; i < count; i++) {
        if (check->seen[i] == NULL) {
            artifact->values[i] = schema->defaults[i];
            artifact->values[i].position = artifact->position;
        }
    }
    /* After an unknown attribute, the missing one is most likely what was meant. */
    return fine && check_required(check, artifact) && derive_paths(check, artifact);
}
