#include "launch/bench_report.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

double bench_share(double part, double whole) {
    return whole > 0 ? 100 * part / whole : 0;
}

double bench_rate(double count, double seconds) {
    return seconds > 0 ? count / seconds : 0;
}

void bench_print_split(const BenchSplit *split) {
    double all = split->prefill + split->decode;
    const struct {
        const char *name;
        double seconds;
    } parts[] = {{"matmul", split->matmul},
                 {"attention", split->attention},
                 {"collective", split->collective},
                 {"sampling", split->sampling},
                 {"other", split->other}};
    printf("time of steps               %.3f s:", all);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        printf(" %s %.1f %%%s", parts[i].name, bench_share(parts[i].seconds, all),
               i + 1 < sizeof parts / sizeof *parts ? "," : "\n");
}

void bench_print_weights(const Session *session) {
    const EngineStats *stats = engine_stats(session->engine);
    if (stats->random_weights)
        printf("weights                     random numbers, %s, seed %lld\n", stats->weight_type,
               (long long)session->settings->weight_seed);
    else if (stats->weight_type)
        printf("weights                     of layers encoded as %s\n", stats->weight_type);
}

void bench_print_stored(const Session *session) {
    const EngineStats *stats = engine_stats(session->engine);
    double raw = (double)stats->kv_raw_bytes, stored = (double)stats->kv_stored_bytes;
    printf("KV stored                   %.1f MiB for %.1f MiB of f16, %.2f to one (codec %s, "
           "headers and padding counted)\n",
           stored / 1048576, raw / 1048576, stored > 0 ? raw / stored : 0,
           session->settings->kv_codec);
    if (stats->kv_packs > 0)
        printf(
            "encoding                    %.1f ms behind the steps, which waited %.1f ms for it\n",
            1e3 * stats->seconds_encode, 1e3 * stats->seconds_encode_waited);
}

Status bench_save_result(const Session *session, json_t *result) {
    const char *path = session->settings->result_filename;
    if (result)
        json_object_set_new(result, "random_weights",
                            json_boolean(engine_stats(session->engine)->random_weights));
    int failed = result ? json_dump_file(result, path, JSON_INDENT(2) | JSON_REAL_PRECISION(9)) : 0;
    bool made = result != NULL;
    json_decref(result);
    if (!made) FAIL(MEMORY, "no memory for the result");
    if (failed) FAIL(OUTPUT_CREATE, "\"%s\": %s; see --result-filename", path, strerror(errno));
    return STATUS_OK;
}
