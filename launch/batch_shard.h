#ifndef LAUNCH_BATCH_SHARD_H
#define LAUNCH_BATCH_SHARD_H

/* --shard I/N: which lines of a batch are this run's, by a hash of the custom_id alone. So N runs on one input, wherever and
 * whenever, answer each line once between them, and a line keeps its shard when lines are added around it. Any thread. */

#include <stdint.h>

#include "launch/id_set.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BatchShard {
    uint32_t number; /* 1 to count */
    uint32_t count;  /* 1: all lines are this run's */
} BatchShard;

/* "I/N", I from 1 to N. E-USAGE. */
Status batch_shard_read(BatchShard *out, const char *text);
/* Has this run the line of that key (batch_line_key)? */
bool batch_shard_has(const BatchShard *shard, IdKey key);

SPILLWAY_EXTERN_C_END

#endif
