/* Tokenizing: special tokens are cut out of the text first, what is left is normalized and cut into
 * words, and the symbols of each word are merged in order of priority with a heap over a linked
 * list. Words repeat a lot, so the ids of a word are copied from its last occurrence when that is
 * still known. */
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "rules/model/vocab_parts.h"

enum {
    WORD_CACHE_BYTES_MAX = 128, /* longer words rarely come twice */
    WORD_CACHE_SLOTS_MAX = 65536,
    CANCEL_WORDS = 8192, /* words between two questions whether to stop */
};
#define WORD_BYTES_MAX ((size_t)1 << 31)

/* A word that was seen: where in the text, and where its ids are in the list. */
struct seen_word {
    const char *text; /* NULL: free */
    uint32_t length;
    uint32_t id_count;
    size_t id_start;
};

/* A possible merge. It is stale when one of the two has changed its length since. */
struct merge {
    uint64_t key; /* priority in the high half, position in the low half */
    uint32_t right;
    uint32_t left_length;
    uint32_t right_length;
    int32_t merged;
};

struct job {
    const struct lq_vocab *vocab;
    struct lq_token_list *out;
    struct seen_word *seen;
    size_t seen_mask;
    struct lq_symbol *symbols;
    size_t symbol_capacity;
    struct merge *heap;
    size_t heap_count;
    size_t heap_capacity;
    struct lq_unigram_step *path; /* UNIGRAM */
    size_t path_capacity;
    char *escaped; /* not BPE: the word with blanks as U+2581 */
    size_t escaped_capacity;
    size_t word_count;
    bool reached_limit;
    const char *text; /* the whole of it */
    /* Normalized texts: words that were seen point into them until the end. */
    struct lq_buffer *kept;
    size_t kept_count;
    size_t kept_capacity;
};

void lq_token_list_init(struct lq_token_list *list)
{
    memset(list, 0, sizeof *list);
}

void lq_token_list_fini(struct lq_token_list *list)
{
    free(list->ids);
    memset(list, 0, sizeof *list);
}

/* Grows an array to at least `need` elements, doubling. */
static bool reserve(void **array, size_t *capacity, size_t need, size_t element_bytes)
{
    if (need <= *capacity) {
        return true;
    }
    size_t wanted = *capacity < 64 ? 64 : *capacity * 2;
    wanted = wanted < need ? need : wanted;
    if (wanted > SIZE_MAX / 2 / element_bytes) {
        return false;
    }
    void *grown = realloc(*array, wanted * element_bytes);
    if (grown == NULL) {
        return false;
    }
    *array = grown;
    *capacity = wanted;
    return true;
}

static enum lq_status push_ids(struct lq_token_list *list, const int32_t *ids, size_t count,
                               struct lq_error *err)
{
    void *array = list->ids;
    if (!reserve(&array, &list->capacity, list->count + count, sizeof *list->ids)) {
        return lq_error_nomem(err, "tokens");
    }
    list->ids = array;
    if (count > 0) {
        memmove(list->ids + list->count, ids, count * sizeof *ids);
        list->count += count;
    }
    return LQ_OK;
}

/* Copies ids that are already in the list; growing it first keeps the source valid. */
static enum lq_status repeat_ids(struct lq_token_list *list, size_t start, size_t count,
                                 struct lq_error *err)
{
    /* A word may have no ids at all, and the list no memory yet. */
    if (count == 0) {
        return LQ_OK;
    }
    void *array = list->ids;
    if (!reserve(&array, &list->capacity, list->count + count, sizeof *list->ids)) {
        return lq_error_nomem(err, "tokens");
    }
    list->ids = array;
    memcpy(list->ids + list->count, list->ids + start, count * sizeof *list->ids);
    list->count += count;
    return LQ_OK;
}

static bool heap_push(struct job *job, const struct merge *merge)
{
    void *array = job->heap;
    if (!reserve(&array, &job->heap_capacity, job->heap_count + 1, sizeof *job->heap)) {
        return false;
    }
    job->heap = array;
    size_t at = job->heap_count++;
    while (at > 0 && merge->key < job->heap[(at - 1) / 2].key) {
        job->heap[at] = job->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    job->heap[at] = *merge;
    return true;
}

static struct merge heap_pop(struct job *job)
{
    struct merge top = job->heap[0];
    struct merge last = job->heap[--job->heap_count];
    size_t at = 0;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= job->heap_count) {
            break;
        }
        if (child + 1 < job->heap_count && job->heap[child + 1].key < job->heap[child].key) {
            child++;
        }
        if (last.key <= job->heap[child].key) {
            break;
        }
        job->heap[at] = job->heap[child];
        at = child;
    }
    job->heap[at] = last;
    return top;
}

