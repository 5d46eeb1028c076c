/* Partial attention over KV blocks, raw or encoded (kernels.h). A block of four warps takes a tile of items, (row, query head)
 * pairs of one KV head, so that the heads of a group and the rows of a prompt share each chunk of 32 tokens, which is expanded to
 * floats in shared memory once. Lanes are tokens while scores are made and channels while values are summed. A decode row of a
 * model whose heads share no keys is a tile of its own (SOLO): its scores and channels are spread over all warps.
 *
 * An item's bits: chunks begin at multiples of 32 tokens of a block and fold in order, from empty, into its group; groups fold
 * in order into the running state. Neither the tile's size, nor who stands beside the item, nor whether groups are attended one
 * after the other or side by side changes an operation of it. A token that an item does not see is never multiplied by zero. */

#include "kernels/cuda/coded_tile.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"
#include "kernels/cuda/reduce.cuh"

/* Who has an item: a warp, or the whole block (SOLO). */
template <bool SOLO> struct ItemTeam {
    enum { THREADS = SOLO ? (uint32_t)ATTEND_THREADS : (uint32_t)WARP_LANES };

    DEVICE uint32_t index() { return SOLO ? flat_thread_index() : warp_lane(); } /* in the team */
    DEVICE uint32_t place() { return SOLO ? 0 : warp_index(); }                  /* of the team */
    DEVICE uint32_t channel(uint32_t slot) { return index() + slot * THREADS; }
    DEVICE void sync() {
        if (SOLO)
            block_sync();
        else
            warp_sync();
    }
};

/* Items that a tile may have. */
HOST_DEVICE uint32_t tile_items(bool solo, uint32_t items) {
    return solo ? 1 : ATTEND_WARPS * items;
}

/* (max, sum, out) of a team's items: thread l has the channels l, l + THREADS, … */
template <uint32_t SLOTS, uint32_t ITEMS> struct AttendPartial {
    float max[ITEMS], sum[ITEMS], out[ITEMS][SLOTS];
};

/* Token indices [begin, end) inside a block or a chunk; begin >= end: none. */
struct SeenTokens {
    uint32_t begin, end;
};

/* The items of a team. Rows and heads are divided out again where they are needed: registers are dearer. */
struct TeamItems {
    uint32_t first, count; /* of all items of the span and KV head */
    uint32_t head_count;
    const uint16_t *heads;
    uint32_t row_first, position_first; /* of item 0 */
};

DEVICE bool item_valid(const TeamItems &items, uint32_t i) {
    return items.first + i < items.count;
}
DEVICE uint32_t item_row(const TeamItems &items, uint32_t i) {
    return (items.first + i) / items.head_count;
}
DEVICE uint32_t item_head(const TeamItems &items, uint32_t i) {
    return items.heads[(items.first + i) % items.head_count];
}
DEVICE uint64_t item_state(const TeamItems &items, uint32_t i, uint32_t head_count) {
    return (uint64_t)(items.row_first + item_row(items, i)) * head_count + item_head(items, i);
}

template <uint32_t DIM_SLOTS> struct AttendShared {
    SharedArray<float> queries; /* [items of the tile][units][place of a quad][quad] */
    SharedArray<float> weights; /* [teams][tokens][items] */
    SharedArray<float> scores;  /* [tokens], SOLO only */
    CodedTile<DIM_SLOTS> tile;
    uint32_t units;
};

/* Floats before the tile. */
HOST_DEVICE uint32_t attend_item_floats(uint32_t head_dim, bool solo, uint32_t items) {
    return tile_items(solo, items) * (tile_units(head_dim) * UNIT_NUMBERS + CHUNK_TOKENS) +
           (solo ? (uint32_t)CHUNK_TOKENS : 0);
}

template <uint32_t DIM_SLOTS>
static uint32_t attend_shared_bytes(uint32_t head_dim, bool solo, uint32_t items, bool coded) {
    uint32_t floats = attend_item_floats(head_dim, solo, items) +
                      CHUNK_TOKENS * TileRow<DIM_SLOTS>::STRIDE + (coded ? head_dim : 0);
    return floats * (uint32_t)sizeof(float);
}

