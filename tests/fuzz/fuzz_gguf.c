/* Any bytes as a GGUF file: refused in one line, or accepted, and then what was read can be written as another GGUF file that
 * reads the same. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/bytes.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/weights_promises.h"
#include "tests/runtime/gguf_sketch.h"
#include "tests/runtime/weights_listing.h"

enum { TYPE_BOOL = 7, TYPE_STRING = 8, TYPE_ARRAY = 9, TYPE_I64 = 11, TYPE_F64 = 12 };

static uint32_t written_type(MetadataType type) {
    static const uint32_t types[] = {[METADATA_BOOL] = TYPE_BOOL,
                                     [METADATA_INTEGER] = TYPE_I64,
                                     [METADATA_REAL] = TYPE_F64,
                                     [METADATA_STRING] = TYPE_STRING,
                                     [METADATA_ARRAY] = TYPE_ARRAY};
    return types[type];
}

static void write_text(ByteList *out, const char *text, size_t text_bytes) {
    byte_list_u64(out, text_bytes);
    byte_list_add(out, text, text_bytes);
}

static void write_element(ByteList *out, const Metadata *array, size_t index) {
    size_t text_bytes = 0;
    const char *text;
    switch (array->element_type) {
    case METADATA_BOOL:
        byte_list_add(out, &(uint8_t){weights_array_integer(array, index) != 0}, 1);
        break;
    case METADATA_INTEGER: byte_list_u64(out, (uint64_t)weights_array_integer(array, index)); break;
    case METADATA_REAL: byte_list_add(out, &(double){weights_array_real(array, index)}, 8); break;
    default:
        text = weights_array_string(array, index, &text_bytes);
        write_text(out, text, text_bytes);
    }
}

static void write_array(ByteList *out, const Metadata *array) {
    byte_list_u32(out, array->element_count ? written_type(array->element_type) : TYPE_I64);
    byte_list_u64(out, array->element_count);
    for (size_t i = 0; i < array->element_count; i++)
        write_element(out, array, i);
}

static void write_pair(ByteList *out, const Metadata *entry) {
    byte_list_string(out, entry->key);
    byte_list_u32(out, written_type(entry->type));
    switch (entry->type) {
    case METADATA_BOOL: byte_list_add(out, &(uint8_t){entry->boolean}, 1); break;
    case METADATA_INTEGER: byte_list_u64(out, (uint64_t)entry->integer); break;
    case METADATA_REAL: byte_list_add(out, &entry->real, 8); break;
    case METADATA_STRING: write_text(out, entry->string, entry->string_bytes); break;
    default: write_array(out, entry);
    }
}

static void write_tensor_row(ByteList *out, const NamedTensor *named, uint64_t offset) {
    byte_list_string(out, named->name);
    byte_list_u32(out, named->tensor.dim_count);
    for (uint32_t i = named->tensor.dim_count; i-- > 0;)
        byte_list_u64(out, named->tensor.shape[i]);
    byte_list_u32(out, named->tensor.quant->gguf_type);
    byte_list_u64(out, offset);
}

static void pad(ByteList *out, uint64_t alignment) {
    while (out->count % alignment != 0)
        byte_list_add(out, "", 1);
}

static ByteList rewrite(const Weights *weights) {
    ByteList out = {0};
    uint32_t alignment = 32;
    uint64_t offset = 0;
    size_t tensor_count = weights_tensor_count(weights);
    weights_read_u32(weights, "general.alignment", &alignment);
    byte_list_add(&out, "GGUF", 4);
    byte_list_u32(&out, 3);
    byte_list_u64(&out, tensor_count);
    byte_list_u64(&out, weights_metadata_count(weights));
    for (size_t i = 0; i < weights_metadata_count(weights); i++)
        write_pair(&out, weights_metadata(weights, i));
    for (size_t i = 0; i < tensor_count; i++) {
        const NamedTensor *named = weights_tensor(weights, i);
        write_tensor_row(&out, named, offset);
        offset = align_up(offset + named->tensor.bytes, alignment);
    }
    for (size_t i = 0; i < tensor_count; i++) {
        const Tensor *tensor = &weights_tensor(weights, i)->tensor;
        pad(&out, alignment);
        byte_list_add(&out, tensor->data, tensor->bytes);
    }
    return out;
}

static bool all_types_known(const Weights *weights) {
    for (size_t i = 0; i < weights_tensor_count(weights); i++)
        if (!weights_tensor(weights, i)->tensor.quant) return false;
    return true;
}

static Weights *open_bytes(const uint8_t *bytes, size_t count) {
    static int descriptor = -1;
    char path[64];
    if (descriptor < 0) descriptor = memfd_create("gguf", 0);
    byte_list_write(&(ByteList){.bytes = (uint8_t *)bytes, .count = count}, descriptor);
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    return open_quietly(path);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Weights *weights = open_bytes(data, size);
    if (!weights) return 0;
    check_weights_promises(weights);
    if (all_types_known(weights)) {
        char *listing = weights_listing(weights, false);
        ByteList rewritten = rewrite(weights);
        weights_close(weights);
        weights = open_bytes(rewritten.bytes, rewritten.count);
        PROMISE(weights);
        char *listing_again = weights_listing(weights, false);
        PROMISE(strcmp(listing, listing_again) == 0);
        free(listing);
        free(listing_again);
        byte_list_free(&rewritten);
    }
    weights_close(weights);
    return 0;
}
