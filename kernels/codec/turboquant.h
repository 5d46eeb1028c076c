#ifndef KERNELS_CODEC_TURBOQUANT_H
#define KERNELS_CODEC_TURBOQUANT_H

/* TurboQuant (Zandieh et al., arXiv 2504.19874), the MSE variant: a vector is rotated by a fixed random rotation; each
 * coordinate is then coded by the optimal scalar quantizer of a coordinate of a random unit vector. The inner product of
 * the paper's other variant, one bit of sketch, is left out: its variance hurts attention more than the bias does.
 *
 * The rotation is a randomized Hadamard transform: signs, butterflies, and for three times a power of two the reflection
 * I - 2/3 J across the three parts. Signs are the first bits of pi: a function of the dimension alone, so that a block
 * decodes anywhere. With outlier channels the quarter of the channels that has the most energy in a block, in rising
 * order, is a vector of its own, with more bits, and the rest is another.
 *
 * Head: [outlier channels: a bit a channel] · codes [token][vector after vector] · f16 (norm / sqrt(dim)) [token][vector].
 * A decoded vector is norm / dim * rotation^T (centroids times sqrt(dim)).
 *
 * This header is what the specification and the fast paths share. */

#include "kernels/codec.h"

SPILLWAY_EXTERN_C_BEGIN

enum { TURBO_VECTORS_MAX = 2, TURBO_CODES_MAX = 16 };

/* One of the vectors that a token's numbers form. */
typedef struct TurboVector {
    uint32_t first, dim; /* the channels [first, first + dim), after outliers went to the front */
    uint32_t part_dim;   /* length of the Hadamard transforms: dim, or a third of it */
    uint32_t bits;       /* of a code */
    uint32_t row_offset; /* bytes: where its codes begin in a token's row */
    float gain; /* sqrt(dim / part_dim): what the butterflies lack to coordinates times sqrt(dim) */
    float unit; /* 1 / sqrt(part_dim) */
    float centroids[TURBO_CODES_MAX];
    float thresholds
        [TURBO_CODES_MAX]; /* a coordinate above the i-th has a code above i; then zeros */
} TurboVector;

typedef struct TurboPlan {
    uint32_t vector_count;
    TurboVector vectors[TURBO_VECTORS_MAX];
    uint32_t mask_bytes;             /* of the outlier channels */
    uint32_t row_bytes;              /* codes of a token */
    float signs[CODEC_HEAD_DIM_MAX]; /* 1 or -1; a vector uses the first dim */
} TurboPlan;

/* The plan of heads that check() accepts. Static storage, made at the first call. Any thread. */
const TurboPlan *turbo_plan(const CodecHead *head);

/* channels[place]: outliers first. Any mask gives a permutation; one with another number of bits than the plan's
 * still reads inside its bounds. */
void turbo_channels(const TurboPlan *plan, const uint8_t *mask, uint32_t head_dim,
                    uint16_t *channels);

SPILLWAY_EXTERN_C_END

#endif
