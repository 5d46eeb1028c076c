#ifndef RUNTIME_ENGINE_PLAN_SHAPE_H
#define RUNTIME_ENGINE_PLAN_SHAPE_H

/* What the planner needs to know of a model: how many numbers a layer multiplies, in which format, and what they take. Read from
 * a file's header, or made up by hand. Plain data. */

#include "runtime/models/model.h"

SPILLWAY_EXTERN_C_BEGIN

/* Formats that kernels multiply at speeds of their own. */
typedef enum PlanFormat {
    PLAN_FLOAT,  /* f32, f16, bf16 */
    PLAN_8_BITS, /* codes of 6 to 8 bits */
    PLAN_4_BITS, /* codes of 5 bits at most */
    PLAN_FORMAT_COUNT,
} PlanFormat;

const char *plan_format_name(PlanFormat format); /* "float", "8 bits", "4 bits" */
PlanFormat plan_format_of(const Quant *quant);

/* Matrices that run one after the other on the same rows. */
typedef struct PlanMatrices {
    double elements[PLAN_FORMAT_COUNT];
    double bytes; /* as the backend keeps them */
} PlanMatrices;

typedef struct PlanShape {
    uint32_t layer_count, hidden_size, intermediate_size, vocab_count;
    uint32_t head_count, kv_head_count, head_dim;
    uint32_t mlp_matrix_count; /* 3 with a gate, 2 without */
    uint32_t context_length;
    PlanMatrices attention, mlp; /* of one layer: the mean over layers */
    PlanMatrices head;
    double other_bytes; /* embeddings, positions, vectors: in memory, never on disk */
} PlanShape;

/* From the tensor directory; data is not read. kernels: whose packed form counts; NULL: the file's, or that which layers are encoded in.
 * E-TENSOR: no layers, or they cannot be encoded. */
Status plan_shape_read(const Weights *weights, const ModelConfig *config, const Kernels *kernels,
                       PlanShape *out);

/* K and V of one token in all layers as f16, all ranks together. */
double plan_shape_kv_bytes(const PlanShape *shape);

/* What the busiest of `rank_count` ranks holds, each as a share of the whole. E-TOO-MANY-RANKS. */
typedef struct PlanShare {
    double weights;    /* of a layer's matrices */
    double heads;      /* query heads */
    double mlp;        /* columns */
    double vocab;      /* rows of the head */
    uint32_t kv_heads; /* how many */
} PlanShare;

Status plan_share(const PlanShape *shape, uint32_t rank_count, PlanShare *out);

SPILLWAY_EXTERN_C_END

#endif
