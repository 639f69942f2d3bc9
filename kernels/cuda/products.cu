/* Products by cuBLASLt, which is opened when the first stream wants products: the module loads
 * without it. cuBLASLt thinks in columns: our row-major c = a b is its c' = b' a', so sides change
 * places and a side that is turned for us is not for it, and the other way about. */
#include <cublasLt.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/launch.cuh"

/* What cuBLASLt may use besides the matrices; its guide advises 32 MiB for Hopper. */
#define WORKSPACE_BYTES ((size_t)32 << 20)
/* Ways of multiplying that a stream remembers; a power of two. */
#define PLAN_COUNT 1024
/* Alignments are told apart up to this. */
#define ALIGNMENT_MAX 256

/* X(member, function) */
#define LIBRARY_FUNCTIONS(X)                                                                       \
    X(create, cublasLtCreate)                                                                      \
    X(destroy, cublasLtDestroy)                                                                    \
    X(matmul, cublasLtMatmul)                                                                      \
    X(get_heuristic, cublasLtMatmulAlgoGetHeuristic)                                               \
    X(product_create, cublasLtMatmulDescCreate)                                                    \
    X(product_destroy, cublasLtMatmulDescDestroy)                                                  \
    X(product_set, cublasLtMatmulDescSetAttribute)                                                 \
    X(preference_create, cublasLtMatmulPreferenceCreate)                                           \
    X(preference_destroy, cublasLtMatmulPreferenceDestroy)                                         \
    X(preference_set, cublasLtMatmulPreferenceSetAttribute)                                        \
    X(layout_create, cublasLtMatrixLayoutCreate)                                                   \
    X(layout_destroy, cublasLtMatrixLayoutDestroy)                                                 \
    X(layout_set, cublasLtMatrixLayoutSetAttribute)

static struct {
#define MEMBER(member, function) decltype(&function) member;
    LIBRARY_FUNCTIONS(MEMBER)
#undef MEMBER
} library;

static pthread_once_t once = PTHREAD_ONCE_INIT;
static const char *why_no_library;

static void load_library(void)
{
    /* The toolkit's folder is often not among those that are searched. */
    static const char *const names[] = {
        "libcublasLt.so.13", "/usr/local/cuda/lib64/libcublasLt.so.13", "libcublasLt.so.12",
        "/usr/local/cuda/lib64/libcublasLt.so.12", "libcublasLt.so"};
    void *opened = NULL;
    for (size_t i = 0; i < sizeof names / sizeof names[0] && opened == NULL; i++) {
        opened = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
    }
    if (opened == NULL) {
        why_no_library = "cuBLASLt (libcublasLt.so.13) was not found, and matrix products on a GPU "
                         "need it; install NVIDIA's cuBLAS, or name its folder in LD_LIBRARY_PATH";
        return;
    }
#define FIND(member, function)                                                                     \
    library.member = (decltype(&function))dlsym(opened, #function);                                \
    if (library.member == NULL) {                                                                  \
        why_no_library = "libcublasLt lacks the function " #function;                              \
        return;                                                                                    \
    }
    LIBRARY_FUNCTIONS(FIND)
#undef FIND
}

static const char *sentence(cublasStatus_t status)
{
    switch (status) {
    case CUBLAS_STATUS_SUCCESS:
        return NULL;
    case CUBLAS_STATUS_NOT_SUPPORTED:
        return "cuBLASLt has no way to form this product";
    case CUBLAS_STATUS_INVALID_VALUE:
        return "cuBLASLt refuses the sizes of a product";
    case CUBLAS_STATUS_ALLOC_FAILED:
        return "cuBLASLt is out of memory";
    case CUBLAS_STATUS_NOT_INITIALIZED:
        return "cuBLASLt cannot start";
    case CUBLAS_STATUS_EXECUTION_FAILED:
        return "cuBLASLt failed to form a product";
    default:
        return "cuBLASLt failed";
    }
}

/* All that a choice of algorithm may depend on. Compared byte by byte, so it has no gaps. */
struct key {
    uint64_t m, n, k, a_row, b_row, c_row, batch, a_step, b_step, c_step;
    uint32_t a_align, b_align, c_align;
    uint32_t a_turned, b_turned, add;
};

struct plan {
    struct key key;
    bool is_made;
    cublasLtMatmulDesc_t product;
    cublasLtMatrixLayout_t left, right, result; /* as cuBLASLt sees them: b, a and c */
    cublasLtMatmulAlgo_t algorithm;
};

struct lq_cuda_products {
    cublasLtHandle_t handle;
    void *workspace;
    struct plan plans[PLAN_COUNT];
};

/* ---- plans ---- */

static void unmake(struct plan *plan)
{
    if (plan->product != NULL) {
        (void)library.product_destroy(plan->product);
    }
    cublasLtMatrixLayout_t const layouts[] = {plan->left, plan->right, plan->result};
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        if (layouts[i] != NULL) {
            (void)library.layout_destroy(layouts[i]);
        }
    }
    memset(plan, 0, sizeof *plan);
}