/* Puts the merge of two neighbours, if there is one, on the heap. */
static bool consider(struct job *job, const char *word, uint32_t left, uint32_t right)
{
    if (left == LQ_SYMBOL_NONE || right == LQ_SYMBOL_NONE) {
        return true;
    }
    const struct lq_symbol *a = &job->symbols[left];
    const struct lq_symbol *b = &job->symbols[right];
    uint32_t priority = 0;
    struct merge merge = {.right = right, .left_length = a->length, .right_length = b->length};
    bool found = job->vocab->kind == LQ_VOCAB_BPE
                     ? lq_bpe_find_merge(job->vocab, a, b, &priority, &merge.merged)
                     : lq_spm_find_merge(job->vocab, word, a, b, &priority, &merge.merged);
    merge.key = (uint64_t)priority << 32 | left;
    return !found || heap_push(job, &merge);
}

/* Merges the `count` symbols of a word until nothing is left to merge. */
static enum lq_status merge_symbols(struct job *job, const char *word, size_t count,
                                    struct lq_error *err)
{
    job->heap_count = 0;
    bool fits = true;
    for (uint32_t i = 1; i < count && fits; i++) {
        fits = consider(job, word, i - 1, i);
    }
    while (job->heap_count > 0 && fits) {
        struct merge merge = heap_pop(job);
        uint32_t at = (uint32_t)merge.key;
        struct lq_symbol *left = &job->symbols[at];
        struct lq_symbol *right = &job->symbols[merge.right];
        if (left->length != merge.left_length || right->length != merge.right_length ||
            left->next != merge.right) {
            continue;
        }
        left->length += right->length;
        left->id = merge.merged;
        left->next = right->next;
        right->length = 0;
        if (left->next != LQ_SYMBOL_NONE) {
            job->symbols[left->next].previous = at;
        }
        fits = consider(job, word, left->previous, at) && consider(job, word, at, left->next);
    }
    return fits ? LQ_OK : lq_error_nomem(err, "tokens");
}

static void set_symbol(struct job *job, size_t index, size_t start, size_t length, int32_t id)
{
    job->symbols[index] = (struct lq_symbol){
        .start = (uint32_t)start,
        .length = (uint32_t)length,
        .previous = index == 0 ? LQ_SYMBOL_NONE : (uint32_t)index - 1,
        .next = (uint32_t)index + 1,
        .id = id,
    };
}

/* Cuts a word into its first symbols: bytes for BPE, characters for SPM. */
static size_t make_symbols(struct job *job, const char *word, size_t length)
{
    const struct lq_vocab *vocab = job->vocab;
    size_t count = 0;
    for (size_t i = 0; i < length; count++) {
        if (vocab->kind == LQ_VOCAB_BPE) {
            set_symbol(job, count, i, 1, vocab->byte_symbols[(unsigned char)word[i]]);
            i++;
        } else {
            size_t step = lq_utf8_length(word + i, length - i);
            step = step == 0 ? 1 : step;
            set_symbol(job, count, i, step, lq_token_table_find(&vocab->table, word + i, step));
            i += step;
        }
    }
    job->symbols[count - 1].next = LQ_SYMBOL_NONE;
    return count;
}

/* Appends the tokens of one symbol; what is no token falls back to bytes, then to "unknown". */
static enum lq_status push_symbol(struct job *job, const char *word, const struct lq_symbol *symbol,
                                  struct lq_error *err)
{
    const struct lq_vocab *vocab = job->vocab;
    if (symbol->id >= 0 && (size_t)symbol->id < vocab->size) {
        return push_ids(job->out, &symbol->id, 1, err);
    }
    enum lq_status status = LQ_OK;
    for (uint32_t i = 0; i < symbol->length && status == LQ_OK; i++) {
        int32_t id = vocab->byte_symbols[(unsigned char)word[symbol->start + i]];
        id = id >= 0 && (size_t)id < vocab->size ? id : vocab->unknown;
        status = id >= 0 ? push_ids(job->out, &id, 1, err) : LQ_OK;
    }
    return status;
}

static enum lq_status too_long(size_t length, struct lq_error *err)
{
    return lq_error_set(err, LQ_EUNSUPPORTED,
                        "a single word of %zu bytes is too long to tokenize; is this text?",
                        length);
}

