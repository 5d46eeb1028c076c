#ifndef RUNTIME_WEIGHTS_RANDOM_WEIGHTS_H
#define RUNTIME_WEIGHTS_RANDOM_WEIGHTS_H

/* Numbers for a model that is only a shape. They take no memory to speak of: a pattern of at most 16 MiB lies in memory once and
 * is mapped again and again over the addresses of the matrices, each of which begins elsewhere in it. The same seed, type and
 * shape give the same numbers. Private to runtime/weights. */

#include "runtime/weights/weights_builder.h"

SPILLWAY_EXTERN_C_BEGIN

/* With the metadata read: lists the tensors and gives them data. */
Status random_weights_fill(Weights *weights);

/* Of a matrix: mapped, and so to be forgotten. Takes NULL. */
bool random_data_maps(const RandomData *data, const uint8_t *bytes);

void random_data_free(RandomData *data); /* takes NULL */

SPILLWAY_EXTERN_C_END

#endif
