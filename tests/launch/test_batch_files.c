/* The files of a batch without an engine: lines in bounded memory, appending, the scan after a crash at every byte, locks,
 * the state file, and finding where an input was edited. */

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "launch/batch_output.h"
#include "launch/batch_state.h"
#include "launch/line_reader.h"
#include "runtime/base/random.h"

static char folder[64], results[96], errors[96], other[96];

static int make_folder(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/spillway_batch_XXXXXX");
    if (!mkdtemp(folder)) return 1;
    snprintf(results, sizeof results, "%s/out.jsonl", folder);
    snprintf(errors, sizeof errors, "%s/err.jsonl", folder);
    snprintf(other, sizeof other, "%s/other", folder);
    return 0;
}

static int drop_folder(void **state) {
    (void)state;
    unlink(results);
    unlink(errors);
    unlink(other);
    return rmdir(folder);
}

static void put_file(const char *path, const char *text, size_t bytes) {
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(text, 1, bytes, file), bytes);
    assert_int_equal(fclose(file), 0);
}

static size_t get_file(const char *path, char *out, size_t out_bytes) {
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    size_t bytes = fread(out, 1, out_bytes, file);
    fclose(file);
    return bytes;
}

/* ---- lines ---- */

/* Random texts against a plain splitter, with limits that cut some lines. */
static void test_lines(void **state) {
    (void)state;
    enum { TEXT_BYTES = 300000 };
    static char text[TEXT_BYTES];
    Random random = {.key = 5};
    for (int round = 0; round < 40; round++) {
        size_t bytes = random_below(&random, TEXT_BYTES);
        uint64_t rare = 1 + random_below(&random, round % 4 == 0 ? 100000 : 60);
        size_t limit = 1 + random_below(&random, 200000);
        for (size_t i = 0; i < bytes; i++)
            text[i] = random_below(&random, rare) == 0 ? '\n' : (char)random_below(&random, 256);
        put_file(other, text, bytes);
        int descriptor = open(other, O_RDONLY);
        LineReader reader;
        assert_int_equal(line_reader_open(&reader, descriptor, other, limit), STATUS_OK);
        size_t at = 0;
        uint64_t number = 0;
        for (;;) {
            Line line;
            bool end;
            assert_int_equal(line_reader_next(&reader, &line, &end), STATUS_OK);
            assert_int_equal(end, at == bytes);
            if (end) break;
            const char *feed = memchr(text + at, '\n', bytes - at);
            size_t length = feed ? (size_t)(feed - text) - at : bytes - at;
            assert_int_equal(line.number, ++number);
            assert_int_equal(line.offset, at);
            assert_int_equal(line.ended, feed != NULL);
            assert_int_equal(line.too_long, length > limit);
            if (!line.too_long) {
                assert_int_equal(line.bytes, length);
                assert_memory_equal(line.text, text + at, length);
            }
            at += length + (feed != NULL);
        }
        assert_true(reader.capacity <= 4 * limit + (1 << 18));
        line_reader_close(&reader);
        close(descriptor);
    }
}

/* ---- the set ---- */

static void test_ids(void **state) {
    (void)state;
    IdSet set = {0};
    bool added;
    char name[32];
    for (int i = 0; i < 20000; i++) {
        int bytes = snprintf(name, sizeof name, "%d", i / 2);
        assert_int_equal(id_set_add(&set, id_key_of_text(name, (size_t)bytes), &added), STATUS_OK);
        assert_int_equal(added, i % 2 == 0);
    }
    assert_int_equal(set.count, 10000);
    assert_true(id_set_has(&set, id_key_of_text("9999", 4)));
    assert_false(id_set_has(&set, id_key_of_text("10000", 5)));
    assert_false(id_set_has(&set, id_key_of_number(5)));
    id_set_free(&set);
    assert_false(id_set_has(&set, id_key_of_text("1", 1)));
}

/* ---- the scan ---- */

static const char three_lines[] =
    "{\"custom_id\":\"a\",\"response\":{\"body\":{\"text\":\"one\\u0000\"}},\"error\":null}\n"
    "{\"custom_id\":\"b\",\"response\":{},\"error\":null}\n"
    "{\"custom_id\":\"c\",\"response\":{},\"error\":null}\n";

