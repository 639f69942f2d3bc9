#include "engine/base/status.h"

struct status_row {
    int exit_code;
    const char *name;
    const char *type;
    const char *words;
};

static const struct status_row rows[] = {
#define LQ_STATUS(name, exit_code, type, words) {exit_code, #name, type, words},
    LQ_STATUS_LIST(LQ_STATUS)
#undef LQ_STATUS
};

static const struct status_row *find_row(enum lq_status status)
{
    unsigned index = (unsigned)status;
    return index < (unsigned)LQ_STATUS_COUNT ? &rows[index] : &rows[LQ_EINTERNAL];
}

const char *lq_status_name(enum lq_status status)
{
    return find_row(status)->name;
}

const char *lq_status_type(enum lq_status status)
{
    return find_row(status)->type;
}

const char *lq_status_text(enum lq_status status)
{
    return find_row(status)->words;
}

int lq_status_exit_code(enum lq_status status)
{
    return find_row(status)->exit_code;
}
