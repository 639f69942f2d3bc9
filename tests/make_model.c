/* Writes synthetic Llama models of any shape, for benchmarks and for tests of big models:
 *
 *     make_model [options] SHAPE OUT
 *
 * SHAPE is tiny, 134m, 1b, 7b or 70b; options replace single numbers of it. OUT is a GGUF file when
 * it ends in .gguf, else a Hugging Face folder; both hold the same model. Weights are bf16,
 * normally distributed so that activations keep their size, with about one outlier in a thousand;
 * each row depends on nothing but the seed, its tensor and its number. --imatrix FILE also writes
 * an importance matrix for it, in llama.cpp's format. Needs memory for a row. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/checked.h"
#include "engine/base/fs.h"
#include "engine/base/limits.h"
#include "kernels/kernels.h"
#include "rules/format/imatrix.h"
#include "rules/model/tensor_index.h"
#include "tests/make_model_vocab.h"

enum {
    CHUNK_BYTES = 1 << 20,
    QUANTILES = 1 << 16,
    OUTLIER_COLS = 1024, /* columns of a row for each of its outliers */
    TENSOR_KINDS = 9,
};

struct shape {
    const char *name;
    uint32_t width;
    uint32_t layers;
    uint32_t ffn;
    uint32_t heads;
    uint32_t kv_heads;
    uint32_t vocab;
    uint32_t context;
};

static const struct shape shapes[] = {
    {"tiny", 64, 3, 192, 4, 2, 512, 128},         {"134m", 768, 12, 2048, 12, 12, 32000, 2048},
    {"1b", 2048, 22, 5632, 32, 4, 32000, 2048},   {"7b", 4096, 32, 11008, 32, 32, 32000, 4096},
    {"70b", 8192, 80, 28672, 64, 8, 32000, 4096},
};

struct tensor {
    char name[LQ_GGUF_NAME_BYTES_MAX + 1];
    char source_name[LQ_GGUF_NAME_BYTES_MAX + 1];
    uint64_t cols;
    uint64_t rows;
    uint32_t permute_heads;
    bool is_norm;
    double deviation;
};

struct make {
    struct shape shape;
    uint64_t seed;
    const char *out;
    const char *imatrix; /* NULL: none */
    bool is_gguf;
    struct lq_arena arena;
    struct make_vocab vocab;
    struct tensor *tensors;
    size_t tensor_count;
    float *quantiles; /* of the normal distribution */
    uint16_t *values; /* the same for one tensor, as bf16 */
    FILE *file;
};

/* ---- tensors ---- */

static void add_tensor(struct make *make, const char *name, const char *source_name, uint64_t cols,
                       uint64_t rows)
{
    struct tensor *tensor = &make->tensors[make->tensor_count++];
    (void)snprintf(tensor->name, sizeof tensor->name, "%s.weight", name);
    (void)snprintf(tensor->source_name, sizeof tensor->source_name, "%s.weight", source_name);
    tensor->cols = cols;
    tensor->rows = rows;
    tensor->is_norm = rows == 1;
    tensor->deviation = tensor->is_norm ? 0.2 : 1.0 / sqrt((double)cols);
}

static void add_layer(struct make *make, uint32_t layer)
{
    const struct shape *shape = &make->shape;
    uint64_t kv = (uint64_t)shape->width / shape->heads * shape->kv_heads;
    const struct {
        const char *name;
        const char *source_name;
        uint64_t cols;
        uint64_t rows;
        uint32_t permute_heads;
    } kinds[TENSOR_KINDS] = {
        {"attn_norm", "input_layernorm", shape->width, 1, 0},
        {"attn_q", "self_attn.q_proj", shape->width, shape->width, shape->heads},
        {"attn_k", "self_attn.k_proj", shape->width, kv, shape->kv_heads},
        {"attn_v", "self_attn.v_proj", shape->width, kv, 0},
        {"attn_output", "self_attn.o_proj", shape->width, shape->width, 0},
        {"ffn_norm", "post_attention_layernorm", shape->width, 1, 0},
        {"ffn_gate", "mlp.gate_proj", shape->width, shape->ffn, 0},
        {"ffn_up", "mlp.up_proj", shape->width, shape->ffn, 0},
        {"ffn_down", "mlp.down_proj", shape->ffn, shape->width, 0},
    };
    for (int i = 0; i < TENSOR_KINDS; i++) {
        char name[LQ_GGUF_NAME_BYTES_MAX + 1];
        char source_name[LQ_GGUF_NAME_BYTES_MAX + 1];
        (void)snprintf(name, sizeof name, "blk.%u.%s", (unsigned)layer, kinds[i].name);
        (void)snprintf(source_name, sizeof source_name, "model.layers.%u.%s", (unsigned)layer,
                       kinds[i].source_name);
        add_tensor(make, name, source_name, kinds[i].cols, kinds[i].rows);
        make->tensors[make->tensor_count - 1].permute_heads = kinds[i].permute_heads;
    }
}

