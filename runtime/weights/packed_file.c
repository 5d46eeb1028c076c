#include "runtime/weights/packed_file.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"

_Static_assert(sizeof(PackedHeader) == 104 && sizeof(PackedEntry) == 32, "as they lie in the file");

const char packed_magic[8] = {'S', 'P', 'W', 'P', 'A', 'C', 'K', '\n'};

/* ---- checksums ---- */

uint64_t packed_name_hash(const char *name) {
    return hash_xxh3(name, strlen(name), 0);
}

uint64_t packed_sample(const Tensor *tensor) {
    const uint8_t *data = tensor->data;
    uint64_t page = tensor->bytes < PACKED_UNIT_BYTES ? tensor->bytes : PACKED_UNIT_BYTES;
    uint64_t left = tensor->bytes - page;
    uint64_t sample = hash_xxh3(data, page, tensor->bytes);
    sample = hash_xxh3(data + left / 2, page, sample);
    return hash_xxh3(data + left, page, sample);
}

uint64_t packed_chunk_checksum(const void *bytes, uint64_t size) {
    return hash_xxh3(bytes, size, PACKED_VERSION);
}

uint64_t packed_header_checksum(const PackedHeader *header) {
    return hash_xxh3(header, offsetof(PackedHeader, header_checksum), PACKED_VERSION);
}

uint64_t packed_directory_checksum(const PackedEntry *entries, uint32_t entry_count,
                                   const uint64_t *checksums, uint64_t chunk_count) {
    uint64_t first = hash_xxh3(entries, entry_count * sizeof *entries, PACKED_VERSION);
    return hash_xxh3(checksums, chunk_count * sizeof *checksums, first);
}

uint64_t packed_chunk_count(uint64_t piece_bytes) {
    return divide_up(piece_bytes, PACKED_CHUNK_BYTES);
}

/* ---- reading ---- */

/* 0, errno, or -1 where the file ends. */
static int read_all(int descriptor, void *out, uint64_t size, uint64_t offset) {
    uint8_t *to = out;
    while (size > 0) {
        ssize_t got = pread(descriptor, to, size, (off_t)offset);
        if (got < 0 && errno == EINTR) continue;
        if (got <= 0) return got < 0 ? errno : -1;
        to += got;
        offset += (uint64_t)got;
        size -= (uint64_t)got;
    }
    return 0;
}

static const char *problem_text(int problem) {
    return problem < 0 ? "the file has become shorter" : strerror(problem);
}

/* ---- the directory ---- */

/* NULL, or what is wrong. file_bytes: the real length. */
static const char *check_header(const PackedHeader *header, uint64_t file_bytes) {
    if (memcmp(header->magic, packed_magic, sizeof packed_magic) != 0)
        return "it is no file of packed weights";
    if (header->version != PACKED_VERSION)
        return "it was made by another version of this program: convert the model again";
    if (packed_header_checksum(header) != header->header_checksum) return "its header is damaged";
    if (header->file_bytes != file_bytes) return "it is cut off or has grown";
    uint64_t directory_bytes, chunk_bytes;
    bool fits =
        header->entry_count > 0 && header->entry_count <= PACKED_ENTRIES_MAX &&
        header->rank_count > 0 && header->reserved == 0 &&
        header->layout[PACKED_LAYOUT_BYTES - 1] == 0 &&
        bytes_multiply(header->chunk_count, sizeof(uint64_t), &chunk_bytes) &&
        bytes_add(header->entry_count * sizeof(PackedEntry), chunk_bytes, &directory_bytes) &&
        header->entries_offset >= PACKED_UNIT_BYTES &&
        header->entries_offset % PACKED_UNIT_BYTES == 0 && header->entries_offset <= file_bytes &&
        directory_bytes <= file_bytes - header->entries_offset &&
        align_up(header->entries_offset + directory_bytes, PACKED_UNIT_BYTES) == file_bytes;
    return fits ? NULL : "sizes in its header do not agree";
}

/* Places the pieces one behind the other; together they must end where the entries begin. */
static const char *place_pieces(PackedFile *file) {
    const PackedHeader *header = &file->header;
    uint64_t offset = PACKED_UNIT_BYTES, chunks = 0;
    for (uint32_t i = 0; i < header->entry_count; i++) {
        PackedPiece *piece = &file->pieces[i];
        const PackedEntry *entry = &piece->entry, *before = &piece[i > 0 ? -1 : 0].entry;
        bool ordered = entry->rank > before->rank ||
                       (entry->rank == before->rank && entry->layer >= before->layer);
        if (!ordered || entry->rank >= header->rank_count) return "its entries are out of order";
        if (entry->bytes > header->entries_offset - offset) return "an entry ends outside";
        piece->offset = offset;
        piece->chunk_first = chunks;
        offset += align_up(entry->bytes, PACKED_UNIT_BYTES);
        if (offset > header->entries_offset) return "an entry ends outside";
        chunks += packed_chunk_count(entry->bytes);
    }
    bool whole = offset == header->entries_offset && chunks == header->chunk_count;
    return whole ? NULL : "its entries do not fill it";
}

static Status refuse(const PackedFile *file, const char *why) {
    FAIL(PACKED_WEIGHTS, "\"%s\": %s (see --packed-weights, and spillway convert)", file->path,
         why);
}

