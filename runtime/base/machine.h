#ifndef RUNTIME_BASE_MACHINE_H
#define RUNTIME_BASE_MACHINE_H

/* What the operating system says of this machine. Any thread. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

/* Memory that new work could get without swapping (MemAvailable), for all processes together; 0 when it is not told. */
uint64_t machine_available_bytes(void);

SPILLWAY_EXTERN_C_END

#endif
