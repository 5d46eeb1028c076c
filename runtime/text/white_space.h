#ifndef RUNTIME_TEXT_WHITE_SPACE_H
#define RUNTIME_TEXT_WHITE_SPACE_H

/* Unicode's White_Space characters at the ends of a text that is well-formed UTF-8 there. */

#include <stddef.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

size_t white_space_prefix(const char *text, size_t bytes); /* bytes of white space at the start */
size_t white_space_suffix(const char *text, size_t bytes); /* … at the end */

SPILLWAY_EXTERN_C_END

#endif
