#ifndef LAUNCH_BATCH_SURVEY_H
#define LAUNCH_BATCH_SURVEY_H

/* One pass over all lines of a batch before any of them runs: how many are this shard's, and with --no-lenient, whether one
 * is wrong. */

#include "launch/batch_line.h"
#include "launch/batch_shard.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BatchSurveyOptions {
    int input; /* descriptor; its offset is not moved */
    const char *path;
    BatchFormat format;
    const ApiDefaults *defaults;
    BatchShard shard;
    bool strict; /* E-BATCH-LINE when any line of the file is wrong, each of the first told of */
} BatchSurveyOptions;

/* *out_lines: lines of the shard. */
Status batch_survey(const BatchSurveyOptions *options, uint64_t *out_lines);

SPILLWAY_EXTERN_C_END

#endif
