/* What is said about a run: the progress line, the summary, the statistics of a benchmark, token files, NumPy files. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>
#include <jansson.h>

#include "launch/bench_measure.h"
#include "launch/npy.h"
#include "launch/progress.h"
#include "launch/summary.h"
#include "launch/tier_view.h"
#include "launch/token_file.h"
#include "runtime/base/bytes.h"

/* ---- progress ---- */

static void test_progress_line(void **state) {
    (void)state;
    Progress progress;
    char line[320];
    ProgressState now = {.lines_done = 1834,
                         .lines_total = 50000,
                         .lines_now = 1834,
                         .bytes_read = 200000,
                         .bytes_total = 5000000,
                         .prompt_tokens = 100000,
                         .generated_tokens = 50000,
                         .running = 128,
                         .kv_shares = {0.97, -1, -1}};
    progress_begin(&progress, PROGRESS_PLAIN, -1, 10);
    progress.generated_rate = 4812.4;
    progress.prompt_rate = 9204;
    progress_format(&progress, &now, 10 + 724, line, sizeof line);
    assert_string_equal(line, "batch 1 834/50 000 (3.7 %)  running 128  out 4 812 tok/s  in 9 204 "
                              "tok/s  kv dev 97 %  elapsed 12:04  left 2:29:21-9:57:24");
    now.kv_shares[1] = 0.614;
    now.kv_shares[2] = 0.18;
    now.spills = true;
    now.hit_share = 0.92;
    now.stall_share = 0.031;
    progress_format(&progress, &now, 10 + 724, line, sizeof line);
    assert_non_null(
        strstr(line, "tok/s  kv dev 97 % host 61 % nvme 18 %  hit 92 %  stall 3 %  elapsed"));
    now.lines_done = now.lines_now = 25000;
    now.bytes_read = 2500000;
    progress_format(&progress, &now, 10 + 100, line, sizeof line);
    assert_non_null(strstr(line, "(50.0 %)"));
    assert_non_null(strstr(line, "elapsed 1:40  left 1:40"));
    now.lines_done = now.lines_now = 50000;
    progress_format(&progress, &now, 10 + 3725, line, sizeof line);
    assert_non_null(strstr(line, "elapsed 1:02:05"));
    assert_null(strstr(line, "left"));
}

/* On a pipe: a line every 30 s; a terminal: 4 a second, rewritten. */
static void test_progress_pace(void **state) {
    (void)state;
    for (int terminal = 0; terminal < 2; terminal++) {
        int ends[2];
        char text[8192];
        Progress progress;
        ProgressState now = {.lines_total = 10};
        assert_int_equal(pipe(ends), 0);
        progress_begin(&progress, terminal ? PROGRESS_TERMINAL : PROGRESS_PLAIN, ends[1], 0);
        int ticks = terminal ? 100 : 12000;
        for (int i = 0; i <= ticks; i++) /* 1 s, 120 s */
            progress_tick(&progress, &now, i * 0.01);
        progress_end(&progress, &now, ticks * 0.01);
        close(ends[1]);
        ssize_t bytes = read(ends[0], text, sizeof text - 1);
        assert_true(bytes > 0);
        text[bytes] = 0;
        int lines = 0, starts = 0;
        for (const char *at = text; *at; at++) {
            lines += *at == '\n';
            starts += *at == '\r';
        }
        assert_int_equal(lines, terminal ? 1 : 5);
        assert_int_equal(starts, terminal ? 5 : 0);
        close(ends[0]);
    }
    Progress silent;
    const ProgressState none = {0};
    progress_begin(&silent, PROGRESS_NONE, -1, 0);
    progress_tick(&silent, &none, 1e6);
    progress_end(&silent, &none, 1e6);
    assert_int_equal(progress_style("none", 0), PROGRESS_NONE);
    assert_int_equal(progress_style("terminal", -1), PROGRESS_TERMINAL);
    assert_int_equal(progress_style("auto", -1), PROGRESS_PLAIN);
}

/* ---- summary ---- */

static double number_at(const json_t *root, const char *first, const char *second,
                        const char *third) {
    const json_t *value = json_object_get(root, first);
    if (second) value = json_object_get(value, second);
    if (third) value = json_object_get(value, third);
    assert_true(json_is_number(value));
    return json_number_value(value);
}

