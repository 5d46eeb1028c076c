#ifndef KERNELS_KERNELS_H
#define KERNELS_KERNELS_H

/* What is computed: one table of functions a backend. reference/ fills every slot in plain C with double
 * accumulators and is the specification; cpu/ overrides slots by CPU flag, lowest ISA first.
 *
 * The determinism contract (what "schedule invariance" stands on): a row of any output depends on that row's
 * inputs and the shared operands only, bit for bit: not on how many rows the call has, where the row stands
 * among them, or how many threads run. Every slot therefore fixes, per output element, one order of rounding
 * steps. Different ISAs may use different orders and agree within the tolerances of tests/kernels.
 *
 * Numbers are f32 unless said; row-major, the last dimension contiguous; `…_stride` counts elements between
 * rows. Outputs may not alias inputs unless a slot says so. Slots cannot fail: shapes are checked when a model
 * is bound. They return when the work is done (CPU) or put on context->stream (GPU). One call at a time a
 * context; inside, the backend uses the threads of context->team.
 *
 * Numbers that are computed with (f32 arrays, matrices, KV blocks, the embedding table) are MEMORY_DEVICE memory. What says where
 * and which is host memory on every backend and may be changed on return: ids, positions, kv_head_index, block_slots, runs, and
 * arrays of pointers, which themselves point to device memory. What comes from a weight file (MatrixSource) is host memory too. */

#include <stddef.h>
#include <stdint.h>

#include "kernels/codec.h"
#include "kernels/device.h"
#include "kernels/team.h"
#include "kernels/tensor.h"

SPILLWAY_EXTERN_C_BEGIN

/* The largest shapes that will be asked for: scratch is sized from it once. */
typedef struct KernelLimits {
    uint32_t row_count;    /* rows of one call */
    uint32_t column_count; /* longest K of a matmul */
    uint32_t head_count;
    uint32_t head_dim;
    uint32_t block_tokens;
} KernelLimits;

typedef struct KernelContext {
    Team *team;           /* NULL: the caller alone */
    DeviceStream *stream; /* NULL on the CPU */
    void *scratch;        /* 64-byte aligned, private to the backend */
    size_t scratch_bytes;
} KernelContext;

/* A weight matrix W[row_count][column_count] in the layout of the backend that packed it. The memory is the
 * caller's; the view is plain data. */
typedef struct Matrix {
    uint32_t row_count;    /* N: outputs */
    uint32_t column_count; /* K: inputs */
    uint32_t layout;       /* private to the backend */
    const Quant *quant;    /* of the source; what the packed form decodes to, exactly */
    const void *data;
    uint64_t bytes;
} Matrix;

/* Rows [row_begin, row_end) and columns [column_begin, column_end) of a file's tensor [rows][columns]. A
 * column cut inside a quant group is legal; the packer then keeps that matrix as f32. */
typedef struct MatrixSource {
    Tensor tensor;
    uint64_t row_begin, row_end;
    uint64_t column_begin, column_end;
} MatrixSource;

typedef struct MatmulOutput {
    const Matrix *weights;
    const float *bias; /* [row_count of weights]; NULL: none */
    float *out;        /* [rows][out_stride] */
    uint64_t out_stride;
} MatmulOutput;

enum { MATMUL_OUTPUTS_MAX = 3 };

/* out_i[m][n] = bias_i[n] + sum over k of x[m][k] * W_i[n][k], for up to three matrices that share x.
 * Encoded weights may be multiplied with x rounded to integers: int8, one scale (amax / 127) a group of 32
 * columns, or int16 where precise is set. Float weights take x in f32. */
typedef struct MatmulArgs {
    const float *x; /* [row_count][x_stride] */
    uint64_t x_stride;
    uint32_t row_count;
    uint32_t output_count;
    bool precise; /* int16 activations: the output head */
    MatmulOutput outputs[MATMUL_OUTPUTS_MAX];
} MatmulArgs;

/* out = (x - mean) / sqrt(variance + epsilon) * weight + bias; rms: no mean, no bias. out may be x. */
typedef struct NormArgs {
    const float *x; /* [row_count][x_stride], element_count used */
    uint64_t x_stride;
    float *out; /* [row_count][out_stride] */
    uint64_t out_stride;
    const float *weight; /* [element_count]; NULL: ones */
    const float *bias;   /* [element_count]; layer norm only; NULL: zeros */
    uint32_t row_count;
    uint32_t element_count;
    float epsilon;
} NormArgs;

enum { ROPE_MATRICES = 2 };

typedef struct RopeMatrix {
    float *x; /* [row_count][x_stride]; heads lie side by side */
    uint64_t x_stride;
    uint32_t head_count; /* 0: nothing to rotate */
} RopeMatrix;

/* Rotates pairs of each head in place by the angle of the row's position. Tables hold, for position p and pair
 * i < rotary_dim / 2: cosines[p][i], sines[p][i] (any scaling of frequency or magnitude is already in them). */
