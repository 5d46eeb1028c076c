#ifndef LAUNCH_WHOLE_FILE_H
#define LAUNCH_WHOLE_FILE_H

/* A whole input file in memory, for prompts and token lists. */

#include <stddef.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

/* All bytes of a file, a NUL behind them; "-" is standard input. Memory grows with what is really read. More than
 * bytes_max is E-TEXT. Free *out_text with free(). */
Status whole_file_read(const char *path, size_t bytes_max, char **out_text, size_t *out_bytes);

SPILLWAY_EXTERN_C_END

#endif
