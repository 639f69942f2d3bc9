/* tokenizer.model as anybody might write it: parsed, converted to GGUF keys, loaded as a
 * vocabulary, and used on the input itself and on broken UTF-8. Ids must be tokens of the
 * vocabulary. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "rules/format/gguf.h"
#include "rules/model/hf_tokenizer.h"
#include "rules/model/vocab.h"

enum { TEXT_BYTES_MAX = 2048 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void tokenize(const struct lq_vocab *vocab, const char *text, size_t length, bool special)
{
    struct lq_token_list list;
    lq_token_list_init(&list);
    if (lq_tokenize(vocab, text, length, special, special, &list, NULL) == LQ_OK) {
        for (size_t i = 0; i < list.count; i++) {
            size_t piece_length = 0;
            if (lq_vocab_piece(vocab, list.ids[i], &piece_length) == NULL) {
                abort();
            }
        }
    }
    lq_token_list_fini(&list);
}

static void use_vocab(const struct lq_buffer *bytes, struct lq_arena *arena, const char *text,
                      size_t length)
{
    static const char broken[] = "ab \xe2\x96\x81 <s>\xff\xc3(\xf0\x9f\xa6\x99 12\r\n\t \xed\xa0";
    struct lq_gguf gguf;
    struct lq_vocab *vocab = NULL;
    if (lq_gguf_parse(bytes->data, bytes->size_bytes, bytes->size_bytes, "v", LQ_EFORMAT, arena,
                      &gguf, NULL, NULL) == LQ_OK &&
        lq_vocab_load(&vocab, &gguf, "v", NULL) == LQ_OK) {
        tokenize(vocab, text, length < TEXT_BYTES_MAX ? length : TEXT_BYTES_MAX, false);
        tokenize(vocab, broken, sizeof broken, true);
        lq_vocab_destroy(vocab);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct lq_arena arena;
    struct lq_gguf_writer writer;
    struct lq_buffer bytes;
    lq_arena_init(&arena);
    lq_gguf_writer_init(&writer);
    lq_buffer_init(&bytes);
    const struct lq_hf_documents documents = {.sentencepiece = {data, size}};
    if (lq_hf_tokenizer_put(&documents, 0, &arena, &writer, NULL) == LQ_OK &&
        lq_gguf_writer_header(&writer, &bytes, NULL) == LQ_OK) {
        use_vocab(&bytes, &arena, (const char *)data, size);
    }
    lq_buffer_fini(&bytes);
    lq_gguf_writer_fini(&writer);
    lq_arena_fini(&arena);
    return 0;
}
