/* Bit allocation: one choice per item so that the total cost is as small as a budget of bits
 * allows. The lower convex hull of each item's choices is walked in order of cost saved per bit,
 * which is what a Lagrange multiplier does (Shoham and Gersho, 1988), and the rest of the budget is
 * then filled with the single changes that still fit. Deterministic: ties go to the earlier item.
 * Thread rule: pure. Limits: LQ_ALLOCATION_CHOICES_MAX choices an item. */
#ifndef LQ_RULES_PROFILE_ALLOCATE_H
#define LQ_RULES_PROFILE_ALLOCATE_H

#include <stddef.h>
#include <stdint.h>

#include "engine/base/error.h"

enum { LQ_ALLOCATION_CHOICES_MAX = 32 };

struct lq_allocation_choice {
    uint64_t bits;
    double cost; /* finite, not negative */
};

struct lq_allocation_item {
    struct lq_allocation_choice choices[LQ_ALLOCATION_CHOICES_MAX];
    size_t choice_count;
};

/* chosen[i] is the number of the choice of item i. The sum of bits is at most `budget_bits`.
 * Errors: LQ_EPROFILE when even the cheapest choices are above the budget, LQ_ENOMEM. */
enum lq_status lq_allocate(const struct lq_allocation_item *items, size_t item_count,
                           uint64_t budget_bits, size_t *chosen, struct lq_error *err);
/* The least and the most bits that the items can take. */
void lq_allocation_range(const struct lq_allocation_item *items, size_t item_count, uint64_t *least,
                         uint64_t *most);

#endif
