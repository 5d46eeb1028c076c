#include "runtime/models/rope_table.h"

#include <math.h>
#include <string.h>

/* Llama 3.1: long waves are slowed by `factor`, short ones kept, those between blended. */
static float scale_llama3(const RopeConfig *rope, float frequency) {
    double wave = 2.0 * M_PI / frequency;
    double context = rope->original_context;
    if (wave > context / rope->low_freq_factor) return (float)(frequency / rope->factor);
    if (wave < context / rope->high_freq_factor) return frequency;
    double smooth =
        (context / wave - rope->low_freq_factor) / (rope->high_freq_factor - rope->low_freq_factor);
    return (float)((1.0 - smooth) * frequency / rope->factor + smooth * frequency);
}

static float pair_frequency(const RopeConfig *rope, uint32_t pair) {
    float frequency = (float)(1.0 / pow(rope->theta, 2.0 * pair / rope->rotary_dim));
    switch (rope->scaling) {
    case ROPE_SCALING_NONE: return frequency;
    case ROPE_SCALING_LINEAR: return (float)(frequency / rope->factor);
    case ROPE_SCALING_LLAMA3: return scale_llama3(rope, frequency);
    case ROPE_SCALING_TABLE: {
        float divisor;
        memcpy(&divisor, (const char *)rope->frequency_factors->data + pair * sizeof divisor,
               sizeof divisor);
        return frequency / divisor;
    }
    }
    return frequency;
}

void rope_table_fill(const RopeConfig *rope, uint32_t position_count, float *out_cosines,
                     float *out_sines) {
    uint32_t pair_count = rope->rotary_dim / 2;
    for (uint32_t pair = 0; pair < pair_count; pair++) {
        float frequency = pair_frequency(rope, pair);
        for (uint32_t position = 0; position < position_count; position++) {
            float angle = (float)position * frequency;
            out_cosines[(size_t)position * pair_count + pair] = cosf(angle);
            out_sines[(size_t)position * pair_count + pair] = sinf(angle);
        }
    }
}
