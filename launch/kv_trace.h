#ifndef LAUNCH_KV_TRACE_H
#define LAUNCH_KV_TRACE_H

/* Which KV blocks a run used, in order, as a file: --kv-trace-out writes it, --kv-trace hands it to a placement policy that
 * wants to know the future. The order follows from requests and options alone, not from policy, timing or rank, so rank 0's is the trace
 * of all. Eight bytes that say what it is, then accesses (stream << 32 | ordinal), little-endian, 64 bits each. */

#include <stdint.h>
#include <stdio.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct KvTrace {
    uint64_t *accesses; /* [count], owned */
    uint64_t count;
} KvTrace;

/* E-FILE-MISSING, E-KV-TRACE. */
Status kv_trace_read(KvTrace *out, const char *path);
void kv_trace_free(KvTrace *trace); /* takes an empty one */

typedef struct KvTraceWriter {
    FILE *file; /* NULL: closed */
    const char *path;
} KvTraceWriter;

Status kv_trace_create(KvTraceWriter *out, const char *path); /* E-OUTPUT-CREATE */
void kv_trace_add(void *writer, uint64_t access);             /* buffered; errors show at the end */
Status kv_trace_finish(KvTraceWriter *writer); /* E-OUTPUT-WRITE; takes a closed one */

SPILLWAY_EXTERN_C_END

#endif