static void test_summary(void **state) {
    (void)state;
    const EngineStats stats = {.prompt_tokens = 100,
                               .generated_tokens = 60,
                               .seconds_prefill = 2,
                               .seconds_decode = 4,
                               .seconds_collective = 0.5,
                               .tiers = {{.capacity_bytes = 1000, .peak_bytes = 900}},
                               .seconds_stalled = {[TIER_NVME] = 0.75},
                               .memory_peak_bytes = 5000,
                               .device_free_bytes = 4000,
                               .device_planned_bytes = 3000,
                               .device_taken_bytes = 2000,
                               .determinism_digest = 0xabc};
    const Summary summary = {.stats = &stats,
                             .lines_ok = 3,
                             .lines_failed = 2,
                             .lines_skipped = 1,
                             .seconds_total = 8,
                             .seconds_load = 1.5,
                             .decode_tokens = 40};
    char path[] = "/tmp/spillway_summary_XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    assert_int_equal(summary_write_json(&summary, path), STATUS_OK);
    json_t *root = json_load_file(path, 0, NULL);
    assert_non_null(root);
    assert_true(number_at(root, "lines", "ok", NULL) == 3);
    assert_true(number_at(root, "lines", "failed", NULL) == 2);
    assert_true(number_at(root, "lines", "skipped", NULL) == 1);
    assert_true(number_at(root, "tokens", "prompt", NULL) == 100);
    assert_true(number_at(root, "tokens", "generated", NULL) == 60);
    assert_true(number_at(root, "tokens", "recomputed", NULL) == 0);
    assert_true(number_at(root, "seconds", "total", NULL) == 8);
    assert_true(number_at(root, "seconds", "load", NULL) == 1.5);
    assert_true(number_at(root, "seconds", "stall", "peer") == 0.5);
    assert_true(number_at(root, "seconds", "stall", "nvme") == 0.75);
    assert_true(number_at(root, "seconds", "stall", "host") == 0);
    assert_true(number_at(root, "seconds", "stall", "copy") == 0);
    assert_true(number_at(root, "tokens_per_second", "prefill", NULL) == 50);
    assert_true(number_at(root, "tokens_per_second", "decode", NULL) == 10);
    assert_true(number_at(root, "tiers", "device", "capacity_bytes") == 1000);
    assert_true(number_at(root, "tiers", "device", "peak_bytes") == 900);
    assert_true(number_at(root, "tiers", "host", "capacity_bytes") == 0);
    assert_true(number_at(root, "tiers", "nvme", "written_bytes") == 0);
    assert_true(number_at(root, "corrupt_blocks", NULL, NULL) == 0);
    assert_true(number_at(root, "io_errors", NULL, NULL) == 0);
    assert_true(number_at(root, "memory_peak_bytes", NULL, NULL) == 5000);
    assert_true(number_at(root, "device_memory", "free_bytes", NULL) == 4000);
    assert_true(number_at(root, "device_memory", "planned_bytes", NULL) == 3000);
    assert_true(number_at(root, "device_memory", "taken_bytes", NULL) == 2000);
    assert_string_equal(json_string_value(json_object_get(root, "determinism_digest")),
                        "0000000000000abc");
    json_decref(root);
    unlink(path);
    assert_int_equal(summary_write_json(&summary, "/nowhere/at/all"), STATUS_BAD_INPUT);
    assert_int_equal(summary_write_json(&summary, "/dev/full"), STATUS_DEVICE);
}

