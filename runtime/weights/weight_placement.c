#include "runtime/weights/weight_placement.h"

#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "tiers/spill_file.h"

/* Where the pieces of the layer of pieces[first] end. */
static uint32_t layer_end(const WeightPiece *pieces, uint32_t piece_count, uint32_t first) {
    uint32_t end = first;
    while (end < piece_count && pieces[end].layer == pieces[first].layer)
        end++;
    CHECK(end - first <= LAYER_PIECES_MAX);
    return end;
}

/* Of the pieces that are still free, as bits: those that fill `room` best, the first such choice. */
static uint32_t best_choice(const WeightPiece *pieces, uint32_t count, uint64_t room) {
    uint32_t best = 0;
    uint64_t best_bytes = 0;
    for (uint32_t choice = 1; choice < 1u << count; choice++) {
        uint64_t bytes = 0;
        bool possible = true;
        for (uint32_t i = 0; i < count && possible; i++) {
            if (!(choice >> i & 1)) continue;
            bytes += pieces[i].bytes;
            possible = pieces[i].tier == TIER_NVME && bytes <= room;
        }
        if (!possible || bytes <= best_bytes) continue;
        best = choice;
        best_bytes = bytes;
    }
    return best;
}

static uint64_t free_bytes(const WeightPiece *pieces, uint32_t first, uint32_t end) {
    uint64_t bytes = 0;
    for (uint32_t i = first; i < end; i++)
        if (pieces[i].tier == TIER_NVME) bytes += pieces[i].bytes;
    return bytes;
}

/* Each layer has its share of the budget by bytes; what one layer's pieces leave of it goes to the next. */
static uint64_t fill_tier(WeightPiece *pieces, uint32_t piece_count, Tier tier, uint64_t budget) {
    uint64_t all = free_bytes(pieces, 0, piece_count), passed = 0, used = 0;
    if (budget > all) budget = all;
    for (uint32_t first = 0, end; first < piece_count; first = end) {
        end = layer_end(pieces, piece_count, first);
        passed += free_bytes(pieces, first, end);
        uint64_t allowed = all ? (uint64_t)((unsigned __int128)budget * passed / all) : 0;
        uint32_t choice = best_choice(pieces + first, end - first, allowed - used);
        for (uint32_t i = first; i < end; i++) {
            if (!(choice >> (i - first) & 1)) continue;
            pieces[i].tier = tier;
            used += pieces[i].bytes;
        }
    }
    return used;
}

void weight_placement_plan(WeightPiece *pieces, uint32_t piece_count,
                           const uint64_t budget_bytes[TIER_COUNT],
                           uint64_t out_bytes[TIER_COUNT]) {
    for (uint32_t i = 0; i < piece_count; i++)
        pieces[i].tier =
            pieces[i].bytes > 0 ? TIER_NVME : TIER_DEVICE; /* a rank may have none of it */
    out_bytes[TIER_DEVICE] = fill_tier(pieces, piece_count, TIER_DEVICE, budget_bytes[TIER_DEVICE]);
    out_bytes[TIER_HOST] = fill_tier(pieces, piece_count, TIER_HOST, budget_bytes[TIER_HOST]);
    out_bytes[TIER_NVME] = free_bytes(pieces, 0, piece_count);
    uint64_t ends[TIER_COUNT] = {0};
    for (uint32_t i = 0; i < piece_count; i++) {
        if (i > 0 && pieces[i].layer != pieces[i - 1].layer) memset(ends, 0, sizeof ends);
        pieces[i].offset = ends[pieces[i].tier];
        ends[pieces[i].tier] += align_up(pieces[i].bytes, PIECE_ALIGNMENT_BYTES);
    }
}

uint64_t weight_layer_bytes(const WeightPiece *pieces, uint32_t piece_count, Tier tier,
                            uint32_t layer) {
    uint64_t end = 0;
    for (uint32_t i = 0; i < piece_count; i++)
        if (pieces[i].layer == layer && pieces[i].tier == tier)
            end = pieces[i].offset + pieces[i].bytes;
    return align_up(end, SPILL_ALIGNMENT_MIN);
}

uint64_t weight_layer_bytes_max(const WeightPiece *pieces, uint32_t piece_count) {
    uint64_t most = 0;
    for (uint32_t i = 0; i < piece_count; i++) {
        uint64_t bytes = weight_layer_bytes(pieces, piece_count, TIER_NVME, pieces[i].layer);
        if (bytes > most) most = bytes;
    }
    return most;
}
