#include "runtime/weights/layer_order.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/invariant.h"

enum { PASSES = 3 }; /* of the layers that a plan may hold */

static uint32_t next_with_bytes(const LayerOrder *order, uint32_t layer) {
    for (uint32_t i = 0; i < order->layer_count; i++, layer++) {
        if (layer >= order->layer_count) layer = 0;
        if (order->layer_bytes[layer] > 0) break;
    }
    return layer;
}

Status layer_order_init(LayerOrder *order, const uint64_t *layer_bytes, uint32_t layer_count) {
    void *plan;
    TRY(memory_take(&plan, (uint64_t)PASSES * layer_count, sizeof(uint32_t), "order of layers"));
    *order = (LayerOrder){.layer_bytes = layer_bytes, .layer_count = layer_count, .plan = plan};
    return STATUS_OK;
}

void layer_order_reset(LayerOrder *order) {
    free(order->plan);
    *order = (LayerOrder){0};
}

void layer_order_expect(LayerOrder *order, const uint32_t *layers, uint32_t layer_count,
                        uint32_t then) {
    order->plan_count = order->plan_next = 0;
    for (uint32_t i = 0; i < layer_count; i++) {
        if (order->layer_bytes[layers[i]] == 0) continue;
        if (order->plan_count > 0 && order->plan[order->plan_count - 1] == layers[i]) continue;
        CHECK(order->plan_count < PASSES * order->layer_count);
        order->plan[order->plan_count++] = layers[i];
    }
    order->then = then;
}

void layer_order_meet(LayerOrder *order, uint32_t layer) {
    uint32_t at = order->plan_next;
    while (at < order->plan_count && order->plan[at] != layer)
        at++;
    order->plan_next = at;
    if (at == order->plan_count) order->then = layer;
}

void layer_order_pass(LayerOrder *order) {
    if (order->plan_next < order->plan_count)
        order->plan_next++;
    else
        order->then = next_with_bytes(order, order->then + 1);
}

bool layer_is_listed(const uint32_t *layers, uint32_t count, uint32_t layer) {
    for (uint32_t i = 0; i < count; i++)
        if (layers[i] == layer) return true;
    return false;
}

/* Where few layers come round and round there are fewer than asked for: looking ends in time. */
uint32_t layer_order_list(const LayerOrder *order, uint32_t *layers, uint32_t count,
                          uint32_t most) {
    uint32_t next = order->plan_next, cycle = next_with_bytes(order, order->then);
    for (uint32_t tries = 0; count < most && tries < 2 * most; tries++) {
        uint32_t layer = next < order->plan_count ? order->plan[next] : cycle;
        if (next >= order->plan_count) cycle = next_with_bytes(order, cycle + 1);
        next++;
        if (!layer_is_listed(layers, count, layer)) layers[count++] = layer;
    }
    return count;
}
