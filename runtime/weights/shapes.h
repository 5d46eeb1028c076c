#ifndef RUNTIME_WEIGHTS_SHAPES_H
#define RUNTIME_WEIGHTS_SHAPES_H

/* The model shapes that the program knows by name: config.json texts of configs/shapes, built in. Any thread. */

#include <stddef.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

/* The config.json of a shape; NULL when there is none of that name. */
const char *shape_find(const char *name);

/* "opt-6.7b, opt-13b, …", cut where the room ends; returns out. */
const char *shape_names(char *out, size_t out_bytes);

SPILLWAY_EXTERN_C_END

#endif
