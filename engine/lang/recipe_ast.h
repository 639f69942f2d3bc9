/* The syntax tree of a recipe: what was written, before any name is looked up. Nodes live in the
 * recipe's arena and are immutable once parsed. Lists are linked through `next`, in the order of
 * the text. Depth is bounded by LQ_RECIPE_DEPTH_MAX, so walks may recurse. */
#ifndef LQ_ENGINE_LANG_RECIPE_AST_H
#define LQ_ENGINE_LANG_RECIPE_AST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "engine/lang/recipe.h"
#include "engine/lang/symbol.h"

enum lq_expr_kind {
    LQ_EXPR_STRING,
    LQ_EXPR_TEMPLATE, /* children: STRING and NAME, to be put together */
    LQ_EXPR_NUMBER,
    LQ_EXPR_BOOL,
    LQ_EXPR_NAME,
    LQ_EXPR_LIST,
    LQ_EXPR_MAP,     /* children: key, value, key, value */
    LQ_EXPR_SUM,     /* children; `sign` of each but the first is + or - */
    LQ_EXPR_PRODUCT, /* the same with * and / */
    LQ_EXPR_NEGATE,  /* one child */
};

struct lq_expr {
    struct lq_expr *next;
    enum lq_expr_kind kind;
    char sign;
    bool boolean;
    uint32_t child_count;
    struct lq_position position;
    union {
        const char *string;
        double number;
        struct lq_symbol *symbol;
        struct lq_expr *children;
    } is;
};

enum lq_item_kind {
    LQ_ITEM_LET,
    LQ_ITEM_FOR,
    LQ_ITEM_INCLUDE,
    LQ_ITEM_DEFAULT,
    LQ_ITEM_ARTIFACT,
};

struct lq_attr_node {
    struct lq_attr_node *next;
    struct lq_symbol *symbol;
    struct lq_position position;
    struct lq_expr *expr;
};

struct lq_item {
    struct lq_item *next;
    enum lq_item_kind kind;
    struct lq_position position; /* of the name: LET, FOR; of the rule: ARTIFACT */
    struct lq_symbol *symbol;    /* LET and FOR: the name; ARTIFACT: the rule */
    /* LET: value; FOR: list; DEFAULT: linked names; ARTIFACT: the name, STRING or TEMPLATE */
    struct lq_expr *expr;
    struct lq_item *items; /* FOR: body; INCLUDE: of the file, none when it was included before */
    struct lq_attr_node *attrs; /* ARTIFACT */
    struct lq_let *let;         /* LET at the top level */
};

enum lq_let_state { LQ_LET_NEW, LQ_LET_OPEN, LQ_LET_DONE, LQ_LET_FAILED };

/* A `let` at the top level. Its value is found when it is first needed, so order is free. */
struct lq_let {
    struct lq_symbol *symbol;
    struct lq_position position;
    const struct lq_expr *expr;
    enum lq_let_state state;
    struct lq_value *value;
};

#endif