template <uint32_t DIM_SLOTS, uint32_t ITEMS, bool SOLO>
DEVICE AttendShared<DIM_SLOTS> attend_shared(uint32_t head_dim, bool coded) {
    uint32_t units = tile_units(head_dim), count = tile_items(SOLO, ITEMS);
    uint32_t weights_at = count * units * UNIT_NUMBERS;
    uint32_t scores_at = weights_at + count * CHUNK_TOKENS;
    uint32_t tile_at = attend_item_floats(head_dim, SOLO, ITEMS);
    uint32_t tile_floats = CHUNK_TOKENS * TileRow<DIM_SLOTS>::STRIDE;
    uint32_t word = (uint32_t)sizeof(float);
    return AttendShared<DIM_SLOTS>{
        shared_array<float>(0, weights_at),
        shared_array<float>(weights_at * word, count * CHUNK_TOKENS),
        shared_array<float>(scores_at * word, tile_at - scores_at),
        {shared_array<float>(tile_at * word, tile_floats),
         shared_array<uint32_t>((tile_at + tile_floats) * word, coded ? head_dim : 0)},
        units};
}

/* What a row at `position` sees of the block whose first token stands at block_begin. */
DEVICE SeenTokens seen_tokens(const AttendLaunch &launch, uint32_t position, uint64_t block_begin) {
    uint64_t end = (uint64_t)position + 1, capacity = launch.shape.block_tokens;
    uint64_t begin = launch.window && end > launch.window ? end - launch.window : 0;
    begin = begin > block_begin ? begin - block_begin : 0;
    end = end > block_begin ? end - block_begin : 0;
    return SeenTokens{(uint32_t)(begin < capacity ? begin : capacity),
                      (uint32_t)(end < capacity ? end : capacity)};
}

/* The part of it that lies in the 32 tokens from chunk_first on, counted from there. */
DEVICE SeenTokens seen_in_chunk(SeenTokens seen, uint32_t chunk_first) {
    uint32_t begin = seen.begin > chunk_first ? seen.begin - chunk_first : 0;
    uint32_t end = seen.end > chunk_first ? seen.end - chunk_first : 0;
    return SeenTokens{begin, end < CHUNK_TOKENS ? end : (uint32_t)CHUNK_TOKENS};
}

/* Four steps of a chain. */
DEVICE float chain_add(Float4 q, Float4 k, float sum) {
    sum = fused_multiply_add(q.x, k.x, sum);
    sum = fused_multiply_add(q.y, k.y, sum);
    sum = fused_multiply_add(q.z, k.z, sum);
    return fused_multiply_add(q.w, k.w, sum);
}

/* scale * (q . k) of the lane's token for every item of the warp: four chains over the channels, one a place in a quad. */
template <uint32_t DIM_SLOTS, uint32_t ITEMS>
DEVICE void chunk_scores(const AttendShared<DIM_SLOTS> &shared, float scale, float *out_scores) {
    float sums[ITEMS][4] = {};
    uint32_t row = warp_lane() * TileRow<DIM_SLOTS>::STRIDE;
    for (uint32_t unit = 0; unit < shared.units; unit++)
        for (uint32_t place = 0; place < 4; place++) {
            Float4 k = load4_shared(shared.tile.numbers, row + tile_quad(unit, place));
            for (uint32_t i = 0; i < ITEMS; i++) {
                uint32_t item = warp_index() * ITEMS + i;
                Float4 q = load4_shared(shared.queries,
                                        (item * shared.units + unit) * UNIT_NUMBERS + 4 * place);
                sums[i][place] = chain_add(q, k, sums[i][place]);
            }
        }
    for (uint32_t i = 0; i < ITEMS; i++)
        out_scores[i] = scale * ((sums[i][0] + sums[i][1]) + (sums[i][2] + sums[i][3]));
}

