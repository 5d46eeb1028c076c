#ifndef RUNTIME_COMM_SHARED_MEMORY_H
#define RUNTIME_COMM_SHARED_MEMORY_H

/* Memory that processes of one node and one user share. It has no name in any file system (memfd), so nothing
 * is left behind however they end. One process creates it and sends the ticket to the others, which open it;
 * once all have, the creator closes the door. The creator must not make itself undumpable before that. */

#include <stdint.h>

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct SharedMemory {
    void *base; /* page-aligned, zeroed when created */
    uint64_t size_bytes;
    int descriptor; /* the door: -1 once closed, and in those who opened it */
} SharedMemory;

/* Plain bytes, to be sent as they are. */
typedef struct SharedMemoryTicket {
    uint64_t size_bytes;
    uint64_t device; /* of the file behind the memory: together they name it on the node */
    uint64_t inode;
    int32_t process;
    int32_t descriptor;
} SharedMemoryTicket;

Status shared_memory_create(SharedMemory *out, uint64_t size_bytes, SharedMemoryTicket *out_ticket);

/* STATUS_NOT_FOUND, without a log line, when this process cannot see that memory (another node, user or
 * container): the caller does without. */
Status shared_memory_open(SharedMemory *out, const SharedMemoryTicket *ticket);

void shared_memory_close_door(SharedMemory *memory);
void shared_memory_destroy(SharedMemory *memory);

SPILLWAY_EXTERN_C_END

#endif
