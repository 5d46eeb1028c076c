#include "runtime/base/hash_vector.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

uint64_t hash_xxh3_avx2(const void *bytes, size_t size, uint64_t seed) {
    return XXH3_64bits_withSeed(bytes, size, seed);
}
