#ifndef RUNTIME_BASE_RANDOM_H
#define RUNTIME_BASE_RANDOM_H

/* Philox4x32-10 (Salmon et al., SC 2011): random numbers as a pure function of (key, counter), so that a
 * request draws the same numbers wherever and whenever it runs. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Random {
    uint64_t key;
    uint64_t stream;  /* upper half of the counter: the request, the tensor, … */
    uint64_t counter; /* lower half: next draw */
} Random;

void random_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

uint64_t random_u64(Random *random);
double random_unit(Random *random);                    /* [0, 1), 53 bits */
uint64_t random_below(Random *random, uint64_t bound); /* [0, bound), bound > 0 */
float random_normal(Random *random);                   /* mean 0, deviation 1 */

SPILLWAY_EXTERN_C_END

#endif
