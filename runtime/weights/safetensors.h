#ifndef RUNTIME_WEIGHTS_SAFETENSORS_H
#define RUNTIME_WEIGHTS_SAFETENSORS_H

/* The parts of a Hugging Face folder. Private to runtime/weights. */

#include "runtime/weights/weights_builder.h"

SPILLWAY_EXTERN_C_BEGIN

/* Maps one safetensors file and adds its tensors in header order; with keep_metadata, its __metadata__ too. */
Status safetensors_read(Weights *weights, const char *path, bool keep_metadata);

/* Adds config.json, flattened. */
Status hf_config_read(Weights *weights, const char *path);
/* The same from a text; name stands for the file in errors and outlives the Weights. */
Status hf_config_parse(Weights *weights, const char *name, const char *text, uint64_t text_bytes);

SPILLWAY_EXTERN_C_END

#endif
