/* XXH3-64: the same value from every instruction set that this CPU has, at every length and address, and those that xxHash
 * publishes. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "runtime/base/hash.h"
#include "runtime/base/hash_vector.h"
#include "runtime/base/random.h"

enum { BYTES = 5000 };

typedef uint64_t Xxh3(const void *bytes, size_t size, uint64_t seed);

static void check_variant(Xxh3 *hash) {
    uint8_t bytes[BYTES + 64];
    Random random = {.key = 1};
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)random_u64(&random);
    for (size_t size = 0; size <= BYTES; size += size < 600 ? 1 : 61)
        for (size_t offset = 0; offset < 64; offset += 21)
            for (uint64_t seed = 0; seed < 2; seed++)
                assert_int_equal(hash(bytes + offset, size, seed),
                                 XXH3_64bits_withSeed(bytes + offset, size, seed));
}

static void test_variants(void **state) {
    (void)state;
    check_variant(hash_xxh3);
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx2")) check_variant(hash_xxh3_avx2);
    if (__builtin_cpu_supports("avx512f")) check_variant(hash_xxh3_avx512);
#endif
}

/* The sanity test of xxHash, some rows of it: bytes are those of its generator. */
static void test_published(void **state) {
    enum { PUBLISHED_BYTES = 2367 };
    uint8_t bytes[PUBLISHED_BYTES];
    uint64_t generator = 2654435761u;
    (void)state;
    for (size_t i = 0; i < sizeof bytes; i++) {
        bytes[i] = (uint8_t)(generator >> 56);
        generator *= 11400714785074694797u;
    }
    assert_int_equal(hash_xxh3(NULL, 0, 0), 0x2D06800538D394C2u);
    assert_int_equal(hash_xxh3(bytes, 2048, 0), 0xDD59E2C3A5F038E0u);
    assert_int_equal(hash_xxh3(bytes, 2240, 0), 0x6E73A90539CF2948u);
    assert_int_equal(hash_xxh3(bytes, sizeof bytes, 0), 0xCB37AEB9E5D361EDu);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_variants),
        cmocka_unit_test(test_published),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
