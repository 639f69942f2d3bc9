#include "rules/format/statement.h"

#include <string.h>

#include "engine/base/json.h"

#define STATEMENT_TYPE "https://in-toto.io/Statement/v1"
#define PREDICATE_TYPE "https://slsa.dev/provenance/v1"
#define BUILD_TYPE "urn:lqbuild:gguf:v1"
#define BUILDER_ID "urn:lqbuild"

static void put_digest(struct lq_json_writer *writer, const struct lq_digest *digest)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_json_key(writer, "digest");
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "sha256", lq_digest_to_hex(digest, hex));
    lq_json_end_object(writer);
}

static void put_definition(const struct lq_statement *statement, struct lq_json_writer *writer)
{
    lq_json_key(writer, "buildDefinition");
    lq_json_begin_object(writer);
    lq_json_put_string(writer, "buildType", BUILD_TYPE);
    lq_json_key(writer, "externalParameters");
    lq_json_begin_object(writer);
    for (size_t i = 0; i < statement->parameter_count; i++) {
        lq_json_put_string(writer, statement->parameters[i].name, statement->parameters[i].value);
    }
    lq_json_end_object(writer);
    lq_json_key(writer, "resolvedDependencies");
    lq_json_begin_array(writer);
    for (size_t i = 0; i < statement->source_count; i++) {
        lq_json_begin_object(writer);
        lq_json_put_string(writer, "name", statement->sources[i].name);
        put_digest(writer, &statement->sources[i].digest);
        lq_json_end_object(writer);
    }
    lq_json_end_array(writer);
    lq_json_end_object(writer);
}

void lq_statement_write(const struct lq_statement *statement, struct lq_buffer *out)
{
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, true);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "_type", STATEMENT_TYPE);
    lq_json_key(&writer, "subject");
    lq_json_begin_array(&writer);
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "name", statement->subject);
    put_digest(&writer, &statement->digest);
    lq_json_end_object(&writer);
    lq_json_end_array(&writer);
    lq_json_put_string(&writer, "predicateType", PREDICATE_TYPE);
    lq_json_key(&writer, "predicate");
    lq_json_begin_object(&writer);
    put_definition(statement, &writer);
    lq_json_key(&writer, "runDetails");
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "builder");
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "id", BUILDER_ID);
    lq_json_key(&writer, "version");
    lq_json_begin_object(&writer);
    lq_json_put_string(&writer, "lqbuild", statement->version);
    lq_json_end_object(&writer);
    lq_json_end_object(&writer);
    lq_json_end_object(&writer);
    lq_json_end_object(&writer);
    lq_json_end_object(&writer);
}

/* ---------------------------------------------------------------- reading ---- */

struct reader {
    struct lq_json_scope scope;
    struct lq_arena *arena;
};

static enum lq_status copy_string(const struct reader *reader, const cJSON *object, const char *key,
                                  const char **out, struct lq_error *err)
{
    const char *text = NULL;
    enum lq_status status = lq_json_get_string(&reader->scope, object, key, &text, NULL, err);
    if (status == LQ_OK) {
        *out = lq_arena_dup_string(reader->arena, text);
        status = *out == NULL ? lq_error_nomem(err, reader->scope.where) : LQ_OK;
    }
    return status;
}

static enum lq_status expect_string(const struct reader *reader, const cJSON *object,
                                    const char *key, const char *expected, struct lq_error *err)
{
    const char *text = NULL;
    enum lq_status status = lq_json_get_string(&reader->scope, object, key, &text, NULL, err);
    if (status == LQ_OK && strcmp(text, expected) != 0) {
        status = lq_error_set(err, LQ_EFORMAT, "%s: %s is '%.80s', expected '%s'",
                              reader->scope.where, key, text, expected);
    }
    return status;
}

static enum lq_status read_named_digest(const struct reader *reader, const cJSON *object,
                                        const char **name, struct lq_digest *digest,
                                        struct lq_error *err)
{
    const cJSON *digests = NULL;
    const char *hex = NULL;
    enum lq_status status = copy_string(reader, object, "name", name, err);
    if (status == LQ_OK) {
        status = lq_json_get_object(&reader->scope, object, "digest", &digests, NULL, err);
    }
    if (status == LQ_OK) {
        status = lq_json_get_string(&reader->scope, digests, "sha256", &hex, NULL, err);
    }
    if (status == LQ_OK && !lq_digest_from_hex(hex, strlen(hex), digest)) {
        status = lq_error_set(err, LQ_EFORMAT, "%s: the digest of '%.80s' is no SHA-256 in hex",
                              reader->scope.where, *name);
    }
    return status;
}

static enum lq_status check_count(const struct reader *reader, const char *what, int count,
                                  int least, int most, struct lq_error *err)
{
    return count >= least && count <= most
               ? LQ_OK
               : lq_error_set(err, LQ_EFORMAT, "%s: %s has %d items, expected %d to %d",
                              reader->scope.where, what, count, least, most);
}

static enum lq_status read_subject(const struct reader *reader, const cJSON *root,
                                   struct lq_statement *out, struct lq_error *err)
{
    const cJSON *list = NULL;
    enum lq_status status = lq_json_get_array(&reader->scope, root, "subject", &list, NULL, err);
    if (status == LQ_OK) {
        status = check_count(reader, "subject", cJSON_GetArraySize(list), 1, 1, err);
    }
    return status == LQ_OK
               ? read_named_digest(reader, list->child, &out->subject, &out->digest, err)
               : status;
}