static bool add_tensors(struct make *make)
{
    const struct shape *shape = &make->shape;
    make->tensors = lq_arena_get_array(&make->arena, (size_t)shape->layers * TENSOR_KINDS + 3,
                                       sizeof *make->tensors);
    make->quantiles = lq_arena_get_array(&make->arena, QUANTILES, sizeof *make->quantiles);
    make->values = lq_arena_get_array(&make->arena, QUANTILES, sizeof *make->values);
    if (make->tensors == NULL || make->quantiles == NULL || make->values == NULL) {
        return false;
    }
    add_tensor(make, "token_embd", "model.embed_tokens", shape->width, shape->vocab);
    for (uint32_t layer = 0; layer < shape->layers; layer++) {
        add_layer(make, layer);
    }
    add_tensor(make, "output_norm", "model.norm", shape->width, 1);
    add_tensor(make, "output", "lm_head", shape->width, shape->vocab);
    /* Flat enough that the perplexity stays near the size of the vocabulary. */
    make->tensors[make->tensor_count - 1].deviation *= 0.5;
    return true;
}

/* ---- weights ---- */

/* Newton's method, from one quantile to the next. */
static void fill_quantiles(float *quantiles)
{
    const double root_half = sqrt(0.5);
    double x = -4.3;
    for (int i = 0; i < QUANTILES; i++) {
        double p = (i + 0.5) / QUANTILES;
        for (int step = 0; step < 8; step++) {
            double density = exp(-0.5 * x * x) / sqrt(2.0 * acos(-1.0));
            x += (p - 0.5 * erfc(-x * root_half)) / density;
        }
        quantiles[i] = (float)x;
    }
}