static const BatchOutputOptions *two_files(void) {
    static BatchOutputOptions options;
    options = (BatchOutputOptions){
        .results = results, .errors = errors, .sync_interval_s = 1, .trust_numbers = true};
    return &options;
}

static bool is_done(const BatchOutput *output, const char *id) {
    return id_set_has(&output->done, id_key_of_text(id, strlen(id)));
}

/* A crash can leave any prefix: what stays are its whole lines, and appending goes on behind them. */
static void test_cut_at_each_byte(void **state) {
    (void)state;
    char text[512];
    for (size_t bytes = 0; bytes < sizeof three_lines; bytes++) {
        put_file(results, three_lines, bytes);
        unlink(errors);
        BatchOutput output;
        assert_int_equal(batch_output_open(&output, two_files(), ""), STATUS_OK);
        assert_int_equal(batch_output_scan(&output), STATUS_OK);
        size_t whole = 0, lines = 0;
        for (size_t i = 0; i < bytes; i++)
            if (three_lines[i] == '\n') {
                whole = i + 1;
                lines++;
            }
        assert_int_equal(output.results.bytes, whole);
        assert_int_equal(output.results.lines, lines);
        assert_int_equal(output.done_ok, lines);
        assert_int_equal(is_done(&output, "a"), lines > 0);
        assert_int_equal(is_done(&output, "b"), lines > 1);
        assert_int_equal(is_done(&output, "c"), lines > 2);
        json_t *record = json_pack("{ss sn}", "custom_id", "new", "error");
        assert_int_equal(batch_output_add(&output, false, record), STATUS_OK);
        assert_int_equal(batch_output_sync(&output), STATUS_OK);
        batch_output_close(&output);
        size_t now = get_file(results, text, sizeof text);
        static const char added[] = "{\"custom_id\":\"new\",\"error\":null}\n";
        assert_int_equal(now, whole + sizeof added - 1);
        assert_memory_equal(text, three_lines, whole);
        assert_memory_equal(text + whole, added, sizeof added - 1);
    }
}

static void test_damaged_lines(void **state) {
    (void)state;
    static const char *const damaged[] = {
        "not json\n{\"custom_id\":\"a\",\"error\":null}\n",
        "{\"custom_id\":\"a\",\"error\":null}\n{\"custom_id\":5}\n{\"custom_id\":\"b\",\"error\":"
        "null}\n",
        "\n\n",
    };
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        const char *text;
        BatchOutput output;
        put_file(results, damaged[i], strlen(damaged[i]));
        assert_int_equal(batch_output_open(&output, two_files(), ""), STATUS_OK);
        assert_int_equal(batch_output_scan(&output), STATUS_BAD_INPUT);
        assert_string_equal(error_row(error_last(&text))->code, "E-BATCH-OUTPUT");
        batch_output_close(&output);
        char now[256];
        assert_int_equal(get_file(results, now, sizeof now), strlen(damaged[i]));
    }
}

static const char failures[] =
    "{\"custom_id\":\"x\",\"response\":null,\"error\":{\"code\":\"invalid_value\",\"line\":2}}\n"
    "{\"custom_id\":null,\"response\":null,\"error\":{\"code\":\"invalid_json\",\"line\":3}}\n"
    "{\"custom_id\":\"a\",\"response\":null,\"error\":{\"code\":\"duplicate_custom_id\",\"line\":4}"
    "}\n";

/* A failure is done by its name; one about a line as such by its number, when the numbers are of this input. */
static void test_failures(void **state) {
    (void)state;
    for (int trust = 0; trust < 2; trust++) {
        BatchOutput output;
        BatchOutputOptions options = *two_files();
        options.trust_numbers = trust;
        put_file(results, "", 0);
        put_file(errors, failures, sizeof failures - 1);
        assert_int_equal(batch_output_open(&output, &options, ""), STATUS_OK);
        assert_int_equal(batch_output_scan(&output), STATUS_OK);
        assert_true(is_done(&output, "x"));
        assert_false(is_done(&output, "a"));
        assert_int_equal(id_set_has(&output.done, id_key_of_number(3)), trust);
        assert_int_equal(id_set_has(&output.done, id_key_of_number(4)), trust);
        assert_false(id_set_has(&output.done, id_key_of_number(2)));
        if (trust) assert_int_equal(output.done_failed, 3);
        batch_output_close(&output);
    }
}

