#ifndef TIERS_BLOCK_TABLE_H
#define TIERS_BLOCK_TABLE_H

/* The one owner of Block records and of the device memory they name. Every block is taken and released here; no
 * bytes beyond the budget exist. One thread. */

#include "kernels/device.h"
#include "tiers/block.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BlockTable BlockTable;

typedef struct BlockTableOptions {
    Device *device;       /* outlives the table */
    uint64_t block_bytes; /* of every block */
    uint32_t
        block_count; /* capacity: block_count * block_bytes of device memory, committed when first written */
} BlockTableOptions;

typedef struct BlockTableStats {
    uint32_t block_count;
    uint32_t filling, sealed;
    uint32_t used_peak; /* most blocks ever taken at once */
} BlockTableStats;

Status block_table_create(BlockTable **out, const BlockTableOptions *options);
void block_table_destroy(BlockTable *table);

/* A filling block of `stream`; STATUS_NO_SPACE without logging when none is free. */
Status block_table_take(BlockTable *table, const BlockIdentity *identity, uint64_t stream,
                        uint32_t ordinal, BlockId *out);
void block_table_seal(BlockTable *table, BlockId id);    /* filling → sealed */
void block_table_release(BlockTable *table, BlockId id); /* any taken block → free */

const Block *block_table_block(const BlockTable *table, BlockId id);
uint32_t block_table_free_count(const BlockTable *table);
BlockTableStats block_table_stats(const BlockTable *table);

SPILLWAY_EXTERN_C_END

#endif
