#include "tests/runtime/weights_listing.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t fnv1a(const uint8_t *bytes, uint64_t count) {
    uint64_t value = 0xcbf29ce484222325;
    for (uint64_t i = 0; i < count; i++)
        value = (value ^ bytes[i]) * 0x100000001b3;
    return value;
}

static const char *type_word(MetadataType type) {
    static const char *const words[] = {"null", "bool", "integer", "real", "string", "array"};
    return words[type];
}

static void print_hex(FILE *out, const char *text, size_t text_bytes) {
    for (size_t i = 0; i < text_bytes; i++)
        fprintf(out, "%02x", (unsigned char)text[i]);
}

static void print_element(FILE *out, const Metadata *array, size_t index) {
    size_t text_bytes = 0;
    const char *text;
    fputc(' ', out);
    switch (array->element_type) {
    case METADATA_BOOL:
    case METADATA_INTEGER: fprintf(out, "%" PRId64, weights_array_integer(array, index)); break;
    case METADATA_REAL: fprintf(out, "%.17g", weights_array_real(array, index)); break;
    default:
        text = weights_array_string(array, index, &text_bytes);
        print_hex(out, text, text_bytes);
    }
}

static void print_key(FILE *out, const Metadata *entry) {
    fprintf(out, "key %s %s ", entry->key, type_word(entry->type));
    switch (entry->type) {
    case METADATA_NULL: fputc('-', out); break;
    case METADATA_BOOL: fputc(entry->boolean ? '1' : '0', out); break;
    case METADATA_INTEGER: fprintf(out, "%" PRId64, entry->integer); break;
    case METADATA_REAL: fprintf(out, "%.17g", entry->real); break;
    case METADATA_STRING: print_hex(out, entry->string, entry->string_bytes); break;
    case METADATA_ARRAY:
        fprintf(out, "%s %zu", type_word(entry->element_type), entry->element_count);
        for (size_t i = 0; entry->element_type != METADATA_NULL && i < entry->element_count; i++)
            print_element(out, entry, i);
    }
    fputc('\n', out);
}

static void print_tensor(FILE *out, const NamedTensor *named, bool with_place) {
    const Tensor *tensor = &named->tensor;
    const char *slash = strrchr(named->file, '/');
    fprintf(out, "tensor %s %s ", named->name, named->type_name);
    if (tensor->dim_count == 0) fputc('-', out);
    for (uint32_t i = 0; i < tensor->dim_count; i++)
        fprintf(out, "%s%" PRIu64, i ? "x" : "", tensor->shape[i]);
    if (with_place)
        fprintf(out, " %s %" PRIu64, slash ? slash + 1 : named->file, named->file_offset);
    fprintf(out, " %" PRIu64 " %016" PRIx64 "\n", tensor->bytes,
            fnv1a(tensor->data, tensor->bytes));
}

char *weights_listing(const Weights *weights, bool with_places) {
    char *text = NULL;
    size_t text_bytes = 0;
    FILE *out = open_memstream(&text, &text_bytes);
    if (!out) abort();
    for (size_t i = 0; i < weights_metadata_count(weights); i++)
        print_key(out, weights_metadata(weights, i));
    for (size_t i = 0; i < weights_tensor_count(weights); i++)
        print_tensor(out, weights_tensor(weights, i), with_places);
    fclose(out);
    return text;
}
