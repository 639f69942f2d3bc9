/* Hidden states between the layers of a model, as steps hand them on: outputs that only live until
 * the next layer has read them, so they lie in the cache's mapped file and not in memory; a step
 * holds one batch. The bytes, little-endian: u32 magic ("LQHS": f32, "LQHB": bf16), u32
 * sample_count, u32 sequence_length (rows of a sample), u32 width, then the rows. bf16 takes half
 * the space and rounds each value to 8 bits. Thread rule: that of the run. Limits:
 * LQ_SAMPLES_MAX, LQ_SEQUENCE_MAX, LQ_MODEL_DIM_MAX. */
#ifndef LQ_RULES_MODEL_HIDDEN_STATES_H
#define LQ_RULES_MODEL_HIDDEN_STATES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"
#include "engine/rule.h"
#include "rules/model/hparams.h"

/* Choices of the attribute "hidden" of artifacts whose steps keep hidden states. */
#define LQ_HIDDEN_CHOICES "f32 bf16"
#define LQ_HIDDEN_DEFAULT "f32"

struct lq_hidden_shape {
    uint32_t sample_count;
    uint32_t sequence_length;
    uint32_t width;
    bool is_bf16;
    /* Who makes them, for messages; not in the bytes. */
    uint32_t layer;
    bool is_mixture;
    enum lq_status overflow; /* what it is when bf16 cannot hold one */
};

enum { LQ_HIDDEN_HEADER_BYTES = 16 };
void lq_hidden_header(const struct lq_hidden_shape *shape,
                      unsigned char header[LQ_HIDDEN_HEADER_BYTES]);
/* Reads the header of an input and checks its size. LQ_EINTERNAL when it is damaged. */
enum lq_status lq_hidden_open(struct lq_run *run, const char *input, struct lq_hidden_shape *shape,
                              struct lq_error *err);
/* All rows of some samples, as floats. */
enum lq_status lq_hidden_read(struct lq_run *run, const char *input,
                              const struct lq_hidden_shape *shape, size_t first_sample,
                              size_t sample_count, float *rows, struct lq_error *err);
/* Begins an output with its header; rows are appended in order. */
enum lq_status lq_hidden_begin(struct lq_run *run, const char *output,
                               const struct lq_hidden_shape *shape, struct lq_error *err);
/* Rounds to bf16. Returns the first place of a finite value that becomes infinite, else `count`. */
size_t lq_hidden_round(const float *values, uint16_t *out, size_t count);
enum lq_status lq_hidden_write(struct lq_run *run, const char *output,
                               const struct lq_hidden_shape *shape, const float *rows,
                               size_t row_count, struct lq_error *err);

#endif
