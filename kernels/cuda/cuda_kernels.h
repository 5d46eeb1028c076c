#ifndef KERNELS_CUDA_CUDA_KERNELS_H
#define KERNELS_CUDA_CUDA_KERNELS_H

/* What the .cu files offer to the slots in C: CudaLaunchers, a function a kernel, of which each build of the .cu files fills one.
 * A launcher takes the stream and arguments whose every pointer is device memory; it chooses grid and block, puts the kernel on
 * the stream and cannot fail: what goes wrong comes out of the next call of the Device. What decides (which rows stand
 * together, what fits the scratch) is C: cuda_slots.c, cuda_attention.c, packed_matrix.c.
 *
 * Every thread does the same IEEE operations in the same order on the GPU and in the emulation; only exponential() may differ in
 * its last places. */

#include "kernels/codec/turboquant.h"
#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

/* ---- attention */

typedef enum CodedKind {
    CODED_RAW,
    CODED_INT8,
    CODED_FP8,
    CODED_INT4_GROUP,
    CODED_KIVI,
    CODED_TURBOQUANT,
} CodedKind;

/* How the heads of a block are stored, as a kernel needs to know it. */
typedef struct CodedForm {
    CodedKind kind;
    uint32_t bits;                         /* of a code */
    uint64_t head_bytes[CODEC_PART_COUNT]; /* of keys, of values */
    TurboPlan plan;                        /* CODED_TURBOQUANT only */
} CodedForm;

typedef struct AttendBlock {
    const uint8_t *bytes;
    uint32_t form; /* index */
} AttendBlock;

/* Blocks that fold together: at most ATTEND_GROUP_BLOCKS. */
typedef struct AttendGroup {
    uint32_t block_first; /* index among all blocks of the launch */
    uint32_t block_count;
    uint32_t ordinal_first; /* of the first block in its sequence */
} AttendGroup;

/* The rows of one sequence, and its groups in rising order. */
typedef struct AttendSpan {
    uint32_t row_first, row_count, position_first;
    uint32_t group_first, group_count;
} AttendSpan;

/* What a block of threads works on, for each KV head: items [item_first, …) of a span. Item i is row i / heads, head i % heads of
 * those that read the KV head; a tile may lie beyond the last item of a KV head with fewer readers. */
typedef struct AttendTile {
    uint32_t span, item_first;
} AttendTile;

enum {
    ATTEND_HEAD_DIM_MAX = 256,
    ATTEND_WARPS = 4,
    /* items of a tile: one for all warps, one a warp, or as many as 48 KiB of shared memory hold beside heads of up to 128 and
     * of 256 */
    ATTEND_SOLO = 1,
    ATTEND_FEW = ATTEND_WARPS,
    ATTEND_MANY_NARROW = 4 * ATTEND_WARPS,
    ATTEND_MANY_WIDE = 2 * ATTEND_WARPS,
};

static inline uint32_t attend_many(uint32_t head_dim) {
    return head_dim <= 128 ? (uint32_t)ATTEND_MANY_NARROW : (uint32_t)ATTEND_MANY_WIDE;
}

typedef struct AttendLaunch {
    KvShape shape;
    uint32_t head_count;
    float scale;
    uint32_t window;
    const float *q; /* [rows][q_stride] */
    uint64_t q_stride;
    float *maxima, *sums, *out; /* running states: [rows][heads], out [.][head_dim] */
    /* heads of KV head k: heads[head_firsts[k]] … heads[head_firsts[k + 1] - 1] */
    const AttendTile *tiles;
    const AttendSpan *spans;
    const AttendGroup *groups;
    const AttendBlock *blocks;
    const CodedForm *forms;
    const uint16_t *heads;
    const uint32_t *head_firsts;
    uint32_t tile_count, span_count;
    uint32_t tile_items; /* ATTEND_SOLO, ATTEND_FEW or attend_many() */
    bool coded;          /* some block is not raw */
    /* Not NULL: groups are attended side by side into partials[group of its span][row][head][2 + head_dim] (max, sum, out), and
     * folded after; NULL: a tile folds its groups one after the other. */
    float *partials;
    uint32_t row_count;       /* rows of partials, from row 0 on */
    uint32_t group_count_max; /* of any span */
} AttendLaunch;

/* ---- codecs */

typedef struct EncodeLaunch {
    const CodedForm *form;
    bool turbo; /* the form is CODED_TURBOQUANT */
    KvShape shape;
    uint32_t block_count;
    const void *const *blocks; /* [block_count] */
    void *const *out_bytes;    /* [block_count] */
    uint32_t *refused;         /* [block_count] 1 where a number is not finite, else 0 */
} EncodeLaunch;

