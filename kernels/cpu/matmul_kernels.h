#ifndef KERNELS_CPU_MATMUL_KERNELS_H
#define KERNELS_CPU_MATMUL_KERNELS_H

/* The inner loops of the matrix product, written once over vector.h: each ISA file compiles them with its own
 * flags. Every function is inlined into kernels whose `bits`, `int16`, `rows` and `span` are constants, so that
 * loops unroll and arrays become registers. */

#include "kernels/cpu/matmul_tiles.h"
#include "kernels/cpu/vector_words.h"

#ifdef VECTOR_LANES

#define INLINE static inline __attribute__((always_inline))

enum { COLUMNS = VECTOR_LANES };

typedef struct FloatSums {
    Vector at[TILE_ROWS_MAX][TILE_SPAN_MAX];
} FloatSums;

typedef struct IntegerSums {
    Words at[TILE_ROWS_MAX][TILE_SPAN_MAX];
} IntegerSums;

/* What the parts of one step need. */
typedef struct StepView {
    const uint8_t *codes;  /* of the first tile */
    const uint8_t *scales; /* likewise */
    uint64_t tile_stride;
    const uint8_t *x; /* record of the first row */
    uint64_t x_stride;
} StepView;

INLINE const ActivationHead *step_head(const StepView *step, int row) {
    return (const ActivationHead *)(const void *)(step->x + (uint64_t)row * step->x_stride);
}

/* Four bytes of a row's codes, in every lane. */
INLINE Words step_x(const StepView *step, int row, int offset) {
    int32_t word;
    __builtin_memcpy(&word, (const uint8_t *)(step_head(step, row) + 1) + offset, sizeof word);
    return words_set(word);
}

/* ---- running sums ---- */

/* Where the sums of a row and tile go; *out_count columns from there are wanted. */
INLINE float *sums_place(const TileRun *run, int row, int tile, uint32_t *out_count) {
    *out_count = run->column_count - (uint32_t)(tile * COLUMNS);
    return run->out + (uint64_t)row * run->out_stride + tile * COLUMNS;
}

INLINE void sums_begin(const TileRun *run, int rows, int span, FloatSums *out) {
    for (int t = 0; t < span; t++)
        for (int r = 0; r < rows; r++) {
            uint32_t count;
            const float *place = sums_place(run, r, t, &count);
            out->at[r][t] = run->resume ? vector_load_tail_or_full(place, count) : vector_zero();
        }
}

INLINE void sums_end(const TileRun *run, int rows, int span, const FloatSums *sums) {
    for (int t = 0; t < span; t++)
        for (int r = 0; r < rows; r++) {
            uint32_t count;
            float *place = sums_place(run, r, t, &count);
            Vector sum = sums->at[r][t];
            if (run->bias)
                sum = vector_add(sum, vector_load_tail_or_full(run->bias + t * COLUMNS, count));
            vector_store_tail_or_full(place, sum, count);
        }
}

/* ---- encoded weights ---- */

/* Vector j of a step's eight: four codes of each column. */
INLINE Words code_vector(const uint8_t *step, int bits, int j) {
    const int vector_bytes = 4 * COLUMNS;
    if (bits == 8) return words_load(step + vector_bytes * j);
    Words nibbles = words_load(step + vector_bytes * (j & 3));
    if (j >= 4) nibbles = words_shift_halves(nibbles, -4);
    Words codes = words_and(nibbles, words_set(0x0f0f0f0f));
    if (bits == 4) return codes;
    Words plane = words_load(step + vector_bytes * (bits == 6 ? 4 + (j >> 2) : 4));
    int left = bits == 5 ? 4 - j : 4 - 2 * (j & 3); /* from the plane's bit to bit 4 */
    plane = words_shift_halves(plane, left);
    return words_or(codes, words_and(plane, words_set(bits == 5 ? 0x10101010 : 0x30303030)));
}

/* sums += codes times activations over the vectors [first, end) of a step. */
#if defined(__AVX512VNNI__)

INLINE void dot_int8(const StepView *step, int bits, int rows, int span, int first, int end,
                     IntegerSums *sums) {
#pragma GCC unroll 8
    for (int j = first; j < end; j++) {
        Words codes[TILE_SPAN_MAX];
        for (int t = 0; t < span; t++)
            codes[t] = code_vector(step->codes + (uint64_t)t * step->tile_stride, bits, j);
        for (int r = 0; r < rows; r++) {
            Words x = step_x(step, r, 4 * j);
            for (int t = 0; t < span; t++)
                sums->at[r][t] = _mm512_dpbusd_epi32(sums->at[r][t], codes[t], x);
        }
    }
}