static void test_retry(void **state) {
    (void)state;
    BatchOutput output;
    BatchOutputOptions options = *two_files();
    char text[1024];
    options.retry_errors = true;
    put_file(results, three_lines, sizeof three_lines - 1);
    put_file(errors, failures, sizeof failures - 1);
    assert_int_equal(batch_output_open(&output, &options, ""), STATUS_OK);
    assert_int_equal(batch_output_scan(&output), STATUS_OK);
    assert_true(is_done(&output, "a") && !is_done(&output, "x"));
    assert_int_equal(output.done.count, 3);
    batch_output_close(&output);
    assert_int_equal(get_file(errors, text, sizeof text), 0);
    assert_int_equal(get_file(results, text, sizeof text), sizeof three_lines - 1);
}

/* With one file the failures go, the answers stay byte for byte, and the lock holds on. */
static void test_retry_one_file(void **state) {
    (void)state;
    BatchOutput output, second;
    BatchOutputOptions options = *two_files();
    char mixed[1024], text[1024];
    options.errors = NULL;
    options.retry_errors = true;
    int bytes = snprintf(mixed, sizeof mixed, "%s%s{\"custom_id\":\"torn", failures, three_lines);
    put_file(results, mixed, (size_t)bytes);
    assert_int_equal(batch_output_open(&output, &options, ""), STATUS_OK);
    assert_int_equal(batch_output_scan(&output), STATUS_OK);
    assert_true(is_done(&output, "a") && !is_done(&output, "x"));
    assert_int_equal(batch_output_open(&second, &options, "1@here"), STATUS_BAD_INPUT);
    assert_int_equal(
        batch_output_add(&output, true,
                         json_pack("{ss s{si}}", "custom_id", "x", "error", "line", 2)),
        STATUS_OK);
    batch_output_close(&output);
    static const char added[] = "{\"custom_id\":\"x\",\"error\":{\"line\":2}}\n";
    size_t now = get_file(results, text, sizeof text);
    assert_int_equal(now, sizeof three_lines - 1 + sizeof added - 1);
    assert_memory_equal(text, three_lines, sizeof three_lines - 1);
    assert_memory_equal(text + sizeof three_lines - 1, added, sizeof added - 1);
}

static void test_lock(void **state) {
    (void)state;
    BatchOutput first, second;
    const char *text;
    struct stat about;
    unlink(results);
    assert_int_equal(batch_output_open(&first, two_files(), ""), STATUS_OK);
    assert_int_equal(batch_output_open(&second, two_files(), "123@node"), STATUS_BAD_INPUT);
    assert_string_equal(error_row(error_last(&text))->code, "E-BATCH-LOCKED");
    assert_non_null(strstr(text, "123@node"));
    assert_int_equal(stat(results, &about), 0);
    assert_int_equal(about.st_mode & 0777, 0600);
    batch_output_close(&first);
    assert_int_equal(batch_output_open(&second, two_files(), ""), STATUS_OK);
    batch_output_close(&second);
}

/* /dev/full takes nothing: the failure is told with what is safe. */
static void test_full_disk(void **state) {
    (void)state;
    DurableLog log = {.descriptor = open("/dev/full", O_WRONLY), .path = "full", .lines = 12};
    const char *text;
    assert_true(log.descriptor >= 0);
    assert_int_equal(durable_log_add(&log, "x\n", 2), STATUS_DEVICE);
    assert_string_equal(error_row(error_last(&text))->code, "E-OUTPUT-WRITE");
    assert_non_null(strstr(text, "first 12 lines are safe"));
    assert_non_null(strstr(text, "No space left"));
    durable_log_close(&log);
}

/* ---- the digest and the state ---- */

static void read_digest(const char *text, size_t bytes, BatchDigest *out) {
    put_file(other, text, bytes);
    int descriptor = open(other, O_RDONLY);
    assert_int_equal(batch_digest_read(descriptor, other, out), STATUS_OK);
    close(descriptor);
}

