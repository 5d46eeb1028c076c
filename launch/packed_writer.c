#include "launch/packed_writer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "launch/durable_file.h"
#include "launch/stop.h"
#include "runtime/base/bytes.h"

enum { CAPACITY_FIRST = 1024 };

Status packed_writer_create(PackedWriter *out, const char *path, const PackedHeader *facts) {
    PackedWriter writer = {
        .descriptor = -1, .path = path, .header = *facts, .offset = PACKED_UNIT_BYTES};
    memcpy(writer.header.magic, packed_magic, sizeof packed_magic);
    writer.header.version = PACKED_VERSION;
    TRY(durable_partial_open(path, &writer.partial, &writer.descriptor));
    *out = writer;
    return STATUS_OK;
}

/* Room for `count` elements in a list that doubles. */
static Status reserve(void **list, uint64_t *capacity, uint64_t count, size_t element_bytes) {
    uint64_t wanted = *capacity ? *capacity : CAPACITY_FIRST;
    while (wanted < count)
        wanted *= 2;
    if (wanted == *capacity) return STATUS_OK;
    void *larger = realloc(*list, wanted * element_bytes);
    if (!larger) FAIL(MEMORY, "no memory for the directory of packed weights");
    *list = larger;
    *capacity = wanted;
    return STATUS_OK;
}

static Status note(PackedWriter *writer, const PackedEntry *entry, const uint8_t *bytes) {
    PackedHeader *header = &writer->header;
    uint64_t chunks = packed_chunk_count(entry->bytes);
    if (header->entry_count == PACKED_ENTRIES_MAX)
        FAIL(USAGE, "more than %d packed matrices: convert for fewer --ranks", PACKED_ENTRIES_MAX);
    TRY(reserve((void **)&writer->entries, &writer->entry_capacity, header->entry_count + 1ull,
                sizeof *writer->entries));
    TRY(reserve((void **)&writer->checksums, &writer->chunk_capacity, header->chunk_count + chunks,
                sizeof *writer->checksums));
    writer->entries[header->entry_count++] = *entry;
    for (uint64_t at = 0; at < entry->bytes; at += PACKED_CHUNK_BYTES) {
        uint64_t left = entry->bytes - at;
        writer->checksums[header->chunk_count++] = packed_chunk_checksum(
            bytes + at, left < PACKED_CHUNK_BYTES ? left : PACKED_CHUNK_BYTES);
    }
    return STATUS_OK;
}

Status packed_writer_add(void *user, const PackedEntry *entry, const void *bytes) {
    PackedWriter *writer = user;
    if (stop_requested() != STOP_NONE)
        FAIL(STOPPED, "stopped on request; \"%s\" was not made", writer->path);
    TRY(note(writer, entry, bytes));
    TRY(durable_write_at(writer->descriptor, writer->partial, bytes, entry->bytes, writer->offset));
    writer->offset += align_up(entry->bytes, PACKED_UNIT_BYTES);
    return STATUS_OK;
}

/* The header last: a file without it is none. */
static Status write_directory(PackedWriter *writer) {
    PackedHeader *header = &writer->header;
    uint64_t entries_bytes = header->entry_count * sizeof *writer->entries;
    uint64_t checksums_bytes = header->chunk_count * sizeof *writer->checksums;
    header->entries_offset = writer->offset;
    header->file_bytes =
        align_up(writer->offset + entries_bytes + checksums_bytes, PACKED_UNIT_BYTES);
    header->directory_checksum = packed_directory_checksum(writer->entries, header->entry_count,
                                                           writer->checksums, header->chunk_count);
    header->header_checksum = packed_header_checksum(header);
    TRY(durable_write_at(writer->descriptor, writer->partial, writer->entries, entries_bytes,
                         writer->offset));
    TRY(durable_write_at(writer->descriptor, writer->partial, writer->checksums, checksums_bytes,
                         writer->offset + entries_bytes));
    return durable_write_at(writer->descriptor, writer->partial, header, sizeof *header, 0);
}

Status packed_writer_finish(PackedWriter *writer) {
    TRY(write_directory(writer));
    if (ftruncate(writer->descriptor, (off_t)writer->header.file_bytes) != 0 ||
        fsync(writer->descriptor) != 0 || rename(writer->partial, writer->path) != 0)
        FAIL(OUTPUT_WRITE, "\"%s\": %s", writer->path, strerror(errno));
    TRY(durable_folder_sync(writer->path));
    free(writer->partial);
    writer->partial = NULL;
    return STATUS_OK;
}

void packed_writer_discard(PackedWriter *writer) {
    if (writer->partial) unlink(writer->partial);
    if (writer->descriptor >= 0) close(writer->descriptor);
    free(writer->partial);
    free(writer->entries);
    free(writer->checksums);
    *writer = (PackedWriter){.descriptor = -1};
}