/* The same for the one item of a block, the lane's token again: four lanes have the chains of a token, neighbouring fours those of tokens
 * four apart, whose rows lie half of all banks apart. */
template <uint32_t DIM_SLOTS>
DEVICE float solo_scores(const AttendShared<DIM_SLOTS> &shared, float scale,
                         const TokenChunk &chunk) {
    uint32_t place = warp_lane() % 4, four = warp_lane() / 4;
    uint32_t token = warp_index() * (WARP_LANES / 4) + four / 2 + four % 2 * 4;
    float sum = 0.0f;
    if (token >= chunk.from && token < chunk.to)
#pragma unroll
        for (uint32_t unit = 0; unit < TileRow<DIM_SLOTS>::UNITS; unit++) {
            if (unit >= shared.units) break;
            Float4 k = load4_shared(shared.tile.numbers,
                                    token * TileRow<DIM_SLOTS>::STRIDE + tile_quad(unit, place));
            sum = chain_add(load4_shared(shared.queries, UNIT_NUMBERS * unit + 4 * place), k, sum);
        }
    sum += warp_shuffle_xor(sum, 1);
    sum += warp_shuffle_xor(sum, 2);
    if (place == 0) shared.scores[token] = scale * sum;
    block_sync();
    return shared.scores[warp_lane()];
}

/* Scores of the chunk become weights in shared memory; maxima, sums and what was summed before follow the new maximum. */
template <uint32_t DIM_SLOTS, uint32_t SLOTS, uint32_t ITEMS, bool SOLO>
DEVICE void chunk_weights(const AttendShared<DIM_SLOTS> &shared, const float *scores,
                          const TokenChunk &chunk, const SeenTokens *block_sees,
                          AttendPartial<SLOTS, ITEMS> &partial) {
    uint32_t lane = warp_lane();
    for (uint32_t i = 0; i < ITEMS; i++) {
        SeenTokens seen = seen_in_chunk(block_sees[i], chunk.chunk_first);
        float weight = 0.0f;
        if (seen.begin < seen.end) { /* the same in all lanes */
            bool sees = lane >= seen.begin && lane < seen.end;
            float max = fmaxf(partial.max[i], warp_max(sees ? scores[i] : -INFINITY));
            float kept = weight_of(partial.max[i], max);
            if (sees) weight = weight_of(scores[i], max);
            partial.max[i] = max;
            partial.sum[i] = fused_multiply_add(partial.sum[i], kept, warp_sum(weight));
            for (uint32_t slot = 0; slot < SLOTS; slot++)
                partial.out[i][slot] *= kept;
        }
        if (!SOLO || warp_index() == 0) /* all warps have the same */
            shared.weights[(ItemTeam<SOLO>::place() * CHUNK_TOKENS + lane) * ITEMS + i] = weight;
    }
}

/* The tokens of a chunk that every item of the team sees: nobody need be asked. */
template <uint32_t ITEMS>
DEVICE SeenTokens seen_by_all(const TeamItems &items, const TokenChunk &chunk,
                              const SeenTokens *block_sees) {
    SeenTokens all = {chunk.from, chunk.to};
    for (uint32_t i = 0; i < ITEMS; i++) {
        SeenTokens seen = seen_in_chunk(block_sees[i], chunk.chunk_first);
        if (!item_valid(items, i)) continue; /* its sums are nobody's */
        if (seen.begin > all.begin) all.begin = seen.begin;
        if (seen.end < all.end) all.end = seen.end;
    }
    if (all.begin > chunk.to) all.begin = chunk.to;
    if (all.end < all.begin) all.end = all.begin;
    return all;
}

/* Where the values of a thread stand in a row; behind the last channel those of another, for nobody. */
template <uint32_t SLOTS, bool SOLO> DEVICE void value_places(uint32_t head_dim, uint32_t *out) {
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t d = ItemTeam<SOLO>::channel(slot);
        out[slot] = tile_channel(d < head_dim ? d : 0);
    }
}

