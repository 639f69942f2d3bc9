#include "rules/quant/provenance.h"

#include <stdio.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/text.h"
#include "engine/base/version.h"

#define KEY_PREFIX "lqbuild.source."
#define KEY_SUFFIX ".sha256"
#define VERSION_KEY "lqbuild.version"

enum { KEY_BYTES = 96 };

/* ------------------------------------------------------------- collecting ---- */

static void add_source(const struct lq_expand *expand, const struct lq_artifact *artifact,
                       const char *output, const char *name, struct lq_statement *out)
{
    struct lq_statement_source *source = &out->sources[out->source_count];
    if (artifact != NULL && out->source_count < LQ_STATEMENT_ITEMS_MAX &&
        lq_expand_digest(expand, artifact, output, &source->digest, NULL)) {
        source->name = name;
        out->source_count++;
    }
}

static const char *attr_text(const struct lq_artifact *artifact, const char *name,
                             struct lq_arena *arena)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    for (size_t i = 0; i < lq_attr_count(artifact, name); i++) {
        const char *key = lq_attr_item_key(artifact, name, i);
        lq_buffer_printf(&text, "%s%s%s%s", i == 0 ? "" : ", ", key == NULL ? "" : key,
                         key == NULL ? "" : "=", lq_attr_item(artifact, name, i));
    }
    const char *copy = text.failed ? NULL : lq_arena_dup_string(arena, lq_buffer_text(&text));
    lq_buffer_fini(&text);
    return copy;
}

/* What the recipe says about the file itself, as text. */
static enum lq_status add_parameters(const struct lq_artifact *artifact, struct lq_arena *arena,
                                     struct lq_statement *out, struct lq_error *err)
{
    static const struct {
        const char *name;
        enum lq_attr_type type;
    } attrs[] = {
        {"level", LQ_ATTR_STRING},        {"tensors", LQ_ATTR_STRING_MAP},
        {"promote", LQ_ATTR_STRING_LIST}, {"promote_type", LQ_ATTR_STRING},
        {"output_type", LQ_ATTR_STRING},  {"embedding_type", LQ_ATTR_STRING},
        {"pure", LQ_ATTR_BOOL},           {"allow_requantize", LQ_ATTR_BOOL},
    };
    for (size_t i = 0; i < LQ_COUNT_OF(attrs); i++) {
        if (!lq_attr_is_set(artifact, attrs[i].name)) {
            continue;
        }
        const char *value = attrs[i].type == LQ_ATTR_STRING
                                ? lq_attr_string(artifact, attrs[i].name)
                            : attrs[i].type == LQ_ATTR_BOOL
                                ? (lq_attr_bool(artifact, attrs[i].name) ? "true" : "false")
                                : attr_text(artifact, attrs[i].name, arena);
        if (value == NULL) {
            return lq_error_nomem(err, "a provenance statement");
        }
        out->parameters[out->parameter_count++] =
            (struct lq_statement_parameter){attrs[i].name, value};
    }
    return LQ_OK;
}

enum lq_status lq_provenance_collect(struct lq_expand *expand, struct lq_statement *out,
                                     struct lq_error *err)
{
    const struct lq_artifact *artifact = lq_expand_artifact(expand);
    struct lq_arena *arena = lq_expand_arena(expand);
    *out = (struct lq_statement){.version = lq_version};
    out->sources = lq_arena_get_array(arena, LQ_STATEMENT_ITEMS_MAX, sizeof *out->sources);
    out->parameters = lq_arena_get_array(arena, LQ_STATEMENT_ITEMS_MAX, sizeof *out->parameters);
    if (out->sources == NULL || out->parameters == NULL) {
        return lq_error_nomem(err, "a provenance statement");
    }
    const struct lq_artifact *imatrix = lq_attr_ref(artifact, "imatrix", 0);
    const struct lq_artifact *calibration =
        imatrix == NULL ? NULL : lq_attr_ref(imatrix, "calibration", 0);
    add_source(expand, lq_attr_ref(artifact, "model", 0), "tensors", "model", out);
    if (calibration != NULL) {
        add_source(expand, lq_attr_ref(calibration, "text", 0), "main", "calibration_text", out);
    }
    add_source(expand, imatrix, "gguf", "imatrix", out);
    add_source(expand, lq_attr_ref(artifact, "protect", 0), "main", "mask", out);
    add_source(expand, lq_attr_ref(artifact, "profile", 0), "main", "profile", out);
    return add_parameters(artifact, arena, out, err);
}

/* -------------------------------------------------------------------- keys ---- */

void lq_provenance_put_keys(const struct lq_statement *statement, struct lq_gguf_writer *writer)
{
    char key[KEY_BYTES];
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_gguf_put_string(writer, VERSION_KEY, statement->version);
    for (size_t i = 0; i < statement->source_count; i++) {
        (void)snprintf(key, sizeof key, KEY_PREFIX "%.48s" KEY_SUFFIX, statement->sources[i].name);
        lq_gguf_put_string(writer, key, lq_digest_to_hex(&statement->sources[i].digest, hex));
    }
}

