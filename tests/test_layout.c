/* Layouts that come from outside: what they say of sizes, counts and digests is believed only when
 * it is right. */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cache/layout.h"
#include "tests/cache_helpers.h"

enum { OBJECT = 100000, REPEATS = 200 };

struct fixture {
    struct test_cache t;
    struct bytes object;
    struct bytes whole; /* the object again and again */
    char object_hex[LQ_DIGEST_HEX_BYTES];
    struct lq_digest digest; /* of the whole */
};

static void begin(struct fixture *f)
{
    test_cache_open(&f->t, 0);
    f->object = random_bytes(OBJECT, 1);
    struct lq_digest digest = put_bytes(&f->t, &f->object);
    (void)lq_digest_to_hex(&digest, f->object_hex);
    f->whole = (struct bytes){malloc((size_t)OBJECT * REPEATS), (size_t)OBJECT * REPEATS};
    for (size_t i = 0; i < REPEATS; i++) {
        memcpy(f->whole.data + i * OBJECT, f->object.data, OBJECT);
    }
    lq_digest_of(f->whole.data, f->whole.size, &f->digest);
}

static void end(struct fixture *f)
{
    free(f->object.data);
    free(f->whole.data);
    test_cache_close(&f->t);
}

/* A layout of `count` times the object, behind its first lines. */
static struct lq_buffer make_text(const struct fixture *f, const char *head, size_t count)
{
    struct lq_buffer text;
    lq_buffer_init(&text);
    lq_buffer_append_string(&text, head);
    for (size_t i = 0; i < count; i++) {
        lq_buffer_printf(&text, "object %s %d\n", f->object_hex, OBJECT);
    }
    return text;
}

static const char *decode(const struct fixture *f, const char *head, size_t count,
                          struct lq_layout *layout)
{
    struct lq_buffer text = make_text(f, head, count);
    const char *why = NULL;
    cr_assert_eq(lq_layout_decode(text.data, text.size_bytes, layout, &why, NULL), LQ_OK);
    lq_buffer_fini(&text);
    return why;
}

Test(layout, an_object_many_times_is_stored_once)
{
    struct fixture f;
    struct lq_layout layout;
    bool good = false;
    begin(&f);
    cr_assert_null(decode(&f, "lqbuild layout 1\nsize 20000000\n", REPEATS, &layout));
    uint64_t chunks = chunk_count(&f.t);
    cr_assert_eq(lq_layout_assemble(f.t.cache, &layout, &f.digest, NULL, &good, &f.t.err), LQ_OK,
                 "%s", f.t.err.message);
    cr_assert(good);
    cr_assert_eq(chunk_count(&f.t), chunks);
    expect_blob(&f.t, &f.digest, &f.whole);
    lq_layout_fini(&layout);
    end(&f);
}

Test(layout, another_digest_makes_nothing)
{
    struct fixture f;
    struct lq_layout layout;
    bool good = true;
    begin(&f);
    f.digest.bytes[0] ^= 1;
    cr_assert_null(decode(&f, "lqbuild layout 1\nsize 20000000\n", REPEATS, &layout));
    cr_assert_eq(lq_layout_assemble(f.t.cache, &layout, &f.digest, NULL, &good, &f.t.err), LQ_OK);
    cr_assert_not(good);
    cr_assert_not(lq_blob_exists(f.t.cache, &f.digest, NULL));
    expect_no_pending(&f.t);
    lq_layout_fini(&layout);
    end(&f);
}

Test(layout, can_be_cancelled)
{
    struct fixture f;
    struct lq_layout layout;
    atomic_bool cancel;
    bool good = true;
    begin(&f);
    atomic_init(&cancel, true);
    cr_assert_null(decode(&f, "lqbuild layout 1\nsize 20000000\n", REPEATS, &layout));
    cr_assert_eq(lq_layout_assemble(f.t.cache, &layout, &f.digest, &cancel, &good, &f.t.err),
                 LQ_ECANCELLED);
    cr_assert_not(good);
    expect_no_pending(&f.t);
    lq_layout_fini(&layout);
    end(&f);
}

Test(layout, sizes_and_counts_that_lie_are_refused)
{
    static const struct {
        const char *head;
        size_t count;
    } cases[] = {
        {"lqbuild layout 1\nsize 100001\n", 1},
        {"lqbuild layout 1\nsize 99999\n", 1},
        {"lqbuild layout 1\nsize 18446744073709551616\n", 1},
        {"lqbuild layout 1\nsize 18446744073709551615\n", 2},
        {"lqbuild layout 1\nsize 100000\n", 0},
        {"lqbuild layout 1\nsize 200000\nsplit %s 200000 3\n", 2},
        {"lqbuild layout 1\nsize 200000\nsplit %s 100001 2\n", 2},
        {"lqbuild layout 1\nsize 200000\nsplit %s 200000 1\n", 2},
        {"lqbuild layout 1\nsize 200000\nsplit %s 200000 0\n", 2},
        {"lqbuild layout 1\nsize 200000\nsplit %s 200000 4294967298\n", 2},
        {"lqbuild layout 1\nsize 200000\nsplit %s 200000 2\nsplit %s 200000 2\n", 2},
        {"lqbuild layout 2\nsize 100000\n", 1},
    };
    struct fixture f;
    begin(&f);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char head[512];
        struct lq_layout layout;
        (void)snprintf(head, sizeof head, cases[i].head, f.object_hex, f.object_hex);
        cr_expect_not_null(decode(&f, head, cases[i].count, &layout), "case %zu", i);
        lq_layout_fini(&layout);
    }
    end(&f);
}

/* The part is there already, and what its objects are meant to be is not looked at: then the whole
 * has another digest. */
Test(layout, a_part_that_is_not_its_objects_makes_nothing)
{
    struct fixture f;
    struct lq_layout layout;
    char head[512];
    char hex[LQ_DIGEST_HEX_BYTES];
    bool good = true;
    begin(&f);
    struct bytes other = random_bytes(2 * (size_t)OBJECT, 2);
    struct lq_digest part = put_bytes(&f.t, &other);
    lq_digest_of(f.whole.data, 2 * (size_t)OBJECT, &f.digest);
    (void)snprintf(head, sizeof head, "lqbuild layout 1\nsize 200000\nsplit %s 200000 2\n",
                   lq_digest_to_hex(&part, hex));
    cr_assert_null(decode(&f, head, 2, &layout));
    cr_assert_eq(lq_layout_assemble(f.t.cache, &layout, &f.digest, NULL, &good, &f.t.err), LQ_OK);
    cr_assert_not(good);
    lq_layout_fini(&layout);
    free(other.data);
    end(&f);
}