/* Adds the values of a token that item i sees. */
template <uint32_t SLOTS, uint32_t ITEMS>
DEVICE void value_add(const float *values, float weight, uint32_t i,
                      AttendPartial<SLOTS, ITEMS> &partial) {
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        partial.out[i][slot] = fused_multiply_add(weight, values[slot], partial.out[i][slot]);
}

template <uint32_t DIM_SLOTS, uint32_t SLOTS>
DEVICE void values_load(const AttendShared<DIM_SLOTS> &shared, const uint32_t *places,
                        uint32_t token, float *out) {
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        out[slot] = shared.tile.numbers[token * TileRow<DIM_SLOTS>::STRIDE + places[slot]];
}

/* Adds the values of tokens [from, to) of a chunk. ASKS: not every item sees every one of them. */
template <uint32_t DIM_SLOTS, uint32_t SLOTS, uint32_t ITEMS, bool SOLO, bool ASKS>
DEVICE void values_add(const AttendShared<DIM_SLOTS> &shared, const uint32_t *places,
                       const TokenChunk &chunk, const SeenTokens *block_sees,
                       AttendPartial<SLOTS, ITEMS> &partial) {
#pragma unroll(ASKS ? 1 : 4)
    for (uint32_t token = chunk.from; token < chunk.to; token++) {
        float values[SLOTS];
        values_load<DIM_SLOTS, SLOTS>(shared, places, token, values);
        uint32_t weights_at = (ItemTeam<SOLO>::place() * CHUNK_TOKENS + token) * ITEMS;
        for (uint32_t i = 0; i < ITEMS; i++) {
            uint32_t in_block = chunk.chunk_first + token;
            if (ASKS && (in_block < block_sees[i].begin || in_block >= block_sees[i].end)) continue;
            value_add(values, shared.weights[weights_at + i], i, partial);
        }
    }
}

/* Of a whole chunk that every item sees, with the weights of four tokens at a time. */
template <uint32_t DIM_SLOTS, uint32_t SLOTS, uint32_t ITEMS, bool SOLO>
DEVICE void values_add_whole(const AttendShared<DIM_SLOTS> &shared, const uint32_t *places,
                             AttendPartial<SLOTS, ITEMS> &partial) {
#pragma unroll 2
    for (uint32_t first = 0; first < CHUNK_TOKENS; first += 4) {
        float weights[4 * ITEMS];
        for (uint32_t i = 0; i < ITEMS; i++) {
            Float4 four = load4_shared(
                shared.weights, (ItemTeam<SOLO>::place() * CHUNK_TOKENS + first) * ITEMS + 4 * i);
            weights[4 * i] = four.x;
            weights[4 * i + 1] = four.y;
            weights[4 * i + 2] = four.z;
            weights[4 * i + 3] = four.w;
        }
        for (uint32_t t = 0; t < 4; t++) {
            float values[SLOTS];
            values_load<DIM_SLOTS, SLOTS>(shared, places, first + t, values);
            for (uint32_t i = 0; i < ITEMS; i++)
                value_add(values, weights[t * ITEMS + i], i, partial);
        }
    }
}

template <uint32_t DIM_SLOTS, uint32_t SLOTS, uint32_t ITEMS, bool SOLO>
DEVICE void chunk_values(const AttendShared<DIM_SLOTS> &shared, const uint32_t *places,
                         const TeamItems &items, const TokenChunk &chunk,
                         const SeenTokens *block_sees, AttendPartial<SLOTS, ITEMS> &partial) {
    SeenTokens all = seen_by_all<ITEMS>(items, chunk, block_sees);
    if (all.begin == 0 && all.end == CHUNK_TOKENS) {
        values_add_whole<DIM_SLOTS, SLOTS, ITEMS, SOLO>(shared, places, partial);
        return;
    }
    TokenChunk before = {chunk.chunk_first, chunk.from, all.begin},
               seen = {chunk.chunk_first, all.begin, all.end},
               behind = {chunk.chunk_first, all.end, chunk.to};
    values_add<DIM_SLOTS, SLOTS, ITEMS, SOLO, true>(shared, places, before, block_sees, partial);
    values_add<DIM_SLOTS, SLOTS, ITEMS, SOLO, false>(shared, places, seen, block_sees, partial);
    values_add<DIM_SLOTS, SLOTS, ITEMS, SOLO, true>(shared, places, behind, block_sees, partial);
}

