/* The output formats of `quantize` that write a folder (smoothquant, gptq, awq): which options each
 * format knows, where the folder's files go, the tokenizer's files beside them, and the result.
 * A format's own file makes the recipe. Ownership: strings are of cli->arena. Thread rule: the main
 * thread. */
#ifndef LQ_ENGINE_CLI_QUANTIZE_FOLDER_H
#define LQ_ENGINE_CLI_QUANTIZE_FOLDER_H

#include "engine/base/json.h"
#include "engine/cli/command.h"
#include "engine/cli/quantize_report.h"
#include "engine/cli/recipe_text.h"

struct lq_quantize_folder {
    struct lq_cli *cli;
    const char *format; /* "smoothquant"; the report is named after it */
    const char *level;  /* "W8A8", as the result says */
    const char *words;  /* "weights and activations of 8 bits", likewise */
    /* More members of the result's JSON; may be NULL. */
    void (*put)(const struct lq_quantize_folder *folder, struct lq_json_writer *writer);
    const void *user; /* for `put` */
    /* Filled in by lq_quantize_folder_open. */
    const char *model;   /* as the user named it */
    const char *place;   /* where it is */
    const char *path;    /* the folder that is written: --output, or "<model>-<suffix>" */
    const char *weights; /* its model.safetensors */
    const char *config;  /* config.json */
    const char *report;  /* FORMAT.json */
    struct lq_quantize_report quality;
};

/* LQ_EUSAGE for an option of `quantize` that means nothing for this format, gguf included. A new
 * option of one format goes into the table there. */
enum lq_status lq_quantize_check_options(const struct lq_args *args, const char *format,
                                         struct lq_error *err);
/* Finds the model, names the files and sees whether a report is wanted; `cli` and `format` must be
 * set. */
enum lq_status lq_quantize_folder_open(struct lq_quantize_folder *folder, const char *suffix,
                                       struct lq_error *err);
/* Appends the artifacts `original` and `calib` (samples of at most 512 tokens). */
enum lq_status lq_quantize_folder_begin(const struct lq_quantize_folder *folder,
                                        struct lq_recipe_text *text, uint64_t samples_default,
                                        struct lq_error *err);
/* Builds the artifact `quantized` of the recipe, and the report that the options ask for; copies
 * the tokenizer's files and prints. */
enum lq_status lq_quantize_folder_run(const struct lq_quantize_folder *folder,
                                      struct lq_recipe_text *text, struct lq_error *err);

#endif