/* A matrix of `rows` rows in memory, each `cols` long and `stride` apart, is one of `rows` columns
 * here. */
static const char *make_layout(cublasLtMatrixLayout_t *layout, cudaDataType_t type, uint64_t rows,
                               uint64_t cols, uint64_t stride, uint64_t batch, uint64_t step)
{
    int32_t count = (int32_t)batch;
    int64_t offset = (int64_t)step;
    const char *why = sentence(library.layout_create(layout, type, cols, rows, (int64_t)stride));
    if (why != NULL || batch == 1) {
        return why;
    }
    why = sentence(
        library.layout_set(*layout, CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, &count, sizeof count));
    return why != NULL
               ? why
               : sentence(library.layout_set(*layout, CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET,
                                             &offset, sizeof offset));
}

static const char *make_product(struct plan *plan)
{
    const struct key *key = &plan->key;
    cublasOperation_t left = key->b_turned != 0 ? CUBLAS_OP_T : CUBLAS_OP_N;
    cublasOperation_t right = key->a_turned != 0 ? CUBLAS_OP_T : CUBLAS_OP_N;
    const char *why =
        sentence(library.product_create(&plan->product, CUBLAS_COMPUTE_32F, CUDA_R_32F));
    why = why != NULL ? why
                      : sentence(library.product_set(plan->product, CUBLASLT_MATMUL_DESC_TRANSA,
                                                     &left, sizeof left));
    why = why != NULL ? why
                      : sentence(library.product_set(plan->product, CUBLASLT_MATMUL_DESC_TRANSB,
                                                     &right, sizeof right));
    uint64_t b_rows = key->b_turned != 0 ? key->n : key->k;
    uint64_t b_cols = key->b_turned != 0 ? key->k : key->n;
    uint64_t a_rows = key->a_turned != 0 ? key->k : key->m;
    uint64_t a_cols = key->a_turned != 0 ? key->m : key->k;
    why = why != NULL ? why
                      : make_layout(&plan->left, CUDA_R_16BF, b_rows, b_cols, key->b_row,
                                    key->batch, key->b_step);
    why = why != NULL ? why
                      : make_layout(&plan->right, CUDA_R_16BF, a_rows, a_cols, key->a_row,
                                    key->batch, key->a_step);
    return why != NULL ? why
                       : make_layout(&plan->result, CUDA_R_32F, key->m, key->n, key->c_row,
                                     key->batch, key->c_step);
}

static const char *prefer(cublasLtMatmulPreference_t preference,
                          cublasLtMatmulPreferenceAttributes_t what, const void *value,
                          size_t value_bytes)
{
    return sentence(library.preference_set(preference, what, value, value_bytes));
}

/* The first algorithm that cuBLASLt proposes. Its choice depends on the key and the kind of GPU.
 * `whole`: each sum in one go, not in parts that are added afterwards. */
static const char *choose(struct lq_cuda_products *products, struct plan *plan, bool whole)
{
    cublasLtMatmulPreference_t preference = NULL;
    cublasLtMatmulHeuristicResult_t result;
    uint64_t workspace_bytes = WORKSPACE_BYTES;
    uint32_t reductions = CUBLASLT_REDUCTION_SCHEME_NONE;
    int count = 0;
    memset(&result, 0, sizeof result);
    const char *why = sentence(library.preference_create(&preference));
    if (why != NULL) {
        return why;
    }
    why = prefer(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace_bytes,
                 sizeof workspace_bytes);
    if (why == NULL && whole) {
        why = prefer(preference, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reductions,
                     sizeof reductions);
    }
    const struct {
        cublasLtMatmulPreferenceAttributes_t what;
        uint32_t bytes;
    } alignments[] = {
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, plan->key.b_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, plan->key.a_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, plan->key.c_align},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, plan->key.c_align},
    };
    for (size_t i = 0; i < sizeof alignments / sizeof alignments[0] && why == NULL; i++) {
        why = prefer(preference, alignments[i].what, &alignments[i].bytes,
                     sizeof alignments[i].bytes);
    }
    why = why != NULL ? why
                      : sentence(library.get_heuristic(products->handle, plan->product, plan->left,
                                                       plan->right, plan->result, plan->result,
                                                       preference, 1, &result, &count));
    (void)library.preference_destroy(preference);
    if (why == NULL && (count == 0 || result.state != CUBLAS_STATUS_SUCCESS)) {
        why = sentence(CUBLAS_STATUS_NOT_SUPPORTED);
    }
    plan->algorithm = result.algo;
    return why;
}