typedef struct RopeArgs {
    RopeMatrix matrices[ROPE_MATRICES]; /* q and k: at the same positions */
    uint32_t row_count;
    uint32_t head_dim;
    uint32_t rotary_dim;       /* even, at most head_dim; the rest of a head is left alone */
    bool interleaved;          /* pairs (2i, 2i+1) as in GGUF llama; else (i, i + rotary_dim/2) */
    const uint32_t *positions; /* [row_count] */
    const float *cosines;      /* [positions][rotary_dim / 2] */
    const float *sines;
} RopeArgs;

/* Rounds K and V rows to f16 (nearest even; beyond f16's range becomes infinity) into block slots. */
typedef struct KvStoreArgs {
    KvShape shape;
    const float *k; /* [row_count][k_stride], kv heads side by side */
    const float *v;
    uint64_t k_stride, v_stride;
    uint32_t row_count;
    void *const *blocks;         /* [row_count] block of each row */
    const uint32_t *block_slots; /* [row_count] token index inside that block */
} KvStoreArgs;

enum { ATTEND_GROUP_BLOCKS = 8 };

/* The rows of one sequence against a run of its blocks. Row r stands at position position_first + r and sees
 * the tokens at positions (its own − window, its own], all of it where window is 0. */
typedef struct AttendRun {
    uint32_t row_first; /* rows [row_first, row_first + row_count) of q */
    uint32_t row_count;
    uint32_t position_first;
    /* A multiple of ATTEND_GROUP_BLOCKS, or the whole run lies in one group. Block b holds positions from b * block_tokens. */
    uint32_t block_ordinal_first;
    uint32_t block_count;
    const void *const *blocks; /* [block_count] */
    const Codec *const
        *codecs; /* [block_count] how each is stored, NULL: as it is; NULL: all of them */
} AttendRun;

static inline bool attend_run_in_groups(const AttendRun *run) {
    uint32_t place = run->block_ordinal_first % ATTEND_GROUP_BLOCKS;
    return place == 0 || run->block_count <= ATTEND_GROUP_BLOCKS - place;
}

static inline const Codec *attend_codec(const AttendRun *run, uint32_t block) {
    const Codec *codec = run->codecs ? run->codecs[block] : NULL;
    return codec_is_raw(codec) ? NULL : codec;
}

/* Partial attention, the one primitive: for every row and query head folds the run's blocks into the row's
 * running (max, sum, out), where
 *     out = sum of exp(s - max) * v,  sum = sum of exp(s - max),  s = scale * (q . k)
 * over the tokens seen; of an encoded block k and v are the numbers of Codec.expand. A block's partial depends on the query row, the block's bytes and the range of tokens
 * seen in it, nothing else. Partials fold in block order inside groups of ATTEND_GROUP_BLOCKS ordinals
 * (starting at the empty partial), and group results fold in order into the running state: the caller hands
 * the runs of a sequence in rising order, over any number of calls cut at group boundaries, and gets the same bits.
 * A run that is a part of one group folds as a group of its own: the same sum, in other bits.
 * Blocks that a row does not see leave its state untouched. Empty partial: (-inf, 0, 0), never NaN. */
typedef struct AttendArgs {
    KvShape shape;
    uint32_t head_count;           /* query heads */
    const uint16_t *kv_head_index; /* [head_count] KV head that a query head reads */
    float scale;
    uint32_t window; /* 0: none */
    const float *q;  /* [rows][q_stride] */
    uint64_t q_stride;
    float *maxima;         /* [rows][head_count] running state */
    float *sums;           /* [rows][head_count] */
    float *out;            /* [rows][head_count][head_dim] */
    const AttendRun *runs; /* runs of the same rows: side by side, rising order */
    uint32_t run_count;
} AttendArgs;

typedef struct AttendEdgeArgs {
    uint32_t row_count, head_count, head_dim;
    float *maxima, *sums, *out; /* as in AttendArgs */
} AttendEdgeArgs;

/* Partials of the same rows and heads over other blocks, in the layout of the state that they fold into. */
typedef struct AttendMergeArgs {
    AttendEdgeArgs state;
    const float *maxima, *sums, *out;
} AttendMergeArgs;

/* Elementwise over rows: out[r][i] = f(a[r][i], b[r][i]). out may be a or b. */
typedef struct ElementwiseArgs {
    const float *a;
    const float *b; /* unused by one-operand slots */
    float *out;
    uint64_t a_stride, b_stride, out_stride;
    uint32_t row_count;
    uint32_t element_count;
} ElementwiseArgs;

/* out[r] = row ids[r] - row_begin of the table, decoded to f32; zeros where ids[r] is outside [row_begin, row_end). */
typedef struct EmbedArgs {
    Tensor table;                /* [row_end - row_begin][element_count], as in the file */
    uint64_t row_begin, row_end; /* the rows that this rank owns */
    const int32_t *ids;          /* [row_count] */
    uint32_t row_count;
    float *out; /* [row_count][out_stride] */
    uint64_t out_stride;
} EmbedArgs;

