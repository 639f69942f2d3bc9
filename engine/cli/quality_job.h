/* What `quality report` and `quality compare` have in common: a recipe with one original, some
 * quantized models and a report, and a place for the report. Memory comes from cli->arena; strings
 * of the caller are borrowed. Thread rule: the main thread. */
#ifndef LQ_ENGINE_CLI_QUALITY_JOB_H
#define LQ_ENGINE_CLI_QUALITY_JOB_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/error.h"
#include "engine/cli/command.h"
#include "engine/cli/recipe_text.h"

struct lq_quality_job {
    struct lq_cli *cli;
    const char *original;
    const char *const *quantized;
    size_t quantized_count;
    const char *report; /* NULL: nobody wants the file */
    char *folder;       /* made for the report and removed with it; NULL when it has a place */
};

/* Out of the operands: the original, then the quantized models; all must exist. */
enum lq_status lq_quality_job_init(struct lq_quality_job *job, struct lq_cli *cli,
                                   struct lq_error *err);
/* Gives the report the path `output`, or a folder for a while. */
enum lq_status lq_quality_job_place(struct lq_quality_job *job, const char *output,
                                    struct lq_error *err);
/* Removes that folder. */
void lq_quality_job_fini(struct lq_quality_job *job);
/* The models, named by their paths where these can be names, the artifact `words`, and `quality` up
 * to its last attribute: the caller may add more and ends it. */
enum lq_status lq_quality_job_write(const struct lq_quality_job *job, struct lq_recipe_text *text,
                                    struct lq_error *err);
/* Attributes of a report: what counts as too much, out of --fail-above, LQBUILD_QUALITY_THRESHOLD
 * (percent; more than that is said, 20 by default) and LQBUILD_COHERENCE_THRESHOLD, and whether
 * --coherence-check was given. */
enum lq_status lq_quality_put_limits(const struct lq_cli *cli, struct lq_recipe_text *text,
                                     struct lq_error *err);
/* LQBUILD_QUALITY_THRESHOLD, or 20: the growth of perplexity in percent that is warned of. */
enum lq_status lq_quality_threshold(double *percent, struct lq_error *err);
/* Warns when the perplexity of a model grew by more than that; an unknown growth (NaN) is none. */
enum lq_status lq_quality_warn(struct lq_cli *cli, const char *model, double delta_pct,
                               struct lq_error *err);

#endif