/* That of all rows of all matrices. */
static uint32_t alignment_of(const void *pointer, uint64_t row_bytes, uint64_t step_bytes)
{
    uint64_t bits = (uint64_t)(uintptr_t)pointer | row_bytes | step_bytes | ALIGNMENT_MAX;
    return (uint32_t)(bits & (~bits + 1));
}

static struct key key_of(const struct lq_gpu_product *product)
{
    struct key key;
    memset(&key, 0, sizeof key);
    key.m = product->m;
    key.n = product->n;
    key.k = product->k;
    key.a_row = product->a_row;
    key.b_row = product->b_row;
    key.c_row = product->c_row;
    key.batch = product->batch;
    if (product->batch > 1) {
        key.a_step = product->a_step;
        key.b_step = product->b_step;
        key.c_step = product->c_step;
    }
    key.a_align =
        alignment_of(product->a, key.a_row * sizeof *product->a, key.a_step * sizeof *product->a);
    key.b_align =
        alignment_of(product->b, key.b_row * sizeof *product->b, key.b_step * sizeof *product->b);
    key.c_align =
        alignment_of(product->c, key.c_row * sizeof *product->c, key.c_step * sizeof *product->c);
    key.a_turned = product->a_turned ? 1 : 0;
    key.b_turned = product->b_turned ? 1 : 0;
    key.add = product->add ? 1 : 0;
    return key;
}

/* FNV-1a. */
static size_t place_of(const struct key *key)
{
    const unsigned char *bytes = (const unsigned char *)key;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < sizeof *key; i++) {
        hash = (hash ^ bytes[i]) * 0x100000001b3u;
    }
    return (size_t)(hash ^ hash >> 32) & (PLAN_COUNT - 1);
}

/* The plan of the key, made now unless it is remembered; keys that share a place push each other
 * out. */
static const char *find_plan(struct lq_cuda_products *products, const struct key *key,
                             struct plan **found)
{
    struct plan *plan = &products->plans[place_of(key)];
    *found = plan;
    if (plan->is_made && memcmp(&plan->key, key, sizeof *key) == 0) {
        return NULL;
    }
    unmake(plan);
    plan->key = *key;
    const char *why = make_product(plan);
    if (why == NULL && choose(products, plan, true) != NULL) {
        why = choose(products, plan, false);
    }
    plan->is_made = why == NULL;
    return why;
}

/* ---- for the module ---- */

const char *lq_cuda_products_open(struct lq_cuda_products **opened)
{
    (void)pthread_once(&once, load_library);
    if (why_no_library != NULL) {
        return why_no_library;
    }
    struct lq_cuda_products *products = (struct lq_cuda_products *)calloc(1, sizeof *products);
    if (products == NULL) {
        return "memory is out";
    }
    const char *why = sentence(library.create(&products->handle));
    if (why == NULL && cudaMalloc(&products->workspace, WORKSPACE_BYTES) != cudaSuccess) {
        (void)cudaGetLastError(); /* or the next launch finds it */
        why = "out of memory for products";
    }
    if (why != NULL) {
        lq_cuda_products_close(products);
        return why;
    }
    *opened = products;
    return NULL;
}

void lq_cuda_products_close(struct lq_cuda_products *products)
{
    if (products == NULL) {
        return;
    }
    for (size_t i = 0; i < PLAN_COUNT; i++) {
        unmake(&products->plans[i]);
    }
    (void)cudaFree(products->workspace);
    if (products->handle != NULL) {
        (void)library.destroy(products->handle);
    }
    free(products);
}

const char *lq_cuda_multiply(struct lq_cuda_products *products, cudaStream_t stream,
                             const struct lq_gpu_product *product)
{
    const float alpha = 1.0f;
    const float beta = product->add ? 1.0f : 0.0f;
    struct key key = key_of(product);
    struct plan *plan = NULL;
    const char *why = find_plan(products, &key, &plan);
    if (why != NULL) {
        return why;
    }
    return sentence(library.matmul(products->handle, plan->product, &alpha, product->b, plan->left,
                                   product->a, plan->right, &beta, product->c, plan->result,
                                   product->c, plan->result, &plan->algorithm, products->workspace,
                                   WORKSPACE_BYTES, stream));
}
