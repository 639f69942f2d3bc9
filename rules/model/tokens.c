#include "rules/model/tokens.h"

#include "engine/base/checked.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"

static enum lq_status check_counts(uint64_t sample_count, uint64_t sequence_length,
                                   const char *where, struct lq_error *err)
{
    if (sample_count == 0 || sample_count > LQ_SAMPLES_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION, "%s: sample_count is %llu, expected 1 to %d",
                            where, (unsigned long long)sample_count, LQ_SAMPLES_MAX);
    }
    if (sequence_length == 0 || sequence_length > LQ_SEQUENCE_MAX) {
        return lq_error_set(err, LQ_ECALIBRATION, "%s: sequence_length is %llu, expected 1 to %d",
                            where, (unsigned long long)sequence_length, LQ_SEQUENCE_MAX);
    }
    return LQ_OK;
}

static enum lq_status parse_header(struct lq_reader *reader, const char *where,
                                   struct lq_tokens *out, uint64_t *id_count, struct lq_error *err)
{
    uint32_t magic = lq_read_u32(reader);
    uint32_t version = lq_read_u32(reader);
    out->sample_count = lq_read_u32(reader);
    out->sequence_length = lq_read_u32(reader);
    out->bos = lq_read_u32(reader);
    uint32_t reserved = lq_read_u32(reader);
    if (reader->failed) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "%s: token set of %llu bytes, expected at least %d", where,
                            (unsigned long long)reader->size_bytes, LQ_TOKENS_HEADER_BYTES);
    }
    if (magic != LQ_TOKENS_MAGIC) {
        return lq_error_set(err, LQ_ECALIBRATION, "%s: magic is 0x%08x, expected \"LQTK\"", where,
                            (unsigned)magic);
    }
    if (version != LQ_TOKENS_VERSION || reserved != 0) {
        return lq_error_set(err, LQ_ECALIBRATION,
                            "%s: token set version %u with reserved field %u, expected %d and 0",
                            where, (unsigned)version, (unsigned)reserved, LQ_TOKENS_VERSION);
    }
    enum lq_status status = check_counts(out->sample_count, out->sequence_length, where, err);
    if (status != LQ_OK) {
        return status;
    }
    uint64_t count = (uint64_t)out->sample_count * out->sequence_length;
    uint64_t left = lq_reader_left(reader);
    if (left % sizeof(int32_t) != 0 || left / sizeof(int32_t) != count) {
        return lq_error_set(
            err, LQ_ECALIBRATION,
            "%s: %llu bytes of token ids, expected %u samples x %u tokens x 4 bytes", where,
            (unsigned long long)left, (unsigned)out->sample_count, (unsigned)out->sequence_length);
    }
    *id_count = count;
    return LQ_OK;
}

enum lq_status lq_tokens_parse(const void *data, uint64_t size_bytes, const char *where,
                               uint64_t vocab_size, struct lq_arena *arena, struct lq_tokens *out,
                               struct lq_error *err)
{
    struct lq_reader reader;
    lq_reader_init(&reader, data, size_bytes);
    struct lq_tokens tokens = {0};
    uint64_t count = 0;
    enum lq_status status = parse_header(&reader, where, &tokens, &count, err);
    if (status != LQ_OK) {
        return status;
    }
    int32_t *ids = lq_arena_get_array(arena, (size_t)count, sizeof *ids);
    if (ids == NULL) {
        return lq_error_nomem(err, "token ids");
    }
    uint64_t limit = vocab_size == 0 ? (uint64_t)LQ_VOCAB_MAX : vocab_size;
    for (uint64_t i = 0; i < count; i++) {
        ids[i] = lq_read_i32(&reader);
        if (ids[i] < 0 || (uint64_t)ids[i] >= limit) {
            return lq_error_set(err, LQ_ECALIBRATION,
                                "%s: token %llu has id %d, expected 0 to %llu; tokenize the text "
                                "with the vocabulary of this model",
                                where, (unsigned long long)i, (int)ids[i],
                                (unsigned long long)limit - 1);
        }
    }
    tokens.tokens = ids;
    *out = tokens;
    return LQ_OK;
}

enum lq_status lq_tokens_format(const struct lq_tokens *tokens, struct lq_buffer *out,
                                struct lq_error *err)
{
    enum lq_status status =
        check_counts(tokens->sample_count, tokens->sequence_length, "token set", err);
    if (status != LQ_OK) {
        return status;
    }
    lq_buffer_append_u32(out, LQ_TOKENS_MAGIC);
    lq_buffer_append_u32(out, LQ_TOKENS_VERSION);
    lq_buffer_append_u32(out, tokens->sample_count);
    lq_buffer_append_u32(out, tokens->sequence_length);
    lq_buffer_append_u32(out, tokens->bos);
    lq_buffer_append_u32(out, 0);
    uint64_t count = (uint64_t)tokens->sample_count * tokens->sequence_length;
    for (uint64_t i = 0; i < count; i++) {
        lq_buffer_append_u32(out, (uint32_t)tokens->tokens[i]);
    }
    return out->failed ? lq_error_nomem(err, "a token set") : LQ_OK;
}
