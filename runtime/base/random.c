#include "runtime/base/random.h"

#include <math.h>

void random_philox(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0], c1 = counter[1], c2 = counter[2], c3 = counter[3];
    uint32_t k0 = key[0], k1 = key[1];
    for (int round = 0; round < 10; round++) {
        uint64_t product0 = (uint64_t)0xD2511F53u * c0;
        uint64_t product1 = (uint64_t)0xCD9E8D57u * c2;
        uint32_t next0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
        uint32_t next2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c1 = (uint32_t)product1;
        c3 = (uint32_t)product0;
        c0 = next0;
        c2 = next2;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

uint64_t random_u64(Random *random) {
    uint32_t counter[4] = {(uint32_t)random->counter, (uint32_t)(random->counter >> 32),
                           (uint32_t)random->stream, (uint32_t)(random->stream >> 32)};
    uint32_t key[2] = {(uint32_t)random->key, (uint32_t)(random->key >> 32)};
    uint32_t out[4];
    random_philox(counter, key, out);
    random->counter++;
    return (uint64_t)out[1] << 32 | out[0];
}

double random_unit(Random *random) {
    return (double)(random_u64(random) >> 11) * 0x1p-53;
}

uint64_t random_below(Random *random, uint64_t bound) {
    /* multiply-shift; the bias is below bound / 2^64 */
    return (uint64_t)(((unsigned __int128)random_u64(random) * bound) >> 64);
}

float random_normal(Random *random) {
    double radius = sqrt(-2.0 * log(1.0 - random_unit(random)));
    return (float)(radius * cos(6.283185307179586 * random_unit(random)));
}
