#ifndef CUDA_TENSOR_PRODUCT_CUH
#define CUDA_TENSOR_PRODUCT_CUH

/* A warp's product of small integer matrices on the tensor cores: c[16][8] += a[16][k] * b[k][8], signed bytes into 32-bit sums,
 * which are exact. With g = lane / 4 and t = lane % 4, a lane holds
 *
 *   a   words of four bytes along k: (row g, bytes 4t …), (row g + 8, 4t …), and for k = 32 (g, 16 + 4t …), (g + 8, 16 + 4t …)
 *   b   (column g, bytes 4t …), and for k = 32 (g, 16 + 4t …)
 *   c   (g, 2t), (g, 2t + 1), (g + 8, 2t), (g + 8, 2t + 1)
 *
 * Of 16-bit floats, f16 or bfloat16, c[16][8] += a[16][16] * b[16][8] in f32, in an order that is the hardware's:
 *
 *   a   words of two numbers along k, the lower first: (row g, k 2t …), (g + 8, 2t …), (g, 2t + 8 …), (g + 8, 2t + 8 …)
 *   b   (column g, k 2t …), (g, 2t + 8 …)
 *   c   as above
 *
 * All lanes, at the same line. GPUs before compute capability 8.0 do it in pieces of 8 rows and k = 16; in the emulation each lane sees what all hold. */

#include "kernels/cuda/integer_dot.cuh"
#include "kernels/cuda/port.cuh"

#ifdef __CUDACC__

/* Eight rows, k = 16. */
DEVICE void tensor_product_8(int32_t *c, uint32_t a, uint32_t b) {
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32.s8.s8.s32 {%0, %1}, {%2}, {%3}, {%0, %1};"
                 : "+r"(c[0]), "+r"(c[1])
                 : "r"(a), "r"(b));
}

DEVICE void tensor_product_16(int32_t *c, uint32_t a0, uint32_t a1, uint32_t b) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, "
                 "{%6}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(b));
#else
    tensor_product_8(c, a0, b);
    tensor_product_8(c + 2, a1, b);
#endif
}

DEVICE void tensor_product_32(int32_t *c, const uint32_t *a, const uint32_t *b) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, "
                 "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
    tensor_product_16(c, a[0], a[1], b[0]);
    tensor_product_16(c, a[2], a[3], b[1]);
#endif
}

/* From compute capability 8.0 on. */
#if __CUDA_ARCH__ >= 800
#define TENSOR_PRODUCT_FLOATS(format, c, a, b)                                          \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." format "." format             \
                 ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
                 : "+f"((c)[0]), "+f"((c)[1]), "+f"((c)[2]), "+f"((c)[3])               \
                 : "r"((a)[0]), "r"((a)[1]), "r"((a)[2]), "r"((a)[3]), "r"((b)[0]), "r"((b)[1]))
#else
#define TENSOR_PRODUCT_FLOATS(format, c, a, b) \
    ((void)(c), (void)(a), (void)(b),          \
     defect(format " on tensor cores before compute capability 8.0"))
#endif

DEVICE void tensor_product_f16(float *c, const uint32_t *a, const uint32_t *b) {
    TENSOR_PRODUCT_FLOATS("f16", c, a, b);
}

DEVICE void tensor_product_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    TENSOR_PRODUCT_FLOATS("bf16", c, a, b);
}

#else

struct TensorWords {
    uint32_t upper, lower, b;
};

DEVICE void tensor_product_16(int32_t *c, uint32_t a0, uint32_t a1, uint32_t b) {
    EmulatedLanes<TensorWords> lanes = emulated_lanes(TensorWords{a0, a1, b});
    uint32_t row = warp_lane() / 4 * 4, column = warp_lane() % 4 * 8;
    for (uint32_t word = 0; word < 4; word++) {
        TensorWords a = lanes[row + word];
        uint32_t left = lanes[column + word].b, right = lanes[column + 4 + word].b;
        c[0] = dot4(a.upper, left, c[0]);
        c[1] = dot4(a.upper, right, c[1]);
        c[2] = dot4(a.lower, left, c[2]);
        c[3] = dot4(a.lower, right, c[3]);
    }
}

DEVICE void tensor_product_32(int32_t *c, const uint32_t *a, const uint32_t *b) {
    tensor_product_16(c, a[0], a[1], b[0]);
    tensor_product_16(c, a[2], a[3], b[1]);
}

struct TensorFloats {
    float a[8], b[4];
};

/* In rising k, one fused multiply-add a term. */
DEVICE void tensor_product_floats(float *c, const TensorFloats &mine) {
    EmulatedLanes<TensorFloats> lanes = emulated_lanes(mine);
    uint32_t row = warp_lane() / 4 * 4, column = warp_lane() % 4 * 8;
    for (uint32_t k = 0; k < 16; k++) {
        uint32_t lane = k % 8 / 2, a = k / 8 * 4 + k % 2, b = k / 8 * 2 + k % 2;
        TensorFloats from = lanes[row + lane];
        float left = lanes[column + lane].b[b], right = lanes[column + 4 + lane].b[b];
        c[0] = fused_multiply_add(from.a[a], left, c[0]);
        c[1] = fused_multiply_add(from.a[a], right, c[1]);
        c[2] = fused_multiply_add(from.a[a + 2], left, c[2]);
        c[3] = fused_multiply_add(from.a[a + 2], right, c[3]);
    }
}

DEVICE void tensor_product_f16(float *c, const uint32_t *a, const uint32_t *b) {
    TensorFloats mine;
    for (uint32_t i = 0; i < 8; i++)
        mine.a[i] = half_to_float((uint16_t)(a[i / 2] >> 16 * (i % 2)));
    for (uint32_t i = 0; i < 4; i++)
        mine.b[i] = half_to_float((uint16_t)(b[i / 2] >> 16 * (i % 2)));
    tensor_product_floats(c, mine);
}

DEVICE void tensor_product_bf16(float *c, const uint32_t *a, const uint32_t *b) {
    TensorFloats mine;
    for (uint32_t i = 0; i < 8; i++)
        mine.a[i] = bits_to_float(i % 2 ? a[i / 2] & 0xffff0000u : a[i / 2] << 16);
    for (uint32_t i = 0; i < 4; i++)
        mine.b[i] = bits_to_float(i % 2 ? b[i / 2] & 0xffff0000u : b[i / 2] << 16);
    tensor_product_floats(c, mine);
}

#endif

#endif
