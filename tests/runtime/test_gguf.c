/* The GGUF reader against files of the Python package, and against files that are wrong in one way each. */

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/weights/weights.h"
#include "tests/runtime/gguf_sketch.h"
#include "tests/runtime/weights_assertions.h"

static void test_all_types(void **state) {
    (void)state;
    assert_golden_weights("all_types.gguf", "all_types.listing");
}

static void test_split(void **state) {
    (void)state;
    assert_golden_weights("split-00001-of-00003.gguf", "split.listing");
}

static void test_typed_reads(void **state) {
    (void)state;
    Weights *weights = NULL;
    uint32_t integer = 1;
    double real = 1;
    bool boolean = false;
    const char *text = NULL;
    assert_int_equal(weights_open(&weights, GOLDEN "/weights/all_types.gguf"), STATUS_OK);
    assert_int_equal(weights_read_u32(weights, "test.u32", &integer), STATUS_OK);
    assert_int_equal(integer, 4000000000u);
    assert_int_equal(weights_read_float(weights, "test.f32", &real), STATUS_OK);
    assert_true(real == 0.5);
    assert_int_equal(weights_read_float(weights, "test.i8", &real), STATUS_OK);
    assert_true(real == -100);
    assert_int_equal(weights_read_bool(weights, "test.bool", &boolean), STATUS_OK);
    assert_true(boolean);
    assert_int_equal(weights_read_string(weights, "general.architecture", &text), STATUS_OK);
    assert_string_equal(text, "llama");
    assert_int_equal(weights_read_u32(weights, "test.absent", &integer), STATUS_NOT_FOUND);
    error_capture_begin();
    assert_int_equal(weights_read_u32(weights, "test.i8", &integer), STATUS_BAD_INPUT);
    assert_int_equal(weights_read_u32(weights, "test.u64", &integer), STATUS_BAD_INPUT);
    assert_int_equal(weights_read_bool(weights, "test.u8", &boolean), STATUS_BAD_INPUT);
    assert_int_equal(weights_read_string(weights, "test.tokens", &text), STATUS_BAD_INPUT);
    assert_int_equal(weights_read_float(weights, "test.text", &real), STATUS_BAD_INPUT);
    error_capture_end();
    assert_int_equal(integer, 4000000000u);
    weights_close(weights);
}

/* A type without a row in quants[] is listed, with its bytes. */
static void test_foreign_type(void **state) {
    (void)state;
    Weights *weights = NULL;
    assert_int_equal(weights_open(&weights, GOLDEN "/weights/all_types.gguf"), STATUS_OK);
    const NamedTensor *positions = weights_find(weights, "positions");
    assert_non_null(positions);
    assert_null(positions->tensor.quant);
    assert_string_equal(positions->type_name, "i32");
    assert_int_equal(positions->tensor.bytes, 20);
    assert_null(weights_find(weights, "nowhere"));
    weights_close(weights);
}

/* ---- hostile files: a valid sketch, one thing changed ---- */