/* True when every character of a word that is no token has tokens for its bytes. */
static bool has_bytes(const struct lq_vocab *vocab, const char *text, size_t length)
{
    size_t i = 0;
    while (i < length && vocab->byte_symbols[(unsigned char)text[i]] >= 0) {
        i++;
    }
    return i == length;
}

/* The best cut of a word into tokens; unknown characters in a row count as one. */
static enum lq_status encode_unigram(struct job *job, const char *word, size_t length,
                                     struct lq_error *err)
{
    const struct lq_vocab *vocab = job->vocab;
    void *array = job->path;
    if (!reserve(&array, &job->path_capacity, length + 1, sizeof *job->path)) {
        return lq_error_nomem(err, "tokens");
    }
    job->path = array;
    lq_unigram_cut(vocab, word, length, job->path);
    size_t count = 0;
    for (size_t end = length; end > 0; end = job->path[end].start) {
        const struct lq_unigram_step *step = &job->path[end];
        struct lq_symbol *last = count == 0 ? NULL : &job->symbols[count - 1];
        if (step->id < 0 && last != NULL && last->id < 0) {
            last->length += (uint32_t)(end - step->start);
            last->start = (uint32_t)step->start;
            continue;
        }
        set_symbol(job, count++, step->start, end - step->start, step->id);
    }
    enum lq_status status = LQ_OK;
    while (count > 0 && status == LQ_OK) {
        struct lq_symbol *symbol = &job->symbols[--count];
        if (symbol->id < 0 && !has_bytes(vocab, word + symbol->start, symbol->length)) {
            symbol->id = vocab->unknown;
        }
        status = push_symbol(job, word, symbol, err);
    }
    return status;
}

/* The ids of one word (escaped already unless BPE), without the cache. */
static enum lq_status encode_word(struct job *job, const char *word, size_t length,
                                  struct lq_error *err)
{
    const struct lq_vocab *vocab = job->vocab;
    if (length == 0) {
        return LQ_OK;
    }
    if (length > WORD_BYTES_MAX) {
        return too_long(length, err);
    }
    if (vocab->kind == LQ_VOCAB_BPE && lq_pretokenizer_ignores_merges(vocab->pre)) {
        int32_t id = lq_token_table_find(&vocab->table, word, length);
        if (id >= 0 && (size_t)id < vocab->size && vocab->types[id] != LQ_TOKEN_CONTROL) {
            return push_ids(job->out, &id, 1, err);
        }
    }
    void *array = job->symbols;
    if (!reserve(&array, &job->symbol_capacity, length, sizeof *job->symbols)) {
        return lq_error_nomem(err, "tokens");
    }
    job->symbols = array;
    if (vocab->kind == LQ_VOCAB_UNIGRAM) {
        return encode_unigram(job, word, length, err);
    }
    size_t count = make_symbols(job, word, length);
    enum lq_status status = merge_symbols(job, word, count, err);
    for (uint32_t at = 0; at != LQ_SYMBOL_NONE && status == LQ_OK; at = job->symbols[at].next) {
        status = push_symbol(job, word, &job->symbols[at], err);
    }
    return status;
}

/* Writes the word with every blank as U+2581, after one more when `prefix`. */
static enum lq_status escape_word(struct job *job, bool prefix, const char *word, size_t length,
                                  size_t *escaped_length, struct lq_error *err)
{
    if (length > WORD_BYTES_MAX / 3 - 1) {
        return too_long(length, err);
    }
    void *array = job->escaped;
    if (!reserve(&array, &job->escaped_capacity, 3 * (length + 1), 1)) {
        return lq_error_nomem(err, "tokens");
    }
    job->escaped = array;
    size_t at = 0;
    for (size_t i = 0; i < length + (prefix ? 1 : 0); i++) {
        char c = prefix && i == 0 ? ' ' : word[prefix ? i - 1 : i];
        if (c == ' ') {
            memcpy(job->escaped + at, "\xe2\x96\x81", 3);
            at += 3;
        } else {
            job->escaped[at++] = c;
        }
    }
    *escaped_length = at;
    return LQ_OK;
}

static enum lq_status encode_any(struct job *job, bool prefix, const char *word, size_t length,
                                 struct lq_error *err)
{
    if (job->vocab->kind == LQ_VOCAB_BPE) {
        return encode_word(job, word, length, err);
    }
    size_t escaped_length = 0;
    enum lq_status status = escape_word(job, prefix, word, length, &escaped_length, err);
    return status == LQ_OK ? encode_word(job, job->escaped, escaped_length, err) : status;
}

