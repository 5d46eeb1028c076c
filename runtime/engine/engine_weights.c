/* Streamed weights as a step meets them: which layers come, how disks are shared with KV, figures. */

#include "runtime/engine/engine_parts.h"

/* Which layers the step will use, in order. Behind decodes the next step begins at the front; behind units alone it goes on where
 * they end. */
void engine_expect_layers(Engine *engine, const StepPlan *plan) {
    uint32_t *layers = engine->layers_expected, count = 0, then = 0;
    for (; engine->batch.row_count > 0 && count < engine->config.layer_count; count++)
        layers[count] = count;
    for (uint32_t i = 0; i < plan->unit_count; i++) {
        uint32_t layer = plan->units[i].layer;
        if (count == 0 || layers[count - 1] != layer) layers[count++] = layer;
        if (engine->batch.row_count == 0) then = layer;
    }
    if (plan->prefill.cached_count > 0) then = 0;
    model_expect_layers(&engine->model, layers, count, then);
}

/* Weights and KV are read from the same disks by two rings. A disk serves both by what each has in flight, so weights have in flight
 * as many bytes for one of KV as the last step read of them for one of KV: then both are through at the same time. Whoever
 * has all that he has room for leaves the disk to the other anyway. */
void engine_share_disks(Engine *engine) {
    WeightStream *stream = model_weight_stream(&engine->model);
    if (!stream) return;
    const EngineTierStats *nvme = &engine->stats.tiers[TIER_NVME];
    uint64_t kv = nvme->read_bytes + nvme->written_bytes, read = engine->stats.weights.read_bytes;
    uint64_t kv_step = kv - engine->kv_moved, read_step = read - engine->weights_read;
    engine->kv_moved = kv;
    engine->weights_read = read;
    const RingFacts *ring = kv_cache_ring(engine->cache);
    if (!ring || kv_step == 0 || read_step == 0) {
        weight_stream_limit(stream, UINT64_MAX);
        return;
    }
    double kv_in_flight = (double)ring->depth * (double)engine->layout.slot_bytes;
    weight_stream_limit(stream, (uint64_t)(kv_in_flight * (double)read_step / (double)kv_step));
}

void engine_note_weights(Engine *engine) {
    WeightStream *stream = model_weight_stream(&engine->model);
    EngineWeightStats *out = &engine->stats.weights;
    out->sent_bytes = model_sent_bytes(&engine->model);
    if (!stream) return;
    WeightStreamStats stats = weight_stream_stats(stream);
    out->read_bytes = stats.read_bytes;
    out->seconds_reading = stats.seconds_reading;
    out->seconds_stalled = stats.seconds_stalled;
}