static void nothing(GgufSketch *sketch) {
    (void)sketch;
}
static void wrong_magic(GgufSketch *sketch) {
    sketch->magic = "GGML";
}
static void version_1(GgufSketch *sketch) {
    sketch->version = 1;
}
static void version_4(GgufSketch *sketch) {
    sketch->version = 4;
}
static void big_endian(GgufSketch *sketch) {
    sketch->version = 3u << 24;
}
static void many_tensors(GgufSketch *sketch) {
    sketch->tensor_count = 1ull << 63;
}
static void many_keys(GgufSketch *sketch) {
    sketch->pair_count = UINT64_MAX;
}
static void more_keys_than_bytes(GgufSketch *sketch) {
    sketch->pair_count = 60000;
}
static void more_tensors_than_bytes(GgufSketch *sketch) {
    sketch->tensor_count = 60000;
}
static void unknown_value_type(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "k", 13, "", 0);
}
static void bool_of_2(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "k", 7, "\2", 1);
}
static void text_length_minus_1(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "k", 8, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
}
static void text_longer_than_file(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "k", 8, "\0\0\x0f\0\0\0\0\0", 8);
}
static void array_head(GgufSketch *sketch, uint32_t type, uint64_t count) {
    ByteList value = {0};
    byte_list_u32(&value, type);
    byte_list_u64(&value, count);
    gguf_sketch_pair(sketch, "list", 9, value.bytes, value.count);
    byte_list_free(&value);
}
static void nested_array(GgufSketch *sketch) {
    array_head(sketch, 9, 1);
}
static void array_of_unknown(GgufSketch *sketch) {
    array_head(sketch, 77, 1);
}
static void array_of_2_to_63(GgufSketch *sketch) {
    array_head(sketch, 0, 1ull << 63);
}
static void array_longer_than_file(GgufSketch *sketch) {
    array_head(sketch, 12, 16 << 20);
}
static void strings_longer_than_file(GgufSketch *sketch) {
    array_head(sketch, 8, 1 << 20);
}
static void array_of_bad_bools(GgufSketch *sketch) {
    array_head(sketch, 7, 1);
    byte_list_add(&sketch->pairs, "\7", 1);
}
static void key_twice(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "k", 0, "\1", 1);
    gguf_sketch_pair(sketch, "k", 0, "\1", 1);
}
static void key_empty(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "", 0, "\1", 1);
}
static void key_with_newline(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "a\nb", 0, "\1", 1);
}
static void key_not_utf8(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "\xff", 0, "\1", 1);
}
static void alignment_of(GgufSketch *sketch, uint32_t alignment) {
    gguf_sketch_pair(sketch, "general.alignment", 4, &alignment, sizeof alignment);
}
static void alignment_0(GgufSketch *sketch) {
    alignment_of(sketch, 0);
}
static void alignment_24(GgufSketch *sketch) {
    alignment_of(sketch, 24);
}
static void alignment_2_to_31(GgufSketch *sketch) {
    alignment_of(sketch, 1u << 31);
}
static void alignment_text(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "general.alignment", 8, "\1\0\0\0\0\0\0\0x", 9);
}
static void no_dimension(GgufSketch *sketch) {
    sketch->tensors[1].dim_count = 0;
}
static void nine_dimensions(GgufSketch *sketch) {
    sketch->tensors[1].dim_count = 9;
}
static void zero_dimension(GgufSketch *sketch) {
    sketch->tensors[1].dims[1] = 0;
}
static void zero_row(GgufSketch *sketch) {
    sketch->tensors[1].dims[0] = 0;
}
static void partial_block(GgufSketch *sketch) {
    sketch->tensors[1].dims[0] = 33;
}
static void overflowing_shape(GgufSketch *sketch) {
    sketch->tensors[1].dims[0] = 1ull << 40;
    sketch->tensors[1].dims[1] = 1ull << 40;
}
static void overflowing_bytes(GgufSketch *sketch) {
    sketch->tensors[0].dims[0] = 1ull << 62;
}
static void exabyte_shape(GgufSketch *sketch) {
    sketch->tensors[0].dims[0] = 1ull << 60;
}
static void removed_type(GgufSketch *sketch) {
    sketch->tensors[0].type = 4;
}
static void type_past_the_end(GgufSketch *sketch) {
    sketch->tensors[0].type = 0xffffffff;
}
static void odd_offset(GgufSketch *sketch) {
    sketch->tensors[1].offset = 129;
}
static void offset_past_end(GgufSketch *sketch) {
    sketch->tensors[1].offset = 1 << 20;
}
static void offset_wraps(GgufSketch *sketch) {
    sketch->tensors[1].offset = UINT64_MAX - 31;
}
static void overlap(GgufSketch *sketch) {
    sketch->tensors[1].offset = 96;
}
static void same_place(GgufSketch *sketch) {
    sketch->tensors[1].offset = 0;
}
static void data_too_short(GgufSketch *sketch) {
    sketch->data_bytes -= 1;
}
static void tensor_twice(GgufSketch *sketch) {
    sketch->tensors[1].name = "a";
}
static void tensor_nameless(GgufSketch *sketch) {
    sketch->tensors[1].name = "";
}
static void tensor_escape(GgufSketch *sketch) {
    sketch->tensors[1].name = "\x1b[2J";
}
static void split_in_one_file(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "split.count", 4, &(uint32_t){2}, 4);
}
static void split_in_millions(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "split.count", 4, &(uint32_t){4000000}, 4);
}
static void split_negative(GgufSketch *sketch) {
    gguf_sketch_pair(sketch, "split.count", 5, &(int32_t){-1}, 4);
}