static enum lq_status check_stop(struct job *job, struct lq_error *err)
{
    const struct lq_token_list *out = job->out;
    job->reached_limit = out->limit != 0 && out->count >= out->limit;
    job->word_count++;
    if (out->cancelled != NULL && job->word_count % CANCEL_WORDS == 0 &&
        out->cancelled(out->cancelled_user)) {
        return lq_error_set(err, LQ_ECANCELLED, "cancelled while tokenizing");
    }
    return LQ_OK;
}

/* One word of the text through the cache. Words with a prefix are not what the text says, so they
 * are not remembered. */
static enum lq_status add_word(struct job *job, bool prefix, const char *word, size_t length,
                               struct lq_error *err)
{
    if (job->reached_limit) {
        return LQ_OK;
    }
    struct seen_word *seen = NULL;
    if (!prefix && length <= WORD_CACHE_BYTES_MAX) {
        uint64_t hash = lq_token_hash(word, length);
        seen = &job->seen[(size_t)hash & job->seen_mask];
        if (seen->text != NULL && seen->length == length && memcmp(seen->text, word, length) == 0) {
            enum lq_status status = repeat_ids(job->out, seen->id_start, seen->id_count, err);
            return status == LQ_OK ? check_stop(job, err) : status;
        }
    }
    size_t id_start = job->out->count;
    enum lq_status status = encode_any(job, prefix, word, length, err);
    if (status != LQ_OK) {
        return status;
    }
    if (seen != NULL) {
        *seen = (struct seen_word){.text = word,
                                   .length = (uint32_t)length,
                                   .id_count = (uint32_t)(job->out->count - id_start),
                                   .id_start = id_start};
    }
    return check_stop(job, err);
}

static enum lq_status add_bpe_word(void *user, const char *word, size_t length,
                                   struct lq_error *err)
{
    return add_word(user, false, word, length, err);
}

/* The end of the SPM word that starts at `text`: blanks, then everything up to the next blank. */
static size_t spm_word_end(const char *text, size_t length)
{
    bool other_seen = false;
    size_t i = 0;
    while (i < length) {
        bool escaped = length - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        bool blank = text[i] == ' ' || escaped;
        if (blank && other_seen) {
            break;
        }
        other_seen = other_seen || !blank;
        i += escaped ? 3 : 1;
    }
    return i;
}

/* Text between special tokens. */
static enum lq_status add_text(struct job *job, const char *text, size_t length,
                               struct lq_error *err)
{
    const struct lq_vocab *vocab = job->vocab;
    if (length == 0) {
        return LQ_OK;
    }
    if (vocab->kind == LQ_VOCAB_BPE) {
        return lq_pretokenizer_split(vocab->pre, text, length, add_bpe_word, job, err);
    }
    enum lq_status status = LQ_OK;
    for (size_t i = 0; i < length && status == LQ_OK && !job->reached_limit;) {
        size_t end = vocab->words_are_closed ? spm_word_end(text + i, length - i) : length - i;
        status = add_word(job, vocab->add_space_prefix && i == 0, text + i, end, err);
        i += end;
    }
    return status;
}

/* Special tokens are looked for in one pass or in two, the second of which has those that
 * tokenizer.json calls normalized. */
struct search {
    bool parse_special;
    bool second;
};

static unsigned strips_of(const struct lq_vocab *vocab, int32_t id)
{
    return vocab->strips == NULL ? 0 : vocab->strips[id];
}

/* The special token that the text starts with, longest first, or -1. */
static int32_t special_at(const struct lq_vocab *vocab, const char *text, size_t length,
                          const struct search *search)
{
    size_t first = (unsigned char)text[0];
    for (size_t i = vocab->special_start[first]; i < vocab->special_start[first + 1]; i++) {
        int32_t id = vocab->special_ids[i];
        const struct lq_token_bytes *special = &vocab->texts[id];
        bool second = (strips_of(vocab, id) & LQ_TOKEN_SECOND) != 0;
        if ((search->parse_special || vocab->types[id] == LQ_TOKEN_USER_DEFINED) &&
            second == search->second && special->length <= length &&
            memcmp(special->data, text, special->length) == 0) {
            return id;
        }
    }
    return -1;
}

/* False for a token that counts as a whole word only and is a part of one. */
static bool counts(const struct lq_vocab *vocab, int32_t id, const char *text, size_t at,
                   size_t length)
{
    size_t end = at + vocab->texts[id].length;
    return (strips_of(vocab, id) & LQ_TOKEN_WHOLE_WORD) == 0 ||
           (!lq_word_class_ends(vocab->words, text, at) &&
            !lq_word_class_begins(vocab->words, text + end, length - end));
}

