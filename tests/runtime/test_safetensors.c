/* The reader of safetensors files and Hugging Face folders against files of the Python package, and against files that are wrong
 * in one way each. */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/weights/weights.h"
#include "tests/runtime/weights_assertions.h"

static void test_one_shard(void **state) {
    (void)state;
    assert_golden_weights("one_shard", "one_shard.listing");
}

static void test_three_shards(void **state) {
    (void)state;
    assert_golden_weights("three_shards", "three_shards.listing");
}

static void test_single_file(void **state) {
    (void)state;
    Weights *weights = NULL;
    const char *text = NULL;
    char *side_text = NULL;
    size_t side_bytes = 0;
    const char *path = GOLDEN "/weights/one_shard/model.safetensors";
    assert_int_equal(weights_open(&weights, path), STATUS_OK);
    assert_int_equal(weights_naming(weights), WEIGHTS_NAMING_HF);
    assert_int_equal(weights_tensor_count(weights), 5);
    assert_int_equal(weights_read_string(weights, "format", &text), STATUS_OK);
    assert_string_equal(text, "pt");
    assert_int_equal(weights_read_side_file(weights, "config.json", &side_text, &side_bytes),
                     STATUS_NOT_FOUND);
    weights_close(weights);
}

static void test_config(void **state) {
    (void)state;
    Weights *weights = NULL;
    uint32_t integer = 0;
    double real = 0;
    char *text = NULL;
    size_t text_bytes = 0;
    assert_int_equal(weights_open(&weights, GOLDEN "/weights/one_shard"), STATUS_OK);
    assert_int_equal(weights_read_float(weights, "rope_scaling.factor", &real), STATUS_OK);
    assert_true(real == 8);
    assert_int_equal(weights_read_u32(weights, "hidden_size", &integer), STATUS_OK);
    assert_int_equal(integer, 64);
    assert_int_equal(weights_read_u32(weights, "sliding_window", &integer), STATUS_NOT_FOUND);
    error_capture_begin();
    assert_int_equal(weights_read_u32(weights, "rope_theta", &integer), STATUS_BAD_INPUT);
    assert_int_equal(error_last(NULL), ERROR_HF_CONFIG);
    error_capture_end();
    assert_int_equal(weights_read_side_file(weights, "config.json", &text, &text_bytes), STATUS_OK);
    assert_int_equal(strlen(text), text_bytes);
    assert_non_null(strstr(text, "LlamaForCausalLM"));
    free(text);
    assert_int_equal(weights_read_side_file(weights, "tokenizer.json", &text, &text_bytes),
                     STATUS_NOT_FOUND);
    weights_close(weights);
}

/* ---- hostile headers ---- */

#define TENSOR_A "\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}"

