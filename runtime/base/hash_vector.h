#ifndef RUNTIME_BASE_HASH_VECTOR_H
#define RUNTIME_BASE_HASH_VECTOR_H

/* XXH3-64 with the vectors of one instruction set; the caller knows that the CPU has it. The values are those of hash_xxh3. */

#include <stddef.h>
#include <stdint.h>

uint64_t hash_xxh3_avx2(const void *bytes, size_t size, uint64_t seed);
uint64_t hash_xxh3_avx512(const void *bytes, size_t size, uint64_t seed);

#endif
