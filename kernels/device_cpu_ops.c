#include <limits.h>
#include <math.h>
#include <string.h>

#include "kernels/device_cpu_parts.h"

/* Sizes of tasks; they decide no sums. */
enum {
    ROW_GROUP = 16,
    ELEM_GROUP = 16 * 1024,
};

/* ---- elementwise ---- */

struct elem_job {
    const struct lq_device_rows *fn;
    float *x;
    const float *y;
    size_t count;
    float cap;
};

static void gelu_tile(void *user, size_t index)
{
    const struct elem_job *job = user;
    size_t first = index * ELEM_GROUP;
    job->fn->gelu_mul(job->x + first, job->y + first, lq_min_size(ELEM_GROUP, job->count - first));
}

void lq_cpu_gelu_mul(struct lq_device *device, float *gate, const float *up, size_t count)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct elem_job job = {cpu->rows, gate, up, count, 0.0f};
    lq_cpu_run_tiles(cpu, lq_divide_up(count, ELEM_GROUP), gelu_tile, &job);
}

static void cap_tile(void *user, size_t index)
{
    const struct elem_job *job = user;
    size_t first = index * ELEM_GROUP;
    job->fn->soft_cap(job->x + first, lq_min_size(ELEM_GROUP, job->count - first), 1.0f, job->cap);
}

void lq_cpu_soft_cap(struct lq_device *device, float *x, size_t count, float cap)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct elem_job job = {cpu->rows, x, NULL, count, cap};
    lq_cpu_run_tiles(cpu, lq_divide_up(count, ELEM_GROUP), cap_tile, &job);
}

/* ---- rows ---- */

struct row_job {
    const struct lq_device_rows *fn;
    const float *x;
    const int32_t *sources;
    const struct lq_route *route;
    float *out;
    size_t rows;
    size_t used;
    size_t cols;
    const float *grad;
    size_t expert_count;
};

static void bias_tile(void *user, size_t index)
{
    const struct row_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        job->fn->add(job->out + r * job->cols, job->x, job->cols);
    }
}

void lq_cpu_add_bias(struct lq_device *device, float *x, const float *bias, size_t rows,
                     size_t cols)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct row_job job = {.fn = cpu->rows, .x = bias, .out = x, .rows = rows, .cols = cols};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), bias_tile, &job);
}

static void round_tile(void *user, size_t index)
{
    const struct row_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        job->fn->round_levels(job->x + r * job->cols, job->out + r * job->cols, job->cols);
    }
}

void lq_cpu_round_rows(struct lq_device *device, const float *x, float *out, size_t rows,
                       size_t cols)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct row_job job = {.fn = cpu->rows, .x = x, .out = out, .rows = rows, .cols = cols};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), round_tile, &job);
}

static void gather_tile(void *user, size_t index)
{
    const struct row_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t i = index * ROW_GROUP; i < end; i++) {
        memcpy(job->out + i * job->cols, job->x + (size_t)job->sources[i] * job->cols,
               job->cols * sizeof *job->out);
    }
}

void lq_cpu_gather_rows(struct lq_device *device, const float *x, const int32_t *sources,
                        float *out, size_t count, size_t cols)
{
    struct row_job job = {.x = x, .sources = sources, .out = out, .rows = count, .cols = cols};
    lq_cpu_run_tiles(lq_cpu_of(device), lq_divide_up(count, ROW_GROUP), gather_tile, &job);
}

static void combine_tile(void *user, size_t index)
{
    const struct row_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        float *out = job->out + r * job->cols;
        memset(out, 0, job->cols * sizeof *out);
        for (size_t k = 0; k < job->used; k++) {
            const float *x = job->x + (size_t)job->route->slots[r * job->used + k] * job->cols;
            float weight =
                job->route->weights == NULL ? 1.0f : job->route->weights[r * job->used + k];
            for (size_t j = 0; j < job->cols; j++) {
                out[j] += weight * x[j];
            }
        }
    }
}

void lq_cpu_combine_rows(struct lq_device *device, const float *x, const struct lq_route *route,
                         float *out, size_t rows, size_t used, size_t cols)
{
    struct row_job job = {
        .x = x, .route = route, .out = out, .rows = rows, .used = used, .cols = cols};
    lq_cpu_run_tiles(lq_cpu_of(device), lq_divide_up(rows, ROW_GROUP), combine_tile, &job);
}

/* ---- routing ---- */

struct route_job {
    const float *logits;
    size_t rows;
    size_t expert_count;
    size_t used;
    const struct lq_route *route;
};

/* The softmax over all experts; `out` may be `logits`. */
static void spread_experts(const float *logits, size_t count, float largest, float *out)
{
    float sum = 0.0f;
    for (size_t e = 0; e < count; e++) {
        out[e] = expf(logits[e] - largest);
        sum += out[e];
    }
    for (size_t e = 0; e < count; e++) {
        out[e] /= sum;
    }
}

