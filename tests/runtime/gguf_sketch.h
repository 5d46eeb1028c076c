#ifndef TESTS_RUNTIME_GGUF_SKETCH_H
#define TESTS_RUNTIME_GGUF_SKETCH_H

/* GGUF files made on purpose, right or wrong: bytes in memory, written to a file. Values go in as given; nothing is checked. */

#include <stddef.h>
#include <stdint.h>

typedef struct ByteList {
    uint8_t *bytes;
    size_t count, capacity;
} ByteList;

void byte_list_add(ByteList *list, const void *bytes, size_t count);
void byte_list_u32(ByteList *list, uint32_t value);
void byte_list_u64(ByteList *list, uint64_t value);
void byte_list_string(ByteList *list, const char *text); /* 64-bit length, bytes */
void byte_list_free(ByteList *list);
/* Truncates and fills the file. */
void byte_list_write(const ByteList *list, int descriptor);

enum { SKETCH_TENSORS = 2, SKETCH_DIMS_MAX = 9 };

/* A file of one extra key and two tensors. */
typedef struct GgufSketch {
    const char *magic;
    uint32_t version;
    uint64_t tensor_count, pair_count; /* as the header says */
    ByteList pairs;                    /* encoded keys and values */
    struct {
        const char *name;
        uint32_t dim_count;
        uint64_t dims[SKETCH_DIMS_MAX]; /* fastest first */
        uint32_t type;
        uint64_t offset;
    } tensors[SKETCH_TENSORS];
    size_t data_bytes; /* after the directory, padding to 32 included in neither */
} GgufSketch;

/* Valid: general.architecture, "a" f32 [32] at 0, "b" q4_0 [2][32] at 128. */
GgufSketch gguf_sketch(void);
ByteList gguf_sketch_bytes(const GgufSketch *sketch); /* free with byte_list_free */

/* Adds a pair to the sketch and counts it. type: a GGUF value type; value: its bytes follow as given. */
void gguf_sketch_pair(GgufSketch *sketch, const char *key, uint32_t type, const void *value,
                      size_t value_bytes);

#endif