typedef struct CheckLaunch {
    KvShape shape;
    uint32_t block_count;
    const void *const *blocks; /* [block_count] */
    uint32_t *refused;         /* as in EncodeLaunch */
} CheckLaunch;

/* ---- matrix products */

enum { PACKED_OUTPUTS = 32, PACKED_COLUMNS = 32 };

/* How a matrix is packed: tiles of 32 outputs; in a tile, records of 32 columns; in a record the codes, then scales, then offsets,
 * each with the 32 outputs side by side, so that a warp, a lane an output, reads whole lines.
 *
 *   4 bits       16 bytes an output: byte b of word j has column 8j + b in its low and 8j + 4 + b in its high nibble
 *   5, 6 bits    these, then one or two planes of 4 bytes an output: bit 8b + s belongs to column 4s + b
 *   8 bits       two halves of 16 bytes an output: signed bytes, columns in order
 *   16, 32 bits  floats: four or eight parts of 16 bytes an output, columns in order */
typedef struct PackedForm {
    uint32_t code_bits;
    bool bf16;         /* of 16 bits: bfloat16, else IEEE */
    bool scales_f16;   /* scales and offsets; else f32 */
    bool offsets;      /* each scale has an offset */
    uint32_t groups;   /* scales a record and output: 1 or 2; 0: floats */
    int32_t code_bias; /* what is still to be taken from the codes */
    uint32_t scales_at, offsets_at, record_bytes;
    uint32_t record_count; /* of a tile */
} PackedForm;

/* x as products take it: per row and 32 columns a record, [row][record]; columns beyond K are zeros.
 *
 *   integers  f32 scale, the codes' sums of columns 0-15 and 16-31 (int32), 4 bytes unused; then 32 codes, int8 or int16
 *   floats    32 f32
 *   tiles     int8 for the tensor cores: a record is of eight rows, [record][eight rows], and rows up to a multiple of 32 are
 *             zeros. Codes as a lane of tensor_product_32 takes them, [lane][2] words; then f32 [8] scales, and f32 [8]
 *             scales times the codes' sum
 *   parts     floats for the tensor cores, each number the sum of two of f16 or three of bfloat16, largest first: a record is of
 *             sixteen rows, [record][sixteen rows], and rows up to a multiple of 32, or up to 16, are zeros.
 *             [part][step of columns 4s to 4s + 3 of each eight][lane][4] words as tensor_product_f16 takes them, in which k = 2t and
 *             2t + 8 of a step begin columns 8t + 4s and 8t + 4s + 2. Of f16 then f32 [8][2], for rows g and g + 8: what 1 stands
 *             for in the record of this row, a power of two */
typedef enum ActivationKind {
    ACTIVATION_INT8,
    ACTIVATION_INT8_TILES,
    ACTIVATION_INT16,
    ACTIVATION_F32,
    ACTIVATION_F16_PARTS,
    ACTIVATION_BF16_PARTS,
    ACTIVATION_KINDS
} ActivationKind;

enum {
    ACTIVATION_HEAD_BYTES = 16,
    ACTIVATION_TILE_ROWS = 8,
    ACTIVATION_TILES_ROWS = 32, /* rows are filled up to a multiple of */
    ACTIVATION_TILE_SCALES = ACTIVATION_TILE_ROWS * PACKED_COLUMNS, /* bytes: where they begin */
    ACTIVATION_TILE_SUMS = ACTIVATION_TILE_SCALES + 4 * ACTIVATION_TILE_ROWS,
    ACTIVATION_TILE_BYTES = ACTIVATION_TILE_SUMS + 4 * ACTIVATION_TILE_ROWS,
    ACTIVATION_PARTS_ROWS = 16,
    ACTIVATION_PART_BYTES = 2 * ACTIVATION_PARTS_ROWS * PACKED_COLUMNS,
    ACTIVATION_F16_SCALES = 2 * ACTIVATION_PART_BYTES, /* bytes: where they begin */
    ACTIVATION_F16_BYTES = ACTIVATION_F16_SCALES + 4 * ACTIVATION_PARTS_ROWS,
    ACTIVATION_BF16_BYTES = 3 * ACTIVATION_PART_BYTES,
    ACTIVATION_ROW_BYTES_MAX = ACTIVATION_BF16_BYTES / ACTIVATION_PARTS_ROWS, /* of a record */
};

