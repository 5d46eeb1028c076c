#ifndef RUNTIME_COMM_PARALLEL_H
#define RUNTIME_COMM_PARALLEL_H

/* Tensor parallelism: which heads, MLP columns and vocabulary rows a rank holds. Column-parallel q, k, v, gate, up;
 * row-parallel attention-out and down, summed over ranks (Megatron-LM, arXiv 1909.08053). Uneven splits are normal: heads go in
 * whole KV groups while there are enough of them (9 query and 3 KV heads on 2 ranks: 6+3 query heads, 2+1 KV heads), and MLP columns level
 * out the bytes. With more ranks than KV heads, query heads are split and the KV heads they read are replicated. Pure functions. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Share {
    uint32_t begin, end; /* [begin, end) */
} Share;

static inline uint32_t share_count(Share share) {
    return share.end - share.begin;
}

typedef struct RankShare {
    Share heads;
    Share kv_heads;
    Share mlp_columns;
    Share vocab_rows;
} RankShare;

typedef struct ParallelShape {
    uint32_t head_count, kv_head_count, head_dim;
    uint32_t hidden_size, intermediate_size, vocab_count;
    uint32_t mlp_matrix_count;   /* 3 with a gate, 2 without */
    uint32_t mlp_column_granule; /* columns come in multiples: the quant group, 1 for floats */
} ParallelShape;

/* out[rank_count]. E-TOO-MANY-RANKS when a rank would hold no query head or no MLP column. */
Status parallel_split(const ParallelShape *shape, int rank_count, RankShare *out);

SPILLWAY_EXTERN_C_END

#endif
