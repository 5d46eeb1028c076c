#ifndef LAUNCH_BATCH_OUTPUT_H
#define LAUNCH_BATCH_OUTPUT_H

/* The results of a batch job, which are its only durable state: OUT has a line for each request that was answered, ERR
 * one for each that failed. Starting over reads them, so that each input line ends with exactly one line in one of them.
 *
 * A record is keyed by its custom_id. Records about a line as such (it cannot be read, its custom_id stands twice) are
 * keyed by the line's number. Knows no engine. Rank 0's main thread. */

#include "launch/durable_file.h"
#include "launch/id_set.h"

struct json_t;

SPILLWAY_EXTERN_C_BEGIN

enum { BATCH_RECORD_BYTES_MAX = 1 << 30 };

typedef struct BatchOutputOptions {
    const char *results, *errors; /* paths; errors NULL: failed requests go to results too */
    double sync_interval_s;
    bool retry_errors;  /* forget the failed ones, so that they run again */
    bool trust_numbers; /* line numbers in records are those of this input */
} BatchOutputOptions;

typedef struct BatchOutput {
    BatchOutputOptions options;
    DurableLog results, errors; /* errors is closed with one file */
    IdSet done;
    uint64_t done_ok, done_failed; /* records found at the start */
    double synced_at;
} BatchOutput;

/* Opens and locks: E-BATCH-LOCKED tells who holds it (writer: "pid@host" of the state file, or ""). */
Status batch_output_open(BatchOutput *out, const BatchOutputOptions *options, const char *writer);
/* Are there results of an earlier run? */
Status batch_output_is_empty(const BatchOutput *output, bool *out);
/* Reads what is done, and cuts a torn last line off. E-BATCH-OUTPUT for a damaged line elsewhere. */
Status batch_output_scan(BatchOutput *output);

/* A record as a line with its line feed (not NUL ended), to be freed; takes the reference, also NULL (no memory). */
Status batch_record_text(struct json_t *record, char **out_line, size_t *out_bytes);
/* Appends a record; takes the reference. */
Status batch_output_add(BatchOutput *output, bool failed, struct json_t *record);
/* The same from text with its line feed, for records that were held back. */
Status batch_output_add_text(BatchOutput *output, bool failed, const char *line, size_t bytes);
/* Syncs when it is time: every sync_interval_s, or 64 lines. */
Status batch_output_tick(BatchOutput *output, double now_s);
Status batch_output_sync(BatchOutput *output);
void batch_output_close(BatchOutput *output);

/* What counts as done in a record; false when it has neither custom_id nor line number. */
bool batch_record_key(const struct json_t *record, bool trust_numbers, IdKey *out_key,
                      bool *out_failed);

SPILLWAY_EXTERN_C_END

#endif
