#include <pthread.h>

#include "kernels/kernels.h"
#include "kernels/table.h"

static struct lq_kernels tables[LQ_CPU_LEVEL_COUNT];
static enum lq_cpu_level level_best;
static const struct lq_kernels *chosen;
static pthread_once_t tables_once = PTHREAD_ONCE_INIT;

static void fill_tables(void)
{
    level_best = lq_cpu_level_best();
    for (int level = LQ_CPU_REF; level < LQ_CPU_LEVEL_COUNT; level++) {
        tables[level].level = (enum lq_cpu_level)level;
        lq_kernels_fill_ref(&tables[level]);
#if defined(__x86_64__)
        if (level >= LQ_CPU_AVX2) {
            lq_kernels_fill_avx2(&tables[level]);
        }
        if (level >= LQ_CPU_AVX512) {
            lq_kernels_fill_avx512(&tables[level]);
        }
#endif
    }
    chosen = &tables[level_best];
}

void lq_kernels_init(enum lq_cpu_level level_max)
{
    pthread_once(&tables_once, fill_tables);
    chosen = &tables[level_max < level_best ? level_max : level_best];
}

const struct lq_kernels *lq_kernels(void)
{
    pthread_once(&tables_once, fill_tables);
    return chosen;
}

void lq_kernels_replace(const struct lq_kernels *table)
{
    pthread_once(&tables_once, fill_tables);
    chosen = table == NULL ? &tables[level_best] : table;
}

const struct lq_kernels *lq_kernels_at(enum lq_cpu_level level)
{
    pthread_once(&tables_once, fill_tables);
    return level <= level_best ? &tables[level] : NULL;
}
