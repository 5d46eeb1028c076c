#ifndef LAUNCH_BATCH_LINE_H
#define LAUNCH_BATCH_LINE_H

/* A line of a batch file to a request. Two forms:
 *     {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {…}}     as hosted services take it
 *     {"prompt": "…", "max_tokens": 5}   or   {"messages": […]}                            the body alone
 * The second may have a custom_id; else it is named after its line, "line-17". With --format lines the whole line is the
 * prompt. What is wrong with a line goes into its ApiError. */

#include "launch/api.h"
#include "launch/id_set.h"
#include "launch/line_reader.h"

SPILLWAY_EXTERN_C_BEGIN

enum { BATCH_ID_BYTES = 64 * 4 + 1 }; /* 64 characters */

typedef enum BatchFormat { BATCH_JSONL, BATCH_LINES } BatchFormat;

typedef struct BatchLine {
    uint64_t number;
    char custom_id[BATCH_ID_BYTES]; /* "" when the line has none that can be read */
    ApiRequest request;             /* set when read worked */
} BatchLine;

/* STATUS_BAD_INPUT with *error when the line is wrong; custom_id is then set where it could be read. Free the request also
 * then. */
Status batch_line_read(BatchLine *out, const Line *line, BatchFormat format,
                       const ApiDefaults *defaults, ApiError *error);
/* What the line goes by: its custom_id, or its number when it has none that can be read. */
IdKey batch_line_key(const BatchLine *line);
void batch_line_free(BatchLine *line);

SPILLWAY_EXTERN_C_END

#endif
