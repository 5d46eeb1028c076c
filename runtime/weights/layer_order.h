#ifndef RUNTIME_WEIGHTS_LAYER_ORDER_H
#define RUNTIME_WEIGHTS_LAYER_ORDER_H

/* Which layers will be used next: those of the pass at work as they were announced, and behind them the layers in order, over and
 * over. Layers without bytes are passed over. Plain data of one owner, who has a lock where several threads look. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct LayerOrder {
    const uint64_t *layer_bytes; /* [layer_count]; borrowed */
    uint32_t layer_count;
    uint32_t *plan; /* [3 * layer_count] from plan_next on; then `then`, … */
    uint32_t plan_count, plan_next, then;
} LayerOrder;

/* All layers, over and over. */
Status layer_order_init(LayerOrder *order, const uint64_t *layer_bytes, uint32_t layer_count);
void layer_order_reset(LayerOrder *order); /* takes a zeroed one */

/* layers: of the pass that begins, in order of use; repeats side by side are one. At most 3 * layer_count differ from the one before. */
void layer_order_expect(LayerOrder *order, const uint32_t *layers, uint32_t layer_count,
                        uint32_t then);

/* The layer is the next one, as it was said or not. */
void layer_order_meet(LayerOrder *order, uint32_t layer);
/* The next one is there: another one is the next. */
void layer_order_pass(LayerOrder *order);

/* Adds to layers[0 .. count) what comes next and is not among them, each once, up to `most` in all. Returns how many there are then. */
uint32_t layer_order_list(const LayerOrder *order, uint32_t *layers, uint32_t count, uint32_t most);
bool layer_is_listed(const uint32_t *layers, uint32_t count, uint32_t layer);

SPILLWAY_EXTERN_C_END

#endif
