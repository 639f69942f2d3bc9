/* Commands without a recipe file: each writes a small recipe, builds it with the same engine and
 * cache as any other, and prints a result. Paths in it are relative to the current folder. Memory
 * comes from cli->arena. Thread rule: the main thread. */
#ifndef LQ_ENGINE_CLI_QUICK_RECIPE_H
#define LQ_ENGINE_CLI_QUICK_RECIPE_H

#include "engine/base/json.h"
#include "engine/cli/command.h"
#include "engine/cli/recipe_text.h"

/* "tiny-llama" for "models/tiny-llama/" and for "tiny-llama.gguf". */
enum lq_status lq_quick_base_name(struct lq_cli *cli, const char *model, const char **name,
                                  struct lq_error *err);
/* Where a model is: `model` itself, a folder or a file, or the folder of a name of the Hugging Face
 * hub (hub_cache.h). The message is better than that of a rule. `path` may be NULL. */
enum lq_status lq_quick_find_model(struct lq_cli *cli, const char *model, const char **path,
                                   struct lq_error *err);
/* --calibration-data, else LQBUILD_CALIBRATION_DATA; NULL without both. */
const char *lq_quick_calibration_data(const struct lq_cli *cli);
/* The artifacts `words` and `calib` out of --calibration-data, --calibration-samples and
 * --sequence; `model` is the name of the model artifact. */
enum lq_status lq_quick_add_calibration(struct lq_cli *cli, struct lq_recipe_text *text,
                                        const char *model, uint64_t samples_default,
                                        struct lq_error *err);

struct lq_quick_build {
    const char *const *targets;
    size_t target_count;
    bool hide_summary;
    /* Prints the result once everything is in place; `writer` is an open object that belongs to
     * JSON output, NULL when people read. LQ_EQUALITY is a verdict on a result that is printed all
     * the same; other failures print nothing. */
    enum lq_status (*print)(void *user, struct lq_json_writer *writer, struct lq_buffer *out,
                            struct lq_error *err);
    void *user;
};
/* Parses the text, builds, prints. */
enum lq_status lq_quick_run(struct lq_cli *cli, const struct lq_recipe_text *text,
                            const struct lq_quick_build *build, struct lq_error *err);
/* The printing alone, for a result that needs no build. */
enum lq_status lq_quick_print(struct lq_cli *cli, const struct lq_quick_build *build,
                              struct lq_error *err);
/* True for --format json and for --json. */
bool lq_quick_wants_json(const struct lq_cli *cli);
/* Bytes of the weight files of a model: the file, or every .safetensors file of a folder. */
uint64_t lq_quick_model_bytes(struct lq_cli *cli, const char *model);

#endif
