#ifndef KERNELS_CUDA_UPLOAD_H
#define KERNELS_CUDA_UPLOAD_H

/* How small host arrays (positions, block pointers, tables of runs) and packed weights reach the device: through a ring of pinned
 * memory, copied on one stream. A ring has UPLOAD_SEGMENTS segments; a segment is filled again only when the
 * stream has passed all that used it, which an event says.
 *
 * A launch's uploads, taken together, hold at most upload_bytes_max() bytes and come right before the launch on the same stream:
 * then their device copies outlive it. The first failure stays with the arena: from then on uploads give NULL,
 * launchers return without launching, and the cause comes out of the device's next call. One thread at a time. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/device.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct UploadArena UploadArena;

enum { UPLOAD_SEGMENTS = 4 };

/* segment_bytes: a multiple of 256. The stream is the caller's. */
Status upload_arena_create(UploadArena **out, Device *device, DeviceStream *stream,
                           size_t segment_bytes);
void upload_arena_destroy(UploadArena *arena); /* NULL is fine; waits for the stream */

size_t upload_bytes_max(const UploadArena *arena);

/* Where the bytes will be on the device, 256-byte aligned, for work put on the stream from now on; NULL when the device is
 * broken. The host array may be changed on return. */
const void *upload(UploadArena *arena, const void *host, size_t bytes);

/* Several arrays in one copy: the stream stops once for it, not once an array. False: all are NULL. */
typedef struct UploadPart {
    const void *host;
    size_t bytes;
    const void *device; /* given back, as by upload */
} UploadPart;

bool upload_parts(UploadArena *arena, UploadPart *parts, uint32_t count);

/* For bytes that are made in place: pinned memory [bytes] to fill, which upload_send copies to `destination` (device memory)
 * or, where that is NULL, to a place in the ring. Nothing else may be uploaded between the two. */
void *upload_stage(UploadArena *arena, size_t bytes);
const void *upload_send(UploadArena *arena, void *destination);

SPILLWAY_EXTERN_C_END

#endif
