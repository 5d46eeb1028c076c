#include "tests/runtime/weights_assertions.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/runtime/weights_listing.h"

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
    char *expected = read_text(full_path), *got = weights_listing(weights, true);
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
