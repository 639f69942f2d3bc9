#include "rules/profile/allocate.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>

/* One move along an item's hull: from its previous choice to `choice`. */
struct move {
    size_t item;
    size_t rank; /* place on the hull, from 1 */
    size_t choice;
    uint64_t bits; /* that it adds */
    double slope;  /* cost saved per bit */
};

static int compare_moves(const void *a, const void *b)
{
    const struct move *x = a;
    const struct move *y = b;
    if (x->slope != y->slope) {
        return x->slope > y->slope ? -1 : 1;
    }
    if (x->item != y->item) {
        return x->item < y->item ? -1 : 1;
    }
    return x->rank < y->rank ? -1 : x->rank > y->rank;
}

void lq_allocation_range(const struct lq_allocation_item *items, size_t item_count, uint64_t *least,
                         uint64_t *most)
{
    *least = 0;
    *most = 0;
    for (size_t i = 0; i < item_count; i++) {
        uint64_t low = UINT64_MAX;
        uint64_t high = 0;
        for (size_t c = 0; c < items[i].choice_count; c++) {
            uint64_t bits = items[i].choices[c].bits;
            low = bits < low ? bits : low;
            high = bits > high ? bits : high;
        }
        *least += items[i].choice_count > 0 ? low : 0;
        *most += high;
    }
}

/* The choice with the fewest bits; among equals the cheaper, then the earlier. */
static size_t smallest_choice(const struct lq_allocation_item *item)
{
    size_t best = 0;
    for (size_t c = 1; c < item->choice_count; c++) {
        const struct lq_allocation_choice *a = &item->choices[c];
        const struct lq_allocation_choice *b = &item->choices[best];
        if (a->bits < b->bits || (a->bits == b->bits && a->cost < b->cost)) {
            best = c;
        }
    }
    return best;
}

/* Appends the moves along the lower convex hull of an item; returns how many. */
static size_t hull_moves(const struct lq_allocation_item *items, size_t index, struct move *moves)
{
    const struct lq_allocation_item *item = &items[index];
    size_t at = smallest_choice(item);
    size_t count = 0;
    for (;;) {
        const struct lq_allocation_choice *here = &item->choices[at];
        size_t best = at;
        double best_slope = 0.0;
        for (size_t c = 0; c < item->choice_count; c++) {
            const struct lq_allocation_choice *there = &item->choices[c];
            if (there->bits <= here->bits || there->cost >= here->cost) {
                continue;
            }
            double slope = (here->cost - there->cost) / (double)(there->bits - here->bits);
            if (slope > best_slope) {
                best_slope = slope;
                best = c;
            }
        }
        if (best == at) {
            return count;
        }
        moves[count] = (struct move){index, count + 1, best, item->choices[best].bits - here->bits,
                                     best_slope};
        count++;
        at = best;
    }
}

/* Makes the single change that saves most per bit and still fits; false when there is none. */
static bool fill_once(const struct lq_allocation_item *items, size_t item_count, uint64_t *left,
                      size_t *chosen)
{
    size_t best_item = item_count;
    size_t best_choice = 0;
    double best_slope = 0.0;
    for (size_t i = 0; i < item_count; i++) {
        const struct lq_allocation_choice *here = &items[i].choices[chosen[i]];
        for (size_t c = 0; c < items[i].choice_count; c++) {
            const struct lq_allocation_choice *there = &items[i].choices[c];
            if (there->cost >= here->cost || there->bits < here->bits ||
                there->bits - here->bits > *left) {
                continue;
            }
            uint64_t bits = there->bits - here->bits;
            double slope = (here->cost - there->cost) / (bits > 0 ? (double)bits : 1.0);
            if (slope > best_slope) {
                best_slope = slope;
                best_item = i;
                best_choice = c;
            }
        }
    }
    if (best_item == item_count) {
        return false;
    }
    *left -= items[best_item].choices[best_choice].bits -
             items[best_item].choices[chosen[best_item]].bits;
    chosen[best_item] = best_choice;
    return true;
}

enum lq_status lq_allocate(const struct lq_allocation_item *items, size_t item_count,
                           uint64_t budget_bits, size_t *chosen, struct lq_error *err)
{
    uint64_t least = 0;
    uint64_t most = 0;
    lq_allocation_range(items, item_count, &least, &most);
    if (least > budget_bits) {
        return lq_error_set(err, LQ_EPROFILE,
                            "the budget of %" PRIu64 " bits is below the %" PRIu64
                            " that the smallest types need",
                            budget_bits, least);
    }
    struct move *moves = calloc(item_count * LQ_ALLOCATION_CHOICES_MAX + 1, sizeof *moves);
    bool *stopped = calloc(item_count + 1, sizeof *stopped);
    if (moves == NULL || stopped == NULL) {
        free(moves);
        free(stopped);
        return lq_error_nomem(err, "a bit allocation");
    }
    size_t move_count = 0;
    for (size_t i = 0; i < item_count; i++) {
        chosen[i] = smallest_choice(&items[i]);
        move_count += hull_moves(items, i, moves + move_count);
    }
    qsort(moves, move_count, sizeof *moves, compare_moves);
    uint64_t left = budget_bits - least;
    for (size_t m = 0; m < move_count; m++) {
        /* An item that could not move once stays: its next move starts from where it would be. */
        if (!stopped[moves[m].item] && moves[m].bits <= left) {
            chosen[moves[m].item] = moves[m].choice;
            left -= moves[m].bits;
        } else {
            stopped[moves[m].item] = true;
        }
    }
    while (fill_once(items, item_count, &left, chosen)) {
    }
    free(moves);
    free(stopped);
    return LQ_OK;
}