static const struct HostileFile {
    void (*change)(GgufSketch *sketch);
    const char *code, *fragment;
} hostile_files[] = {
    {wrong_magic, "E-MODEL-FORMAT", "not a GGUF or safetensors file (got 47 47 4d 4c"},
    {version_1, "E-GGUF", "at byte 4: GGUF version 1, supported are 2 and 3"},
    {version_4, "E-GGUF", "at byte 4: GGUF version 4, supported are 2 and 3"},
    {big_endian, "E-GGUF", "at byte 4: a big-endian GGUF file"},
    {many_tensors, "E-GGUF-RANGE", "at byte 8: the tensor count is 9223372036854775808"},
    {many_keys, "E-GGUF-RANGE", "at byte 16: the key count is 18446744073709551615"},
    {more_keys_than_bytes, "E-GGUF", "a key is not 1 to 256 bytes"},
    {more_tensors_than_bytes, "E-GGUF", "a tensor name"},
    {unknown_value_type, "E-GGUF-RANGE", "key \"k\" has the unknown value type 13"},
    {bool_of_2, "E-GGUF", "key \"k\" is a bool other than 0 and 1"},
    {text_length_minus_1, "E-GGUF-RANGE", "a string value claims 18446744073709551615 bytes"},
    {text_longer_than_file, "E-GGUF-RANGE", "a string value takes 983040 bytes but the file ends"},
    {nested_array, "E-GGUF-RANGE", "key \"list\" is an array of arrays"},
    {array_of_unknown, "E-GGUF-RANGE", "key \"list\" has the unknown value type 77"},
    {array_of_2_to_63, "E-GGUF-RANGE", "array \"list\" claims 9223372036854775808 elements"},
    {array_longer_than_file, "E-GGUF-RANGE", "an array takes 134217728 bytes but the file ends"},
    {strings_longer_than_file, "E-GGUF-RANGE", "an array takes 8388608 bytes but the file ends"},
    {array_of_bad_bools, "E-GGUF", "array \"list\" holds a bool other than 0 and 1"},
    {key_twice, "E-GGUF", "key \"k\" occurs twice"},
    {key_empty, "E-GGUF", "a key is not 1 to 256 bytes of printable UTF-8"},
    {key_with_newline, "E-GGUF", "a key is not 1 to 256 bytes of printable UTF-8"},
    {key_not_utf8, "E-GGUF", "a key is not 1 to 256 bytes of printable UTF-8"},
    {alignment_0, "E-GGUF-RANGE", "general.alignment is 0, not a power of two"},
    {alignment_24, "E-GGUF-RANGE", "general.alignment is 24, not a power of two"},
    {alignment_2_to_31, "E-GGUF-RANGE", "general.alignment is 2147483648"},
    {alignment_text, "E-GGUF", "key \"general.alignment\" is no count"},
    {no_dimension, "E-GGUF-RANGE", "tensor \"b\" has 0 dimensions, not 1 to 4"},
    {nine_dimensions, "E-GGUF-RANGE", "tensor \"b\" has 9 dimensions, not 1 to 4"},
    {zero_dimension, "E-GGUF-RANGE", "tensor \"b\" has a dimension of zero"},
    {zero_row, "E-GGUF-RANGE", "tensor \"b\" has a dimension of zero"},
    {partial_block, "E-GGUF-RANGE", "rows of 33 elements are no whole blocks of 32 (q4_0)"},
    {overflowing_shape, "E-GGUF-RANGE", "tensor \"b\" is too large"},
    {overflowing_bytes, "E-GGUF-RANGE", "tensor \"a\" is too large"},
    {exabyte_shape, "E-GGUF-RANGE", "tensor \"a\" takes 4611686018427387904 bytes"},
    {removed_type, "E-GGUF-RANGE", "tensor \"a\" is of the unknown type 4"},
    {type_past_the_end, "E-GGUF-RANGE", "tensor \"a\" is of the unknown type 4294967295"},
    {odd_offset, "E-GGUF-RANGE", "tensor \"b\" has the offset 129, no multiple of 32"},
    {offset_past_end, "E-GGUF-RANGE", "tensor \"b\" takes 36 bytes from 160 + 1048576 on"},
    {offset_wraps, "E-GGUF-RANGE", "tensor \"b\" takes 36 bytes"},
    {overlap, "E-GGUF-RANGE", "tensor \"b\" begins inside tensor \"a\""},
    {same_place, "E-GGUF-RANGE", "begins inside tensor"},
    {data_too_short, "E-GGUF-RANGE", "tensor \"b\" takes 36 bytes"},
    {tensor_twice, "E-GGUF", "tensor \"a\" occurs twice"},
    {tensor_nameless, "E-GGUF", "a tensor name is not 1 to 256 bytes of printable UTF-8"},
    {tensor_escape, "E-GGUF", "a tensor name is not 1 to 256 bytes of printable UTF-8"},
    {split_in_one_file, "E-GGUF", "is shard 1 of 2 of a split model"},
    {split_in_millions, "E-GGUF-RANGE", "split.count is 4000000, the limit is 1024"},
    {split_negative, "E-GGUF", "key \"split.count\" is no count"},
};