static Status take_directory(PackedFile *file, PackedEntry *entries) {
    const PackedHeader *header = &file->header;
    uint64_t entries_bytes = header->entry_count * sizeof(PackedEntry);
    int problem = read_all(file->descriptor, entries, entries_bytes, header->entries_offset);
    if (problem == 0)
        problem =
            read_all(file->descriptor, file->checksums, header->chunk_count * sizeof(uint64_t),
                     header->entries_offset + entries_bytes);
    if (problem != 0) return refuse(file, problem_text(problem));
    if (packed_directory_checksum(entries, header->entry_count, file->checksums,
                                  header->chunk_count) != header->directory_checksum)
        return refuse(file, "its directory is damaged");
    for (uint32_t i = 0; i < header->entry_count; i++)
        file->pieces[i].entry = entries[i];
    const char *wrong = place_pieces(file);
    return wrong ? refuse(file, wrong) : STATUS_OK;
}

static Status read_directory(PackedFile *file) {
    struct stat found;
    PackedEntry *entries;
    if (fstat(file->descriptor, &found) != 0) return refuse(file, strerror(errno));
    if (!S_ISREG(found.st_mode) || (uint64_t)found.st_size < PACKED_UNIT_BYTES)
        return refuse(file, "it is no file of packed weights");
    int problem = read_all(file->descriptor, &file->header, sizeof file->header, 0);
    if (problem != 0) return refuse(file, problem_text(problem));
    const char *wrong = check_header(&file->header, (uint64_t)found.st_size);
    if (wrong) return refuse(file, wrong);
    uint32_t count = file->header.entry_count;
    TRY(memory_take((void **)&file->pieces, count, sizeof(PackedPiece), "packed weights"));
    TRY(memory_take((void **)&file->checksums, file->header.chunk_count, sizeof(uint64_t),
                    "packed weights"));
    TRY(memory_take((void **)&entries, count, sizeof(PackedEntry), "packed weights"));
    Status status = take_directory(file, entries);
    free(entries);
    return status;
}

/* ---- the owner's calls ---- */

Status packed_file_open(PackedFile *out, const char *path) {
    PackedFile file = {.path = path, .descriptor = open(path, O_RDONLY | O_CLOEXEC)};
    if (file.descriptor < 0) FAIL(FILE_MISSING, "\"%s\": %s", path, strerror(errno));
    Status status = read_directory(&file);
    if (status == STATUS_OK)
        *out = file;
    else
        packed_file_close(&file);
    return status;
}

void packed_file_close(PackedFile *file) {
    if (file->descriptor >= 0) close(file->descriptor);
    free(file->pieces);
    free(file->checksums);
    *file = (PackedFile){.descriptor = -1};
}

Status packed_file_check(const PackedFile *file, const char *layout, uint32_t rank_count,
                         uint64_t fingerprint) {
    const PackedHeader *header = &file->header;
    if (strcmp(header->layout, layout) != 0)
        FAIL(PACKED_WEIGHTS,
             "\"%s\" is packed for kernels %s, and this run has %s: give the same --backend and "
             "--cpu-isa here and to spillway convert",
             file->path, header->layout, layout);
    if (header->rank_count != rank_count)
        FAIL(PACKED_WEIGHTS,
             "\"%s\" is split for %u ranks, and this run has %u: give the same --ranks here and to "
             "spillway convert",
             file->path, header->rank_count, rank_count);
    if (header->fingerprint != fingerprint)
        FAIL(PACKED_WEIGHTS,
             "\"%s\" was made of another model, or with another --weight-type (fingerprint "
             "%016" PRIx64 ", not %016" PRIx64 "): convert this one",
             file->path, header->fingerprint, fingerprint);
    return STATUS_OK;
}

const PackedPiece *packed_file_rank(const PackedFile *file, uint32_t rank, uint32_t *out_count) {
    uint32_t first = 0, all = file->header.entry_count;
    while (first < all && file->pieces[first].entry.rank < rank)
        first++;
    uint32_t end = first;
    while (end < all && file->pieces[end].entry.rank == rank)
        end++;
    *out_count = end - first;
    return file->pieces + first;
}

Status packed_file_read(const PackedFile *file, const PackedPiece *piece, const char *name,
                        void *out) {
    uint8_t *to = out;
    for (uint64_t at = 0; at < piece->entry.bytes; at += PACKED_CHUNK_BYTES) {
        uint64_t left = piece->entry.bytes - at, chunk = at / PACKED_CHUNK_BYTES;
        uint64_t size = left < PACKED_CHUNK_BYTES ? left : PACKED_CHUNK_BYTES;
        int problem = read_all(file->descriptor, to + at, size, piece->offset + at);
        const char *why = problem ? problem_text(problem) : NULL;
        if (!why &&
            packed_chunk_checksum(to + at, size) != file->checksums[piece->chunk_first + chunk])
            why = "not the bytes that were written there";
        if (why)
            FAIL(WEIGHTS_IO,
                 "weights of tensor %s, %" PRIu64 " bytes at offset %" PRIu64
                 " of \"%s\": %s (see --packed-weights)",
                 name, size, piece->offset + at, file->path, why);
    }
    posix_fadvise(file->descriptor, (off_t)piece->offset, (off_t)piece->entry.bytes,
                  POSIX_FADV_DONTNEED);
    return STATUS_OK;
}