/* Rows that share a record. */
static inline uint32_t activation_record_rows(ActivationKind kind) {
    return kind == ACTIVATION_INT8_TILES  ? (uint32_t)ACTIVATION_TILE_ROWS
           : kind >= ACTIVATION_F16_PARTS ? (uint32_t)ACTIVATION_PARTS_ROWS
                                          : 1;
}

/* Of so many rows. */
static inline uint32_t activation_record_bytes(ActivationKind kind) {
    return kind == ACTIVATION_F32          ? 4u * PACKED_COLUMNS
           : kind == ACTIVATION_INT16      ? ACTIVATION_HEAD_BYTES + 2u * PACKED_COLUMNS
           : kind == ACTIVATION_INT8_TILES ? (uint32_t)ACTIVATION_TILE_BYTES
           : kind == ACTIVATION_F16_PARTS  ? (uint32_t)ACTIVATION_F16_BYTES
           : kind == ACTIVATION_BF16_PARTS ? (uint32_t)ACTIVATION_BF16_BYTES
                                           : ACTIVATION_HEAD_BYTES + PACKED_COLUMNS;
}

/* Rows of x that are written: those beyond the last are zeros. */
static inline uint32_t activation_rows(ActivationKind kind, uint32_t row_count) {
    bool one_record = kind >= ACTIVATION_F16_PARTS && row_count <= ACTIVATION_PARTS_ROWS;
    uint32_t step = activation_record_rows(kind) == 1 ? 1
                    : one_record                      ? (uint32_t)ACTIVATION_PARTS_ROWS
                                                      : (uint32_t)ACTIVATION_TILES_ROWS;
    return (row_count + step - 1) / step * step;
}

typedef struct ActivationLaunch {
    ActivationKind kind;
    const float *x; /* [row_count][x_stride] */
    uint64_t x_stride;
    uint32_t row_count, column_count;
    uint32_t record_count;
    uint32_t record_rows, record_bytes; /* activation_record_rows(), activation_record_bytes() */
    uint8_t *records;                   /* as the kind says */
} ActivationLaunch;

typedef struct ProductLaunch {
    PackedForm form;
    ActivationKind kind;
    const uint8_t *tiles;
    const uint8_t *records; /* of x, as the kind says */
    uint32_t activation_bytes;
    uint32_t row_count;    /* M */
    uint32_t output_count; /* N */
    const float *bias;     /* [N]; NULL: none */
    float *out;            /* [M][out_stride] */
    uint64_t out_stride;
} ProductLaunch;

/* ---- all */

typedef struct CudaLaunchers {
    void (*rms_norm)(DeviceStream *stream, const NormArgs *args);
    void (*layer_norm)(DeviceStream *stream, const NormArgs *args);
    void (*rope)(DeviceStream *stream, const RopeArgs *args);
    void (*add)(DeviceStream *stream, const ElementwiseArgs *args);
    void (*silu_multiply)(DeviceStream *stream, const ElementwiseArgs *args);
    void (*relu)(DeviceStream *stream, const ElementwiseArgs *args);
    bool (*embed)(DeviceStream *stream,
                  const EmbedArgs *args); /* false: a format without a kernel */
    void (*kv_store)(DeviceStream *stream, const KvStoreArgs *args);
    void (*attend_begin)(DeviceStream *stream, const AttendEdgeArgs *args);
    void (*attend)(DeviceStream *stream, const AttendLaunch *launch);
    uint32_t
        attend_blocks_enough; /* of threads, to keep a device busy: with fewer, groups are attended side by side */
    void (*attend_merge)(DeviceStream *stream, const AttendMergeArgs *args);
    void (*attend_end)(DeviceStream *stream, const AttendEdgeArgs *args);
    void (*codec_encode)(DeviceStream *stream, const EncodeLaunch *launch);
    void (*codec_check)(DeviceStream *stream, const CheckLaunch *launch);
    void (*activations)(DeviceStream *stream, const ActivationLaunch *launch);
    void (*product)(DeviceStream *stream, const ProductLaunch *launch);
    void (*product_tensor)(DeviceStream *stream, const ProductLaunch *launch); /* of int8 tiles */
    void (*product_float)(DeviceStream *stream, const ProductLaunch *launch);  /* of f16 and bf16 */
    bool tensor_floats; /* product_float runs on the device of whoever filled this */
    /* From so many rows on product_tensor is faster; the bits are the same. */
    uint32_t tensor_rows_least;
} CudaLaunchers;

/* Sets every slot but context_open, which knows the build. kv_encode and kv_decode work on host memory: the specification. */
void cuda_kernels_fill(Kernels *kernels);

SPILLWAY_EXTERN_C_END

#endif
