#include "tests/fuzz/weights_promises.h"

#include <stdlib.h>
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/runtime/weights_listing.h"

Weights *open_quietly(const char *path) {
    Weights *weights = NULL;
    const char *text = NULL;
    error_capture_begin();
    Status status = weights_open(&weights, path);
    error_capture_end();
    if (status == STATUS_OK) return weights;
    PROMISE(weights == NULL);
    PROMISE(error_last(&text) != ERROR_COUNT && strchr(text, '"') && !strchr(text, '\n'));
    PROMISE(strlen(text) < 1000); /* nothing was cut off */
    return NULL;
}

static int compare_places(const void *left, const void *right) {
    const NamedTensor *a = *(const NamedTensor *const *)left;
    const NamedTensor *b = *(const NamedTensor *const *)right;
    return (a->tensor.data > b->tensor.data) - (a->tensor.data < b->tensor.data);
}

static void check_spans(const Weights *weights) {
    size_t count = weights_tensor_count(weights);
    const NamedTensor **order = calloc(count + 1, sizeof *order);
    PROMISE(order);
    for (size_t i = 0; i < count; i++)
        order[i] = weights_tensor(weights, i);
    qsort(order, count, sizeof *order, compare_places);
    for (size_t i = 1; i < count; i++)
        PROMISE((const uint8_t *)order[i - 1]->tensor.data + order[i - 1]->tensor.bytes <=
                (const uint8_t *)order[i]->tensor.data);
    free(order);
}

static void check_shape(const Tensor *tensor) {
    uint64_t row_bytes = 0, elements = 1;
    PROMISE(tensor->bytes > 0);
    for (uint32_t i = 0; i < TENSOR_DIMS_MAX; i++)
        PROMISE(tensor->shape[i] > 0 && (i < tensor->dim_count || tensor->shape[i] == 1));
    if (!tensor->quant) return;
    for (uint32_t i = 0; i + 1 < tensor->dim_count; i++)
        elements *= tensor->shape[i];
    uint64_t row = tensor->dim_count ? tensor->shape[tensor->dim_count - 1] : 1;
    PROMISE(quant_row_bytes(tensor->quant, row, &row_bytes));
    PROMISE(row_bytes * elements == tensor->bytes);
}

static void check_reads(const Weights *weights, const Metadata *entry) {
    uint32_t integer = 0;
    double real = 0;
    bool boolean = false;
    const char *text = NULL;
    error_capture_begin();
    bool is_number = entry->type == METADATA_INTEGER || entry->type == METADATA_REAL;
    if (weights_read_u32(weights, entry->key, &integer) == STATUS_OK)
        PROMISE(entry->type == METADATA_INTEGER && integer == entry->integer);
    if (weights_read_float(weights, entry->key, &real) == STATUS_OK) PROMISE(is_number);
    if (weights_read_bool(weights, entry->key, &boolean) == STATUS_OK)
        PROMISE(entry->type == METADATA_BOOL);
    if (weights_read_string(weights, entry->key, &text) == STATUS_OK)
        PROMISE(text[entry->string_bytes] == 0);
    error_capture_end();
}

void check_weights_promises(const Weights *weights) {
    check_spans(weights);
    for (size_t i = 0; i < weights_tensor_count(weights); i++) {
        const NamedTensor *named = weights_tensor(weights, i);
        PROMISE(weights_find(weights, named->name) == named);
        check_shape(&named->tensor);
    }
    for (size_t i = 0; i < weights_metadata_count(weights); i++) {
        const Metadata *entry = weights_metadata(weights, i);
        PROMISE(weights_metadata_find(weights, entry->key) == entry);
        check_reads(weights, entry);
    }
    free(weights_listing(weights, true)); /* reads every byte and element */
}
