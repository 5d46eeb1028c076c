#ifndef TIERS_BLOCK_H
#define TIERS_BLOCK_H

/* The words of tiers/: a block is a fixed number of consecutive entries of a stream, a stream is what runtime
 * says it is (one layer of one sequence). Tiers see bytes, never heads or tokens. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef uint32_t BlockId; /* index into the block table */

enum { BLOCK_NONE = UINT32_MAX };

/* Made by runtime, only stored and compared here: whose bytes these are. */
typedef struct BlockIdentity {
    uint64_t words[4];
} BlockIdentity;

typedef enum BlockState {
    BLOCK_FREE,
    BLOCK_FILLING, /* the newest block of its stream: its bytes grow while it is held */
    BLOCK_SEALED,  /* full: its bytes never change again, but for form */
    BLOCK_LOST,    /* no tier has its bytes any more: its stream must be computed again */
} BlockState;

typedef struct Block {
    BlockState state;
    BlockIdentity identity;
    uint64_t stream;
    uint32_t ordinal; /* position in the stream */
    uint32_t
        generation; /* of these bytes: no two blocks, and no two states of one that were copied, share it */
    bool
        cold; /* sealed, and its bytes may change once more: into a tier's codes, on their way down */
    uint32_t
        form; /* 0: its bytes are as they were made; else a Tier: encoded as that tier keeps them */
} Block;

SPILLWAY_EXTERN_C_END

#endif