static enum lq_status read_sources(const struct reader *reader, const cJSON *definition,
                                   struct lq_statement *out, struct lq_error *err)
{
    const cJSON *list = NULL;
    enum lq_status status =
        lq_json_get_array(&reader->scope, definition, "resolvedDependencies", &list, NULL, err);
    if (status == LQ_OK) {
        status = check_count(reader, "resolvedDependencies", cJSON_GetArraySize(list), 0,
                             LQ_STATEMENT_ITEMS_MAX, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    out->sources = lq_arena_get_array(reader->arena, LQ_STATEMENT_ITEMS_MAX, sizeof *out->sources);
    if (out->sources == NULL) {
        return lq_error_nomem(err, reader->scope.where);
    }
    for (const cJSON *item = list->child; status == LQ_OK && item != NULL; item = item->next) {
        struct lq_statement_source *source = &out->sources[out->source_count];
        status = read_named_digest(reader, item, &source->name, &source->digest, err);
        if (status == LQ_OK && lq_statement_find(out, source->name) != NULL) {
            status = lq_error_set(err, LQ_EFORMAT, "%s: '%.80s' is named twice",
                                  reader->scope.where, source->name);
        }
        out->source_count++;
    }
    return status;
}

static enum lq_status read_parameters(const struct reader *reader, const cJSON *definition,
                                      struct lq_statement *out, struct lq_error *err)
{
    const cJSON *map = NULL;
    enum lq_status status =
        lq_json_get_object(&reader->scope, definition, "externalParameters", &map, NULL, err);
    if (status == LQ_OK) {
        status = check_count(reader, "externalParameters", cJSON_GetArraySize(map), 0,
                             LQ_STATEMENT_ITEMS_MAX, err);
    }
    if (status != LQ_OK) {
        return status;
    }
    out->parameters =
        lq_arena_get_array(reader->arena, LQ_STATEMENT_ITEMS_MAX, sizeof *out->parameters);
    if (out->parameters == NULL) {
        return lq_error_nomem(err, reader->scope.where);
    }
    for (const cJSON *item = map->child; status == LQ_OK && item != NULL; item = item->next) {
        struct lq_statement_parameter *parameter = &out->parameters[out->parameter_count++];
        parameter->name = lq_arena_dup_string(reader->arena, item->string);
        status = parameter->name == NULL
                     ? lq_error_nomem(err, reader->scope.where)
                     : copy_string(reader, map, item->string, &parameter->value, err);
    }
    return status;
}

static enum lq_status read_predicate(const struct reader *reader, const cJSON *root,
                                     struct lq_statement *out, struct lq_error *err)
{
    const struct lq_json_scope *scope = &reader->scope;
    const cJSON *predicate = NULL;
    const cJSON *definition = NULL;
    const cJSON *inner = NULL;
    enum lq_status status = lq_json_get_object(scope, root, "predicate", &predicate, NULL, err);
    if (status == LQ_OK) {
        status = lq_json_get_object(scope, predicate, "buildDefinition", &definition, NULL, err);
    }
    if (status == LQ_OK) {
        status = expect_string(reader, definition, "buildType", BUILD_TYPE, err);
    }
    if (status == LQ_OK) {
        status = read_parameters(reader, definition, out, err);
    }
    if (status == LQ_OK) {
        status = read_sources(reader, definition, out, err);
    }
    static const char *const path[] = {"runDetails", "builder", "version"};
    for (size_t i = 0; status == LQ_OK && i < sizeof path / sizeof path[0]; i++) {
        status = lq_json_get_object(scope, i == 0 ? predicate : inner, path[i], &inner, NULL, err);
    }
    return status == LQ_OK ? copy_string(reader, inner, "lqbuild", &out->version, err) : status;
}

enum lq_status lq_statement_parse(const void *data, uint64_t size_bytes, const char *where,
                                  struct lq_arena *arena, struct lq_statement *out,
                                  struct lq_error *err)
{
    const struct reader reader = {{where, LQ_EFORMAT}, arena};
    cJSON *root = NULL;
    *out = (struct lq_statement){.subject = NULL};
    if (size_bytes > LQ_STATEMENT_BYTES_MAX) {
        return lq_error_set(err, LQ_EFORMAT, "%s: larger than any statement (%d bytes)", where,
                            LQ_STATEMENT_BYTES_MAX);
    }
    enum lq_status status = lq_json_parse(data, (size_t)size_bytes, where, LQ_EFORMAT, &root, err);
    if (status == LQ_OK && !cJSON_IsObject(root)) {
        status = lq_error_set(err, LQ_EFORMAT, "%s: expected a JSON object", where);
    }
    if (status == LQ_OK) {
        status = expect_string(&reader, root, "_type", STATEMENT_TYPE, err);
    }
    if (status == LQ_OK) {
        status = expect_string(&reader, root, "predicateType", PREDICATE_TYPE, err);
    }
    if (status == LQ_OK) {
        status = read_subject(&reader, root, out, err);
    }
    if (status == LQ_OK) {
        status = read_predicate(&reader, root, out, err);
    }
    cJSON_Delete(root);
    return status;
}

const struct lq_statement_source *lq_statement_find(const struct lq_statement *statement,
                                                    const char *name)
{
    for (size_t i = 0; i < statement->source_count; i++) {
        if (strcmp(statement->sources[i].name, name) == 0) {
            return &statement->sources[i];
        }
    }
    return NULL;
}
