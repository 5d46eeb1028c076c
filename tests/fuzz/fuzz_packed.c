/* Any bytes as a file of packed weights, as they are and with checksums of header and directory that fit: refused in one line, or every
 * piece lies inside the file and can be read, or is named as wrong. */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/weights/packed_file.h"
#include "tests/fuzz/fuzz.h"

static void check_error(Status status, ErrorCode expected) {
    const char *text;
    PROMISE(status != STATUS_OK);
    PROMISE(error_last(&text) == expected && text[0] && !strchr(text, '\n'));
}

static void check_piece(const PackedFile *file, const PackedPiece *piece, size_t size) {
    uint64_t bytes = piece->entry.bytes;
    uint32_t count;
    PROMISE(bytes <= size && piece->offset <= size - bytes);
    const PackedPiece *found = packed_file_rank(file, piece->entry.rank, &count);
    PROMISE(found <= piece && piece < found + count);
    void *memory = malloc(bytes ? bytes : 1);
    if (!memory) abort();
    Status status = packed_file_read(file, piece, "a tensor", memory);
    if (status != STATUS_OK) check_error(status, ERROR_WEIGHTS_IO);
    free(memory);
}

static void open_bytes(const uint8_t *data, size_t size) {
    char path[64];
    PackedFile file;
    int descriptor = memfd_create("packed", MFD_CLOEXEC);
    if (descriptor < 0 || write(descriptor, data, size) != (ssize_t)size) abort();
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    error_capture_begin();
    Status status = packed_file_open(&file, path);
    if (status == STATUS_OK) {
        for (uint32_t i = 0; i < file.header.entry_count; i++)
            check_piece(&file, &file.pieces[i], size);
        if (packed_file_check(&file, "avx2", 1, 0) != STATUS_OK)
            check_error(STATUS_BAD_INPUT, ERROR_PACKED_WEIGHTS);
        packed_file_close(&file);
    } else {
        check_error(status, ERROR_PACKED_WEIGHTS);
    }
    error_capture_end();
    close(descriptor);
}

/* So that a mutation reaches what lies behind the checksums. */
static void mend(uint8_t *data, size_t size) {
    PackedHeader header;
    memcpy(&header, data, sizeof header);
    uint64_t room = header.entries_offset <= size ? size - header.entries_offset : 0;
    uint64_t entries_bytes = header.entry_count * sizeof(PackedEntry);
    header.file_bytes = size;
    if (entries_bytes <= room && header.chunk_count <= (room - entries_bytes) / sizeof(uint64_t)) {
        uint8_t *directory = malloc(room ? room : 1);
        if (!directory) abort();
        memcpy(directory, data + header.entries_offset, room);
        header.directory_checksum = packed_directory_checksum(
            (const PackedEntry *)(const void *)directory, header.entry_count,
            (const uint64_t *)(const void *)(directory + entries_bytes), header.chunk_count);
        free(directory);
    }
    header.header_checksum = packed_header_checksum(&header);
    memcpy(data, &header, sizeof header);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    open_bytes(data, size);
    if (size < sizeof(PackedHeader)) return 0;
    uint8_t *copy = malloc(size);
    if (!copy) abort();
    memcpy(copy, data, size);
    mend(copy, size);
    open_bytes(copy, size);
    free(copy);
    return 0;
}
