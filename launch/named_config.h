#ifndef LAUNCH_NAMED_CONFIG_H
#define LAUNCH_NAMED_CONFIG_H

/* What --config names: a file, or a configuration of configs/ that is built in. A file of that name wins. One thread. */

#include "runtime/base/options.h"

SPILLWAY_EXTERN_C_BEGIN

/* E-FILE-MISSING: neither; a name without a slash is answered with those that there are. E-CONFIG as options_read_config_text. */
Status named_config_read(OptionSet *set, const char *name);

SPILLWAY_EXTERN_C_END

#endif
