/* Mutator for binary formats full of counts: every other time one 32 or 64-bit field becomes a value at which parsers break. */

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t size_max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed);

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t size_max, unsigned seed) {
    unsigned state = seed;
    if (size < 8 || rand_r(&state) % 2) return LLVMFuzzerMutate(data, size, size_max);
    size_t at = (size_t)rand_r(&state) % (size - 7);
    const uint64_t edges[] = {0,          1,
                              UINT64_MAX, 1ull << 31,
                              1ull << 63, size - at - 1,
                              size - at,  size - at + 1,
                              size,       UINT32_MAX};
    uint64_t edge = edges[(size_t)rand_r(&state) % (sizeof edges / sizeof *edges)];
    memcpy(data + at, &edge, rand_r(&state) % 2 ? 4 : 8);
    return size;
}
