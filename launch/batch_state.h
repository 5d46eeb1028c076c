#ifndef LAUNCH_BATCH_STATE_H
#define LAUNCH_BATCH_STATE_H

/* OUT.state: a small JSON file beside the results that says what they are results of. It is replaced as a whole
 * (written aside, synced, renamed), so a reader sees an old one or a new one. Only the results themselves say which
 * lines are done. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    BATCH_PATH_BYTES = 4096,
    BATCH_SECTIONS_MAX = 1024, /* hashes of parts of the input, to say where it was edited */
};

/* What the input was, in one pass over it. */
typedef struct BatchDigest {
    char sha256_hex[65];
    uint64_t bytes, lines;
    uint64_t section_bytes; /* the last section may be shorter */
    uint64_t sections[BATCH_SECTIONS_MAX];
    uint32_t section_count;
} BatchDigest;

typedef struct BatchState {
    char status[24];                                        /* "in_progress", "completed" */
    char input[BATCH_PATH_BYTES], errors[BATCH_PATH_BYTES]; /* errors: "" with --one-file */
    BatchDigest digest;
    char model[24];                  /* fingerprint of the weights */
    char shard[24];                  /* "1/1": all lines */
    char settings[24];               /* hash of all that decides what an answer says */
    char writer[320];                /* pid@host */
    int64_t started_at, finished_at; /* Unix seconds; 0: not yet */
    uint64_t lines;                  /* of the shard: what there is to answer */
    uint64_t completed, failed;      /* counts when status is "completed" */
} BatchState;

/* Reads the input once, from its start to its end; the descriptor's offset is not moved. */
Status batch_digest_read(int descriptor, const char *path, BatchDigest *out);

/* Of an input that is not the one of `before` any more: the lines between which the first difference lies. */
Status batch_digest_locate(int descriptor, const char *path, const BatchDigest *before,
                           uint64_t *out_first_line, uint64_t *out_last_line);

/* STATUS_NOT_FOUND, not logged, when there is none; E-BATCH-OUTPUT when it is damaged. */
Status batch_state_read(const char *path, BatchState *out);
Status batch_state_write(const char *path, const BatchState *state);

SPILLWAY_EXTERN_C_END

#endif
