/* Transient outputs: what they are called, which of them stay in memory, and how long those that
 * are in the cache must stay there.
 *
 * A transient output is known by the key of its step, not by its content: a step that is fast may
 * leave it in memory without ever hashing it, and steps behind it have the same keys either way.
 * What is held is lost when the build is killed; it is made again from the newest outputs in front
 * of it that are in the cache, so those must not be dropped before. Each output in the cache is
 * claimed by itself while it has readers, and by every output that is not in the cache and would be
 * made from it; without a claim it goes, when steps that waited for its reader have begun. Claims
 * count by content, and the cache itself keeps content that is not transient everywhere: it may be
 * that of an output to be kept. All on the build's thread. */
#include <stdlib.h>
#include <string.h>

#include "engine/action.h"
#include "engine/build_state.h"

/* ---- names ---- */

void lq_transient_name(const struct lq_task *task, const char *output, struct lq_digest *digest)
{
    char hex[LQ_DIGEST_HEX_BYTES];
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_digest_to_hex(&task->key, hex);
    lq_buffer_printf(&text, "transient %s %s\n", hex, output);
    lq_digest_of(text.data, text.size_bytes, digest);
    lq_buffer_fini(&text);
}

/* ---- held in memory ---- */

struct lq_held *lq_held_find(const struct lq_build *build, const struct lq_digest *digest)
{
    struct lq_held *held = build->held;
    while (held != NULL && (held->dropped || !lq_digest_equal(&held->digest, digest))) {
        held = held->next;
    }
    return held;
}

void lq_held_destroy(struct lq_held *held)
{
    if (held != NULL) {
        if (held->object != NULL) {
            held->object->destroy(held->object);
        }
        lq_buffer_fini(&held->bytes);
        free(held);
    }
}

static void free_held(struct lq_build *build, struct lq_held *held)
{
    struct lq_held **link = &build->held;
    while (*link != held) {
        link = &(*link)->next;
    }
    *link = held->next;
    build->held_bytes -= held->bytes.size_bytes;
    lq_held_destroy(held);
}

void lq_held_add(struct lq_build *build, struct lq_held *held)
{
    held->next = build->held;
    build->held = held;
    build->held_bytes += held->bytes.size_bytes;
}

void lq_held_release(struct lq_build *build, struct lq_held *held)
{
    held->users--;
    if (held->users == 0 && held->dropped) {
        free_held(build, held);
    }
}

static void drop_held(struct lq_build *build, const struct lq_digest *digest)
{
    struct lq_held *held = lq_held_find(build, digest);
    if (held == NULL) {
        return;
    }
    held->dropped = true;
    if (held->users == 0) {
        free_held(build, held);
    }
}

void lq_held_bury(struct lq_build *build)
{
    struct lq_held *next = NULL;
    for (struct lq_held *held = build->held; held != NULL; held = next) {
        next = held->next;
        if (!held->dropped && atomic_load(&held->is_lost)) {
            drop_held(build, &held->digest);
        }
    }
}

void lq_held_free(struct lq_build *build)
{
    while (build->held != NULL) {
        free_held(build, build->held);
    }
}

/* ---- claims ---- */

static struct lq_claim **claim_bucket(struct lq_build *build, const struct lq_digest *digest)
{
    return &build->claims[digest->bytes[0]];
}

static struct lq_claim *find_claim(struct lq_build *build, const struct lq_digest *digest)
{
    struct lq_claim *claim = *claim_bucket(build, digest);
    while (claim != NULL && !lq_digest_equal(&claim->digest, digest)) {
        claim = claim->next;
    }
    return claim;
}

static bool add_claim(struct lq_build *build, const struct lq_digest *digest)
{
    struct lq_claim *claim = find_claim(build, digest);
    if (claim == NULL) {
        claim = lq_arena_get(&build->arena, sizeof *claim);
        if (claim == NULL) {
            return false;
        }
        claim->digest = *digest;
        claim->next = *claim_bucket(build, digest);
        *claim_bucket(build, digest) = claim;
    }
    claim->count++;
    return true;
}

static void give_claim(struct lq_build *build, const struct lq_digest *digest)
{
    struct lq_claim *claim = find_claim(build, digest);
    if (claim == NULL || claim->count == 0) {
        return;
    }
    claim->count--;
    if (claim->count == 0 && !claim->unclaimed) {
        claim->unclaimed = true;
        claim->next_unclaimed = build->unclaimed;
        build->unclaimed = claim;
    }
}

void lq_transient_sweep(struct lq_build *build)
{
    while (build->unclaimed != NULL) {
        struct lq_claim *claim = build->unclaimed;
        struct lq_error err;
        build->unclaimed = claim->next_unclaimed;
        claim->unclaimed = false;
        if (claim->count == 0 &&
            lq_blob_drop_transient(build->cache, &claim->digest, &err) != LQ_OK) {
            lq_build_warn(build, err.message);
        }
    }
}

/* Adds to the output's bases, unless it is one of them. */
static void add_basis(struct lq_build *build, struct lq_task_output *output,
                      const struct lq_digest *digest)
{
    for (size_t i = 0; i < output->basis_count; i++) {
        if (lq_digest_equal(&output->bases[i], digest)) {
            return;
        }
    }
    if (add_claim(build, digest)) {
        output->bases[output->basis_count++] = *digest;
    }
}

/* What an output that is not in the cache would be made from. */
static void find_bases(struct lq_build *build, const struct lq_task *task,
                       struct lq_task_output *output)
{
    size_t room = 0;
    for (size_t i = 0; i < task->spec.input_count; i++) {
        const struct lq_task_output *input = lq_task_input(task, i);
        room += input == NULL || !input->transient ? 0 : input->basis_count + 1;
    }
    output->bases =
        room == 0 ? NULL : lq_arena_get_array(&build->arena, room, sizeof *output->bases);
    for (size_t i = 0; output->bases != NULL && i < task->spec.input_count; i++) {
        const struct lq_task_output *input = lq_task_input(task, i);
        if (input == NULL || !input->transient) {
            continue;
        }
        if (input->in_cache) {
            add_basis(build, output, &input->digest);
        }
        for (size_t k = 0; k < input->basis_count; k++) {
            add_basis(build, output, &input->bases[k]);
        }
    }
}

static void release_claims(struct lq_build *build, struct lq_task_output *output)
{
    if (output->in_cache) {
        output->in_cache = false;
        give_claim(build, &output->digest);
    }
    for (size_t i = 0; i < output->basis_count; i++) {
        give_claim(build, &output->bases[i]);
    }
    output->basis_count = 0;
}

void lq_transient_reclaim(struct lq_build *build, struct lq_task_output *output)
{
    uint64_t size_bytes = 0;
    if (output->transient && !output->in_cache) {
        output->in_cache = lq_blob_exists(build->cache, &output->digest, &size_bytes) &&
                           add_claim(build, &output->digest);
    }
}

void lq_transient_claim(struct lq_build *build, struct lq_task *task)
{
    for (size_t i = 0; i < task->spec.output_count; i++) {
        struct lq_task_output *output = &task->outputs[i];
        if (!output->transient || output->readers_left == 0) {
            continue;
        }
        struct lq_task_output before = *output; /* of an earlier run of the same task */
        output->in_cache = false;
        output->basis_count = 0;
        lq_transient_reclaim(build, output);
        if (!output->in_cache) {
            find_bases(build, task, output);
        }
        release_claims(build, &before);
    }
}

void lq_transient_drop(struct lq_build *build, struct lq_task_output *output)
{
    drop_held(build, &output->digest);
    release_claims(build, output);
}