/* An anonymous file and the path that opens it. */
typedef struct MemoryFile {
    int descriptor;
    char path[64];
} MemoryFile;

static MemoryFile memory_file(void) {
    MemoryFile file = {.descriptor = memfd_create("gguf", 0)};
    assert_true(file.descriptor >= 0);
    snprintf(file.path, sizeof file.path, "/proc/self/fd/%d", file.descriptor);
    return file;
}

static void write_sketch(const MemoryFile *file, void (*change)(GgufSketch *sketch)) {
    GgufSketch sketch = gguf_sketch();
    change(&sketch);
    ByteList bytes = gguf_sketch_bytes(&sketch);
    byte_list_write(&bytes, file->descriptor);
    byte_list_free(&bytes);
    byte_list_free(&sketch.pairs);
}

static void test_hostile(void **state) {
    (void)state;
    MemoryFile file = memory_file();
    for (size_t i = 0; i < sizeof hostile_files / sizeof *hostile_files; i++) {
        write_sketch(&file, hostile_files[i].change);
        assert_weights_refused(file.path, hostile_files[i].code, hostile_files[i].fragment);
    }
    close(file.descriptor);
#ifndef __SANITIZE_ADDRESS__
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    assert_true(usage.ru_maxrss < 64 << 10); /* KiB: claimed sizes were never taken */
#endif
}

static void test_sketch_is_valid(void **state) {
    (void)state;
    MemoryFile file = memory_file();
    Weights *weights = NULL;
    write_sketch(&file, nothing);
    assert_int_equal(weights_open(&weights, file.path), STATUS_OK);
    assert_int_equal(weights_tensor_count(weights), 2);
    assert_int_equal(weights_find(weights, "b")->tensor.shape[0], 2);
    assert_int_equal(weights_find(weights, "b")->tensor.shape[1], 32);
    weights_close(weights);
    close(file.descriptor);
}

/* A download that stopped: refused wherever it stopped, until only padding is missing. */
static void test_truncation_at_every_byte(void **state) {
    (void)state;
    static const char golden[] = GOLDEN "/weights/all_types.gguf";
    FILE *input = fopen(golden, "rb");
    char content[32768];
    assert_non_null(input);
    size_t content_bytes = fread(content, 1, sizeof content, input);
    fclose(input);
    Weights *weights = NULL;
    assert_int_equal(weights_open(&weights, golden), STATUS_OK);
    const NamedTensor *last = weights_tensor(weights, weights_tensor_count(weights) - 1);
    uint64_t end = last->file_offset + last->tensor.bytes;
    weights_close(weights);

    MemoryFile file = memory_file();
    assert_int_equal(pwrite(file.descriptor, content, content_bytes, 0), content_bytes);
    error_capture_begin();
    for (size_t length = content_bytes; length-- > 0;) {
        assert_int_equal(ftruncate(file.descriptor, (off_t)length), 0);
        Status status = weights_open(&weights, file.path);
        assert_int_equal(status, length < end ? STATUS_BAD_INPUT : STATUS_OK);
        if (status == STATUS_OK) weights_close(weights);
    }
    error_capture_end();
    close(file.descriptor);
}

