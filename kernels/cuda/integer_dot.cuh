#ifndef CUDA_INTEGER_DOT_CUH
#define CUDA_INTEGER_DOT_CUH

/* Exact sums of products of small signed integers packed in words, one instruction each on a GPU. */

#include "kernels/cuda/port.cuh"

#ifndef __CUDACC__
/* Signed part `index` of a word of parts of `bits` bits. */
DEVICE int32_t signed_part(uint32_t word, uint32_t bits, uint32_t index) {
    uint32_t part = word >> bits * index << (32 - bits);
    return (int32_t)part >> (32 - bits);
}
#endif

/* sum + four bytes of a times four bytes of b */
DEVICE int32_t dot4(uint32_t a, uint32_t b, int32_t sum) {
#ifdef __CUDACC__
    return __dp4a((int32_t)a, (int32_t)b, sum);
#else
    for (uint32_t i = 0; i < 4; i++)
        sum += signed_part(a, 8, i) * signed_part(b, 8, i);
    return sum;
#endif
}

/* sum + two halves of a times the lower two bytes of b */
DEVICE int32_t dot_lower2(uint32_t a, uint32_t b, int32_t sum) {
#ifdef __CUDACC__
    return __dp2a_lo((int32_t)a, (int32_t)b, sum);
#else
    for (uint32_t i = 0; i < 2; i++)
        sum += signed_part(a, 16, i) * signed_part(b, 8, i);
    return sum;
#endif
}

/* sum + two halves of a times the upper two bytes of b */
DEVICE int32_t dot_upper2(uint32_t a, uint32_t b, int32_t sum) {
#ifdef __CUDACC__
    return __dp2a_hi((int32_t)a, (int32_t)b, sum);
#else
    return dot_lower2(a, b >> 16, sum);
#endif
}

#endif
