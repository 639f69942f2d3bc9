#include "rules/model/sentencepiece.h"

#include <math.h>
#include <string.h>

#include "engine/base/compiler.h"
#include "engine/base/limits.h"
#include "engine/base/reader.h"
#include "rules/model/pretokenize.h"
#include "rules/model/token_table.h"
#include "rules/model/vocab.h"

/* Wire types of protocol buffers; groups (3 and 4) are in no file of this kind. */
enum { WIRE_VARINT = 0, WIRE_I64 = 1, WIRE_BYTES = 2, WIRE_I32 = 5 };

/* Field numbers of sentencepiece_model.proto. */
enum { MODEL_PIECES = 1, MODEL_TRAINER = 2, MODEL_NORMALIZER = 3 };
enum { PIECE_TEXT = 1, PIECE_SCORE = 2, PIECE_TYPE = 3 };
enum {
    TRAINER_MODEL_TYPE = 3,
    TRAINER_BLANK_AS_SUFFIX = 24,
    TRAINER_UNKNOWN_ID = 40,
    TRAINER_BOS_ID = 41,
    TRAINER_EOS_ID = 42,
    TRAINER_PAD_ID = 43,
};
enum {
    NORMALIZER_MAP = 2,
    NORMALIZER_DUMMY_PREFIX = 3,
    NORMALIZER_EXTRA_BLANKS = 4,
    NORMALIZER_ESCAPE_BLANKS = 5,
};

enum { BYTE_COUNT = 256, VARINT_BYTES_MAX = 10, ID_LEFT_OUT = -2 };

struct parser {
    const char *where;
    struct lq_arena *arena;
    struct lq_sentencepiece_model *model;
    struct lq_token_table seen;
    bool has_trainer;
    bool blank_as_suffix;
    bool escapes_blanks;
};

/* One field of a message. */
struct field {
    uint64_t number;
    unsigned wire;
    uint64_t value;     /* VARINT; the bits of I32 and I64 */
    const void *data;   /* BYTES */
    uint64_t data_size; /* BYTES */
};

static uint64_t read_varint(struct lq_reader *reader)
{
    uint64_t value = 0;
    for (unsigned i = 0; i < VARINT_BYTES_MAX; i++) {
        uint8_t byte = lq_read_u8(reader);
        /* The tenth byte has room for one bit. */
        if (reader->failed || (i == VARINT_BYTES_MAX - 1 && byte > 1)) {
            break;
        }
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if ((byte & 0x80) == 0) {
            return value;
        }
    }
    reader->failed = true;
    return 0;
}

/* False at the end of the message, and when it is damaged: then the reader has failed. */
static bool next_field(struct lq_reader *reader, struct field *field)
{
    *field = (struct field){0};
    if (reader->failed || lq_reader_left(reader) == 0) {
        return false;
    }
    uint64_t tag = read_varint(reader);
    field->number = tag >> 3;
    field->wire = (unsigned)(tag & 7);
    switch (field->wire) {
    case WIRE_VARINT:
        field->value = read_varint(reader);
        break;
    case WIRE_I64:
        field->value = lq_read_u64(reader);
        break;
    case WIRE_I32:
        field->value = lq_read_u32(reader);
        break;
    case WIRE_BYTES:
        field->data_size = read_varint(reader);
        field->data = lq_read_bytes(reader, field->data_size);
        break;
    default:
        reader->failed = true;
    }
    reader->failed = reader->failed || field->number == 0;
    return !reader->failed;
}

static bool is_field(const struct field *field, uint64_t number, unsigned wire)
{
    return field->number == number && field->wire == wire;
}

/* int32 fields are written as 64 bits with sign; what does not fit is no id. */
static int32_t id_of(const struct field *field)
{
    return field->value < LQ_VOCAB_MAX ? (int32_t)field->value : -1;
}

static enum lq_status damaged(const struct parser *parser, const char *part, uint64_t offset,
                              struct lq_error *err)
{
    return lq_error_set(err, LQ_EFORMAT,
                        "%s: not a SentencePiece model, or cut off: %s cannot be read at byte "
                        "%llu; get the complete file",
                        parser->where, part, (unsigned long long)offset);
}

