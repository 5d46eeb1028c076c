#ifndef RUNTIME_BASE_BYTES_H
#define RUNTIME_BASE_BYTES_H

/* Sizes that cannot overflow silently, alignment, and little-endian loads from unaligned bytes. */

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

/* *out = a * b; false (and *out unset) when it does not fit. */
static inline bool bytes_multiply(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_mul_overflow(a, b, out);
}

static inline bool bytes_add(uint64_t a, uint64_t b, uint64_t *out) {
    return !__builtin_add_overflow(a, b, out);
}

static inline bool is_power_of_two(uint64_t value) {
    return value != 0 && (value & (value - 1)) == 0;
}

/* alignment is a power of two */
static inline uint64_t align_up(uint64_t value, uint64_t alignment) {
    return (value + alignment - 1) & ~(alignment - 1);
}

static inline uint64_t divide_up(uint64_t value, uint64_t divisor) {
    return (value + divisor - 1) / divisor;
}

static inline uint16_t load_u16(const void *bytes) {
    uint16_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline uint32_t load_u32(const void *bytes) {
    uint32_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline uint64_t load_u64(const void *bytes) {
    uint64_t value;
    memcpy(&value, bytes, sizeof value);
    return value;
}

static inline void store_u16(void *bytes, uint16_t value) {
    memcpy(bytes, &value, sizeof value);
}

#endif
