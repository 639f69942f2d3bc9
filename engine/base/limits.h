/* Named limits for every count that is read from input. A file that asks for more is refused with a
 * message that names the limit. Raise one here when a real model needs it, never at the call. */
#ifndef LQ_BASE_LIMITS_H
#define LQ_BASE_LIMITS_H

#include <stdint.h>

enum {
    LQ_RECIPE_BYTES_MAX = 16 * 1024 * 1024,
    LQ_RECIPE_DEPTH_MAX = 64,                      /* nested expressions, loops and includes */
    LQ_RECIPE_ARTIFACTS_MAX = 1000000,             /* after `for` loops are unrolled */
    LQ_RECIPE_EVALUATIONS_MAX = 50000000,          /* expressions and rounds of loops */
    LQ_RECIPE_VALUE_BYTES_MAX = 256 * 1024 * 1024, /* strings and lists that are computed */
    LQ_NAME_BYTES_MAX = 255,                       /* artifact, attribute and output names */
    LQ_JSON_DEPTH_MAX = 64,
    LQ_TENSOR_NAME_BYTES_MAX = 1024, /* in files we read; GGUF writes at most 63 */
    LQ_TENSOR_DIMS_MAX = 4,
    LQ_SAFETENSORS_DIMS_MAX = 8, /* vision towers have five; GGUF has four */
    LQ_MODEL_TENSORS_MAX = 1000000,
    LQ_MODEL_SHARDS_MAX = 10000,
    LQ_MODEL_LAYERS_MAX = 10000,
    LQ_MODEL_DIM_MAX = 1 << 20,
    LQ_MODEL_EXPERTS_MAX = 4096,
    LQ_GGUF_KV_MAX = 1 << 20,
    LQ_GGUF_KEY_BYTES_MAX = 65535, /* GGUF specification */
    LQ_GGUF_ARRAY_MAX = 1 << 30,
    LQ_VOCAB_MAX = 1 << 24,
    LQ_MERGES_MAX = 1 << 24,
    LQ_NORMALIZER_STEPS_MAX = 64, /* steps of a tokenizer's normalizer */
    LQ_SEQUENCE_MAX = 1 << 20,
    LQ_SAMPLES_MAX = 1 << 20,
    LQ_IMATRIX_ENTRIES_MAX = 1000000,
    LQ_MASK_POSITIONS_MAX = 1 << 28, /* 1 % of 26 billion weights */
    LQ_PROFILE_LAYERS_MAX = 1000000,
    LQ_PICTURE_KINDS_MAX = 64, /* of tensors in a layer */
    LQ_REPORT_MODELS_MAX = 10000,
    LQ_TASKS_MAX = 1000000,
    LQ_TASK_CHOICES_MAX = 100,      /* llama-perplexity's limit */
    LQ_INSPECT_FILES_MAX = 4096,    /* safetensors files of a folder that is inspected */
    LQ_REPORT_TASK_FILES_MAX = 100, /* of one report */
    LQ_PROMPTS_MAX = 4096,
    LQ_CONTINUATION_MAX = 4096, /* tokens that a model writes behind a prompt */
    LQ_STEP_OUTPUTS_MAX = 64,
    LQ_BLOB_PARTS_MAX = 1 << 22,   /* pieces of a concatenation: two a tensor and some */
    LQ_BLOB_PATH_BYTES_MAX = 4095, /* of the file that a blob lies in; Linux's PATH_MAX */
    LQ_VERDICT_BYTES_MAX = 1 << 20,
    LQ_MANIFEST_BYTES_MAX = 1 << 28,
    LQ_THREADS_MAX = 1024,
    LQ_CONFIG_BYTES_MAX = 1 << 20,
    LQ_CONFIG_KEYS_MAX = 4096,
    LQ_CONFIG_ITEMS_MAX = 65536, /* strings of an array */
    LQ_REMOTES_MAX = 16,
    LQ_RESULT_BYTES_MAX = 16 << 20,  /* one result of a remote, with what is wrapped around it */
    LQ_RESULT_FILES_MAX = 1 << 20,   /* files an ActionResult names */
    LQ_LAYOUT_BYTES_MAX = 256 << 20, /* pieces of one blob, as text */
    LQ_OBJECT_BYTES_MAX = 16 << 20,  /* a larger blob is sent in pieces of this size */
    LQ_BUNDLE_HEAD_BYTES_MAX = 512 << 20,
    LQ_BUNDLE_ENTRIES_MAX = 1 << 22, /* results, or blobs, or objects */
    LQ_HUB_FILES_MAX = 100000,       /* in one folder of a repository of the Hugging Face hub */
    LQ_HUB_PAGES_MAX = 200,          /* of its list */
    LQ_HUB_PAGE_BYTES_MAX = 16 << 20,
    LQ_HUB_PATH_BYTES_MAX = 1024,
};

#define LQ_JSON_BYTES_MAX ((uint64_t)512 * 1024 * 1024)
#define LQ_SAFETENSORS_HEADER_BYTES_MAX ((uint64_t)100 * 1024 * 1024)
#define LQ_HUB_FILE_BYTES_MAX ((uint64_t)1 << 46)
#define LQ_GGUF_STRING_BYTES_MAX ((uint64_t)1 << 30)
#define LQ_TEXT_BYTES_MAX ((uint64_t)16 << 30)

#endif
