#ifndef KERNELS_ATTEND_RANGE_H
#define KERNELS_ATTEND_RANGE_H

/* Which tokens of a block a row sees, for the attention kernels of every backend. Pure functions. */

#include "kernels/kernels.h"

/* Token indices [begin, end) inside a block; begin == end: none. */
typedef struct TokenRange {
    uint32_t begin, end;
} TokenRange;

/* Row `row` of the run (counted from row_first) against block `block` (counted from block_ordinal_first). */
static inline TokenRange attend_range(const AttendArgs *args, const AttendRun *run, uint32_t row,
                                      uint32_t block) {
    uint64_t capacity = args->shape.block_tokens;
    uint64_t block_begin = ((uint64_t)run->block_ordinal_first + block) * capacity;
    uint64_t seen_end = (uint64_t)run->position_first + row + 1;
    uint64_t seen_begin = args->window && seen_end > args->window ? seen_end - args->window : 0;
    uint64_t begin = seen_begin > block_begin ? seen_begin - block_begin : 0;
    uint64_t end = seen_end > block_begin ? seen_end - block_begin : 0;
    TokenRange range = {(uint32_t)(begin < capacity ? begin : capacity),
                        (uint32_t)(end < capacity ? end : capacity)};
    if (range.begin > range.end) range.begin = range.end;
    return range;
}

#endif
