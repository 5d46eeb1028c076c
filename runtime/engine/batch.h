#ifndef RUNTIME_ENGINE_BATCH_H
#define RUNTIME_ENGINE_BATCH_H

/* The rows of one step: plain data, the same on every rank. A row is one token of one sequence; the rows of a sequence are
 * consecutive positions. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BatchSequence {
    uint32_t slot; /* of the KV cache */
    uint32_t row_first, row_count;
    uint32_t position_first; /* of row_first: tokens cached before this step */
} BatchSequence;

typedef struct Batch {
    const BatchSequence *sequences; /* [sequence_count], rows in rising order */
    uint32_t sequence_count;
    const int32_t *tokens;     /* [row_count] */
    const uint32_t *positions; /* [row_count] */
    uint32_t row_count;
    const uint32_t *logit_rows; /* [logit_row_count] rows whose logits are wanted, rising */
    uint32_t logit_row_count;
} Batch;

SPILLWAY_EXTERN_C_END

#endif
