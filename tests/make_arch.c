/* Writes a synthetic model of the architecture and the sizes that a config.json says, for
 * benchmarks:
 *
 *     make_arch CONFIG.json OUT
 *
 * CONFIG.json may be the name of a row of arch_configs.h instead. OUT becomes a Hugging Face folder
 * with bf16 weights; see make_arch.h. */
#include "tests/make_arch.h"
#include "tests/arch_configs.h"

int main(int argc, char **argv)
{
    struct lq_error err;
    struct lq_buffer config;
    if (argc != 3) {
        (void)fputs("usage: make_arch CONFIG.json OUT\n", stderr);
        return 2;
    }
    lq_error_clear(&err);
    lq_buffer_init(&config);
    const struct arch_config *known = arch_config_find(argv[1]);
    enum lq_status status = LQ_OK;
    if (known == NULL) {
        status = lq_file_read(argv[1], LQ_CONFIG_BYTES_MAX, &config, &err);
    }
    if (status == LQ_OK) {
        status = make_arch_write(known == NULL ? lq_buffer_text(&config) : known->text, argv[2],
                                 NULL, NULL, &err);
    }
    lq_buffer_fini(&config);
    if (status != LQ_OK) {
        (void)fprintf(stderr, "make_arch: %s\n", err.message);
    }
    return status == LQ_OK ? 0 : 1;
}