/* The experts of a row stand in `slots` until the slots are known. */
static void choose_experts(const struct route_job *job, size_t row)
{
    const float *logits = job->logits + row * job->expert_count;
    int32_t *chosen = job->route->slots + row * job->used;
    float *weights = job->route->weights + row * job->used;
    float sum = 0.0f;
    for (size_t k = 0; k < job->used; k++) {
        size_t best = SIZE_MAX;
        for (size_t e = 0; e < job->expert_count; e++) {
            bool taken = false;
            for (size_t i = 0; i < k && !taken; i++) {
                taken = (size_t)chosen[i] == e;
            }
            if (!taken && (best == SIZE_MAX || logits[e] > logits[best])) {
                best = e;
            }
        }
        chosen[k] = (int32_t)best;
        weights[k] = expf(logits[best] - logits[chosen[0]]);
        sum += weights[k];
    }
    float *all = job->route->all == NULL ? NULL : job->route->all + row * job->expert_count;
    if (all != NULL && job->used != 0) {
        spread_experts(logits, job->expert_count, logits[chosen[0]], all);
    }
    for (size_t k = 0; k < job->used; k++) {
        weights[k] = all != NULL ? all[chosen[k]] : weights[k] / sum;
    }
}

static void route_tile(void *user, size_t index)
{
    const struct route_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        choose_experts(job, r);
    }
}

/* A counting sort by expert; `starts` is where the next row of an expert goes, shifted by one. */
static void place_rows(const struct route_job *job)
{
    const struct lq_route *route = job->route;
    size_t total = job->rows * job->used;
    memset(route->starts, 0, (job->expert_count + 1) * sizeof *route->starts);
    for (size_t i = 0; i < total; i++) {
        route->starts[route->slots[i] + 1]++;
    }
    for (size_t e = 0; e < job->expert_count; e++) {
        route->starts[e + 1] += route->starts[e];
    }
    for (size_t i = 0; i < total; i++) {
        int32_t slot = route->starts[route->slots[i]]++;
        route->slots[i] = slot;
        route->sources[slot] = (int32_t)(i / job->used);
    }
    memmove(route->starts + 1, route->starts, job->expert_count * sizeof *route->starts);
    route->starts[0] = 0;
}

void lq_cpu_route(struct lq_device *device, const float *logits, size_t rows, size_t expert_count,
                  size_t used, const struct lq_route *route)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct route_job job = {logits, rows, expert_count, used, route};
    if (used > expert_count || (used != 0 && rows > (size_t)INT_MAX / used)) {
        cpu->failure = "a batch has too many rows for its experts";
    }
    if (cpu->failure == NULL) {
        lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), route_tile, &job);
        place_rows(&job);
    }
}

/* ---- routing backward ---- */

/* The expert of a slot: the last whose slots begin at or before it. */
static size_t expert_of_slot(const struct lq_route *route, size_t expert_count, int32_t slot)
{
    size_t low = 0;
    size_t high = expert_count - 1;
    while (low < high) {
        size_t middle = (low + high + 1) / 2;
        if (route->starts[middle] <= slot) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    return low;
}

/* With s_k = x_k . grad_k for the experts of a row, the gradient of expert k's logit is
 * w_k (s_k - sum of w_j s_j). Where weights are a softmax over all experts, those that the row does
 * not use have s = 0 and share in it. */
static void route_back_tile(void *user, size_t index)
{
    const struct row_job *job = user;
    const struct lq_route *route = job->route;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t r = index * ROW_GROUP; r < end; r++) {
        const int32_t *slots = route->slots + r * job->used;
        const float *weights = route->weights + r * job->used;
        float *out = job->out + r * job->expert_count;
        float mean = 0.0f;
        memset(out, 0, job->expert_count * sizeof *out);
        for (size_t k = 0; k < job->used; k++) {
            size_t at = (size_t)slots[k] * job->cols;
            float slope = (float)job->fn->dot(job->x + at, job->grad + at, NULL, job->cols);
            out[expert_of_slot(route, job->expert_count, slots[k])] = slope;
            mean += weights[k] * slope;
        }
        const float *all = route->all == NULL ? NULL : route->all + r * job->expert_count;
        for (size_t e = 0; all != NULL && e < job->expert_count; e++) {
            out[e] = all[e] * (out[e] - mean);
        }
        for (size_t k = 0; all == NULL && k < job->used; k++) {
            float *slope = &out[expert_of_slot(route, job->expert_count, slots[k])];
            *slope = weights[k] * (*slope - mean);
        }
    }
}

void lq_cpu_route_back(struct lq_device *device, const float *x, const float *grad,
                       const struct lq_route *route, float *logits_grad, size_t rows,
                       size_t expert_count, size_t used, size_t cols)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct row_job job = {.fn = cpu->rows,
                          .x = x,
                          .grad = grad,
                          .route = route,
                          .out = logits_grad,
                          .rows = rows,
                          .used = used,
                          .cols = cols,
                          .expert_count = expert_count};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), route_back_tile, &job);
}

static void weigh_tile(void *user, size_t index)
{
    const struct row_job *job = user;
    size_t end = lq_min_size((index + 1) * ROW_GROUP, job->rows);
    for (size_t i = index * ROW_GROUP * job->used; i < end * job->used; i++) {
        job->fn->scale(job->out + (size_t)job->route->slots[i] * job->cols, job->cols,
                       job->route->weights[i]);
    }
}

void lq_cpu_weigh_rows(struct lq_device *device, float *x, const struct lq_route *route,
                       size_t rows, size_t used, size_t cols)
{
    struct lq_cpu_device *cpu = lq_cpu_of(device);
    struct row_job job = {
        .fn = cpu->rows, .route = route, .out = x, .rows = rows, .used = used, .cols = cols};
    lq_cpu_run_tiles(cpu, lq_divide_up(rows, ROW_GROUP), weigh_tile, &job);
}