static const struct HostileHeader {
    const char *header;
    size_t data_bytes;
    const char *code, *fragment;
} hostile_headers[] = {
    {"", 0, "E-SAFETENSORS", "a JSON object is missing"},
    {"[]", 0, "E-SAFETENSORS", "a JSON object is missing"},
    {"\xef\xbb\xbf{}", 0, "E-SAFETENSORS", "line 1 column 1 (byte 8): a JSON object is missing"},
    {"{", 0, "E-SAFETENSORS", "a key is missing"},
    {"{} x", 0, "E-SAFETENSORS", "column 4 (byte 11): text follows the end"},
    {"{\"a\"}", 0, "E-SAFETENSORS", "a colon is missing"},
    {"{\"a\":}", 0, "E-SAFETENSORS", "malformed JSON"},
    {"{\"a\\u0000\":1}", 0, "E-SAFETENSORS", "malformed JSON"},
    {"{\"a\xff\":1}", 0, "E-SAFETENSORS", "malformed JSON"},
    {"{\"a\\n\":{}}", 0, "E-SAFETENSORS", "a name is not 1 to 256 bytes of printable UTF-8"},
    {"{\"\":{}}", 0, "E-SAFETENSORS", "a name is not 1 to 256 bytes of printable UTF-8"},
    {"{" TENSOR_A ",}", 8, "E-SAFETENSORS", "a key is missing"},
    {"{" TENSOR_A " \"b\":1}", 8, "E-SAFETENSORS", "a comma or } is missing"},
    {"{\n" TENSOR_A ",\n\"b\":7}", 8, "E-SAFETENSORS", "line 3 column 6"},
    {"{\"a\":7}", 0, "E-SAFETENSORS", "tensor \"a\" is not {dtype, shape, data_offsets}"},
    {"{\"a\":{}}", 0, "E-SAFETENSORS", "tensor \"a\" is not {dtype, shape, data_offsets}"},
    {"{\"a\":{\"dtype\":\"F32\",\"dtype\":\"F16\"}}", 0, "E-SAFETENSORS", "duplicate object key"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8],\"x\":1}}", 8, "E-SAFETENSORS",
     "is not {dtype, shape, data_offsets}"},
    {"{\"a\":{\"dtype\":\"Q9\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "E-SAFETENSORS",
     "unknown dtype \"Q9\""},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[0],\"data_offsets\":[0,0]}}", 0, "E-SAFETENSORS",
     "a dimension below one"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]}}", 8, "E-SAFETENSORS",
     "a dimension below one"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]}}", 8, "E-SAFETENSORS",
     "a dimension below one"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,2],\"data_offsets\":[0,8]}}", 8, "E-SAFETENSORS",
     "has 5 dimensions, the limit is 4"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4611686018427387904],\"data_offsets\":[0,8]}}", 8,
     "E-SAFETENSORS", "tensor \"a\" is too large"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[4294967296,4294967296],\"data_offsets\":[0,8]}}", 8,
     "E-SAFETENSORS", "tensor \"a\" is too large"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]}}", 8,
     "E-SAFETENSORS", "too big integer"},
    {"{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,2]}}", 2, "E-SAFETENSORS",
     "tensor \"a\" is too large"},
    {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}", 8, "E-SAFETENSORS",
     "span 8 bytes where dtype and shape take 4"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}", 8, "E-SAFETENSORS",
     "are not [begin, end]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[-8,0]}}", 8, "E-SAFETENSORS",
     "are not [begin, end]"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0]}}", 8, "E-SAFETENSORS",
     "are not [begin, end]"},
    {"{" TENSOR_A "}", 7, "E-SAFETENSORS", "a truncated download"},
    {"{" TENSOR_A "}", 9, "E-SAFETENSORS", "the last tensor ends here but the file is"},
    {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12, "E-SAFETENSORS",
     "tensors overlap or leave a hole"},
    {"{" TENSOR_A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}", 12,
     "E-SAFETENSORS", "tensors overlap or leave a hole"},
    {"{" TENSOR_A ",\"b\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[12,20]}}", 20,
     "E-SAFETENSORS", "tensors overlap or leave a hole"},
    {"{" TENSOR_A ",\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,16]}}", 16,
     "E-SAFETENSORS", "tensor \"a\" occurs twice"},
    {"{\"__metadata__\":{\"k\":1}}", 0, "E-SAFETENSORS", "\"k\" of __metadata__ is no string"},
    {"{\"__metadata__\":[]}", 0, "E-SAFETENSORS", "a JSON object is missing"},
    {"{\"__metadata__\":{\"k\":\"1\",\"k\":\"2\"}}", 0, "E-SAFETENSORS", "key \"k\" occurs twice"},
};

typedef struct MemoryFile {
    int descriptor;
    char path[64];
} MemoryFile;

static MemoryFile memory_file(void) {
    MemoryFile file = {.descriptor = memfd_create("shard.safetensors", 0)};
    assert_true(file.descriptor >= 0);
    snprintf(file.path, sizeof file.path, "/proc/self/fd/%d", file.descriptor);
    return file;
}

static void write_shard(int descriptor, const char *header, uint64_t claimed_bytes,
                        size_t data_bytes) {
    size_t header_bytes = strlen(header);
    assert_int_equal(ftruncate(descriptor, 0), 0);
    assert_int_equal(pwrite(descriptor, &claimed_bytes, 8, 0), 8);
    assert_int_equal(pwrite(descriptor, header, header_bytes, 8), header_bytes);
    assert_int_equal(ftruncate(descriptor, (off_t)(8 + header_bytes + data_bytes)), 0);
}

