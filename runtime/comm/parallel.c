#include "runtime/comm/parallel.h"

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum { VOCAB_GRANULE = 16 }; /* a whole vector of columns for every rank but the last */

/* [count * rank / ranks]: part `rank` of `count` things, sizes differing by one at most, larger parts first. */
static Share even_share(uint32_t count, int rank, int rank_count) {
    uint32_t size = (uint32_t)rank_count, part = count / size, rest = count % size,
             r = (uint32_t)rank;
    uint32_t begin = part * r + (r < rest ? r : rest);
    return (Share){begin, begin + part + (r < rest ? 1 : 0)};
}

static void split_heads(const ParallelShape *shape, int rank_count, RankShare *out) {
    uint32_t group = shape->head_count / shape->kv_head_count;
    for (int rank = 0; rank < rank_count; rank++) {
        if ((uint32_t)rank_count <= shape->kv_head_count) {
            Share kv = even_share(shape->kv_head_count, rank, rank_count);
            out[rank].kv_heads = kv;
            out[rank].heads = (Share){kv.begin * group, kv.end * group};
        } else {
            Share heads = even_share(shape->head_count, rank, rank_count);
            out[rank].heads = heads;
            out[rank].kv_heads = (Share){heads.begin / group, (heads.end - 1) / group + 1};
        }
    }
}

/* Columns such that attention and MLP together weigh the same on each rank: each rank in turn takes what it lacks
 * of the level that the ranks from it on can share. */
static void split_mlp(const ParallelShape *shape, int rank_count, RankShare *out) {
    uint64_t column_cost = (uint64_t)shape->mlp_matrix_count * shape->hidden_size;
    uint64_t granule = shape->mlp_column_granule;
    uint32_t granules_left = (uint32_t)divide_up(shape->intermediate_size, granule);
    uint64_t attention_left = 0;
    for (int rank = 0; rank < rank_count; rank++)
        attention_left +=
            (2ull * share_count(out[rank].heads) + 2ull * share_count(out[rank].kv_heads)) *
            shape->head_dim * shape->hidden_size;
    uint32_t begin = 0;
    for (int rank = 0; rank < rank_count; rank++) {
        uint64_t attention =
            (2ull * share_count(out[rank].heads) + 2ull * share_count(out[rank].kv_heads)) *
            shape->head_dim * shape->hidden_size;
        uint32_t ranks_left = (uint32_t)(rank_count - rank);
        uint64_t total = attention_left + granules_left * granule * column_cost;
        uint64_t level = total / ranks_left;
        uint64_t lack = level > attention ? level - attention : 0;
        uint64_t take = (lack + granule * column_cost / 2) / (granule * column_cost);
        if (take == 0) take = 1;
        if (take > granules_left - (ranks_left - 1)) take = granules_left - (ranks_left - 1);
        if (ranks_left == 1) take = granules_left;
        uint32_t end = begin + (uint32_t)(take * granule);
        if (end > shape->intermediate_size) end = shape->intermediate_size;
        out[rank].mlp_columns = (Share){begin, end};
        begin = end;
        granules_left -= (uint32_t)take;
        attention_left -= attention;
    }
}

static void split_vocab(const ParallelShape *shape, int rank_count, RankShare *out) {
    uint32_t granules = (uint32_t)divide_up(shape->vocab_count, VOCAB_GRANULE);
    for (int rank = 0; rank < rank_count; rank++) {
        Share share = even_share(granules, rank, rank_count);
        uint32_t begin = share.begin * VOCAB_GRANULE, end = share.end * VOCAB_GRANULE;
        out[rank].vocab_rows = (Share){begin < shape->vocab_count ? begin : shape->vocab_count,
                                       end < shape->vocab_count ? end : shape->vocab_count};
    }
}

Status parallel_split(const ParallelShape *shape, int rank_count, RankShare *out) {
    CHECK(rank_count >= 1 && shape->kv_head_count > 0 &&
          shape->head_count % shape->kv_head_count == 0);
    uint64_t granules = divide_up(shape->intermediate_size, shape->mlp_column_granule);
    if ((uint32_t)rank_count > shape->head_count || (uint64_t)rank_count > granules)
        FAIL(TOO_MANY_RANKS,
             "%d ranks: the model has %u query heads and %llu groups of %u MLP columns to share "
             "out; use at most %llu ranks",
             rank_count, shape->head_count, (unsigned long long)granules, shape->mlp_column_granule,
             (unsigned long long)(shape->head_count < granules ? shape->head_count : granules));
    split_heads(shape, rank_count, out);
    split_mlp(shape, rank_count, out);
    split_vocab(shape, rank_count, out);
    return STATUS_OK;
}
