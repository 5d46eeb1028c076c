#include "tests/runtime/weights_listing.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

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

static void print_tensor(FILE *out, const NamedTensor *named) {
    const Tensor *tensor = &named->tensor;
    const char *slash = strrchr(named->file, '/');
    fprintf(out, "tensor %s %s ", named->name, named->type_name);
    if (tensor->dim_count == 0) fputc('-', out);
    for (uint32_t i = 0; i < tensor->dim_count; i++)
        fprintf(out, "%s%" PRIu64, i ? "x" : "", tensor->shape[i]);
    fprintf(out, " %s %" PRIu64 " %" PRIu64 " %016" PRIx64 "\n", slash ? slash + 1 : named->file,
            named->file_offset, tensor->bytes, fnv1a(tensor->data, tensor->bytes));
}

char *weights_listing(const Weights *weights) {
    char *text = NULL;
    size_t text_bytes = 0;
    FILE *out = open_memstream(&text, &text_bytes);
    if (!out) abort();
    for (size_t i = 0; i < weights_metadata_count(weights); i++)
        print_key(out, weights_metadata(weights, i));
    for (size_t i = 0; i < weights_tensor_count(weights); i++)
        print_tensor(out, weights_tensor(weights, i));
    fclose(out);
    return text;
}

static char *read_text(const char *path) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    char *text = NULL;
    size_t capacity = 0;
    assert_true(getdelim(&text, &capacity, 0, file) > 0);
    fclose(file);
    return text;
}

void assert_golden_weights(const char *path, const char *listing) {
    char full_path[4096];
    Weights *weights = NULL;
    snprintf(full_path, sizeof full_path, "%s/weights/%s", GOLDEN, path);
    assert_int_equal(weights_open(&weights, full_path), STATUS_OK);
    snprintf(full_path, sizeof full_path, "%s/weights/%s", GOLDEN, listing);
    char *expected = read_text(full_path), *got = weights_listing(weights);
    assert_string_equal(got, expected);
    for (size_t i = 0; i < weights_tensor_count(weights); i++)
        assert_ptr_equal(weights_find(weights, weights_tensor(weights, i)->name),
                         weights_tensor(weights, i));
    for (size_t i = 0; i < weights_metadata_count(weights); i++)
        assert_ptr_equal(weights_metadata_find(weights, weights_metadata(weights, i)->key),
                         weights_metadata(weights, i));
    free(expected);
    free(got);
    weights_close(weights);
}

void assert_weights_refused(const char *path, const char *code, const char *fragment) {
    Weights *weights = NULL;
    const char *text = NULL;
    error_capture_begin();
    Status status = weights_open(&weights, path);
    error_capture_end();
    ErrorCode error = error_last(&text);
    if (status == STATUS_OK) fail_msg("accepted, where %s … %s was expected", code, fragment);
    if (strcmp(error_row(error)->code, code) != 0 || !strstr(text, fragment))
        fail_msg("refused with %s: %s, where %s … %s was expected", error_row(error)->code, text,
                 code, fragment);
    assert_null(weights);
}
