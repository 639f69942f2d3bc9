#include "kernels/tables/near.h"

#include <pthread.h>
#include <stddef.h>

#include "kernels/tables/grids.h"

#define HALF_CELLS_MAX 81 /* 3^4 or 8^2: cells of one half of the coordinates */

struct grid {
    const uint16_t *points;
    size_t point_count;
    unsigned dims, digit_bits, radix;
    int levels[8];
};

struct halves {
    size_t cell_count; /* of one half */
    uint32_t distance[HALF_CELLS_MAX][HALF_CELLS_MAX];
};

static unsigned digit_of(const struct grid *grid, uint16_t point, unsigned coordinate)
{
    return (unsigned)point >> (coordinate * grid->digit_bits) & ((1u << grid->digit_bits) - 1);
}

/* Number of the cell that coordinates first ... first + dims / 2 - 1 of a point lie in. */
static size_t half_cell(const struct grid *grid, uint16_t point, unsigned first)
{
    size_t cell = 0;
    for (unsigned k = grid->dims / 2; k-- > 0;) {
        cell = cell * grid->radix + digit_of(grid, point, first + k);
    }
    return cell;
}

static void measure_halves(const struct grid *grid, struct halves *halves)
{
    halves->cell_count = 1;
    for (unsigned k = 0; k < grid->dims / 2; k++) {
        halves->cell_count *= grid->radix;
    }
    for (size_t a = 0; a < halves->cell_count; a++) {
        for (size_t b = 0; b < halves->cell_count; b++) {
            uint32_t sum = 0;
            for (size_t left = a, right = b; left != right;
                 left /= grid->radix, right /= grid->radix) {
                int gap = grid->levels[left % grid->radix] - grid->levels[right % grid->radix];
                sum += (uint32_t)(gap * gap);
            }
            halves->distance[a][b] = sum;
        }
    }
}

/* The nearest points of a cell by insertion; `low` and `high` are the rows of its halves. */
static void list_cell(const struct grid *grid, const uint8_t (*point_cells)[2], const uint32_t *low,
                      const uint32_t *high, uint32_t *pairs)
{
    uint16_t near[LQ_NEAR_POINTS];
    uint32_t distance[LQ_NEAR_POINTS];
    size_t count = 0;
    for (size_t i = 0; i < grid->point_count; i++) {
        uint32_t sum = low[point_cells[i][0]] + high[point_cells[i][1]];
        if (count == LQ_NEAR_POINTS && sum >= distance[count - 1]) {
            continue;
        }
        size_t at = count < LQ_NEAR_POINTS ? count++ : count - 1;
        for (; at > 0 && distance[at - 1] > sum; at--) {
            distance[at] = distance[at - 1];
            near[at] = near[at - 1];
        }
        distance[at] = sum;
        near[at] = grid->points[i];
    }
    for (size_t i = 0; i < LQ_NEAR_PAIRS; i++) {
        pairs[i] = near[2 * i] | (uint32_t)near[2 * i + 1] << 16;
    }
}

static void list_cells(const struct grid *grid, uint32_t *pairs, uint16_t *index)
{
    struct halves halves;
    uint8_t point_cells[2048][2];
    measure_halves(grid, &halves);
    for (size_t i = 0; i < grid->point_count; i++) {
        point_cells[i][0] = (uint8_t)half_cell(grid, grid->points[i], 0);
        point_cells[i][1] = (uint8_t)half_cell(grid, grid->points[i], grid->dims / 2);
        index[point_cells[i][0] + point_cells[i][1] * halves.cell_count] = (uint16_t)i;
    }
    for (size_t high = 0; high < halves.cell_count; high++) {
        for (size_t low = 0; low < halves.cell_count; low++) {
            size_t cell = low + high * halves.cell_count;
            list_cell(grid, point_cells, halves.distance[low], halves.distance[high],
                      pairs + cell * LQ_NEAR_PAIRS);
        }
    }
}

/* The lists of one grid and the function that builds them once. */
#define NEAR_LISTS(name, count, cells, ...)                                                        \
    static uint32_t name##_pairs[(cells)*LQ_NEAR_PAIRS];                                           \
    static uint16_t name##_index[cells];                                                           \
    static void name##_build(void)                                                                 \
    {                                                                                              \
        static const struct grid grid = {lq_grid_##name, count, __VA_ARGS__};                      \
        list_cells(&grid, name##_pairs, name##_index);                                             \
    }                                                                                              \
    struct lq_near lq_near_##name(void)                                                            \
    {                                                                                              \
        static pthread_once_t once = PTHREAD_ONCE_INIT;                                            \
        pthread_once(&once, name##_build);                                                         \
        return (struct lq_near){name##_pairs, name##_index};                                       \
    }

#define LEVELS_IQ2                                                                                 \
    {                                                                                              \
        8, 25, 43                                                                                  \
    }
#define LEVELS_IQ3XXS                                                                              \
    {                                                                                              \
        4, 12, 20, 28, 36, 44, 52, 62                                                              \
    }
#define LEVELS_IQ3S                                                                                \
    {                                                                                              \
        1, 3, 5, 7, 9, 11, 13, 15                                                                  \
    }

NEAR_LISTS(iq2xxs, 256, LQ_NEAR_CELLS_3_8, 8, 2, 3, LEVELS_IQ2)
NEAR_LISTS(iq2xs, 512, LQ_NEAR_CELLS_3_8, 8, 2, 3, LEVELS_IQ2)
NEAR_LISTS(iq2s, 1024, LQ_NEAR_CELLS_3_8, 8, 2, 3, LEVELS_IQ2)
NEAR_LISTS(iq3xxs, 256, LQ_NEAR_CELLS_8_4, 4, 3, 8, LEVELS_IQ3XXS)
NEAR_LISTS(iq3s, 512, LQ_NEAR_CELLS_8_4, 4, 3, 8, LEVELS_IQ3S)
NEAR_LISTS(iq1s, 2048, LQ_NEAR_CELLS_3_8, 8, 2, 3, {-1, 0, 1})
