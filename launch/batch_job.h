#ifndef LAUNCH_BATCH_JOB_H
#define LAUNCH_BATCH_JOB_H

/* A batch from its input file to its output files, on rank 0: opens and compares with what an earlier run left, reads
 * ahead in bounded memory, keeps the engine fed, writes each result as it comes, and ends so that running the same
 * command again does what is left. */

#include "launch/batch_line.h"
#include "launch/batch_output.h"
#include "launch/batch_state.h"
#include "launch/session.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct BatchJob BatchJob;

/* Opens the input, refuses what cannot go on, and finds what is done. Nothing is written when the settings ask for a dry
 * run. */
Status batch_job_open(BatchJob **out, Session *session);
/* Runs what is left. STATUS_STOPPED, raised, when it was asked to stop. */
Status batch_job_run(BatchJob *job);
void batch_job_close(BatchJob *job); /* takes NULL */

/* OUT → OUT.state, and the default name of the error file; to be freed. */
Status batch_state_path(const char *output, char **out);
Status batch_errors_path(const char *output, char **out);

SPILLWAY_EXTERN_C_END

#endif
