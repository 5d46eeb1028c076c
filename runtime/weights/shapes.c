#include "runtime/weights/shapes.h"

#include <stdio.h>
#include <string.h>

static const struct {
    const char *name, *text;
} shapes[] = {
#define SHAPE(name, text) {name, text},
#include "configs/shapes/shape_rows.h"
#undef SHAPE
};

enum { SHAPE_COUNT = sizeof shapes / sizeof *shapes };

const char *shape_find(const char *name) {
    for (size_t i = 0; i < SHAPE_COUNT; i++)
        if (strcmp(shapes[i].name, name) == 0) return shapes[i].text;
    return NULL;
}

const char *shape_names(char *out, size_t out_bytes) {
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < SHAPE_COUNT && at < out_bytes; i++) {
        int written = snprintf(out + at, out_bytes - at, i ? ", %s" : "%s", shapes[i].name);
        at += written > 0 ? (size_t)written : 0;
    }
    return out;
}