/* ---- split files that do not fit together ---- */

static void copy_shard(const char *folder, unsigned from, unsigned to) {
    char path[256], content[1024];
    snprintf(path, sizeof path, GOLDEN "/weights/split-%05u-of-00003.gguf", from);
    FILE *input = fopen(path, "rb");
    assert_non_null(input);
    size_t content_bytes = fread(content, 1, sizeof content, input);
    fclose(input);
    snprintf(path, sizeof path, "%s/m-%05u-of-00003.gguf", folder, to);
    FILE *output = fopen(path, "wb");
    assert_non_null(output);
    assert_int_equal(fwrite(content, 1, content_bytes, output), content_bytes);
    fclose(output);
}

static void test_split_that_does_not_fit(void **state) {
    (void)state;
    char folder[] = "/tmp/spillway-test-XXXXXX", first[256], second[256], third[256];
    assert_non_null(mkdtemp(folder));
    snprintf(first, sizeof first, "%s/m-00001-of-00003.gguf", folder);
    snprintf(second, sizeof second, "%s/m-00002-of-00003.gguf", folder);
    snprintf(third, sizeof third, "%s/m-00003-of-00003.gguf", folder);
    copy_shard(folder, 1, 1);
    copy_shard(folder, 2, 2);
    assert_weights_refused(first, "E-FILE-MISSING", "/m-00003-of-00003.gguf\": cannot be opened");
    assert_weights_refused(second, "E-GGUF", "is shard 2 of 3 of a split model; give the first");
    copy_shard(folder, 2, 3);
    assert_weights_refused(first, "E-GGUF", "says shard 2 of 3, its name says 3 of 3");
    assert_int_equal(truncate(third, 0), 0);
    assert_weights_refused(first, "E-GGUF-RANGE", "/m-00003-of-00003.gguf\" at byte 0: the magic");
    copy_shard(folder, 3, 3);
    Weights *weights = NULL;
    assert_int_equal(weights_open(&weights, first), STATUS_OK);
    assert_int_equal(weights_tensor_count(weights), 5);
    weights_close(weights);
    unlink(first);
    unlink(second);
    unlink(third);
    rmdir(folder);
}

static void test_fingerprint(void **state) {
    (void)state;
    MemoryFile file = memory_file();
    Weights *weights = NULL;
    uint64_t fingerprints[3];
    for (size_t i = 0; i < 3; i++) {
        GgufSketch sketch = gguf_sketch();
        if (i == 2) sketch.tensors[0].name = "c";
        ByteList bytes = gguf_sketch_bytes(&sketch);
        byte_list_write(&bytes, file.descriptor);
        assert_int_equal(weights_open(&weights, file.path), STATUS_OK);
        fingerprints[i] = weights_fingerprint(weights);
        weights_close(weights);
        byte_list_free(&bytes);
        byte_list_free(&sketch.pairs);
    }
    assert_true(fingerprints[0] == fingerprints[1]);
    assert_true(fingerprints[0] != fingerprints[2]);
    close(file.descriptor);
}

static void test_missing_paths(void **state) {
    (void)state;
    assert_weights_refused("/nonexistent/model.gguf", "E-FILE-MISSING", "No such file");
    assert_weights_refused("/dev/null", "E-MODEL-FORMAT", "not a GGUF or safetensors file");
    MemoryFile file = memory_file();
    assert_weights_refused(file.path, "E-MODEL-FORMAT", "0 of the first 4 bytes");
    assert_int_equal(pwrite(file.descriptor, "GGUF", 4, 0), 4);
    assert_weights_refused(file.path, "E-GGUF-RANGE", "at byte 4: the version takes 4 bytes");
    close(file.descriptor);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hostile), /* first: it looks at the peak of memory */
        cmocka_unit_test(test_all_types),
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_typed_reads),
        cmocka_unit_test(test_foreign_type),
        cmocka_unit_test(test_sketch_is_valid),
        cmocka_unit_test(test_truncation_at_every_byte),
        cmocka_unit_test(test_split_that_does_not_fit),
        cmocka_unit_test(test_fingerprint),
        cmocka_unit_test(test_missing_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