static enum lq_status add_fragments(struct job *job, const char *text, size_t length,
                                    const struct search *search, struct lq_error *err);

/* Puts the normalized text in place of the text, if it is another one. */
static enum lq_status normalize(struct job *job, const char **text, size_t *length,
                                struct lq_error *err)
{
    if (job->vocab->normalizer == NULL || *length == 0 || job->reached_limit) {
        return LQ_OK;
    }
    void *array = job->kept;
    if (!reserve(&array, &job->kept_capacity, job->kept_count + 1, sizeof *job->kept)) {
        return lq_error_nomem(err, "text");
    }
    job->kept = array;
    struct lq_buffer *out = &job->kept[job->kept_count];
    lq_buffer_init(out);
    enum lq_status status =
        lq_normalizer_run(job->vocab->normalizer, *text == job->text, *text, *length, out, err);
    bool changed = out->size_bytes != *length || memcmp(lq_buffer_text(out), *text, *length) != 0;
    if (status != LQ_OK || !changed) {
        lq_buffer_fini(out);
        return status;
    }
    job->kept_count++;
    *text = lq_buffer_text(out);
    *length = out->size_bytes;
    return LQ_OK;
}

/* What lies between the tokens of a pass: text, or what the next pass looks through. */
static enum lq_status add_between(struct job *job, const char *text, size_t length,
                                  const struct search *search, struct lq_error *err)
{
    const struct search next = {search->parse_special, true};
    enum lq_status status = search->second ? LQ_OK : normalize(job, &text, &length, err);
    if (status != LQ_OK) {
        return status;
    }
    return search->second || !job->vocab->two_passes ? add_text(job, text, length, err)
                                                     : add_fragments(job, text, length, &next, err);
}

static enum lq_status add_fragments(struct job *job, const char *text, size_t length,
                                    const struct search *search, struct lq_error *err)
{
    const struct lq_vocab *vocab = job->vocab;
    enum lq_status status = LQ_OK;
    size_t start = 0;
    for (size_t i = 0; i < length && status == LQ_OK;) {
        int32_t id = special_at(vocab, text + i, length - i, search);
        if (id < 0 || !counts(vocab, id, text, i, length)) {
            i += id < 0 ? 1 : vocab->texts[id].length;
            continue;
        }
        unsigned strips = strips_of(vocab, id);
        size_t before = i - start;
        before =
            (strips & LQ_TOKEN_STRIPS_LEFT) != 0 ? lq_utf8_strip_end(text + start, before) : before;
        status = add_between(job, text + start, before, search, err);
        status = status == LQ_OK && !job->reached_limit ? push_ids(job->out, &id, 1, err) : status;
        i += vocab->texts[id].length;
        size_t space = (strips & LQ_TOKEN_STRIPS_RIGHT) != 0 ? 1 : 0;
        while (space > 0) {
            space = lq_utf8_space_length(text + i, length - i);
            i += space;
        }
        start = i;
    }
    return status == LQ_OK ? add_between(job, text + start, length - start, search, err) : status;
}

/* About one slot for 16 bytes of text, a power of two. */
static size_t seen_slots(size_t length)
{
    size_t slots = 64;
    while (slots < WORD_CACHE_SLOTS_MAX && slots < length / 16) {
        slots *= 2;
    }
    return slots;
}

enum lq_status lq_tokenize(const struct lq_vocab *vocab, const char *text, size_t length,
                           bool add_special, bool parse_special, struct lq_token_list *out,
                           struct lq_error *err)
{
    size_t slots = seen_slots(length);
    struct job job = {.vocab = vocab, .out = out, .seen_mask = slots - 1, .text = text};
    job.seen = calloc(slots, sizeof *job.seen);
    enum lq_status status = job.seen == NULL ? lq_error_nomem(err, "tokens") : LQ_OK;
    if (status == LQ_OK && add_special && vocab->add_bos) {
        status = push_ids(out, &vocab->bos, 1, err);
    }
    if (status == LQ_OK) {
        const struct search search = {.parse_special = parse_special};
        status = add_fragments(&job, text, length, &search, err);
    }
    if (status == LQ_OK && add_special && vocab->add_eos) {
        status = push_ids(out, &vocab->eos, 1, err);
    }
    free(job.seen);
    free(job.symbols);
    free(job.heap);
    free(job.path);
    free(job.escaped);
    for (size_t i = 0; i < job.kept_count; i++) {
        lq_buffer_fini(&job.kept[i]);
    }
    free(job.kept);
    return status;
}