/* Folds a group's partial of one item into the running state. A group that weighs nothing leaves it untouched. By its team. */
template <uint32_t SLOTS, bool SOLO>
DEVICE void state_fold(const AttendLaunch &launch, uint64_t state, float group_max, float group_sum,
                       const float *group_out) {
    if (group_max == -INFINITY && group_sum == 0.0f) return;
    float *out = launch.out + state * launch.shape.head_dim;
    float old_max = launch.maxima[state], old_sum = launch.sums[state];
    float max = fmaxf(old_max, group_max);
    float kept = weight_of(old_max, max), added = weight_of(group_max, max);
    ItemTeam<SOLO>::sync(); /* every thread has read before one writes */
    if (ItemTeam<SOLO>::index() == 0) {
        launch.maxima[state] = max;
        launch.sums[state] = fused_multiply_add(old_sum, kept, group_sum * added);
    }
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t d = ItemTeam<SOLO>::channel(slot);
        if (d < launch.shape.head_dim)
            out[d] = fused_multiply_add(out[d], kept, group_out[slot] * added);
    }
    ItemTeam<SOLO>::sync();
}

/* Where the partial of a state begins: max, sum, out[head_dim]. */
DEVICE float *partial_of(const AttendLaunch &launch, uint32_t group, uint64_t state) {
    uint64_t states = (uint64_t)launch.row_count * launch.head_count;
    return launch.partials + (group * states + state) * (2 + launch.shape.head_dim);
}

template <uint32_t SLOTS, bool SOLO>
DEVICE void partial_store(const AttendLaunch &launch, float *to, float max, float sum,
                          const float *out) {
    if (ItemTeam<SOLO>::index() == 0) {
        to[0] = max;
        to[1] = sum;
    }
    for (uint32_t slot = 0; slot < SLOTS; slot++) {
        uint32_t d = ItemTeam<SOLO>::channel(slot);
        if (d < launch.shape.head_dim) to[2 + d] = out[slot];
    }
}

template <uint32_t DIM_SLOTS, uint32_t ITEMS, bool SOLO>
DEVICE void queries_load(const AttendLaunch &launch, const TeamItems &items,
                         const AttendShared<DIM_SLOTS> &shared) {
    uint32_t head_dim = launch.shape.head_dim;
    for (uint32_t i = 0; i < ITEMS; i++) {
        uint32_t numbers = shared.units * UNIT_NUMBERS;
        uint32_t at = (ItemTeam<SOLO>::place() * ITEMS + i) * numbers;
        const float *q = launch.q;
        if (item_valid(items, i))
            q += (items.row_first + item_row(items, i)) * launch.q_stride +
                 (uint64_t)item_head(items, i) * head_dim;
        for (uint32_t d = ItemTeam<SOLO>::index(); d < numbers; d += ItemTeam<SOLO>::THREADS) {
            uint32_t place = d / UNIT_NUMBERS * UNIT_NUMBERS + d % 4 * 4 + d / 4 % 4;
            shared.queries[at + place] = item_valid(items, i) && d < head_dim ? q[d] : 0.0f;
        }
    }
}

template <uint32_t DIM_SLOTS, bool CODED>
DEVICE void part_expand(const AttendLaunch &launch, const AttendBlock &block, CodecPart part,
                        const TokenChunk &chunk, const AttendShared<DIM_SLOTS> &shared) {
    const CodedForm *form = &launch.forms[block.form];
    CodedHead head = coded_head(form, &launch.shape, block.bytes, part, block_index().y);
    if (CODED && form->kind != CODED_RAW)
        expand_coded(form, head, chunk, shared.tile);
    else
        expand_raw(head, chunk, shared.tile);
}

