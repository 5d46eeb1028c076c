#include "kernels/cuda/upload.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum { UPLOAD_ALIGNMENT = 256 };

struct UploadArena {
    Device *device;
    DeviceStream *stream;
    uint8_t *host_ring, *device_ring; /* [UPLOAD_SEGMENTS][segment_bytes] */
    size_t segment_bytes;
    uint32_t segment; /* being filled */
    size_t used_bytes;
    size_t staged_bytes; /* of upload_stage, until it is sent */
    bool failed;
    DeviceEvent *passed[UPLOAD_SEGMENTS];
};

static Status arena_fill(UploadArena *arena) {
    Device *device = arena->device;
    uint64_t bytes = (uint64_t)UPLOAD_SEGMENTS * arena->segment_bytes;
    TRY(device->memory_take(device, MEMORY_HOST, bytes, "upload ring", (void **)&arena->host_ring));
    TRY(device->memory_take(device, MEMORY_DEVICE, bytes, "upload ring",
                            (void **)&arena->device_ring));
    for (int i = 0; i < UPLOAD_SEGMENTS; i++)
        TRY(device->event_create(device, &arena->passed[i]));
    return STATUS_OK;
}

Status upload_arena_create(UploadArena **out, Device *device, DeviceStream *stream,
                           size_t segment_bytes) {
    CHECK(segment_bytes % UPLOAD_ALIGNMENT == 0);
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(UploadArena), "upload ring"));
    UploadArena *arena = memory;
    *arena = (UploadArena){.device = device, .stream = stream, .segment_bytes = segment_bytes};
    Status status = arena_fill(arena);
    if (status != STATUS_OK) {
        upload_arena_destroy(arena);
        return status;
    }
    *out = arena;
    return STATUS_OK;
}

void upload_arena_destroy(UploadArena *arena) {
    if (!arena) return;
    Device *device = arena->device;
    uint64_t bytes = (uint64_t)UPLOAD_SEGMENTS * arena->segment_bytes;
    error_capture_begin();
    device->stream_wait(device, arena->stream);
    error_capture_end();
    for (int i = 0; i < UPLOAD_SEGMENTS; i++)
        if (arena->passed[i]) device->event_destroy(device, arena->passed[i]);
    device->memory_give(device, MEMORY_DEVICE, arena->device_ring, bytes);
    device->memory_give(device, MEMORY_HOST, arena->host_ring, bytes);
    free(arena);
}

size_t upload_bytes_max(const UploadArena *arena) {
    return arena->segment_bytes;
}

/* A launch's uploads may lie in the segment that is left and in the one that is entered, and the launch comes after both: so what is
 * recorded now covers the segment before the one that is left. */
static Status next_segment(UploadArena *arena) {
    Device *device = arena->device;
    uint32_t before = (arena->segment + UPLOAD_SEGMENTS - 1) % UPLOAD_SEGMENTS;
    TRY(device->event_record(device, arena->passed[before], arena->stream));
    arena->segment = (arena->segment + 1) % UPLOAD_SEGMENTS;
    arena->used_bytes = 0;
    return device->event_wait(device, arena->passed[arena->segment]);
}

void *upload_stage(UploadArena *arena, size_t bytes) {
    CHECK(bytes <= arena->segment_bytes && arena->staged_bytes == 0);
    if (arena->failed) return NULL;
    if (bytes > arena->segment_bytes - arena->used_bytes && next_segment(arena) != STATUS_OK) {
        arena->failed = true;
        return NULL;
    }
    arena->staged_bytes = bytes ? bytes : 1;
    return arena->host_ring + arena->segment * arena->segment_bytes + arena->used_bytes;
}

const void *upload_send(UploadArena *arena, void *destination) {
    Device *device = arena->device;
    if (arena->failed) return NULL;
    uint64_t offset = arena->segment * arena->segment_bytes + arena->used_bytes;
    if (!destination) destination = arena->device_ring + offset;
    Status status = device->copy(device, arena->stream, destination, arena->host_ring + offset,
                                 arena->staged_bytes);
    arena->used_bytes += align_up(arena->staged_bytes, UPLOAD_ALIGNMENT);
    arena->staged_bytes = 0;
    arena->failed = status != STATUS_OK;
    return arena->failed ? NULL : destination;
}

bool upload_parts(UploadArena *arena, UploadPart *parts, uint32_t count) {
    size_t bytes = 0, offset = 0;
    for (uint32_t i = 0; i < count; i++)
        bytes += align_up(parts[i].bytes, UPLOAD_ALIGNMENT);
    uint8_t *staged = upload_stage(arena, bytes);
    for (uint32_t i = 0; i < count && staged; i++) {
        memcpy(staged + offset, parts[i].host, parts[i].bytes);
        offset += align_up(parts[i].bytes, UPLOAD_ALIGNMENT);
    }
    const uint8_t *device = staged ? upload_send(arena, NULL) : NULL;
    for (uint32_t i = 0; i < count; i++) {
        parts[i].device = device;
        if (device) device += align_up(parts[i].bytes, UPLOAD_ALIGNMENT);
    }
    return device != NULL;
}

const void *upload(UploadArena *arena, const void *host, size_t bytes) {
    UploadPart part = {host, bytes, NULL};
    upload_parts(arena, &part, 1);
    return part.device;
}
