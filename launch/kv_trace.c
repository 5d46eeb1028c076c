#include "launch/kv_trace.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"

static const char magic[] = "SPWKVT1\n";

enum { MAGIC_BYTES = sizeof magic - 1, ACCESS_BYTES = 8 };

/* ---- reading ---- */

static Status check_file(FILE *file, const char *path, uint64_t *out_count) {
    struct stat found;
    char start[MAGIC_BYTES];
    if (fstat(fileno(file), &found) != 0 || !S_ISREG(found.st_mode))
        FAIL(FILE_MISSING, "KV trace \"%s\" is no file; see --kv-trace", path);
    if (fread(start, 1, sizeof start, file) != sizeof start ||
        memcmp(start, magic, sizeof start) != 0)
        FAIL(KV_TRACE, "\"%s\" is no KV trace: --kv-trace-out writes them", path);
    uint64_t bytes = (uint64_t)found.st_size - MAGIC_BYTES;
    if (bytes == 0 || bytes % ACCESS_BYTES != 0)
        FAIL(KV_TRACE,
             "KV trace \"%s\": %llu bytes behind its head are no whole number of accesses of %d",
             path, (unsigned long long)bytes, ACCESS_BYTES);
    *out_count = bytes / ACCESS_BYTES;
    return STATUS_OK;
}

static Status read_file(KvTrace *out, FILE *file, const char *path) {
    KvTrace trace = {0};
    TRY(check_file(file, path, &trace.count));
    TRY(memory_take((void **)&trace.accesses, trace.count, ACCESS_BYTES, "KV trace"));
    if (fread(trace.accesses, ACCESS_BYTES, trace.count, file) != trace.count) {
        kv_trace_free(&trace);
        FAIL(KV_TRACE, "KV trace \"%s\": it could not be read to its end", path);
    }
    for (uint64_t i = 0; i < trace.count; i++)
        trace.accesses[i] = load_u64(&trace.accesses[i]);
    *out = trace;
    return STATUS_OK;
}

Status kv_trace_read(KvTrace *out, const char *path) {
    FILE *file = fopen(path, "re");
    if (!file) FAIL(FILE_MISSING, "KV trace \"%s\": %s; see --kv-trace", path, strerror(errno));
    Status status = read_file(out, file, path);
    fclose(file);
    return status;
}

void kv_trace_free(KvTrace *trace) {
    free(trace->accesses);
    *trace = (KvTrace){0};
}

/* ---- writing ---- */

Status kv_trace_create(KvTraceWriter *out, const char *path) {
    FILE *file = fopen(path, "we");
    if (!file)
        FAIL(OUTPUT_CREATE, "KV trace \"%s\": %s; see --kv-trace-out", path, strerror(errno));
    fwrite(magic, 1, MAGIC_BYTES, file);
    *out = (KvTraceWriter){file, path};
    return STATUS_OK;
}

void kv_trace_add(void *writer, uint64_t access) {
    uint8_t bytes[ACCESS_BYTES];
    for (int i = 0; i < ACCESS_BYTES; i++)
        bytes[i] = (uint8_t)(access >> 8 * i);
    fwrite(bytes, 1, sizeof bytes, ((KvTraceWriter *)writer)->file);
}

Status kv_trace_finish(KvTraceWriter *writer) {
    FILE *file = writer->file;
    if (!file) return STATUS_OK;
    bool failed = ferror(file) != 0;
    writer->file = NULL;
    failed |= fclose(file) != 0;
    if (failed) FAIL(OUTPUT_WRITE, "KV trace \"%s\" could not be written whole", writer->path);
    return STATUS_OK;
}
