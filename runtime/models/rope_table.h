#ifndef RUNTIME_MODELS_ROPE_TABLE_H
#define RUNTIME_MODELS_ROPE_TABLE_H

/* Cosines and sines of rotary positions (RoFormer, arXiv 2104.09864) with the frequency scalings of ModelConfig.
 * Frequencies and angles are rounded to f32 as Hugging Face transformers does, so that long contexts agree with it. */

#include "runtime/models/model.h"

SPILLWAY_EXTERN_C_BEGIN

/* out_cosines and out_sines: [position_count][rotary_dim / 2] */
void rope_table_fill(const RopeConfig *rope, uint32_t position_count, float *out_cosines,
                     float *out_sines);

SPILLWAY_EXTERN_C_END

#endif
