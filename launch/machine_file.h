#ifndef LAUNCH_MACHINE_FILE_H
#define LAUNCH_MACHINE_FILE_H

/* Machines as JSON files: what `plan --machine` reads, and what a probe is kept in. Bytes, seconds and rates a second as plain numbers;
 * configs/machines/README.md explains the keys. Strict: unknown and repeated keys, missing ones, numbers out of range are E-MACHINE,
 * naming file and key. */

#include "runtime/engine/plan_machine.h"

SPILLWAY_EXTERN_C_BEGIN

/* E-FILE-MISSING, E-MACHINE. */
Status machine_file_read(const char *path, PlanMachine *out);
/* The same from memory; `path` is for messages. */
Status machine_file_parse(const char *text, size_t text_bytes, const char *path, PlanMachine *out);

/* What belongs together in a machine is there; machine_file_read has done it. */
Status machine_file_check(const PlanMachine *machine, const char *path);

/* Replaces the file as a whole, making its folder if that is missing. E-OUTPUT-CREATE, E-OUTPUT-WRITE. */
Status machine_file_write(const PlanMachine *machine, const char *path);

/* What machine_file_parse reads back to the same machine; free with free(). */
Status machine_file_text(const PlanMachine *machine, char **out_text);

SPILLWAY_EXTERN_C_END

#endif