static bool is_utf8(const char *text, size_t length)
{
    for (size_t i = 0; i < length;) {
        size_t step = lq_utf8_length(text + i, length - i);
        if (step == 0) {
            return false;
        }
        i += step;
    }
    return true;
}

static enum lq_status check_piece(struct parser *parser, const struct lq_sentencepiece *piece,
                                  size_t id, struct lq_error *err)
{
    if (piece->length == 0) {
        return lq_error_set(err, LQ_EFORMAT, "%s: piece %zu has no text", parser->where, id);
    }
    if (!is_utf8(piece->text, piece->length)) {
        return lq_error_set(err, LQ_EFORMAT, "%s: piece %zu is not UTF-8", parser->where, id);
    }
    if (!isfinite(piece->score)) {
        return lq_error_set(err, LQ_EFORMAT, "%s: the score of piece %zu '%.80s' is not a number",
                            parser->where, id, piece->text);
    }
    if (piece->type < LQ_TOKEN_NORMAL || piece->type > LQ_TOKEN_BYTE) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: piece %zu '%.80s' has type %d; known types are 1 to 6",
                            parser->where, id, piece->text, (int)piece->type);
    }
    int32_t existing = -1;
    (void)lq_token_table_add(&parser->seen, piece->text, piece->length, true, &existing);
    if (existing >= 0) {
        return lq_error_set(err, LQ_EFORMAT, "%s: pieces %d and %zu are both '%.80s'",
                            parser->where, (int)existing, id, piece->text);
    }
    return LQ_OK;
}

static enum lq_status read_piece(struct parser *parser, const struct field *message,
                                 uint64_t offset, struct lq_error *err)
{
    struct lq_reader reader;
    struct field field;
    size_t id = parser->model->count;
    struct lq_sentencepiece *piece = &parser->model->pieces[id];
    const void *text = "";
    *piece = (struct lq_sentencepiece){.type = LQ_TOKEN_NORMAL};
    lq_reader_init(&reader, message->data, message->data_size);
    while (next_field(&reader, &field)) {
        if (is_field(&field, PIECE_TEXT, WIRE_BYTES)) {
            text = field.data;
            piece->length = (size_t)field.data_size;
        } else if (is_field(&field, PIECE_SCORE, WIRE_I32)) {
            uint32_t bits = (uint32_t)field.value;
            memcpy(&piece->score, &bits, sizeof bits);
        } else if (is_field(&field, PIECE_TYPE, WIRE_VARINT)) {
            piece->type = field.value > LQ_TOKEN_BYTE ? -1 : (int32_t)field.value;
        }
    }
    if (reader.failed) {
        return damaged(parser, "a piece", offset + reader.offset, err);
    }
    piece->text = lq_arena_dup(parser->arena, text, piece->length);
    if (piece->text == NULL) {
        return lq_error_nomem(err, "tokenizer");
    }
    parser->model->count++;
    return check_piece(parser, piece, id, err);
}

static enum lq_status read_trainer(struct parser *parser, const struct field *message,
                                   uint64_t offset, struct lq_error *err)
{
    struct lq_reader reader;
    struct field field;
    struct lq_sentencepiece_model *model = parser->model;
    parser->has_trainer = true;
    lq_reader_init(&reader, message->data, message->data_size);
    while (next_field(&reader, &field)) {
        if (field.wire != WIRE_VARINT) {
            continue;
        }
        switch (field.number) {
        case TRAINER_MODEL_TYPE:
            if (field.value < LQ_SENTENCEPIECE_UNIGRAM || field.value > LQ_SENTENCEPIECE_CHAR) {
                return lq_error_set(err, LQ_EFORMAT,
                                    "%s: trainer_spec.model_type is %llu; known are 1 to 4",
                                    parser->where, (unsigned long long)field.value);
            }
            model->kind = (enum lq_sentencepiece_kind)field.value;
            break;
        case TRAINER_BLANK_AS_SUFFIX:
            parser->blank_as_suffix = field.value != 0;
            break;
        case TRAINER_UNKNOWN_ID:
            model->unknown = id_of(&field);
            break;
        case TRAINER_BOS_ID:
            model->bos = id_of(&field);
            break;
        case TRAINER_EOS_ID:
            model->eos = id_of(&field);
            break;
        case TRAINER_PAD_ID:
            model->pad = id_of(&field);
            break;
        default:
            break;
        }
    }
    return reader.failed ? damaged(parser, "trainer_spec", offset + reader.offset, err) : LQ_OK;
}

