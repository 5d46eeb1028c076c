/* Shares of the ranks: every head, column and vocabulary row is held, KV heads cover the query heads that read them,
 * and the bytes level out. */

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "runtime/base/random.h"
#include "runtime/comm/parallel.h"

enum { RANKS_MAX = 16 };

static void assert_tiles(const RankShare *shares, int ranks, size_t member, uint32_t count) {
    uint32_t next = 0;
    for (int rank = 0; rank < ranks; rank++) {
        const Share *share = (const Share *)((const char *)&shares[rank] + member);
        assert_int_equal(share->begin, next);
        assert_true(share->end >= share->begin);
        next = share->end;
    }
    assert_int_equal(next, count);
}

static void assert_kv_heads_cover(const ParallelShape *shape, const RankShare *share) {
    uint32_t group = shape->head_count / shape->kv_head_count;
    assert_true(share_count(share->heads) > 0);
    assert_int_equal(share->kv_heads.begin, share->heads.begin / group);
    assert_int_equal(share->kv_heads.end, (share->heads.end - 1) / group + 1);
}

static uint64_t weight_count(const ParallelShape *shape, const RankShare *share) {
    uint64_t heads = 2ull * share_count(share->heads) + 2ull * share_count(share->kv_heads);
    return (heads * shape->head_dim +
            (uint64_t)shape->mlp_matrix_count * share_count(share->mlp_columns)) *
           shape->hidden_size;
}

/* Levelling can fail only where a rank's attention alone is above the level; else all are within a granule or so. */
static void assert_level(const ParallelShape *shape, const RankShare *shares, int ranks) {
    uint64_t total = 0, most = 0, most_attention = 0;
    uint64_t granule =
        (uint64_t)shape->mlp_column_granule * shape->mlp_matrix_count * shape->hidden_size;
    for (int rank = 0; rank < ranks; rank++) {
        RankShare attention = shares[rank];
        attention.mlp_columns = (Share){0, 0};
        uint64_t weight = weight_count(shape, &shares[rank]),
                 bare = weight_count(shape, &attention);
        total += weight;
        if (weight > most) most = weight;
        if (bare > most_attention) most_attention = bare;
    }
    uint64_t level = total / (uint64_t)ranks;
    if (level < most_attention) level = most_attention;
    assert_true(most <= level + 2 * granule);
}

static void random_shapes(void **state) {
    (void)state;
    Random random = {.key = 11};
    for (int trial = 0; trial < 5000; trial++) {
        uint32_t kv_heads = 1 + (uint32_t)random_below(&random, 12);
        ParallelShape shape = {.head_count = kv_heads * (1 + (uint32_t)random_below(&random, 8)),
                               .kv_head_count = kv_heads,
                               .head_dim = 1 + (uint32_t)random_below(&random, 128),
                               .hidden_size = 1 + (uint32_t)random_below(&random, 4096),
                               .intermediate_size = 1 + (uint32_t)random_below(&random, 12000),
                               .vocab_count = 1 + (uint32_t)random_below(&random, 60000),
                               .mlp_matrix_count = 2 + (uint32_t)random_below(&random, 2),
                               .mlp_column_granule = random_below(&random, 2) ? 32 : 1};
        int ranks = 1 + (int)random_below(&random, RANKS_MAX);
        RankShare shares[RANKS_MAX];
        uint32_t granules =
            (shape.intermediate_size + shape.mlp_column_granule - 1) / shape.mlp_column_granule;
        bool possible = (uint32_t)ranks <= shape.head_count && (uint32_t)ranks <= granules;
        error_capture_begin();
        Status status = parallel_split(&shape, ranks, shares);
        error_capture_end();
        assert_int_equal(status, possible ? STATUS_OK : STATUS_BAD_INPUT);
        if (!possible) {
            assert_int_equal(error_last(NULL), ERROR_TOO_MANY_RANKS);
            continue;
        }
        assert_tiles(shares, ranks, offsetof(RankShare, heads), shape.head_count);
        assert_tiles(shares, ranks, offsetof(RankShare, mlp_columns), shape.intermediate_size);
        assert_tiles(shares, ranks, offsetof(RankShare, vocab_rows), shape.vocab_count);
        for (int rank = 0; rank < ranks; rank++)
            assert_kv_heads_cover(&shape, &shares[rank]);
        assert_level(&shape, shares, ranks);
    }
}

static void nine_heads_on_two_ranks(void **state) {
    (void)state;
    const ParallelShape smollm = {.head_count = 9,
                                  .kv_head_count = 3,
                                  .head_dim = 64,
                                  .hidden_size = 576,
                                  .intermediate_size = 1536,
                                  .vocab_count = 49152,
                                  .mlp_matrix_count = 3,
                                  .mlp_column_granule = 32};
    RankShare shares[2];
    assert_int_equal(parallel_split(&smollm, 2, shares), STATUS_OK);
    assert_int_equal(share_count(shares[0].heads), 6);
    assert_int_equal(share_count(shares[0].kv_heads), 2);
    assert_int_equal(share_count(shares[1].heads), 3);
    assert_int_equal(share_count(shares[1].kv_heads), 1);
    /* the rank with fewer heads holds more of the MLP: (6+2 - 3-1) * 2 * 64 / 3 = 170 columns more, in steps of 32 */
    assert_int_equal(share_count(shares[1].mlp_columns) - share_count(shares[0].mlp_columns), 192);
    assert_int_equal(share_count(shares[0].vocab_rows), 24576);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_shapes),
        cmocka_unit_test(nine_heads_on_two_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
