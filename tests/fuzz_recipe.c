/* Fuzz target: loads any bytes as a recipe against a small registry; what parses is formatted, and
 * the formatted text must format to itself. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/buffer.h"
#include "engine/lang/recipe.h"
#include "tests/recipe_fake.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *text = (const char *)data;
    struct lq_recipe *recipe = NULL;
    struct lq_error err = {0};
    enum lq_status status = lq_recipe_parse(&recipe, text, size, "fuzz.lq", "/nonexistent",
                                            &fake_registry, NULL, 0, &err);
    /* Every failure has its sentence. */
    if ((status == LQ_OK) != (recipe != NULL) || (status != LQ_OK && err.message[0] == '\0')) {
        abort();
    }
    for (size_t i = 0; recipe != NULL && i < recipe->artifact_count; i++) {
        const struct lq_artifact *artifact = &recipe->artifacts[i];
        if (lq_recipe_find(recipe, artifact->name) != artifact) {
            abort();
        }
    }
    (void)(recipe != NULL ? lq_recipe_suggest(recipe, "modle") : NULL);
    struct lq_buffer once;
    struct lq_buffer twice;
    lq_buffer_init(&once);
    lq_buffer_init(&twice);
    if (lq_recipe_format(text, size, "fuzz.lq", &once, &err) == LQ_OK) {
        if (lq_recipe_format(lq_buffer_text(&once), once.size_bytes, "once.lq", &twice, &err) !=
                LQ_OK ||
            once.size_bytes != twice.size_bytes ||
            memcmp(lq_buffer_text(&once), lq_buffer_text(&twice), once.size_bytes) != 0) {
            abort();
        }
    } else if (recipe != NULL) {
        abort(); /* what loads has no syntax error */
    }
    lq_buffer_fini(&once);
    lq_buffer_fini(&twice);
    lq_recipe_destroy(recipe);
    return 0;
}
