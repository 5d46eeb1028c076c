/* The row of a build without liburing: it says so. */

#include <errno.h>
#include <stdio.h>

#include "tiers/ring_engine.h"

static int absent_probe(char *out_why, size_t why_bytes) {
    snprintf(out_why, why_bytes, "this program was built without liburing");
    return -ENOSYS;
}

static int absent_open(RingEngineState **out, const RingOptions *options, RingFacts *facts,
                       char *out_why, size_t why_bytes) {
    (void)out, (void)options, (void)facts;
    return absent_probe(out_why, why_bytes);
}

/* Never opened, so never called: submit, reap and close stay empty. */
const RingEngine ring_uring = {.name = "uring", .probe = absent_probe, .open = absent_open};