INLINE Words dot_halves(Words sum, Words codes, Words x) {
    return _mm512_dpwssd_epi32(sum, codes, x);
}

#else

/* sum += more, in place. As instructions, since gcc 12 hoists the multiplications over additions that it can see
 * through, and spills; behind an empty asm it moves every result to another register instead. */
#define HALVES_ADD(sum, more) __asm__("vpaddw %1, %0, %0" : "+x"(sum) : "x"(more))
#define WORDS_ADD(sum, more)  __asm__("vpaddd %1, %0, %0" : "+x"(sum) : "x"(more))

/* int8: `vpmaddubsw` adds two products in int16, and a few of those are added in int16 before they are widened.
 * Exact while count * 2 * code_max * 128 < 2^15: eight vectors of 4-bit codes, four of 5-bit, two of 6-bit. With
 * 8-bit codes even one would overflow; they always meet int16 activations, which `vpmaddwd` takes as fast as
 * any exact int8 way would. */
INLINE void dot_int8_widen(const StepView *step, int bits, int rows, int span, int first, int end,
                           IntegerSums *sums) {
    Words halves[TILE_ROWS_MAX][TILE_SPAN_MAX];
#pragma GCC unroll 8
    for (int j = first; j < end; j++) {
        Words codes[TILE_SPAN_MAX];
        for (int t = 0; t < span; t++)
            codes[t] = code_vector(step->codes + (uint64_t)t * step->tile_stride, bits, j);
        for (int r = 0; r < rows; r++) {
            Words x = step_x(step, r, 4 * j);
            for (int t = 0; t < span; t++) {
                Words products = _mm256_maddubs_epi16(codes[t], x);
                if (j == first)
                    halves[r][t] = products;
                else
                    HALVES_ADD(halves[r][t], products);
            }
        }
    }
    for (int r = 0; r < rows; r++)
        for (int t = 0; t < span; t++)
            sums->at[r][t] = _mm256_add_epi32(
                sums->at[r][t], _mm256_madd_epi16(halves[r][t], _mm256_set1_epi16(1)));
}

INLINE void dot_int8(const StepView *step, int bits, int rows, int span, int first, int end,
                     IntegerSums *sums) {
    const int count = bits == 4 ? 8 : bits == 5 ? 4 : 2;
#pragma GCC unroll 4
    for (int j = first; j < end; j += count)
        dot_int8_widen(step, bits, rows, span, j, j + count, sums);
}

INLINE Words dot_halves(Words sum, Words codes, Words x) {
    Words products = _mm256_madd_epi16(codes, x);
    WORDS_ADD(sum, products);
    return sum;
}

#endif

INLINE void dot_int16(const StepView *step, int bits, int rows, int span, int first, int end,
                      IntegerSums *sums) {
#pragma GCC unroll 8
    for (int j = first; j < end; j++) {
        Words even[TILE_SPAN_MAX], odd[TILE_SPAN_MAX];
        for (int t = 0; t < span; t++) {
            Words codes = code_vector(step->codes + (uint64_t)t * step->tile_stride, bits, j);
            even[t] = words_and(codes, words_set(0x00ff00ff));
            odd[t] = words_shift_halves(codes, -8);
        }
        for (int r = 0; r < rows; r++) {
            Words x_even = step_x(step, r, 8 * j), x_odd = step_x(step, r, 8 * j + 4);
            for (int t = 0; t < span; t++)
                sums->at[r][t] =
                    dot_halves(dot_halves(sums->at[r][t], even[t], x_even), odd[t], x_odd);
        }
    }
}

/* Scales or offsets: vector `index` of a step's. */
INLINE Vector scale_vector(bool wide, const uint8_t *scales, int index) {
    const void *place = scales + (wide ? 4 : 2) * COLUMNS * index;
    return wide ? vector_load((const float *)place) : vector_load_half((const uint16_t *)place);
}