/* Named so that it is taken for safetensors whatever it begins with. */
static int temporary_shard(const char *folder, const char *name, char path[256]) {
    snprintf(path, 256, "%s/%s", folder, name);
    int descriptor = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    assert_true(descriptor >= 0);
    return descriptor;
}

static char folder[] = "/tmp/spillway-test-XXXXXX";

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static void remove_file(const char *name) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    unlink(path);
}

static int remove_folder(void **state) {
    (void)state;
    static const char *const names[] = {"config.json", "model.safetensors", "a.safetensors",
                                        "model.safetensors.index.json", "pytorch_model.bin"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        remove_file(names[i]);
    return rmdir(folder);
}

static void write_text(const char *name, const char *text) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_hostile_headers(void **state) {
    (void)state;
    char path[256];
    int descriptor = temporary_shard(folder, "a.safetensors", path);
    for (size_t i = 0; i < sizeof hostile_headers / sizeof *hostile_headers; i++) {
        const struct HostileHeader *row = &hostile_headers[i];
        write_shard(descriptor, row->header, strlen(row->header), row->data_bytes);
        assert_weights_refused(path, row->code, row->fragment);
    }
    static const uint64_t claims[] = {1ull << 63, UINT64_MAX, UINT64_MAX - 7, 3, 101 << 20};
    for (size_t i = 0; i < sizeof claims / sizeof *claims; i++) {
        write_shard(descriptor, "{}", claims[i], 0);
        assert_weights_refused(path, "E-SAFETENSORS", "at byte 0: the header claims");
    }
    assert_int_equal(ftruncate(descriptor, 5), 0);
    assert_weights_refused(path, "E-SAFETENSORS", "at byte 0: the header claims 0 bytes");
    close(descriptor);
}

/* A download that stopped, wherever it stopped. */
static void test_truncation_at_every_byte(void **state) {
    (void)state;
    char path[256], content[2048];
    FILE *input = fopen(GOLDEN "/weights/one_shard/model.safetensors", "rb");
    assert_non_null(input);
    size_t content_bytes = fread(content, 1, sizeof content, input);
    fclose(input);
    int descriptor = temporary_shard(folder, "a.safetensors", path);
    assert_int_equal(pwrite(descriptor, content, content_bytes, 0), content_bytes);
    Weights *weights = NULL;
    assert_int_equal(weights_open(&weights, path), STATUS_OK);
    weights_close(weights);
    weights = NULL;
    error_capture_begin();
    for (size_t length = content_bytes; length-- > 0;) {
        assert_int_equal(ftruncate(descriptor, (off_t)length), 0);
        assert_int_equal(weights_open(&weights, path), STATUS_BAD_INPUT);
        assert_int_equal(error_last(NULL), length ? ERROR_SAFETENSORS : ERROR_MODEL_FORMAT);
    }
    error_capture_end();
    close(descriptor);
}

/* 8 MiB of header that a parser of whole trees would turn into 300 MiB. */
static void test_memory_of_hostile_header(void **state) {
    (void)state;
    enum { HEADER_BYTES = 8 << 20 };
    MemoryFile file = memory_file();
    char *header = malloc(HEADER_BYTES + 1);
    assert_non_null(header);
    static const struct {
        const char *filler, *fragment;
    } rows[] = {
        {"[],", "a value is longer than 4096 bytes"},
        {"{\"a\":{\"b\":[[],[]]}},", "a value is longer than 4096 bytes"},
        {"{\"a\":", "a value is longer than 4096 bytes"},
        {"[", "maximum parsing depth reached"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        size_t filler_bytes = strlen(rows[i].filler), at = (size_t)sprintf(header, "{\"x\":[");
        for (; at + filler_bytes <= HEADER_BYTES; at += filler_bytes)
            memcpy(header + at, rows[i].filler, filler_bytes);
        header[at] = 0;
        write_shard(file.descriptor, header, at, 0);
        assert_weights_refused(file.path, "E-SAFETENSORS", rows[i].fragment);
    }
    free(header);
    close(file.descriptor);
#ifndef __SANITIZE_ADDRESS__
    struct rusage usage;
    assert_int_equal(getrusage(RUSAGE_SELF, &usage), 0);
    assert_true(usage.ru_maxrss < 64 << 10);
#endif
}

/* ---- hostile folders ---- */

static const struct HostileConfig {
    const char *config, *code, *fragment;
} hostile_configs[] = {
    {"[]", "E-HF-CONFIG", "not a JSON object"},
    {"{\"a\": 1,\n \"b\" 2}", "E-HF-CONFIG", "line 2 column 6"},
    {"{\"a\": 1, \"a\": 2}", "E-HF-CONFIG", "duplicate object key"},
    {"{\"a\": 1} x", "E-HF-CONFIG", "end of file expected"},
    {"{\"a\": \"\\udf\n0\"}", "E-HF-CONFIG", "invalid escape near '\"\\udf '"},
    {"{\"a\": NaN}", "E-HF-CONFIG", "invalid token"},
    {"{\"a\": 1e999}", "E-HF-CONFIG", "real number overflow"},
    {"{\"a\": 9223372036854775808}", "E-HF-CONFIG", "too big integer"},
    {"{\"a.b\": 1, \"a\": {\"b\": 2}}", "E-HF-CONFIG", "key \"a.b\" occurs twice"},
    {"{\"\": 1}", "E-HF-CONFIG", "a key is not 1 to 256 bytes of printable UTF-8"},
    {"{\"a\\n\": 1}", "E-HF-CONFIG", "a key is not 1 to 256 bytes of printable UTF-8"},
};

static void test_hostile_configs(void **state) {
    (void)state;
    char path[256];
    int descriptor = temporary_shard(folder, "model.safetensors", path);
    write_shard(descriptor, "{" TENSOR_A "}", strlen("{" TENSOR_A "}"), 8);
    close(descriptor);
    for (size_t i = 0; i < sizeof hostile_configs / sizeof *hostile_configs; i++) {
        write_text("config.json", hostile_configs[i].config);
        assert_weights_refused(folder, hostile_configs[i].code, hostile_configs[i].fragment);
    }
    Weights *weights = NULL;
    write_text("config.json", "{}");
    assert_int_equal(weights_open(&weights, folder), STATUS_OK);
    weights_close(weights);
    remove_file("model.safetensors");
}

/* A key of 1,000 nested objects is too long, not a stack too deep. */
static void test_deep_config(void **state) {
    (void)state;
    char config[8192], *at = config;
    for (int i = 0; i < 1000; i++)
        at += sprintf(at, "{\"ab\":");
    at += sprintf(at, "1");
    for (int i = 0; i < 1000; i++)
        at += sprintf(at, "}");
    write_text("config.json", config);
    assert_weights_refused(folder, "E-HF-CONFIG", "a key is longer than 256 bytes");
}

static const struct HostileIndex {
    const char *index, *code, *fragment;
} hostile_indices[] = {
    {"", "E-SAFETENSORS", "a JSON object is missing"},
    {"{}", "E-SAFETENSORS", "weight_map is missing"},
    {"{\"weight_map\": {}, \"weight_map\": {}}", "E-SAFETENSORS", "weight_map occurs twice"},
    {"{\"weight_map\": []}", "E-SAFETENSORS", "a JSON object is missing"},
    {"{\"weight_map\": {\"a\": 1}}", "E-SAFETENSORS", "a shard of weight_map is no string"},
    {"{\"weight_map\": {\"a\": \"../a.safetensors\"}}", "E-SAFETENSORS", "no plain file name"},
    {"{\"weight_map\": {\"a\": \"/etc/passwd\"}}", "E-SAFETENSORS", "no plain file name"},
    {"{\"weight_map\": {\"a\": \".safetensors\"}}", "E-SAFETENSORS", "no plain file name"},
    {"{\"weight_map\": {\"a\": \"a.bin\"}}", "E-SAFETENSORS", "no plain file name"},
    {"{\"weight_map\": {\"a\": \"b.safetensors\"}}", "E-FILE-MISSING", "/b.safetensors\": cannot"},
    {"{\"weight_map\": {\"b\": \"a.safetensors\"}}", "E-SAFETENSORS",
     "tensor \"b\" is not in shard \"a.safetensors\""},
    {"{\"weight_map\": {\"a\": \"a.safetensors\", \"a\": \"a.safetensors\"}}", "E-SAFETENSORS",
     "tensor \"a\" is listed twice"},
    {"{\"weight_map\": {\"a\": \"a.safetensors\"}}, {}", "E-SAFETENSORS", "text follows the end"},
};

static void test_hostile_indices(void **state) {
    (void)state;
    char path[256];
    int descriptor = temporary_shard(folder, "a.safetensors", path);
    write_shard(descriptor, "{" TENSOR_A "}", strlen("{" TENSOR_A "}"), 8);
    close(descriptor);
    write_text("config.json", "{}");
    for (size_t i = 0; i < sizeof hostile_indices / sizeof *hostile_indices; i++) {
        write_text("model.safetensors.index.json", hostile_indices[i].index);
        assert_weights_refused(folder, hostile_indices[i].code, hostile_indices[i].fragment);
    }
    Weights *weights = NULL;
    write_text("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"a.safetensors\"}}");
    assert_int_equal(weights_open(&weights, folder), STATUS_OK);
    weights_close(weights);
    remove_file("model.safetensors.index.json");
    remove_file("a.safetensors");
}

static void test_folder_without_weights(void **state) {
    (void)state;
    remove_file("config.json");
    assert_weights_refused(folder, "E-MODEL-FORMAT", "has no readable config.json");
    write_text("config.json", "{}");
    assert_weights_refused(folder, "E-FILE-MISSING", "neither model.safetensors nor");
    write_text("pytorch_model.bin", "pickle");
    assert_weights_refused(folder, "E-MODEL-FORMAT", "convert it: python3 -c");
}

/* ---- weights that are truncated while they are mapped ---- */

/* Ends as weights_guard_install says; its stderr goes to the pipe. */
static void read_truncated_weights(int error_descriptor) {
    char path[256];
    Weights *weights = NULL;
    int descriptor = temporary_shard(folder, "model.safetensors", path);
    static const char header[] =
        "{\"a\":{\"dtype\":\"U8\",\"shape\":[65536],\"data_offsets\":[0,65536]}}";
    write_shard(descriptor, header, strlen(header), 65536);
    dup2(error_descriptor, STDERR_FILENO);
    weights_guard_install();
    if (weights_open(&weights, path) != STATUS_OK || ftruncate(descriptor, 4096) != 0) _exit(1);
    const volatile uint8_t *data = weights_tensor(weights, 0)->tensor.data;
    _exit(data[65535] == 0 ? 2 : 3);
}

static void test_truncated_while_mapped(void **state) {
    (void)state;
    int pipe_ends[2], wait_status;
    char line[1024] = "";
    assert_int_equal(pipe(pipe_ends), 0);
    pid_t child = fork();
    if (child == 0) read_truncated_weights(pipe_ends[1]);
    close(pipe_ends[1]);
    assert_int_equal(waitpid(child, &wait_status, 0), child);
    assert_true(read(pipe_ends[0], line, sizeof line - 1) > 0);
    close(pipe_ends[0]);
    assert_true(WIFEXITED(wait_status));
    assert_int_equal(WEXITSTATUS(wait_status), 74);
    assert_ptr_equal(strstr(line, "spillway: error[E-WEIGHTS-IO]: \""), line);
    assert_non_null(strstr(line, "/model.safetensors\" at byte 656"));
    assert_ptr_equal(strchr(line, '\n'), line + strlen(line) - 1);
    remove_file("model.safetensors");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_memory_of_hostile_header), /* first: it looks at the peak of memory */
        cmocka_unit_test(test_one_shard),
        cmocka_unit_test(test_three_shards),
        cmocka_unit_test(test_single_file),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_hostile_headers),
        cmocka_unit_test(test_truncation_at_every_byte),
        cmocka_unit_test(test_hostile_configs),
        cmocka_unit_test(test_deep_config),
        cmocka_unit_test(test_hostile_indices),
        cmocka_unit_test(test_folder_without_weights),
        cmocka_unit_test(test_truncated_while_mapped),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
