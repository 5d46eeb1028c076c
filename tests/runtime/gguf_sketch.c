#include "tests/runtime/gguf_sketch.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void byte_list_add(ByteList *list, const void *bytes, size_t count) {
    if (list->capacity - list->count < count) {
        list->capacity = 2 * list->capacity + count;
        list->bytes = realloc(list->bytes, list->capacity);
        if (!list->bytes) abort();
    }
    if (count) memcpy(list->bytes + list->count, bytes, count);
    list->count += count;
}

void byte_list_u32(ByteList *list, uint32_t value) {
    byte_list_add(list, &value, sizeof value);
}

void byte_list_u64(ByteList *list, uint64_t value) {
    byte_list_add(list, &value, sizeof value);
}

void byte_list_string(ByteList *list, const char *text) {
    byte_list_u64(list, strlen(text));
    byte_list_add(list, text, strlen(text));
}

void byte_list_free(ByteList *list) {
    free(list->bytes);
    *list = (ByteList){0};
}

void byte_list_write(const ByteList *list, int descriptor) {
    if (ftruncate(descriptor, 0) != 0 ||
        pwrite(descriptor, list->bytes, list->count, 0) != (ssize_t)list->count)
        abort();
}

GgufSketch gguf_sketch(void) {
    GgufSketch sketch = {
        .magic = "GGUF",
        .version = 3,
        .tensor_count = SKETCH_TENSORS,
        .tensors = {{.name = "a", .dim_count = 1, .dims = {32}, .type = 0, .offset = 0},
                    {.name = "b", .dim_count = 2, .dims = {32, 2}, .type = 2, .offset = 128}},
        .data_bytes = 128 + 36,
    };
    ByteList text = {0};
    byte_list_string(&text, "llama");
    gguf_sketch_pair(&sketch, "general.architecture", 8, text.bytes, text.count);
    byte_list_free(&text);
    return sketch;
}

void gguf_sketch_pair(GgufSketch *sketch, const char *key, uint32_t type, const void *value,
                      size_t value_bytes) {
    byte_list_string(&sketch->pairs, key);
    byte_list_u32(&sketch->pairs, type);
    byte_list_add(&sketch->pairs, value, value_bytes);
    sketch->pair_count++;
}

ByteList gguf_sketch_bytes(const GgufSketch *sketch) {
    static const uint8_t zeros[32];
    ByteList list = {0};
    byte_list_add(&list, sketch->magic, 4);
    byte_list_u32(&list, sketch->version);
    byte_list_u64(&list, sketch->tensor_count);
    byte_list_u64(&list, sketch->pair_count);
    byte_list_add(&list, sketch->pairs.bytes, sketch->pairs.count);
    for (size_t i = 0; i < SKETCH_TENSORS; i++) {
        byte_list_string(&list, sketch->tensors[i].name);
        byte_list_u32(&list, sketch->tensors[i].dim_count);
        for (uint32_t dim = 0; dim < sketch->tensors[i].dim_count; dim++)
            byte_list_u64(&list, sketch->tensors[i].dims[dim]);
        byte_list_u32(&list, sketch->tensors[i].type);
        byte_list_u64(&list, sketch->tensors[i].offset);
    }
    byte_list_add(&list, zeros, (32 - list.count % 32) % 32);
    for (size_t i = 0; i < sketch->data_bytes; i++)
        byte_list_add(&list, &(uint8_t){(uint8_t)i}, 1);
    return list;
}