bool lq_provenance_is_key(const char *key)
{
    return strcmp(key, VERSION_KEY) == 0 || lq_text_starts_with(key, KEY_PREFIX);
}

static enum lq_status refuse(const char *file, const char *where, const char *key, const char *is,
                             const char *expected, struct lq_error *err)
{
    return lq_error_set(err, LQ_EFORMAT,
                        "%s: the key %.80s is %s%.80s%s, but %s says %s%.80s%s: they do not belong "
                        "together",
                        file, key, is == NULL ? "" : "'", is == NULL ? "missing" : is,
                        is == NULL ? "" : "'", where, expected == NULL ? "" : "'",
                        expected == NULL ? "nothing of it" : expected, expected == NULL ? "" : "'");
}

enum lq_status lq_provenance_check(const struct lq_gguf *gguf, const char *file,
                                   const struct lq_statement *statement, const char *where,
                                   struct lq_error *err)
{
    const char *version = lq_gguf_get_string(gguf, VERSION_KEY);
    if (version == NULL || strcmp(version, statement->version) != 0) {
        return refuse(file, where, VERSION_KEY, version, statement->version, err);
    }
    char key[KEY_BYTES];
    char hex[LQ_DIGEST_HEX_BYTES];
    for (size_t i = 0; i < statement->source_count; i++) {
        (void)snprintf(key, sizeof key, KEY_PREFIX "%.48s" KEY_SUFFIX, statement->sources[i].name);
        const char *is = lq_gguf_get_string(gguf, key);
        (void)lq_digest_to_hex(&statement->sources[i].digest, hex);
        if (is == NULL || strcmp(is, hex) != 0) {
            return refuse(file, where, key, is, hex, err);
        }
    }
    for (size_t i = 0; i < gguf->kv_count; i++) {
        const char *name = gguf->kvs[i].key;
        if (!lq_text_starts_with(name, KEY_PREFIX)) {
            continue;
        }
        bool known = false;
        for (size_t k = 0; k < statement->source_count && !known; k++) {
            (void)snprintf(key, sizeof key, KEY_PREFIX "%.48s" KEY_SUFFIX,
                           statement->sources[k].name);
            known = strcmp(key, name) == 0;
        }
        if (!known) {
            const char *is = lq_gguf_get_string(gguf, name);
            return refuse(file, where, name, is == NULL ? "" : is, NULL, err);
        }
    }
    return LQ_OK;
}

/* -------------------------------------------------------------------- step ---- */

/* The statement comes as it will be, but for the digest of the file, which is known only now. */
static enum lq_status run_statement(struct lq_run *run, struct lq_error *err)
{
    struct lq_statement statement;
    struct lq_buffer out;
    const void *data = NULL;
    uint64_t size_bytes = 0;
    lq_buffer_init(&out);
    enum lq_status status = lq_run_input_load(run, "draft", &data, &size_bytes, err);
    if (status == LQ_OK) {
        status = lq_statement_parse(data, size_bytes, "the statement", lq_run_arena(run),
                                    &statement, err);
    }
    if (status == LQ_OK && !lq_run_input_digest(run, "file", &statement.digest)) {
        status = lq_error_set(err, LQ_EINTERNAL, "a statement without a file");
    }
    if (status == LQ_OK) {
        lq_statement_write(&statement, &out);
        status = out.failed ? lq_error_nomem(err, "a provenance statement")
                            : lq_run_write(run, "main", out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

enum lq_status lq_provenance_add_step(struct lq_expand *expand,
                                      const struct lq_statement *statement,
                                      const struct lq_ref *file, size_t *index,
                                      struct lq_error *err)
{
    struct lq_statement draft = *statement;
    struct lq_buffer text;
    draft.subject = lq_artifact_name(lq_expand_artifact(expand));
    lq_buffer_init(&text);
    lq_statement_write(&draft, &text);
    char *copy =
        text.failed ? NULL : lq_arena_dup(lq_expand_arena(expand), text.data, text.size_bytes);
    size_t size_bytes = text.size_bytes;
    lq_buffer_fini(&text);
    if (copy == NULL) {
        return lq_error_nomem(err, "a provenance statement");
    }
    const struct lq_step_input inputs[] = {{"draft", lq_ref_bytes(copy, size_bytes)},
                                           {"file", *file}};
    const struct lq_step_output output = {.name = "main"};
    const struct lq_step step = {.op = "gguf.statement",
                                 .version = 1,
                                 .label = draft.subject,
                                 .run = run_statement,
                                 .inputs = inputs,
                                 .input_count = LQ_COUNT_OF(inputs),
                                 .outputs = &output,
                                 .output_count = 1,
                                 .memory_bytes = LQ_STATEMENT_BYTES_MAX,
                                 .cost = 100};
    return lq_expand_add_step(expand, &step, index, err);
}