static void test_summary_of_tiers(void **state) {
    (void)state;
    const EngineStats stats = {.tiers = {{.capacity_bytes = 1000,
                                          .used_bytes = 800,
                                          .peak_bytes = 900,
                                          .filling_blocks = 3,
                                          .sealed_blocks = 5,
                                          .hits = 30,
                                          .moves_in[REASON_PREFETCH] = {20, 2000},
                                          .seconds_stalled = 0.25},
                                         [TIER_NVME] = {.capacity_bytes = 4000,
                                                        .sealed_blocks = 5,
                                                        .lost_blocks = 1,
                                                        .hits = 10,
                                                        .read_bytes = 2000000000,
                                                        .moves_out[REASON_PREFETCH] = {20, 2000},
                                                        .seconds_stalled = 1.5}},
                               .blocks_filling = 3,
                               .blocks_sealed = 9,
                               .prefetch_useful = 17,
                               .host_attended_blocks = 12,
                               .host_attended_bytes = 48000,
                               .host_partial_bytes = 600,
                               .seconds_host_attention = 0.125,
                               .seconds_tier_thread = 0.5};
    json_t *tiers = tier_view_tiers(&stats), *kv = tier_view_kv(&stats);
    assert_true(number_at(tiers, "device", "hit_share", NULL) == 0.75);
    assert_true(number_at(tiers, "nvme", "hits", NULL) == 10);
    assert_true(number_at(tiers, "nvme", "stall_seconds", NULL) == 1.5);
    const json_t *device = json_object_get(tiers, "device"), *nvme = json_object_get(tiers, "nvme");
    assert_true(number_at(device, "blocks", "filling", NULL) == 3);
    assert_true(number_at(device, "blocks", "sealed", NULL) == 5);
    assert_true(number_at(nvme, "blocks", "sealed", NULL) == 5);
    assert_true(number_at(nvme, "blocks", "lost", NULL) == 1);
    const json_t *moves_in = json_object_get(json_object_get(device, "moves"), "in"),
                 *moves_out = json_object_get(json_object_get(nvme, "moves"), "out");
    assert_true(number_at(moves_in, "prefetch", "blocks", NULL) == 20);
    assert_true(number_at(moves_in, "evict", "blocks", NULL) == 0);
    assert_true(number_at(moves_out, "prefetch", "bytes", NULL) == 2000);
    assert_true(number_at(kv, "blocks", "sealed", NULL) == 9);
    assert_true(number_at(kv, "prefetch", "useful", NULL) == 17);
    assert_true(number_at(kv, "tier_thread", "moved_bytes", NULL) == 2e9);
    assert_true(number_at(kv, "tier_thread", "cpu_seconds_per_gb", NULL) == 0.25);
    assert_true(number_at(kv, "host_attention", "blocks", NULL) == 12);
    assert_true(number_at(kv, "host_attention", "stayed_bytes", NULL) == 48000);
    assert_true(number_at(kv, "host_attention", "partial_bytes", NULL) == 600);
    assert_true(number_at(kv, "host_attention", "seconds", NULL) == 0.125);
    json_decref(tiers);
    json_decref(kv);
}

static void test_summary_lines(void **state) {
    (void)state;
    const EngineStats stats = {
        .tiers = {{.capacity_bytes = 3 << 20,
                   .used_bytes = 3 << 19,
                   .filling_blocks = 2,
                   .sealed_blocks = 4,
                   .hits = 1,
                   .moves_in[REASON_DEMAND] = {7, 1 << 20}},
                  {.capacity_bytes = 1 << 20, .hits = 1, .off_count = 2, .seconds_stalled = 0.5}},
        .prefetch_late = 7,
        .host_attended_blocks = 9,
        .host_attended_bytes = 3 << 20,
        .host_partial_bytes = 1 << 19,
        .seconds_host_attention = 0.25,
        .seconds_stalled = {1, 0.25, 0}};
    const Summary summary = {.stats = &stats};
    char *text;
    size_t bytes;
    FILE *memory = open_memstream(&text, &bytes);
    summary_print(&summary, memory);
    fclose(memory);
    static const char *const parts[] = {
        "; with peers 0.00, waiting for nvme 0.00, host 0.25, room 1.00\n",
        "device           1.5       3.0   50.0       0.0        2        4      0   50.0     "
        "0.00\n",
        "host             0.0       1.0    0.0       0.0        0        0      0   50.0     0.50  "
        "off\n",
        "to device  demand 7 blocks, 1.0 MiB\n",
        "to host    nothing\n",
        "prefetch   0 useful, 7 late, 0 wasted\n",
        "on host    9 blocks attended where they lay in 0.25 s: 3.0 MiB stayed, 0.5 MiB of queries "
        "and partials moved\n",
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(text, parts[i])) fail_msg("no \"%s\" in:\n%s", parts[i], text);
    assert_null(strstr(text, "\nnvme"));
    free(text);
}

/* ---- statistics: numpy.percentile, numpy.std of the same lists ---- */

