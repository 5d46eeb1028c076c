#include "tiers/block_table.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

struct BlockTable {
    Device *device;
    uint64_t block_bytes;
    uint8_t *memory;   /* [block_count][block_bytes] */
    Block *blocks;     /* [block_count] */
    BlockId *free_ids; /* stack of free records, [free_count] */
    uint32_t free_count;
    BlockTableStats stats;
};

Status block_table_create(BlockTable **out, const BlockTableOptions *options) {
    CHECK(options->block_bytes > 0 && options->block_count > 0 &&
          options->block_count < BLOCK_NONE);
    void *table_memory = NULL, *blocks = NULL, *free_ids = NULL, *memory = NULL;
    Status status = memory_take(&table_memory, 1, sizeof(BlockTable), "block table");
    if (status != STATUS_OK) goto out;
    status = memory_take(&blocks, options->block_count, sizeof(Block), "block records");
    if (status != STATUS_OK) goto free_table;
    status = memory_take(&free_ids, options->block_count, sizeof(BlockId), "free block list");
    if (status != STATUS_OK) goto free_blocks;
    status = options->device->memory_take(options->device, MEMORY_DEVICE,
                                          options->block_count * options->block_bytes, "KV blocks",
                                          &memory);
    if (status != STATUS_OK) goto free_ids;

    BlockTable *table = table_memory;
    *table = (BlockTable){.device = options->device,
                          .block_bytes = options->block_bytes,
                          .memory = memory,
                          .blocks = blocks,
                          .free_ids = free_ids,
                          .free_count = options->block_count,
                          .stats = {.block_count = options->block_count}};
    for (uint32_t i = 0; i < options->block_count; i++) {
        table->blocks[i].bytes = table->memory + (uint64_t)i * options->block_bytes;
        table->free_ids[i] = options->block_count - 1 - i; /* lowest record first */
    }
    *out = table;
    return STATUS_OK;

free_ids:
    free(free_ids);
free_blocks:
    free(blocks);
free_table:
    free(table_memory);
out:
    return status;
}

void block_table_destroy(BlockTable *table) {
    if (!table) return;
    table->device->memory_give(table->device, MEMORY_DEVICE, table->memory,
                               table->stats.block_count * table->block_bytes);
    free(table->free_ids);
    free(table->blocks);
    free(table);
}

Status block_table_take(BlockTable *table, const BlockIdentity *identity, uint64_t stream,
                        uint32_t ordinal, BlockId *out) {
    if (table->free_count == 0) return STATUS_NO_SPACE;
    BlockId id = table->free_ids[--table->free_count];
    Block *block = &table->blocks[id];
    CHECK(block->state == BLOCK_FREE);
    block->state = BLOCK_FILLING;
    block->identity = *identity;
    block->stream = stream;
    block->ordinal = ordinal;
    block->generation++;
    table->stats.filling++;
    uint32_t used = table->stats.block_count - table->free_count;
    if (used > table->stats.used_peak) table->stats.used_peak = used;
    *out = id;
    return STATUS_OK;
}

void block_table_seal(BlockTable *table, BlockId id) {
    Block *block = &table->blocks[id];
    CHECK(id < table->stats.block_count && block->state == BLOCK_FILLING);
    block->state = BLOCK_SEALED;
    table->stats.filling--;
    table->stats.sealed++;
}

void block_table_release(BlockTable *table, BlockId id) {
    Block *block = &table->blocks[id];
    CHECK(id < table->stats.block_count && block->state != BLOCK_FREE);
    if (block->state == BLOCK_FILLING)
        table->stats.filling--;
    else
        table->stats.sealed--;
    block->state = BLOCK_FREE;
    table->free_ids[table->free_count++] = id;
}

const Block *block_table_block(const BlockTable *table, BlockId id) {
    CHECK(id < table->stats.block_count);
    return &table->blocks[id];
}

uint32_t block_table_free_count(const BlockTable *table) {
    return table->free_count;
}

BlockTableStats block_table_stats(const BlockTable *table) {
    return table->stats;
}
