/* Hidden states that stay on a GPU between the steps of a model (lq_run_hold_object), while they
 * and those of the next layer fit: then no row crosses the bus. Whoever else wants them reads them
 * like any input, in the format of hidden_states.h. 32-bit floats only: bf16 states are rounded by
 * the host. Ownership: the run's, once held. Thread rule: that of the run for what takes one;
 * reading and destroying, any thread. Limits: half of each GPU's memory. */
#ifndef LQ_RULES_MODEL_DEVICE_STATES_H
#define LQ_RULES_MODEL_DEVICE_STATES_H

#include "rules/model/forward_run.h"
#include "rules/model/hidden_states.h"

struct lq_device_states;

/* Holds an output; NULL where it must be written: on the CPU, or because it does not fit. */
struct lq_device_states *lq_device_states_hold(struct lq_forward_run *forward_run,
                                               const char *output,
                                               const struct lq_hidden_shape *shape);
/* The same on `count` devices of the run, which have batches of samples in turns (device_team.h).
 */
struct lq_device_states *lq_device_states_hold_parts(struct lq_forward_run *forward_run,
                                                     const char *output,
                                                     const struct lq_hidden_shape *shape,
                                                     size_t batch_samples, size_t count);
/* What an input is on the devices of this run in just this order; NULL where it must be read. */
struct lq_device_states *lq_device_states_find_parts(const struct lq_forward_run *forward_run,
                                                     const char *input, size_t batch_samples,
                                                     size_t count);
/* Whether an input is on some device: who has it then reads it on the thread that took the device,
 * others would wait for that one. */
bool lq_device_states_is_one(const struct lq_run *run, const char *input);
/* What an input is on the device of this run; NULL where it must be read. */
struct lq_device_states *lq_device_states_find(const struct lq_forward_run *forward_run,
                                               const char *input);
/* The rows of a sample; NULL without states. */
float *lq_device_states_at(const struct lq_device_states *states, size_t sample);

#endif
