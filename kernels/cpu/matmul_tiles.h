#ifndef KERNELS_CPU_MATMUL_TILES_H
#define KERNELS_CPU_MATMUL_TILES_H

/* Matrix products of the CPU: how weights lie in memory, and the driver that the instruction sets share. An ISA file
 * brings the inner loops (TileIsa) and nothing else. Internal to kernels/cpu.
 *
 * A packed matrix is a row of column tiles. A column tile holds `columns` outputs n (the ISA's width) over all of
 * K; outputs past the last are zero weights. Encoded weights go in steps of 32 k, two by two, so that everything of a
 * step lies together and vectors of codes do not straddle cache lines:
 *
 *     column tile:  [ codes of step 0 | codes of step 1 | scales of step 0 | scales of step 1 ][ steps 2, 3 ] …
 *
 * (scales: then offsets, where a format has them; the last pair may be half empty).
 * The codes of 32 k are eight vectors of `columns` words; word c of vector j holds k = 4j … 4j+3 of column c,
 * one byte each:
 *     8 bits   the eight vectors
 *     4 bits   four vectors: low nibbles are vectors 0-3, high nibbles are vectors 4-7
 *     5 bits   as 4 bits, then one vector whose bit j is the fifth bit of vector j
 *     6 bits   as 4 bits, then two vectors whose bits 2j, 2j+1 are the upper bits of vectors j and 4 + j (j < 4)
 * Float weights are `columns` numbers a k.
 *
 * Arithmetic, the same for every ISA, shape and thread count, so that a row's bits depend on that row alone. For
 * output n of row m, over groups g of weights in rising k (s_g, o_g: scale and offset; x: the group's codes q of
 * the row and their scale t, amax / 127 or amax / 32767 over 32 k):
 *     biased codes   acc = fma((float)(sum of q * (code - bias)), s_g * t, acc)           the sum is exact, int32
 *     offsets        acc = fma((float)(sum of q * code), s_g * t, acc)
 *                    acc = fma(o_g, t * (float)(sum of q), acc)
 *     floats         acc = fma(w, x, acc) for every k
 * and finally out = acc + bias. */

#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

enum { TILE_GROUP = 32, TILE_ROWS_MAX = 4, TILE_SPAN_MAX = 2 };

/* How weights are stored: Matrix.layout. */
typedef enum TileClass {
    TILE_F32,
    TILE_F16,
    TILE_BF16,
    TILE_CODES_4,
    TILE_CODES_5,
    TILE_CODES_6, /* scales by 16 k; the others by 32 */
    TILE_CODES_8,
    TILE_CLASS_COUNT,
} TileClass;

/* Where things lie in a column tile. */
typedef struct TileFormat {
    TileClass tile_class;
    bool encoded;
    bool wide_scales;     /* scales and offsets are f32, else f16 */
    bool has_offsets;     /* else codes are biased by code_bias */
    int32_t code_bias;    /* 0 where has_offsets */
    uint32_t step_k;      /* k of one step: TILE_GROUP, or 1 for floats */
    uint32_t step_bytes;  /* codes (or floats) of one step */
    uint32_t scale_bytes; /* scales and offsets of one step; 0 for floats */
    uint64_t step_count;  /* over K */
    uint64_t column_tile_bytes;
} TileFormat;

/* A group of 32 activations of a row, rounded to integers: this head, then the codes, int8 or int16, in the order of k.
 * int16 codes swap the middle two of every four (k, k + 2, k + 1, k + 3), to meet weights that are split into even
 * and odd bytes. A row is a run of such records, so that kernels follow one pointer a row. */
typedef struct ActivationHead {
    float scale;      /* t */
    float scaled_sum; /* t * (float)(sum of codes) */
    int32_t sums[2];  /* of the codes of each half */
} ActivationHead;

enum {
    INT8_RECORD_BYTES = sizeof(ActivationHead) + TILE_GROUP,
    INT16_RECORD_BYTES = sizeof(ActivationHead) + 2 * TILE_GROUP,
};

/* A few rows against one or two adjacent column tiles, over a run of steps: one call of an inner loop. */
typedef struct TileRun {
    const TileFormat *format;
    const uint8_t *weights; /* first column tile, first (even) step */
    const uint8_t *x;       /* first row and step: records, or numbers for float weights */
    uint64_t x_stride_bytes;
    uint64_t step_count;
    float *out; /* first row and column */
    uint64_t out_stride;
    uint32_t column_count;   /* columns to write over all tiles of the call */
    uint64_t prefetch_bytes; /* fetch so far ahead; 0: do not */
    bool resume;             /* go on from the sums in out */
    const float *bias;       /* added at the end; NULL: none */
} TileRun;

typedef void (*TileKernel)(const TileRun *run);

/* kernels[span - 1][rows - 1]: rows × span column tiles at once. */
typedef struct TileKernelSet {
    TileKernel kernels[TILE_SPAN_MAX][TILE_ROWS_MAX];
} TileKernelSet;

typedef struct TileIsa {
    uint32_t columns;                               /* width of a column tile */
    const TileKernelSet *kernels[TILE_CLASS_COUNT]; /* f32 activations; int8, NULL: only int16 */
    const TileKernelSet *kernels_int16[TILE_CLASS_COUNT]; /* encoded classes only */
    /* x[count], count a multiple of 32, to count / 32 records */
    void (*quantise_int8)(const float *x, uint64_t count, uint8_t *records);
    void (*quantise_int16)(const float *x, uint64_t count, uint8_t *records);
} TileIsa;

/* The slots of Kernels, given the ISA. */
uint64_t tiles_matrix_bytes(const TileIsa *isa, const MatrixSource *source);
void tiles_matrix_describe(const TileIsa *isa, const MatrixSource *source, Matrix *out);
void tiles_matrix_pack(const TileIsa *isa, const KernelContext *context, const MatrixSource *source,
                       void *memory, Matrix *out);
void tiles_matmul(const TileIsa *isa, const KernelContext *context, const MatmulArgs *args);

/* Shared by the ISAs that have AVX2. */
void quantise_int8_avx2(const float *x, uint64_t count, uint8_t *records);
void quantise_int16_avx2(const float *x, uint64_t count, uint8_t *records);

SPILLWAY_EXTERN_C_END

#endif