/* Sebastiano Vigna's splitmix64. */
static uint64_t next_random(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

static void fill_row(const struct make *make, size_t number, uint64_t row, uint16_t *out)
{
    const struct tensor *tensor = &make->tensors[number];
    uint64_t state = make->seed;
    state = next_random(&state) + number;
    state = next_random(&state) + row;
    for (uint64_t i = 0; i < tensor->cols; i += 4) {
        uint64_t bits = next_random(&state);
        for (uint64_t j = i; j < i + 4 && j < tensor->cols; j++) {
            out[j] = make->values[bits % QUANTILES];
            bits /= QUANTILES;
        }
    }
    for (uint64_t i = 0; i < tensor->cols; i += OUTLIER_COLS) {
        uint16_t *value = &out[next_random(&state) % tensor->cols];
        *value = lq_f32_to_bf16(lq_bf16_to_f32(*value) * (tensor->is_norm ? 4.0f : 8.0f));
    }
}

static bool write_rows(struct make *make, size_t number, uint16_t *rows, float *wide)
{
    const struct tensor *tensor = &make->tensors[number];
    struct lq_model_tensor order = {
        .ne = {tensor->cols, tensor->rows, 1, 1},
        .permute_heads = make->is_gguf ? tensor->permute_heads : 0,
    };
    bool widen = make->is_gguf && tensor->is_norm;
    for (int i = 0; i < QUANTILES; i++) {
        make->values[i] = lq_f32_to_bf16((tensor->is_norm ? 1.0f : 0.0f) +
                                         (float)tensor->deviation * make->quantiles[i]);
    }
    for (uint64_t row = 0; row < tensor->rows; row++) {
        fill_row(make, number, lq_model_tensor_source_row(&order, row), rows);
        for (uint64_t i = 0; widen && i < tensor->cols; i++) {
            wide[i] = lq_bf16_to_f32(rows[i]);
        }
        const void *data = widen ? (const void *)wide : (const void *)rows;
        size_t element_bytes = widen ? sizeof *wide : sizeof *rows;
        if (fwrite(data, element_bytes, (size_t)tensor->cols, make->file) != tensor->cols) {
            return false;
        }
    }
    return true;
}

static bool write_tensors(struct make *make)
{
    static const char zeros[LQ_GGUF_ALIGNMENT];
    size_t cols = make->shape.width > make->shape.ffn ? make->shape.width : make->shape.ffn;
    uint16_t *rows = lq_arena_get_array(&make->arena, cols, sizeof *rows);
    float *wide = lq_arena_get_array(&make->arena, cols, sizeof *wide);
    bool good = rows != NULL && wide != NULL;
    fill_quantiles(make->quantiles);
    for (size_t i = 0; good && i < make->tensor_count; i++) {
        const struct tensor *tensor = &make->tensors[i];
        good = write_rows(make, i, rows, wide);
        uint64_t bytes = tensor->cols * tensor->rows * (tensor->is_norm ? 4 : 2);
        size_t padding =
            (size_t)((LQ_GGUF_ALIGNMENT - bytes % LQ_GGUF_ALIGNMENT) % LQ_GGUF_ALIGNMENT);
        good = good && (!make->is_gguf || fwrite(zeros, 1, padding, make->file) == padding);
    }
    return good;
}

/* ---- importance ---- */

/* What llama-imatrix finds in real models, roughly: mean squares over two decades, and some columns
 * far above them. */
static void fill_importance(const struct make *make, size_t number, float *sums, float count)
{
    uint64_t state = make->seed;
    state = next_random(&state) + number;
    for (uint64_t i = 0; i < make->tensors[number].cols; i++) {
        uint64_t bits = next_random(&state);
        double value = exp(1.2 * (double)make->quantiles[bits % QUANTILES]);
        bool is_far = (bits >> 32) % 512 == 0;
        sums[i] = count * (float)(is_far ? 300.0 * value : value);
    }
}

static int compare_entries(const void *a, const void *b)
{
    const struct lq_imatrix_entry *x = a;
    const struct lq_imatrix_entry *y = b;
    return strcmp(x->name, y->name);
}

static enum lq_status write_imatrix(struct make *make, struct lq_error *err)
{
    static const char *const datasets[] = {"synthetic"};
    struct lq_imatrix imatrix = {
        .datasets = datasets, .dataset_count = 1, .chunk_count = 128, .chunk_size = 512};
    float count = (float)(imatrix.chunk_count * imatrix.chunk_size);
    imatrix.entries = lq_arena_get_array(&make->arena, make->tensor_count, sizeof *imatrix.entries);
    if (imatrix.entries == NULL) {
        return lq_error_nomem(err, "the importance matrix");
    }
    fill_quantiles(make->quantiles);
    for (size_t i = 0; i < make->tensor_count; i++) {
        const struct tensor *tensor = &make->tensors[i];
        if (tensor->is_norm || strncmp(tensor->name, "blk.", 4) != 0) {
            continue;
        }
        struct lq_imatrix_entry *entry = &imatrix.entries[imatrix.entry_count++];
        *entry = (struct lq_imatrix_entry){tensor->name, (size_t)tensor->cols, 1, 1, NULL, NULL};
        entry->sums = lq_arena_get_array(&make->arena, entry->col_count, sizeof *entry->sums);
        entry->counts = lq_arena_get_array(&make->arena, 1, sizeof *entry->counts);
        if (entry->sums == NULL || entry->counts == NULL) {
            return lq_error_nomem(err, "the importance matrix");
        }
        entry->counts[0] = count;
        fill_importance(make, i, entry->sums, count);
    }
    qsort(imatrix.entries, imatrix.entry_count, sizeof *imatrix.entries, compare_entries);
    struct lq_buffer out;
    lq_buffer_init(&out);
    enum lq_status status = lq_imatrix_format(&imatrix, LQ_IMATRIX_GGUF, &out, err);
    if (status == LQ_OK) {
        status = lq_file_write(make->imatrix, out.data, out.size_bytes, err);
    }
    lq_buffer_fini(&out);
    return status;
}

/* ---- files ---- */

static enum lq_status open_out(struct make *make, const char *path, const void *header,
                               size_t header_bytes, struct lq_error *err)
{
    make->file = fopen(path, "wb");
    if (make->file == NULL) {
        return lq_error_set(err, LQ_EIO, "%s: cannot be written: %s", path, strerror(errno));
    }
    (void)setvbuf(make->file, NULL, _IOFBF, CHUNK_BYTES);
    bool good = fwrite(header, 1, header_bytes, make->file) == header_bytes && write_tensors(make);
    good = fclose(make->file) == 0 && good;
    return good ? LQ_OK : lq_error_set(err, LQ_EIO, "%s: cannot be written whole", path);
}

static enum lq_status write_gguf(struct make *make, struct lq_error *err)
{
    const struct shape *shape = &make->shape;
    struct lq_gguf_writer writer;
    struct lq_buffer header;
    lq_buffer_init(&header);
    lq_gguf_writer_init(&writer);
    lq_gguf_put_string(&writer, "general.architecture", "llama");
    lq_gguf_put_string(&writer, "general.name", shape->name);
    lq_gguf_put_u32(&writer, "general.file_type", 32); /* llama.cpp: mostly bf16 */
    lq_gguf_put_u32(&writer, "llama.context_length", shape->context);
    lq_gguf_put_u32(&writer, "llama.embedding_length", shape->width);
    lq_gguf_put_u32(&writer, "llama.block_count", shape->layers);
    lq_gguf_put_u32(&writer, "llama.feed_forward_length", shape->ffn);
    lq_gguf_put_u32(&writer, "llama.attention.head_count", shape->heads);
    lq_gguf_put_u32(&writer, "llama.attention.head_count_kv", shape->kv_heads);
    lq_gguf_put_f32(&writer, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    lq_gguf_put_f32(&writer, "llama.rope.freq_base", 10000.0f);
    lq_gguf_put_u32(&writer, "llama.rope.dimension_count", shape->width / shape->heads);
    lq_gguf_put_u32(&writer, "llama.vocab_size", shape->vocab);
    make_vocab_put(&make->vocab, &writer);
    enum lq_status status = LQ_OK;
    for (size_t i = 0; status == LQ_OK && i < make->tensor_count; i++) {
        const struct tensor *tensor = &make->tensors[i];
        const uint64_t ne[4] = {tensor->cols, tensor->rows, 1, 1};
        status = lq_gguf_put_tensor(&writer, tensor->name,
                                    tensor->is_norm ? LQ_DTYPE_F32 : LQ_DTYPE_BF16,
                                    tensor->is_norm ? 1 : 2, ne, err);
    }
    if (status == LQ_OK) {
        status = lq_gguf_writer_header(&writer, &header, err);
    }
    if (status == LQ_OK) {
        status = open_out(make, make->out, header.data, header.size_bytes, err);
    }
    lq_gguf_writer_fini(&writer);
    lq_buffer_fini(&header);
    return status;
}

static void format_config(const struct make *make, struct lq_buffer *out)
{
    const struct shape *shape = &make->shape;
    struct lq_json_writer writer;
    lq_json_writer_init(&writer, out, true);
    lq_json_begin_object(&writer);
    lq_json_key(&writer, "architectures");
    lq_json_begin_array(&writer);
    lq_json_string(&writer, "LlamaForCausalLM");
    lq_json_end_array(&writer);
    lq_json_put_string(&writer, "model_type", "llama");
    lq_json_put_int(&writer, "bos_token_id", (int64_t)shape->vocab - MAKE_SPECIAL_COUNT);
    lq_json_put_int(&writer, "eos_token_id", (int64_t)shape->vocab - MAKE_SPECIAL_COUNT + 1);
    lq_json_put_string(&writer, "hidden_act", "silu");
    lq_json_put_int(&writer, "hidden_size", shape->width);
    lq_json_put_int(&writer, "intermediate_size", shape->ffn);
    lq_json_put_int(&writer, "max_position_embeddings", shape->context);
    lq_json_put_int(&writer, "num_attention_heads", shape->heads);
    lq_json_put_int(&writer, "num_hidden_layers", shape->layers);
    lq_json_put_int(&writer, "num_key_value_heads", shape->kv_heads);
    lq_json_put_number(&writer, "rms_norm_eps", 1e-5);
    lq_json_put_number(&writer, "rope_theta", 10000.0);
    lq_json_put_bool(&writer, "tie_word_embeddings", false);
    lq_json_put_string(&writer, "torch_dtype", "bfloat16");
    lq_json_put_int(&writer, "vocab_size", shape->vocab);
    lq_json_end_object(&writer);
}

/* The header of a safetensors file: its length, then JSON, padded with spaces. */
static void format_safetensors(const struct make *make, struct lq_buffer *out)
{
    struct lq_buffer json;
    struct lq_json_writer writer;
    uint64_t offset = 0;
    lq_buffer_init(&json);
    lq_json_writer_init(&writer, &json, false);
    lq_json_begin_object(&writer);
    for (size_t i = 0; i < make->tensor_count; i++) {
        const struct tensor *tensor = &make->tensors[i];
        uint64_t end = offset + tensor->cols * tensor->rows * sizeof(uint16_t);
        lq_json_key(&writer, tensor->source_name);
        lq_json_begin_object(&writer);
        lq_json_put_string(&writer, "dtype", "BF16");
        lq_json_key(&writer, "shape");
        lq_json_begin_array(&writer);
        if (!tensor->is_norm) {
            lq_json_uint(&writer, tensor->rows);
        }
        lq_json_uint(&writer, tensor->cols);
        lq_json_end_array(&writer);
        lq_json_key(&writer, "data_offsets");
        lq_json_begin_array(&writer);
        lq_json_uint(&writer, offset);
        lq_json_uint(&writer, end);
        lq_json_end_array(&writer);
        lq_json_end_object(&writer);
        offset = end;
    }
    lq_json_end_object(&writer);
    while (json.size_bytes % sizeof(uint64_t) != 0) {
        lq_buffer_append_char(&json, ' ');
    }
    lq_buffer_append_u64(out, json.size_bytes);
    lq_buffer_append(out, json.data, json.size_bytes);
    out->failed = out->failed || json.failed;
    lq_buffer_fini(&json);
}

static enum lq_status write_text(struct make *make, const char *name, const struct lq_buffer *text,
                                 struct lq_error *err)
{
    const char *path = lq_path_join(&make->arena, make->out, name);
    if (path == NULL || text->failed) {
        return lq_error_nomem(err, name);
    }
    return lq_file_write(path, text->data, text->size_bytes, err);
}

static enum lq_status write_folder(struct make *make, struct lq_error *err)
{
    static const char tokenizer_config[] =
        "{\"add_bos_token\": true, \"add_eos_token\": false, "
        "\"bos_token\": \"<|begin_of_text|>\", \"eos_token\": \"<|end_of_text|>\", "
        "\"pad_token\": \"<|pad|>\", \"tokenizer_class\": \"PreTrainedTokenizerFast\"}\n";
    struct lq_buffer text;
    lq_buffer_init(&text);
    enum lq_status status = lq_make_dirs(make->out, err);
    if (status == LQ_OK) {
        format_config(make, &text);
        status = write_text(make, "config.json", &text, err);
    }
    if (status == LQ_OK) {
        lq_buffer_clear(&text);
        make_vocab_json(&make->vocab, &text);
        status = write_text(make, "tokenizer.json", &text, err);
    }
    if (status == LQ_OK) {
        lq_buffer_clear(&text);
        lq_buffer_append_string(&text, tokenizer_config);
        status = write_text(make, "tokenizer_config.json", &text, err);
    }
    if (status == LQ_OK) {
        lq_buffer_clear(&text);
        format_safetensors(make, &text);
        const char *path = lq_path_join(&make->arena, make->out, "model.safetensors");
        status = path == NULL || text.failed
                     ? lq_error_nomem(err, "the header")
                     : open_out(make, path, text.data, text.size_bytes, err);
    }
    lq_buffer_fini(&text);
    return status;
}

/* ---- command line ---- */

static int usage(void)
{
    (void)fputs("usage: make_model [--layers N] [--width N] [--ffn N] [--heads N] [--kv-heads N]\n"
                "                  [--vocab N] [--context N] [--seed N]\n"
                "                  [--imatrix FILE] SHAPE OUT\n"
                "SHAPE: tiny 134m 1b 7b 70b; OUT: FILE.gguf, or a folder for safetensors\n",
                stderr);
    return 2;
}

static bool read_number(const char *text, uint64_t *out)
{
    char *end = NULL;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0';
}

static bool read_option(struct make *make, const char *name, const char *text)
{
    struct shape *shape = &make->shape;
    const struct {
        const char *name;
        uint32_t *value;
    } options[] = {
        {"--layers", &shape->layers},     {"--width", &shape->width},
        {"--ffn", &shape->ffn},           {"--heads", &shape->heads},
        {"--kv-heads", &shape->kv_heads}, {"--vocab", &shape->vocab},
        {"--context", &shape->context},
    };
    uint64_t number = 0;
    if (strcmp(name, "--imatrix") == 0) {
        make->imatrix = text;
        return true;
    }
    if (!read_number(text, &number)) {
        return false;
    }
    if (strcmp(name, "--seed") == 0) {
        make->seed = number;
        return true;
    }
    for (size_t i = 0; i < LQ_COUNT_OF(options); i++) {
        if (strcmp(name, options[i].name) == 0) {
            *options[i].value = (uint32_t)number;
            return number >= 1 && number <= LQ_MODEL_DIM_MAX;
        }
    }
    return false;
}

/* The shape comes before or after the options, so it is looked for first. */
static bool read_words(struct make *make, int argc, char **argv)
{
    const char *words[2] = {NULL, NULL};
    size_t count = 0;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0) {
            i++;
        } else if (count < 2) {
            words[count++] = argv[i];
        } else {
            return false;
        }
    }
    for (size_t i = 0; count == 2 && i < LQ_COUNT_OF(shapes); i++) {
        if (strcmp(shapes[i].name, words[0]) == 0) {
            make->shape = shapes[i];
        }
    }
    if (make->shape.name == NULL) {
        return false;
    }
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "--", 2) == 0) {
            if (i + 1 == argc || !read_option(make, argv[i], argv[i + 1])) {
                return false;
            }
            i++;
        }
    }
    make->out = words[1];
    make->is_gguf = strcmp(lq_path_extension(make->out), ".gguf") == 0;
    const struct shape *shape = &make->shape;
    return shape->width % shape->heads == 0 && shape->width / shape->heads % 2 == 0 &&
           shape->heads % shape->kv_heads == 0 && shape->vocab >= MAKE_VOCAB_MIN &&
           shape->vocab <= MAKE_VOCAB_MAX && shape->layers <= LQ_MODEL_LAYERS_MAX;
}

int main(int argc, char **argv)
{
    struct make make = {.seed = 1};
    struct lq_error err;
    lq_error_clear(&err);
    if (!read_words(&make, argc, argv)) {
        return usage();
    }
    lq_arena_init(&make.arena);
    enum lq_status status = LQ_OK;
    if (!make_vocab_init(&make.vocab, &make.arena, make.shape.vocab) || !add_tensors(&make)) {
        status = lq_error_nomem(&err, "the model");
    } else {
        status = make.is_gguf ? write_gguf(&make, &err) : write_folder(&make, &err);
    }
    if (status == LQ_OK && make.imatrix != NULL) {
        status = write_imatrix(&make, &err);
    }
    lq_arena_fini(&make.arena);
    if (status != LQ_OK) {
        (void)fprintf(stderr, "make_model: %s\n", err.message);
        return 1;
    }
    return 0;
}