typedef struct KvEncodeArgs {
    const Codec *codec;
    KvShape shape;
    uint32_t block_count;      /* at most KV_ENCODE_BLOCKS_MAX */
    const void *const *blocks; /* [block_count] raw */
    void *const *out_bytes;    /* [block_count] */
    uint32_t *refused;         /* [block_count] MEMORY_HOST: not 0 where a number is not finite */
} KvEncodeArgs;

enum { KV_ENCODE_BLOCKS_MAX = 16 };

typedef struct KvCheckArgs {
    KvShape shape;
    uint32_t block_count;      /* at most KV_CHECK_BLOCKS_MAX */
    const void *const *blocks; /* [block_count] raw, in device memory */
    uint32_t *refused;         /* [block_count] MEMORY_HOST: as in KvEncodeArgs */
} KvCheckArgs;

enum { KV_CHECK_BLOCKS_MAX = 64 };

typedef struct Kernels {
    const char *name;   /* "reference", "avx2", "avx512" */
    const char *layout; /* of packed matrices: kernels with the same one take each other's bytes */

    /* Of host memory that KernelContext.scratch needs, where it is plain memory (CPU); else 0. */
    size_t (*scratch_bytes)(const KernelLimits *limits, uint32_t thread_count);

    /* Takes what calls of these shapes need beside their arguments: fills stream, scratch and scratch_bytes of a context whose
     * team is set. close takes a zeroed context too, and waits for its work. */
    Status (*context_open)(const struct Kernels *kernels, Device *device,
                           const KernelLimits *limits, KernelContext *context);
    void (*context_close)(Device *device, KernelContext *context);

    /* Bytes that matrix_pack will fill (64-byte aligned), of MEMORY_DEVICE or MEMORY_HOST; there once the context's stream has come so
     * far. They hold no addresses: a copy of them anywhere in MEMORY_DEVICE is as good. */
    uint64_t (*matrix_bytes)(const MatrixSource *source);
    void (*matrix_pack)(const KernelContext *context, const MatrixSource *source, void *memory,
                        Matrix *out);
    /* The view that matrix_pack would make, without data: for bytes that this backend packed before. */
    void (*matrix_describe)(const MatrixSource *source, Matrix *out);
    void (*matmul)(const KernelContext *context, const MatmulArgs *args);

    void (*rms_norm)(const KernelContext *context, const NormArgs *args);
    void (*layer_norm)(const KernelContext *context, const NormArgs *args);
    void (*rope)(const KernelContext *context, const RopeArgs *args);
    void (*embed)(const KernelContext *context, const EmbedArgs *args);

    void (*kv_store)(const KernelContext *context, const KvStoreArgs *args);
    void (*attend_begin)(const KernelContext *context,
                         const AttendEdgeArgs *args); /* every state to (-inf, 0, 0) */
    void (*attend)(const KernelContext *context, const AttendArgs *args);
    void (*attend_merge)(
        const KernelContext *context,
        const AttendMergeArgs *args); /* as a group folds; an empty partial changes no bit */
    void (*attend_end)(const KernelContext *context,
                       const AttendEdgeArgs *args); /* out /= sum; 0 where sum is 0 */

    /* A full block in host memory to codec_block_bytes() bytes and back; the shape is one that codec_refusal() accepts. The
     * bytes, and the halves that they decode to, are those of codec_encode_block() and codec_decode_block(). No context: any
     * thread, any number at a time. STATUS_BAD_INPUT, raised by nobody yet, when a number is not finite: out is then
     * unspecified. */
    Status (*kv_encode)(const Codec *codec, const KvShape *shape, const void *block,
                        void *out_bytes);
    void (*kv_decode)(const Codec *codec, const KvShape *shape, const void *bytes, void *out_block);
    /* The same for blocks in device memory. The verdicts are there once the stream has passed. */
    Status (*kv_encode_blocks)(const struct Kernels *kernels, const KernelContext *context,
                               const KvEncodeArgs *args);
    /* The verdicts alone: which blocks any codec would take. */
    Status (*kv_check_blocks)(const KernelContext *context, const KvCheckArgs *args);

    /* a + b; without scratch, so a copy of the context with another stream of its device will do */
    void (*add)(const KernelContext *context, const ElementwiseArgs *args);
    void (*silu_multiply)(const KernelContext *context,
                          const ElementwiseArgs *args); /* a / (1 + exp(-a)) * b */
    void (*relu)(const KernelContext *context, const ElementwiseArgs *args); /* max(a, 0) */
} Kernels;

/* Fills every slot with the specification; those of contexts and of many blocks through the other slots. */
void kernels_fill_reference(Kernels *kernels);

/* True when every slot is set; else *out_missing names the first that is not. */
bool kernels_complete(const Kernels *kernels, const char **out_missing);

SPILLWAY_EXTERN_C_END

#endif