static enum lq_status read_normalizer(struct parser *parser, const struct field *message,
                                      uint64_t offset, struct lq_error *err)
{
    struct lq_reader reader;
    struct field field;
    lq_reader_init(&reader, message->data, message->data_size);
    while (next_field(&reader, &field)) {
        if (is_field(&field, NORMALIZER_DUMMY_PREFIX, WIRE_VARINT)) {
            parser->model->add_dummy_prefix = field.value != 0;
        } else if (is_field(&field, NORMALIZER_ESCAPE_BLANKS, WIRE_VARINT)) {
            parser->escapes_blanks = field.value != 0;
        } else if (is_field(&field, NORMALIZER_EXTRA_BLANKS, WIRE_VARINT)) {
            parser->model->squeezes_blanks = field.value != 0;
        } else if (is_field(&field, NORMALIZER_MAP, WIRE_BYTES)) {
            parser->model->map = field.data_size > 0 ? field.data : NULL;
            parser->model->map_bytes = (size_t)field.data_size;
        }
    }
    return reader.failed ? damaged(parser, "normalizer_spec", offset + reader.offset, err) : LQ_OK;
}

/* The number of pieces, so that their array is made once. */
static enum lq_status count_pieces(const struct parser *parser, struct lq_reader reader,
                                   size_t *count, struct lq_error *err)
{
    struct field field;
    *count = 0;
    while (next_field(&reader, &field)) {
        *count += is_field(&field, MODEL_PIECES, WIRE_BYTES);
        if (*count > LQ_VOCAB_MAX) {
            return lq_error_set(err, LQ_EFORMAT, "%s: more pieces than the limit of %d",
                                parser->where, LQ_VOCAB_MAX);
        }
    }
    if (reader.failed) {
        return damaged(parser, "the list of pieces", reader.offset, err);
    }
    return *count > 0 ? LQ_OK
                      : lq_error_set(err, LQ_EFORMAT,
                                     "%s: the file has no pieces; this is no SentencePiece model",
                                     parser->where);
}

static enum lq_status read_parts(struct parser *parser, struct lq_reader reader,
                                 struct lq_error *err)
{
    struct field field;
    enum lq_status status = LQ_OK;
    while (status == LQ_OK && next_field(&reader, &field)) {
        if (field.wire != WIRE_BYTES) {
            continue;
        }
        uint64_t offset = reader.offset - field.data_size;
        if (field.number == MODEL_PIECES) {
            status = read_piece(parser, &field, offset, err);
        } else if (field.number == MODEL_TRAINER) {
            status = read_trainer(parser, &field, offset, err);
        } else if (field.number == MODEL_NORMALIZER) {
            status = read_normalizer(parser, &field, offset, err);
        }
    }
    return status;
}

/* Ids that the file leaves out have defaults, those of sentencepiece_model.proto. Any id counts
 * only if the piece plays the role. */
static enum lq_status check_ids(const struct parser *parser, struct lq_error *err)
{
    struct lq_sentencepiece_model *model = parser->model;
    static const char *const names[] = {"unk_id", "bos_id", "eos_id", "pad_id"};
    static const int32_t defaults[] = {0, 1, 2, -1};
    int32_t *const ids[] = {&model->unknown, &model->bos, &model->eos, &model->pad};
    for (size_t i = 0; i < LQ_COUNT_OF(ids); i++) {
        if (*ids[i] == ID_LEFT_OUT) {
            *ids[i] = defaults[i] < (int32_t)model->count ? defaults[i] : -1;
        }
        if (*ids[i] >= 0 && (size_t)*ids[i] >= model->count) {
            return lq_error_set(err, LQ_EFORMAT,
                                "%s: trainer_spec.%s is %d, but there are only %zu pieces",
                                parser->where, names[i], (int)*ids[i], model->count);
        }
        int32_t type = *ids[i] < 0 ? 0 : model->pieces[*ids[i]].type;
        int32_t wanted = i == 0 ? LQ_TOKEN_UNKNOWN : LQ_TOKEN_CONTROL;
        *ids[i] = type == wanted ? *ids[i] : -1;
    }
    return LQ_OK;
}