/* One weight group of a step, the `index`th of `group_count`: integer sums, then into the running sums. */
INLINE void group_add(const TileFormat *format, const StepView *step, int bits, bool int16,
                      int rows, int span, int index, int group_count, FloatSums *sums) {
    IntegerSums integers;
    for (int r = 0; r < rows; r++) {
        const ActivationHead *head = step_head(step, r);
        int32_t code_sum = group_count == 2 ? head->sums[index] : head->sums[0] + head->sums[1];
        for (int t = 0; t < span; t++)
            integers.at[r][t] = words_set(-format->code_bias * code_sum);
    }
    const int first = 8 / group_count * index, end = 8 / group_count * (index + 1);
    (int16 ? dot_int16 : dot_int8)(step, bits, rows, span, first, end, &integers);
    for (int t = 0; t < span; t++) {
        const uint8_t *scales = step->scales + (uint64_t)t * step->tile_stride;
        Vector scale = scale_vector(format->wide_scales, scales, index);
        for (int r = 0; r < rows; r++) {
            const ActivationHead *head = step_head(step, r);
            Vector factor = vector_multiply(scale, vector_set(head->scale));
            sums->at[r][t] =
                vector_fma(vector_from_words(integers.at[r][t]), factor, sums->at[r][t]);
        }
        if (group_count == 2 || !format->has_offsets) continue;
        Vector offset = scale_vector(format->wide_scales, scales, 1);
        for (int r = 0; r < rows; r++) {
            const ActivationHead *head = step_head(step, r);
            sums->at[r][t] = vector_fma(offset, vector_set(head->scaled_sum), sums->at[r][t]);
        }
    }
}

/* `count` bytes, prefetch_bytes ahead in the stream of each tile. */
INLINE void prefetch(const TileRun *run, const uint8_t *bytes, uint32_t count, int span) {
    for (int t = 0; t < span; t++)
        for (uint32_t line = 0; line < count; line += 64)
            _mm_prefetch((const char *)bytes + (uint64_t)t * run->format->column_tile_bytes +
                             run->prefetch_bytes + line,
                         _MM_HINT_T0);
}

INLINE void encoded_kernel(const TileRun *run, int bits, bool int16, int rows, int span) {
    const TileFormat *format = run->format;
    const uint32_t step_bytes = (uint32_t)(bits == 8 ? 32 : 4 * bits) * COLUMNS;
    StepView step = {
        .codes = run->weights,
        .scales = run->weights + 2 * step_bytes,
        .tile_stride = format->column_tile_bytes,
        .x = run->x,
        .x_stride = run->x_stride_bytes,
    };
    FloatSums sums;
    sums_begin(run, rows, span, &sums);
    /* from an even step to the odd one of its pair, and on to the next pair */
    const uint32_t scale_bytes = format->scale_bytes;
    const uint32_t codes_forward[2] = {step_bytes, step_bytes + 2 * scale_bytes};
    const uint32_t scales_forward[2] = {scale_bytes, scale_bytes + 2 * step_bytes};
    for (uint64_t i = 0; i < run->step_count; i++) {
        if (run->prefetch_bytes) {
            prefetch(run, step.codes, step_bytes, span);
            prefetch(run, step.scales, 1, span);
        }
        if (bits == 6) {
            group_add(format, &step, bits, int16, rows, span, 0, 2, &sums);
            group_add(format, &step, bits, int16, rows, span, 1, 2, &sums);
        } else {
            group_add(format, &step, bits, int16, rows, span, 0, 1, &sums);
        }
        step.codes += codes_forward[i & 1];
        step.scales += scales_forward[i & 1];
        step.x += int16 ? INT16_RECORD_BYTES : INT8_RECORD_BYTES;
    }
    sums_end(run, rows, span, &sums);
}

/* ---- float weights ---- */

INLINE Vector float_vector(const void *step, TileClass tile_class) {
    const uint16_t *halves = (const uint16_t *)step;
    if (tile_class == TILE_F32) return vector_load((const float *)step);
    return tile_class == TILE_F16 ? vector_load_half(halves) : vector_load_bfloat(halves);
}

INLINE void float_kernel(const TileRun *run, TileClass tile_class, int rows, int span) {
    const uint32_t step_bytes = (tile_class == TILE_F32 ? 4 : 2) * COLUMNS;
    const float *x = (const float *)(const void *)run->x;
    const uint64_t x_stride = run->x_stride_bytes / sizeof *x;
    FloatSums sums;
    sums_begin(run, rows, span, &sums);
    for (uint64_t k = 0; k < run->step_count; k++) {
        if (run->prefetch_bytes) prefetch(run, run->weights + k * step_bytes, 1, span);
        Vector weights[TILE_SPAN_MAX];
        for (int t = 0; t < span; t++) {
            const uint8_t *step =
                run->weights + (uint64_t)t * run->format->column_tile_bytes + k * step_bytes;
            weights[t] = float_vector(step, tile_class);
        }
        for (int r = 0; r < rows; r++) {
            Vector number = vector_set(x[(uint64_t)r * x_stride + k]);
            for (int t = 0; t < span; t++)
                sums.at[r][t] = vector_fma(weights[t], number, sums.at[r][t]);
        }
    }
    sums_end(run, rows, span, &sums);
}

