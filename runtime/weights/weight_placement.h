#ifndef RUNTIME_WEIGHTS_WEIGHT_PLACEMENT_H
#define RUNTIME_WEIGHTS_WEIGHT_PLACEMENT_H

/* Which packed matrices of the layers stay on the device, which in host memory, and which lie in files and stream through every
 * pass. Every pass reads each of them once, in layer order, so a fixed split is best, and one that gives each layer the same
 * bytes to hide behind its compute. A pure function of sizes and budgets: every rank may call it for itself. */

#include <stdint.h>

#include "tiers/tier_manager.h"

SPILLWAY_EXTERN_C_BEGIN

/* Pieces begin in units of direct I/O, so that each can be read by itself from a file that holds them all. */
enum { LAYER_PIECES_MAX = 16, PIECE_ALIGNMENT_BYTES = 4096 };

/* A packed matrix, as far as placement and streams know it. */
typedef struct WeightPiece {
    const char *name; /* of its tensor, for errors; borrowed */
    uint32_t layer;
    uint64_t bytes;
    Tier tier;
    uint64_t offset; /* in what its layer has in its tier, where that lies together */
} WeightPiece;

/* pieces: in layer order, at most LAYER_PIECES_MAX a layer. Sets tier and offset of each. Device first, then host, neither beyond
 * its budget; what is left is TIER_NVME's. out_bytes: what each tier holds. */
void weight_placement_plan(WeightPiece *pieces, uint32_t piece_count,
                           const uint64_t budget_bytes[TIER_COUNT], uint64_t out_bytes[TIER_COUNT]);

/* What a layer has in a tier, in whole units of direct I/O; and the longest part in files of all layers. */
uint64_t weight_layer_bytes(const WeightPiece *pieces, uint32_t piece_count, Tier tier,
                            uint32_t layer);
uint64_t weight_layer_bytes_max(const WeightPiece *pieces, uint32_t piece_count);

SPILLWAY_EXTERN_C_END

#endif