/* GGUF's "llama" has no word for what a character without token becomes other than its bytes. */
static enum lq_status check_bytes(const struct parser *parser, struct lq_error *err)
{
    static const char digits[] = "0123456789ABCDEF";
    for (size_t byte = 0; byte < BYTE_COUNT; byte++) {
        const char text[] = {'<', '0', 'x', digits[byte / 16], digits[byte % 16], '>', '\0'};
        int32_t id = lq_token_table_find(&parser->seen, text, sizeof text - 1);
        if (id < 0 || parser->model->pieces[id].type != LQ_TOKEN_BYTE) {
            return lq_error_set(err, LQ_EUNSUPPORTED,
                                "%s: there is no byte piece '%s'; a model trained without "
                                "byte_fallback cannot be expressed in GGUF",
                                parser->where, text);
        }
    }
    return LQ_OK;
}

static enum lq_status check_model(const struct parser *parser, struct lq_error *err)
{
    static const char *const kinds[] = {"", "unigram", "BPE", "word", "char"};
    enum lq_sentencepiece_kind kind = parser->model->kind;
    if (!parser->has_trainer) {
        return lq_error_set(err, LQ_EFORMAT,
                            "%s: there is no trainer_spec, so the file is cut off or no "
                            "SentencePiece model; get the complete file",
                            parser->where);
    }
    if (kind != LQ_SENTENCEPIECE_BPE && kind != LQ_SENTENCEPIECE_UNIGRAM) {
        return lq_error_set(err, LQ_EUNSUPPORTED,
                            "%s: SentencePiece models of type '%s' are not supported; BPE and "
                            "unigram are",
                            parser->where, kinds[kind]);
    }
    if (parser->blank_as_suffix || !parser->escapes_blanks) {
        return lq_error_set(
            err, LQ_EUNSUPPORTED, "%s: %s is not supported: GGUF has no name for it", parser->where,
            parser->blank_as_suffix ? "treat_whitespace_as_suffix" : "escape_whitespaces = false");
    }
    enum lq_status status = check_ids(parser, err);
    return status == LQ_OK && kind == LQ_SENTENCEPIECE_BPE ? check_bytes(parser, err) : status;
}

enum lq_status lq_sentencepiece_parse(const void *data, uint64_t size_bytes, const char *where,
                                      struct lq_arena *arena, struct lq_sentencepiece_model *out,
                                      struct lq_error *err)
{
    struct lq_reader reader;
    size_t count = 0;
    /* What holds when the file says nothing: the defaults of sentencepiece_model.proto. */
    *out = (struct lq_sentencepiece_model){.kind = LQ_SENTENCEPIECE_UNIGRAM,
                                           .unknown = ID_LEFT_OUT,
                                           .bos = ID_LEFT_OUT,
                                           .eos = ID_LEFT_OUT,
                                           .pad = ID_LEFT_OUT,
                                           .add_dummy_prefix = true,
                                           .squeezes_blanks = true};
    struct parser parser = {.where = where, .arena = arena, .model = out, .escapes_blanks = true};
    lq_reader_init(&reader, data, size_bytes);
    enum lq_status status = count_pieces(&parser, reader, &count, err);
    if (status != LQ_OK) {
        return status;
    }
    out->pieces = lq_arena_get_array(arena, count, sizeof *out->pieces);
    if (out->pieces == NULL || !lq_token_table_init(&parser.seen, count)) {
        return lq_error_nomem(err, "tokenizer");
    }
    status = read_parts(&parser, reader, err);
    if (status == LQ_OK) {
        status = check_model(&parser, err);
    }
    lq_token_table_fini(&parser.seen);
    return status;
}