/* ---- tables ---- */

/* Instantiates inner(run, …, rows, span) for every shape that TileKernelSet holds. */
#define TILE_KERNEL(name, rows, span, inner, ...)            \
    static void name##_##rows##_##span(const TileRun *run) { \
        inner(run, __VA_ARGS__, rows, span);                 \
    }
#define TILE_KERNEL_SET(name, inner, ...)                                                 \
    TILE_KERNEL(name, 1, 1, inner, __VA_ARGS__)                                           \
    TILE_KERNEL(name, 2, 1, inner, __VA_ARGS__)                                           \
    TILE_KERNEL(name, 3, 1, inner, __VA_ARGS__)                                           \
    TILE_KERNEL(name, 4, 1, inner, __VA_ARGS__)                                           \
    TILE_KERNEL(name, 1, 2, inner, __VA_ARGS__)                                           \
    TILE_KERNEL(name, 2, 2, inner, __VA_ARGS__)                                           \
    TILE_KERNEL(name, 3, 2, inner, __VA_ARGS__)                                           \
    TILE_KERNEL(name, 4, 2, inner, __VA_ARGS__)                                           \
    static const TileKernelSet name = {{{name##_1_1, name##_2_1, name##_3_1, name##_4_1}, \
                                        {name##_1_2, name##_2_2, name##_3_2, name##_4_2}}};

TILE_KERNEL_SET(kernels_f32, float_kernel, TILE_F32)
TILE_KERNEL_SET(kernels_f16, float_kernel, TILE_F16)
TILE_KERNEL_SET(kernels_bf16, float_kernel, TILE_BF16)
TILE_KERNEL_SET(kernels_int8_4, encoded_kernel, 4, false)
TILE_KERNEL_SET(kernels_int8_5, encoded_kernel, 5, false)
TILE_KERNEL_SET(kernels_int8_6, encoded_kernel, 6, false)
TILE_KERNEL_SET(kernels_int16_4, encoded_kernel, 4, true)
TILE_KERNEL_SET(kernels_int16_5, encoded_kernel, 5, true)
TILE_KERNEL_SET(kernels_int16_6, encoded_kernel, 6, true)
TILE_KERNEL_SET(kernels_int16_8, encoded_kernel, 8, true)
#if defined(__AVX512VNNI__)
TILE_KERNEL_SET(kernels_int8_8, encoded_kernel, 8, false)
#define KERNELS_INT8_8 &kernels_int8_8
#else
#define KERNELS_INT8_8 NULL
#endif

static const TileIsa tile_isa = {
    .columns = COLUMNS,
    .kernels = {&kernels_f32, &kernels_f16, &kernels_bf16, &kernels_int8_4, &kernels_int8_5,
                &kernels_int8_6, KERNELS_INT8_8},
    .kernels_int16 = {NULL, NULL, NULL, &kernels_int16_4, &kernels_int16_5, &kernels_int16_6,
                      &kernels_int16_8},
    .quantise_int8 = quantise_int8_avx2,
    .quantise_int16 = quantise_int16_avx2,
};

static uint64_t tile_matrix_bytes(const MatrixSource *source) {
    return tiles_matrix_bytes(&tile_isa, source);
}

static void tile_matrix_pack(const KernelContext *context, const MatrixSource *source, void *memory,
                             Matrix *out) {
    tiles_matrix_pack(&tile_isa, context, source, memory, out);
}

static void tile_matrix_describe(const MatrixSource *source, Matrix *out) {
    tiles_matrix_describe(&tile_isa, source, out);
}

static void tile_matmul(const KernelContext *context, const MatmulArgs *args) {
    tiles_matmul(&tile_isa, context, args);
}

static inline void tile_slots_fill(Kernels *kernels) {
    kernels->matrix_bytes = tile_matrix_bytes;
    kernels->matrix_pack = tile_matrix_pack;
    kernels->matrix_describe = tile_matrix_describe;
    kernels->matmul = tile_matmul;
}

#endif

#endif