static void test_digest(void **state) {
    (void)state;
    BatchDigest digest;
    read_digest("abc", 3, &digest); /* FIPS 180-2, B.1 */
    assert_string_equal(digest.sha256_hex,
                        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_true(digest.bytes == 3 && digest.lines == 1);
    read_digest("", 0, &digest);
    assert_true(digest.bytes == 0 && digest.lines == 0 && digest.section_count == 0);
    read_digest("a\n\nb\n", 5, &digest);
    assert_int_equal(digest.lines, 3);
}

/* Wherever a byte is changed, the lines named hold the change, and they are few. */
static void test_edits_are_found(void **state) {
    (void)state;
    enum { LINES = 30000, LINE_BYTES = 50 };
    static char text[LINES * LINE_BYTES], edited[LINES * LINE_BYTES];
    BatchDigest before;
    Random random = {.key = 9};
    for (int i = 0; i < LINES; i++) {
        memset(text + i * LINE_BYTES, 'a' + i % 26, LINE_BYTES - 1);
        text[(i + 1) * LINE_BYTES - 1] = '\n';
    }
    read_digest(text, sizeof text, &before);
    assert_int_equal(before.lines, LINES);
    for (int round = 0; round < 20; round++) {
        size_t place = random_below(&random, sizeof text);
        memcpy(edited, text, sizeof text);
        edited[place] ^= 1;
        put_file(other, edited, sizeof edited);
        int descriptor = open(other, O_RDONLY);
        uint64_t first, last, line = place / LINE_BYTES + 1;
        assert_int_equal(batch_digest_locate(descriptor, other, &before, &first, &last), STATUS_OK);
        close(descriptor);
        assert_true(first <= line && line <= last && last - first < 40);
    }
    put_file(other, text, sizeof text - 1000 * LINE_BYTES);
    int descriptor = open(other, O_RDONLY);
    uint64_t first, last;
    assert_int_equal(batch_digest_locate(descriptor, other, &before, &first, &last), STATUS_OK);
    close(descriptor);
    assert_true(first <= LINES - 999 && last >= LINES - 1000);
}

static void test_state_file(void **state) {
    (void)state;
    static BatchState before = {.status = "in_progress",
                                .input = "in \"x\".jsonl",
                                .errors = "",
                                .model = "0123",
                                .shard = "2/3",
                                .lines = 4,
                                .settings = "4567",
                                .writer = "1@n",
                                .started_at = 5,
                                .completed = 3,
                                .failed = 1};
    static BatchState now;
    const char *text;
    assert_int_equal(batch_state_read(other, &now), STATUS_NOT_FOUND);
    read_digest("a\nb\n", 4, &before.digest);
    assert_int_equal(batch_state_write(other, &before), STATUS_OK);
    assert_int_equal(batch_state_read(other, &now), STATUS_OK);
    assert_memory_equal(&now, &before, sizeof now);
    static const char older[] =
        "{\"status\":\"completed\",\"input\":{\"path\":\"a\",\"sha256\":\"0\",\"bytes\":1,"
        "\"lines\":7,\"section_bytes\":256,\"sections\":[]},\"errors\":\"\",\"model\":\"m\","
        "\"settings\":\"s\",\"writer\":\"w\",\"started_at\":1,\"finished_at\":2,"
        "\"request_counts\":{\"total\":7,\"completed\":7,\"failed\":0}}";
    put_file(other, older, sizeof older - 1);
    assert_int_equal(batch_state_read(other, &now), STATUS_OK);
    assert_string_equal(now.shard, "1/1");
    assert_int_equal(now.lines, 7);
    static const char *const damaged[] = {"", "{}", "[1]", "{\"status\":\"completed\"}",
                                          "nonsense"};
    for (size_t i = 0; i < sizeof damaged / sizeof *damaged; i++) {
        put_file(other, damaged[i], strlen(damaged[i]));
        assert_int_equal(batch_state_read(other, &now), STATUS_BAD_INPUT);
        assert_string_equal(error_row(error_last(&text))->code, "E-BATCH-OUTPUT");
    }
}

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, drop_folder)
    const struct CMUnitTest tests[] = {
        TEST(test_lines),
        TEST(test_ids),
        TEST(test_cut_at_each_byte),
        TEST(test_damaged_lines),
        TEST(test_failures),
        TEST(test_retry),
        TEST(test_retry_one_file),
        TEST(test_lock),
        TEST(test_full_disk),
        TEST(test_digest),
        TEST(test_edits_are_found),
        TEST(test_state_file),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
