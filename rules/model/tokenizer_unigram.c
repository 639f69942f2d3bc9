/* SentencePiece's unigram model ("t5"; Kudo 2018, "Subword Regularization", section 3.2): of all
 * ways to cut a word into tokens the one with the largest sum of scores, found by Viterbi's
 * algorithm from the left. A character that no token begins with may stand alone for the least
 * score of all tokens minus 10; it becomes its bytes where there are tokens for them, else the
 * unknown token, one for all such characters in a row. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "rules/model/vocab_parts.h"

/* SentencePiece's kUnkPenalty. */
static const double unknown_penalty = 10.0;

/* Ids of tokens that text can be cut into, in the order of their bytes. qsort has no user argument,
 * so the entries carry what is compared. */
struct entry {
    const struct lq_token_bytes *text;
    int32_t id;
};

static int compare_entries(const void *a, const void *b)
{
    const struct lq_token_bytes *x = ((const struct entry *)a)->text;
    const struct lq_token_bytes *y = ((const struct entry *)b)->text;
    int order = memcmp(x->data, y->data, x->length < y->length ? x->length : y->length);
    return order != 0 ? order : (x->length > y->length) - (x->length < y->length);
}

static enum lq_status sort_tokens(struct lq_vocab *vocab, struct lq_error *err)
{
    struct entry *entries = lq_arena_get_array(&vocab->arena, vocab->size, sizeof *entries);
    vocab->sorted_ids = lq_arena_get_array(&vocab->arena, vocab->size, sizeof *vocab->sorted_ids);
    if (entries == NULL || vocab->sorted_ids == NULL) {
        return lq_error_nomem(err, "vocabulary");
    }
    double least = INFINITY;
    for (size_t i = 0; i < vocab->size; i++) {
        bool normal = vocab->types[i] == LQ_TOKEN_NORMAL;
        /* Those of the user are cut out of the text before; normalizing may make more of them. */
        if ((normal || vocab->types[i] == LQ_TOKEN_USER_DEFINED) && vocab->texts[i].length > 0) {
            entries[vocab->sorted_count++] = (struct entry){&vocab->texts[i], (int32_t)i};
            least = normal ? fmin(least, (double)vocab->scores[i]) : least;
        }
    }
    qsort(entries, vocab->sorted_count, sizeof *entries, compare_entries);
    size_t next = 0;
    for (size_t byte = 0; byte <= 256; byte++) {
        while (next < vocab->sorted_count && (unsigned char)entries[next].text->data[0] < byte) {
            next++;
        }
        vocab->sorted_start[byte] = next;
    }
    for (size_t i = 0; i < vocab->sorted_count; i++) {
        vocab->sorted_ids[i] = entries[i].id;
    }
    vocab->unknown_score = (isfinite(least) ? least : 0.0) - unknown_penalty;
    return LQ_OK;
}

enum lq_status lq_unigram_load(struct lq_vocab *vocab, const struct lq_gguf *gguf,
                               const char *where, struct lq_error *err)
{
    enum lq_status status = lq_spm_load(vocab, gguf, where, err);
    if (status != LQ_OK) {
        return status;
    }
    /* What llama.cpp takes for granted in such files. */
    vocab->add_bos = false;
    vocab->add_eos = true;
    vocab->add_space_prefix = lq_gguf_get_bool(gguf, "tokenizer.ggml.add_space_prefix", false);
    if (vocab->unknown < 0 && vocab->size > 2) {
        vocab->unknown = 2;
    }
    if (vocab->eos < 0 && vocab->size > 1) {
        vocab->eos = 1;
    }
    /* A blank without a token would be joined with the unknown characters of two words. */
    int32_t blank = lq_token_table_find(&vocab->table, "\xe2\x96\x81", 3);
    vocab->words_are_closed =
        vocab->words_are_closed && blank >= 0 && vocab->types[blank] == LQ_TOKEN_NORMAL;
    return sort_tokens(vocab, err);
}

/* The byte at `depth` of a sorted token that has more bytes than that. */
static unsigned byte_of(const struct lq_vocab *vocab, size_t at, size_t depth)
{
    return (unsigned char)vocab->texts[vocab->sorted_ids[at]].data[depth];
}

/* The first of sorted tokens [from, to), all longer than `depth`, whose byte there is at least
 * `byte`. */
static size_t lower_bound(const struct lq_vocab *vocab, size_t from, size_t to, size_t depth,
                          unsigned byte)
{
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (byte_of(vocab, middle, depth) < byte) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

static void offer(struct lq_unigram_step *path, size_t start, size_t end, double score, int32_t id)
{
    double sum = path[start].score + score;
    if (!path[end].reached || sum > path[end].score) {
        path[end] =
            (struct lq_unigram_step){.score = sum, .start = start, .id = id, .reached = true};
    }
}

/* Offers all tokens that the word goes on with at `start`; true when one of them is the single
 * character of `step` bytes. */
static bool offer_tokens(const struct lq_vocab *vocab, const char *word, size_t length,
                         size_t start, size_t step, struct lq_unigram_step *path)
{
    unsigned first = (unsigned char)word[start];
    size_t from = vocab->sorted_start[first];
    size_t to = vocab->sorted_start[first + 1];
    bool single = false;
    for (size_t depth = 1; from < to; depth++) {
        int32_t id = vocab->sorted_ids[from];
        if (vocab->texts[id].length == depth) {
            offer(path, start, start + depth, (double)vocab->scores[id], id);
            single = single || depth == step;
            from++;
        }
        if (start + depth >= length) {
            break;
        }
        unsigned byte = (unsigned char)word[start + depth];
        from = lower_bound(vocab, from, to, depth, byte);
        to = lower_bound(vocab, from, to, depth, byte + 1);
    }
    return single;
}

void lq_unigram_cut(const struct lq_vocab *vocab, const char *word, size_t length,
                    struct lq_unigram_step *path)
{
    memset(path, 0, (length + 1) * sizeof *path);
    path[0].reached = true;
    for (size_t start = 0; start < length;) {
        size_t step = lq_utf8_length(word + start, length - start);
        step = step == 0 ? 1 : step;
        if (!offer_tokens(vocab, word, length, start, step, path)) {
            offer(path, start, start + step, vocab->unknown_score, -1);
        }
        start += step;
    }
}