/* The share of 32 tokens in the bytes of a block's head begins its way from memory, while others are worked on: exactly their bytes where rows lie
 * one after the other, and of as many where they do not. */
DEVICE void chunk_ahead(const AttendLaunch &launch, const AttendBlock &block,
                        uint32_t chunk_first) {
    const CodedForm *form = &launch.forms[block.form];
    for (uint32_t part = 0; part < CODEC_PART_COUNT; part++) {
        const uint8_t *head =
            coded_head(form, &launch.shape, block.bytes, (CodecPart)part, block_index().y).bytes;
        uint32_t bytes = (uint32_t)form->head_bytes[part], tokens = launch.shape.block_tokens;
        uint32_t share = bytes / tokens * CHUNK_TOKENS, from = bytes / tokens * chunk_first;
        for (uint32_t at = from + PREFETCH_LINE * thread_index().x; at < from + share && at < bytes;
             at += PREFETCH_LINE * ATTEND_THREADS)
            prefetch_line(head + at);
    }
}

/* `tile_sees`: what any item of the tile sees of the block. next: the block behind it; NULL: none. */
template <uint32_t DIM_SLOTS, uint32_t SLOTS, uint32_t ITEMS, bool SOLO, bool CODED>
DEVICE void block_attend(const AttendLaunch &launch, const AttendBlock &block,
                         const AttendBlock *next, uint64_t block_begin, SeenTokens tile_sees,
                         const TeamItems &items, const AttendShared<DIM_SLOTS> &shared,
                         AttendPartial<SLOTS, ITEMS> &partial) {
    if (tile_sees.begin >= tile_sees.end) return;
    uint32_t places[SLOTS];
    value_places<SLOTS, SOLO>(launch.shape.head_dim, places);
    SeenTokens block_sees[ITEMS] = {};
    for (uint32_t i = 0; i < ITEMS; i++)
        if (item_valid(items, i))
            block_sees[i] =
                seen_tokens(launch, items.position_first + item_row(items, i), block_begin);
    for (uint32_t first = tile_sees.begin / CHUNK_TOKENS * CHUNK_TOKENS; first < tile_sees.end;
         first += CHUNK_TOKENS) {
        SeenTokens any = seen_in_chunk(tile_sees, first);
        TokenChunk chunk = {first, any.begin, any.end};
        float scores[ITEMS] = {};
        if (first + CHUNK_TOKENS < tile_sees.end)
            chunk_ahead(launch, block, first + CHUNK_TOKENS);
        else if (next)
            chunk_ahead(launch, *next, 0);
        block_sync(); /* the tile is free */
        part_expand<DIM_SLOTS, CODED>(launch, block, CODEC_KEYS, chunk, shared);
        block_sync();
        if (SOLO)
            scores[0] = solo_scores(shared, launch.scale, chunk);
        else if (warp_lane() >= chunk.from && warp_lane() < chunk.to)
            chunk_scores<DIM_SLOTS, ITEMS>(shared, launch.scale, scores);
        chunk_weights<DIM_SLOTS, SLOTS, ITEMS, SOLO>(shared, scores, chunk, block_sees, partial);
        if (!SOLO) block_sync(); /* solo_scores has one */
        part_expand<DIM_SLOTS, CODED>(launch, block, CODEC_VALUES, chunk, shared);
        block_sync();
        chunk_values<DIM_SLOTS, SLOTS, ITEMS, SOLO>(shared, places, items, chunk, block_sees,
                                                    partial);
    }
}

/* What the tile sees of a block: from what its first row sees to what its last one does. */
template <uint32_t ITEMS, bool SOLO>
DEVICE SeenTokens tile_sees(const AttendLaunch &launch, const TeamItems &items, uint32_t item_first,
                            uint64_t block_begin) {
    uint32_t last = item_first + tile_items(SOLO, ITEMS) - 1;
    if (last >= items.count) last = items.count - 1;
    uint32_t first_position = items.position_first + item_first / items.head_count;
    uint32_t last_position = items.position_first + last / items.head_count;
    return SeenTokens{seen_tokens(launch, first_position, block_begin).begin,
                      seen_tokens(launch, last_position, block_begin).end};
}