static void test_statistics(void **state) {
    (void)state;
    double values[] = {5, 1, 4, 2, 3, 100};
    BenchStatistics all = bench_statistics(values, 6);
    assert_true(fabs(all.mean - 19.166666666666668) < 1e-12);
    assert_true(all.median == 3.5);
    assert_true(fabs(all.std - 36.17281053805775) < 1e-12);
    assert_true(fabs(all.p99 - 95.25) < 1e-12);
    double one = 7;
    BenchStatistics single = bench_statistics(&one, 1);
    assert_true(single.mean == 7 && single.median == 7 && single.std == 0 && single.p99 == 7);
    BenchStatistics none = bench_statistics(NULL, 0);
    assert_true(none.mean == 0 && none.p99 == 0);
    assert_true(bench_percentile(values, 6, 25) == 2.25);
    assert_true(bench_percentile(values, 6, 100) == 100);
}

/* ---- token files ---- */

static void test_token_texts(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t count;
        int32_t last;
    } good[] = {
        {"[1, 2,3]", 3, 3},           {" [ 5 ]\n", 1, 5}, {"1 2\n3\t4\r\n", 4, 4},
        {"2147483647", 1, INT32_MAX}, {"[0]", 1, 0},      {"007", 1, 7},
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        TokenList list = {0};
        assert_int_equal(token_text_read(good[i].text, strlen(good[i].text), "t", &list),
                         STATUS_OK);
        assert_int_equal(list.count, good[i].count);
        assert_int_equal(list.tokens[list.count - 1], good[i].last);
        token_list_free(&list);
    }
    static const char *const wrong[] = {"",      " ",     "[]",   "[1",         "[1,]x", "[1] 2",
                                        "[1 2]", "1,2",   "-1",   "[-1]",       "1.5",   "[1.5]",
                                        "abc",   "[[1]]", "1 ] ", "2147483648", "]"};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        TokenList list = {0};
        const char *text;
        if (token_text_read(wrong[i], strlen(wrong[i]), "t", &list) != STATUS_BAD_INPUT)
            fail_msg("\"%s\" was taken", wrong[i]);
        assert_string_equal(error_row(error_last(&text))->code, "E-TEXT");
        token_list_free(&list);
    }
}

/* ---- NumPy ---- */

static void test_npy(void **state) {
    (void)state;
    char path[] = "/tmp/spillway_npy_XXXXXX";
    int descriptor = mkstemp(path);
    assert_true(descriptor >= 0);
    close(descriptor);
    unlink(path);
    NpyFile file;
    const float rows[2][3] = {{1, 2, 3}, {4, 5, -6.5f}};
    const NpyShape shape = {2, {2, 3}};
    assert_int_equal(npy_create(&file, path, &shape), STATUS_OK);
    assert_int_equal(npy_write_row(&file, 1, rows[1]), STATUS_OK);
    assert_int_equal(npy_write_row(&file, 0, rows[0]), STATUS_OK);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(npy_finish(&file), STATUS_OK);
    npy_discard(&file);
    FILE *written = fopen(path, "r");
    unsigned char bytes[256];
    size_t count = fread(bytes, 1, sizeof bytes, written);
    fclose(written);
    assert_int_equal(count, 128 + sizeof rows);
    assert_memory_equal(bytes, "\x93NUMPY\x01\x00", 8);
    assert_int_equal(load_u16(bytes + 8), 118);
    static const char literal[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";
    assert_memory_equal(bytes + 10, literal, sizeof literal - 1);
    for (size_t i = 10 + sizeof literal - 1; i < 127; i++)
        assert_int_equal(bytes[i], ' ');
    assert_int_equal(bytes[127], '\n');
    assert_memory_equal(bytes + 128, rows, sizeof rows);
    NpyArray array;
    assert_int_equal(npy_read(&array, path), STATUS_OK);
    assert_memory_equal(&array.shape, &shape, sizeof shape);
    assert_memory_equal(array.numbers, rows, sizeof rows);
    free(array.numbers);
    unlink(path);
    assert_int_equal(npy_create(&file, path, &shape), STATUS_OK);
    npy_discard(&file);
    assert_int_not_equal(access(path, F_OK), 0);
    assert_int_equal(npy_create(&file, "/nowhere/x.npy", &shape), STATUS_BAD_INPUT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_progress_line), cmocka_unit_test(test_progress_pace),
        cmocka_unit_test(test_summary),       cmocka_unit_test(test_summary_of_tiers),
        cmocka_unit_test(test_summary_lines), cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_token_texts),   cmocka_unit_test(test_npy),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
