/* Pins: texts that say what must stay. They are kept by their digest and read when garbage is
 * collected, so that a pinned label always names its newest results. */
#include <string.h>

#include "cache/index.h"
#include "cache/upkeep.h"

static const char label_prefix[] = "label:";
static const char digest_prefix[] = "digest:";

struct pin {
    struct lq_digest key;
    struct lq_buffer value; /* the text, sealed */
    bool found;
};

static enum lq_status pin_init(struct pin *pin, const char *prefix, const char *text,
                               struct lq_error *err)
{
    memset(pin, 0, sizeof *pin);
    lq_buffer_init(&pin->value);
    lq_buffer_append_string(&pin->value, prefix);
    lq_buffer_append_string(&pin->value, text);
    lq_digest_of(lq_buffer_text(&pin->value), pin->value.size_bytes, &pin->key);
    lq_record_seal(LQ_RECORD_PIN, pin->key.bytes, LQ_DIGEST_BYTES, &pin->value);
    return pin->value.failed ? lq_error_nomem(err, "a pin") : LQ_OK;
}

static enum lq_status put_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    const struct pin *pin = user;
    struct lq_bytes key = {pin->key.bytes, LQ_DIGEST_BYTES};
    struct lq_bytes value = {pin->value.data, pin->value.size_bytes};
    return lq_txn_put(txn, LQ_DB_PINS, &key, &value, err);
}

static enum lq_status delete_change(struct lq_txn *txn, void *user, struct lq_error *err)
{
    struct pin *pin = user;
    return lq_txn_del(txn, LQ_DB_PINS, &(struct lq_bytes){pin->key.bytes, LQ_DIGEST_BYTES},
                      &pin->found, err);
}

static enum lq_status change(struct lq_cache *cache, lq_store_change how, const char *prefix,
                             const char *text, bool *found, struct lq_error *err)
{
    struct pin pin;
    enum lq_status status = pin_init(&pin, prefix, text, err);
    if (status == LQ_OK) {
        status = lq_store_write(cache->store, 0, pin.value.size_bytes, how, &pin, err);
    }
    if (found != NULL) {
        *found = pin.found;
    }
    lq_buffer_fini(&pin.value);
    return status;
}

enum lq_status lq_cache_pin_label(struct lq_cache *cache, const char *label, struct lq_error *err)
{
    return change(cache, put_change, label_prefix, label, NULL, err);
}

enum lq_status lq_cache_unpin_label(struct lq_cache *cache, const char *label, bool *found,
                                    struct lq_error *err)
{
    return change(cache, delete_change, label_prefix, label, found, err);
}

enum lq_status lq_cache_pin_digest(struct lq_cache *cache, const struct lq_digest *digest,
                                   struct lq_error *err)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    return change(cache, put_change, digest_prefix, lq_digest_to_hex(digest, hex), NULL, err);
}

enum lq_status lq_cache_unpin_digest(struct lq_cache *cache, const struct lq_digest *digest,
                                     bool *found, struct lq_error *err)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    return change(cache, delete_change, digest_prefix, lq_digest_to_hex(digest, hex), found, err);
}

/* ---- applying ---- */

static void pin_action(struct lq_index *index, struct lq_index_action *action)
{
    action->pinned = true;
    for (uint32_t i = 0; i < action->output_count; i++) {
        index->blobs[index->links[action->output_first + i]].pinned = true;
    }
}

static void apply(struct lq_index *index, const char *text)
{
    struct lq_digest digest = {{0}};
    bool is_label = strncmp(text, label_prefix, strlen(label_prefix)) == 0;
    const char *rest = text + (is_label ? strlen(label_prefix) : strlen(digest_prefix));
    if (!is_label) {
        if (strncmp(text, digest_prefix, strlen(digest_prefix)) != 0 ||
            !lq_digest_from_hex(rest, strlen(rest), &digest)) {
            return;
        }
        uint32_t number = lq_index_find_blob(index, &digest);
        if (number != LQ_INDEX_NONE) {
            index->blobs[number].pinned = true;
        }
    }
    for (size_t i = 0; i < index->action_count; i++) {
        struct lq_index_action *action = &index->actions[i];
        if (is_label ? lq_index_label_below(action->label, rest)
                     : lq_digest_equal(&action->key, &digest)) {
            pin_action(index, action);
        }
    }
}

enum lq_status lq_index_apply_pins(struct lq_index *index, struct lq_txn *txn, struct lq_error *err)
{
    struct lq_digest at = {{0}};
    bool started = false;
    for (;;) {
        struct lq_bytes key = {at.bytes, started ? LQ_DIGEST_BYTES : 0};
        struct lq_bytes found_key;
        struct lq_bytes value;
        size_t payload_bytes = 0;
        bool found = false;
        enum lq_status status =
            lq_txn_next(txn, LQ_DB_PINS, &key, started, &found_key, &value, &found, err);
        if (status != LQ_OK || !found || found_key.size_bytes != LQ_DIGEST_BYTES) {
            return status;
        }
        started = true;
        memcpy(at.bytes, found_key.data, LQ_DIGEST_BYTES);
        if (lq_record_unseal(LQ_RECORD_PIN, at.bytes, LQ_DIGEST_BYTES, value.data, value.size_bytes,
                             &payload_bytes)) {
            char *text = lq_arena_dup(&index->arena, value.data, payload_bytes);
            if (text == NULL) {
                return lq_error_nomem(err, "a pin");
            }
            apply(index, text);
        }
    }
}