template <uint32_t SLOTS, uint32_t ITEMS, bool SOLO>
DEVICE void group_finish(const AttendLaunch &launch, const TeamItems &items, uint32_t group,
                         const AttendPartial<SLOTS, ITEMS> &partial) {
    for (uint32_t i = 0; i < ITEMS; i++) {
        if (!item_valid(items, i)) return;
        uint64_t state = item_state(items, i, launch.head_count);
        if (launch.partials)
            partial_store<SLOTS, SOLO>(launch, partial_of(launch, group, state), partial.max[i],
                                       partial.sum[i], partial.out[i]);
        else
            state_fold<SLOTS, SOLO>(launch, state, partial.max[i], partial.sum[i], partial.out[i]);
    }
}

/* Blocks of threads on a multiprocessor: a decode row has little to do for each number, and others must run while one waits for memory. More
 * would spill registers. */
static constexpr uint32_t attend_side_by_side(uint32_t dim_slots, uint32_t items, bool solo,
                                              bool coded) {
    uint32_t blocks = solo && !coded ? 6 : solo || items == 1 ? 5 : 4;
    bool crowded = dim_slots == 8 && (coded || !solo); /* with the numbers of wide heads */
    return crowded ? blocks - 1 : blocks;
}

/* Grid: tiles, KV heads, groups when they are attended side by side. */
template <uint32_t DIM_SLOTS, uint32_t ITEMS, bool SOLO, bool CODED>
KERNEL_BLOCKS(ATTEND_THREADS, (attend_side_by_side(DIM_SLOTS, ITEMS, SOLO, CODED)))
void attend_tiles(AttendLaunch launch) {
    enum { SLOTS = SOLO ? (DIM_SLOTS + ATTEND_WARPS - 1) / ATTEND_WARPS : DIM_SLOTS };
    AttendTile tile = launch.tiles[block_index().x];
    AttendSpan span = launch.spans[tile.span];
    uint32_t head_first = launch.head_firsts[block_index().y];
    TeamItems items = {tile.item_first + ItemTeam<SOLO>::place() * ITEMS,
                       0,
                       launch.head_firsts[block_index().y + 1] - head_first,
                       launch.heads + head_first,
                       span.row_first,
                       span.position_first};
    items.count = span.row_count * items.head_count;
    uint32_t group_begin = launch.partials ? block_index().z : 0;
    uint32_t group_end = launch.partials ? group_begin + 1 : span.group_count;
    if (tile.item_first >= items.count || group_end > span.group_count) return;
    AttendShared<DIM_SLOTS> shared =
        attend_shared<DIM_SLOTS, ITEMS, SOLO>(launch.shape.head_dim, CODED);
    queries_load<DIM_SLOTS, ITEMS, SOLO>(launch, items, shared);
    AttendGroup last = launch.groups[span.group_first + group_end - 1];
    for (uint32_t g = group_begin; g < group_end; g++) {
        AttendGroup group = launch.groups[span.group_first + g];
        AttendPartial<SLOTS, ITEMS> partial = {};
        for (uint32_t i = 0; i < ITEMS; i++)
            partial.max[i] = -INFINITY;
        for (uint32_t b = 0; b < group.block_count; b++) {
            uint64_t begin = (uint64_t)(group.ordinal_first + b) * launch.shape.block_tokens;
            SeenTokens sees = tile_sees<ITEMS, SOLO>(launch, items, tile.item_first, begin);
            const AttendBlock *block = launch.blocks + group.block_first + b;
            const AttendBlock *end = launch.blocks + last.block_first + last.block_count;
            block_attend<DIM_SLOTS, SLOTS, ITEMS, SOLO, CODED>(launch, *block,
                                                               block + 1 < end ? block + 1 : NULL,
                                                               begin, sees, items, shared, partial);
        }
        group_finish<SLOTS, ITEMS, SOLO>(launch, items, g, partial);
    }
}

