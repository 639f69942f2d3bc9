/* Uploads: objects first, the record last, so that whoever finds a record finds what it names. */
#include <stdlib.h>
#include <string.h>

#include "cache/actionresult.h"
#include "cache/digest_set.h"
#include "cache/layout.h"
#include "cache/remote_internal.h"
#include "cache/result.h"
#include "cache/zstd_library.h"
#include "engine/base/limits.h"
#include "engine/base/pool.h"

/* One thing to send: bytes in memory, or a piece of a blob. */
struct object {
    struct lq_digest digest;
    struct lq_digest blob;
    uint64_t offset;
    uint64_t size_bytes;
    const void *data; /* NULL: of the blob */
};

/* What a result names, each thing once: equal pieces are one object. */
struct objects {
    struct object *items;
    struct lq_digest_set seen;
    size_t count;
    size_t capacity;
};

static bool add_object(struct objects *objects, const struct object *object)
{
    if (lq_digest_set_has(&objects->seen, &object->digest)) {
        return true;
    }
    if (objects->count == objects->capacity) {
        size_t capacity = objects->capacity == 0 ? 8 : objects->capacity * 2;
        struct object *grown = realloc(objects->items, capacity * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        objects->items = grown;
        objects->capacity = capacity;
    }
    objects->items[objects->count++] = *object;
    return lq_digest_set_add(&objects->seen, &object->digest, NULL);
}

/* ---- one object to one site ---- */

/* True when the site says that it has the object. */
static bool is_there(struct lq_remote *remote, struct lq_site *site, const struct object *object)
{
    if (lq_site_knows(site, &site->bad, &object->digest)) {
        return false;
    }
    if (lq_site_knows(site, &site->has, &object->digest)) {
        return true;
    }
    if (object->size_bytes < LQ_REMOTE_HEAD_BYTES_MIN) {
        return false;
    }
    struct lq_http_request request = {.method = LQ_HTTP_HEAD};
    struct lq_http_response response = {.wants_body = false};
    bool there =
        lq_site_request(remote, site, &request, &response, "cas", &object->digest) == LQ_HTTP_OK;
    lq_http_response_fini(&response);
    return there;
}

/* The object's bytes, compressed, when that is worth while; NULL otherwise. */
static void *compress_object(struct lq_site *site, struct lq_blob_reader *reader,
                             const struct object *object, size_t *size_bytes)
{
    if (!atomic_load(&site->takes_zstd) || object->size_bytes < LQ_REMOTE_HEAD_BYTES_MIN) {
        return NULL;
    }
    void *plain = NULL;
    if (object->data == NULL) {
        plain = malloc((size_t)object->size_bytes);
        if (plain == NULL || lq_blob_read(reader, object->offset, plain, (size_t)object->size_bytes,
                                          NULL) != LQ_OK) {
            free(plain);
            return NULL;
        }
    }
    void *packed = lq_zstd_compress(object->data != NULL ? object->data : plain,
                                    (size_t)object->size_bytes, size_bytes);
    free(plain);
    return packed;
}

static bool put_object(struct lq_remote *remote, struct lq_site *site, const struct object *object)
{
    if (atomic_load(&site->writes_off) || lq_remote_cancelled(remote)) {
        return false;
    }
    if (is_there(remote, site, object)) {
        lq_site_learn(site, &site->has, &object->digest);
        return true;
    }
    struct lq_blob_reader *reader = NULL;
    struct lq_http_request request = {.method = LQ_HTTP_PUT,
                                      .data = object->data,
                                      .offset = object->offset,
                                      .size_bytes = object->size_bytes};
    struct lq_http_response response = {.wants_body = false};
    if (object->data == NULL &&
        (lq_blob_open(remote->options.cache, &object->blob, false, &reader, NULL) != LQ_OK ||
         reader == NULL)) {
        return false;
    }
    size_t packed_bytes = 0;
    void *packed = compress_object(site, reader, object, &packed_bytes);
    if (packed != NULL) {
        request.data = packed;
        request.size_bytes = packed_bytes;
        request.plain_bytes = object->size_bytes;
    } else {
        request.reader = reader;
    }
    bool sent =
        lq_site_request(remote, site, &request, &response, "cas", &object->digest) == LQ_HTTP_OK;
    if (sent) {
        lq_site_learn(site, &site->has, &object->digest);
    }
    lq_http_response_fini(&response);
    free(packed);
    lq_blob_close(reader);
    return sent;
}

struct upload {
    struct lq_remote *remote;
    struct lq_site *site;
    const struct objects *objects;
    atomic_bool failed;
};

static void upload_one(void *user, size_t index)
{
    struct upload *upload = user;
    if (!atomic_load(&upload->failed) &&
        !put_object(upload->remote, upload->site, &upload->objects->items[index])) {
        atomic_store(&upload->failed, true);
    }
}

static bool put_result(struct lq_remote *remote, struct lq_site *site, const struct lq_digest *key,
                       const struct objects *objects, const struct lq_buffer *message)
{
    struct upload upload = {.remote = remote, .site = site, .objects = objects};
    atomic_init(&upload.failed, false);
    lq_pool_for(remote->uploads, objects->count, upload_one, &upload);
    if (atomic_load(&upload.failed)) {
        return false;
    }
    struct lq_http_request request = {
        .method = LQ_HTTP_PUT, .data = message->data, .size_bytes = message->size_bytes};
    struct lq_http_response response = {.wants_body = false};
    bool sent = lq_site_request(remote, site, &request, &response, "ac", key) == LQ_HTTP_OK;
    lq_http_response_fini(&response);
    return sent;
}

/* ---- what belongs to a result ---- */

/* The objects of one output; its layout is encoded into `text` when it has one. */
static bool collect_output(struct lq_remote *remote, const struct lq_action_output *output,
                           struct objects *objects, struct lq_buffer *text,
                           struct lq_result_layout *where)
{
    struct lq_layout layout = {.pieces = NULL};
    if (lq_layout_make(remote->options.cache, &output->digest, &layout, NULL) != LQ_OK) {
        return false;
    }
    struct object object = {
        .digest = output->digest, .blob = output->digest, .size_bytes = output->size_bytes};
    bool fine = layout.piece_count > 0 || add_object(objects, &object);
    for (size_t i = 0; i < layout.piece_count && fine; i++) {
        const struct lq_layout_piece *piece = &layout.pieces[i];
        if (piece->object_count == 0) {
            object.digest = piece->digest;
            object.offset = piece->offset;
            object.size_bytes = piece->size_bytes;
            fine = add_object(objects, &object);
        }
    }
    if (layout.piece_count > 0 && fine) {
        lq_layout_encode(&layout, text);
        fine = !text->failed && text->size_bytes <= LQ_LAYOUT_BYTES_MAX;
    }
    if (layout.piece_count > 0 && fine) {
        lq_digest_of(text->data, text->size_bytes, &where->digest);
        where->size_bytes = text->size_bytes;
        object = (struct object){
            .digest = where->digest, .data = text->data, .size_bytes = text->size_bytes};
        fine = add_object(objects, &object);
    }
    lq_layout_fini(&layout);
    return fine;
}

static bool encode_message(struct lq_remote *remote, const struct lq_digest *key,
                           const struct lq_action_record *record,
                           const struct lq_result_layout *layouts, const struct objects *objects,
                           struct lq_buffer *message)
{
    struct lq_buffer text;
    char hex[LQ_DIGEST_HEX_BYTES];
    lq_buffer_init(&text);
    lq_result_encode(key, record, layouts, &text);
    bool fine = remote->options.sign_key == NULL ||
                lq_result_sign(&text, 0, remote->options.sign_key, NULL) == LQ_OK;
    for (size_t i = 0; i < objects->count; i++) {
        /* Paths mean nothing to us: they have to be relative and different. */
        lq_actionresult_add_file(message, lq_digest_to_hex(&objects->items[i].digest, hex),
                                 &objects->items[i].digest, objects->items[i].size_bytes);
    }
    lq_actionresult_add_text(message, 0, text.data, text.size_bytes);
    fine = fine && !text.failed && !message->failed && message->size_bytes <= LQ_RESULT_BYTES_MAX;
    lq_buffer_fini(&text);
    return fine;
}

static bool send_to_sites(struct lq_remote *remote, const struct lq_digest *key,
                          const struct objects *objects, const struct lq_buffer *message)
{
    bool sent = true;
    for (size_t i = 0; i < remote->site_count; i++) {
        struct lq_site *site = &remote->sites[i];
        bool counts = remote->options.sign_key != NULL || site->options.trust_unsigned;
        if (!site->options.writes || !counts) {
            continue;
        }
        bool one =
            !atomic_load(&site->writes_off) && put_result(remote, site, key, objects, message);
        lq_remote_count(remote, &remote->counts.uploads, one ? 1 : 0);
        sent = sent && one;
    }
    return sent;
}

bool lq_remote_put(struct lq_remote *remote, const struct lq_digest *key)
{
    struct lq_arena arena;
    struct lq_action_record record;
    struct objects objects = {.items = NULL};
    struct lq_result_layout layouts[LQ_STEP_OUTPUTS_MAX] = {{.size_bytes = 0}};
    struct lq_buffer texts[LQ_STEP_OUTPUTS_MAX];
    struct lq_buffer message;
    struct lq_error err;
    bool found = false;
    lq_arena_init(&arena);
    lq_buffer_init(&message);
    for (size_t i = 0; i < LQ_STEP_OUTPUTS_MAX; i++) {
        lq_buffer_init(&texts[i]);
    }
    bool fine =
        lq_action_get(remote->options.cache, key, &arena, &record, &found, &err) == LQ_OK && found;
    for (size_t i = 0; fine && i < record.output_count && i < LQ_STEP_OUTPUTS_MAX; i++) {
        const struct lq_action_output *output = &record.outputs[i];
        uint64_t stored_bytes = 0;
        if (!output->transient &&
            lq_blob_exists(remote->options.cache, &output->digest, &stored_bytes)) {
            fine = collect_output(remote, output, &objects, &texts[i], &layouts[i]);
        }
    }
    fine = fine && encode_message(remote, key, &record, layouts, &objects, &message) &&
           send_to_sites(remote, key, &objects, &message);
    for (size_t i = 0; i < LQ_STEP_OUTPUTS_MAX; i++) {
        lq_buffer_fini(&texts[i]);
    }
    free(objects.items);
    lq_digest_set_fini(&objects.seen);
    lq_buffer_fini(&message);
    lq_arena_fini(&arena);
    return fine;
}