/* Groups that were attended side by side, in order: a warp a state. Grid: spans, rows of them and heads in steps of four. */
template <uint32_t SLOTS> KERNEL(ATTEND_THREADS) void attend_fold(AttendLaunch launch) {
    AttendSpan span = launch.spans[block_index().x];
    uint32_t item = block_index().y * ATTEND_WARPS + warp_index();
    if (item >= span.row_count * launch.head_count) return;
    uint64_t state = (uint64_t)span.row_first * launch.head_count + item;
    for (uint32_t g = 0; g < span.group_count; g++) {
        const float *from = partial_of(launch, g, state);
        float out[SLOTS] = {};
        for (uint32_t slot = 0; slot < SLOTS; slot++) {
            uint32_t d = warp_lane() + slot * WARP_LANES;
            if (d < launch.shape.head_dim) out[slot] = from[2 + d];
        }
        state_fold<SLOTS, false>(launch, state, from[0], from[1], out);
    }
}

/* ---- launchers */

template <uint32_t DIM_SLOTS, uint32_t ITEMS, bool SOLO>
static void tiles_launch(DeviceStream *stream, const AttendLaunch *launch) {
    Extent3 grid = extent(launch->tile_count, launch->shape.kv_head_count,
                          launch->partials ? launch->group_count_max : 1);
    uint32_t bytes =
        attend_shared_bytes<DIM_SLOTS>(launch->shape.head_dim, SOLO, ITEMS, launch->coded);
    if (launch->coded)
        LAUNCH((attend_tiles<DIM_SLOTS, ITEMS, SOLO, true>), grid, extent(ATTEND_THREADS), bytes,
               stream, *launch);
    else
        LAUNCH((attend_tiles<DIM_SLOTS, ITEMS, SOLO, false>), grid, extent(ATTEND_THREADS), bytes,
               stream, *launch);
}

template <uint32_t DIM_SLOTS, uint32_t MANY>
static void slots_launch(DeviceStream *stream, const AttendLaunch *launch) {
    if (launch->tile_items == ATTEND_SOLO)
        tiles_launch<DIM_SLOTS, 1, true>(stream, launch);
    else if (launch->tile_items == ATTEND_FEW)
        tiles_launch<DIM_SLOTS, 1, false>(stream, launch);
    else
        tiles_launch<DIM_SLOTS, MANY, false>(stream, launch);
    if (!launch->partials) return;
    uint32_t states = launch->row_count * launch->head_count;
    Extent3 grid = extent(launch->span_count, (states + ATTEND_WARPS - 1) / ATTEND_WARPS);
    LAUNCH(attend_fold<DIM_SLOTS>, grid, extent(ATTEND_THREADS), 0, stream, *launch);
}

enum {
    MANY_NARROW = ATTEND_MANY_NARROW / ATTEND_WARPS,
    MANY_WIDE = ATTEND_MANY_WIDE / ATTEND_WARPS
};

static void attend_launch(DeviceStream *stream, const AttendLaunch *launch) {
    static void (*const launchers[])(DeviceStream * stream, const AttendLaunch *launch) = {
        slots_launch<2, MANY_NARROW>,
        slots_launch<4, MANY_NARROW>,
        slots_launch<8, MANY_WIDE>,
        slots_launch<8, MANY_WIDE>,
    };
    launchers[(launch->shape.head_dim - 1) / 64](stream, launch);
}

extern "C" void PORT_NAME(attention_fill)(CudaLaunchers *launchers) {
    launchers->attend = attend_launch;
#ifdef __CUDACC__
    launchers->attend_blocks_enough = 512; /* four on each multiprocessor of an H100 */
#else
    launchers->attend_blocks_enough = 8; /* tests meet both ways */
#endif
}
