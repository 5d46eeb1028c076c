#ifndef RUNTIME_WEIGHTS_PACKED_FILE_H
#define RUNTIME_WEIGHTS_PACKED_FILE_H

/* The packed matrices of a model's layers as a file: what each rank's packer made, so that a later run need not pack, and layers can
 * stream from where they lie. Everything else (config, tokenizer, vectors, embedding, head) still comes from the model.
 *
 *     header, padded to a page │ matrices, each from a page on │ entries │ checksums of chunks
 *
 * All of it is whole pages, as direct I/O wants it. A reader believes the header's sizes only where they agree with the length of the file, and memory follows the number of entries and
 * chunks that the file really holds. Bytes of matrices are checked when they are read, chunk by chunk; E-WEIGHTS-IO names the tensor.
 *
 * A PackedFile is plain data to read and may be read by several threads; it owns its descriptor and its two lists. */

#include <stdbool.h>

#include "kernels/tensor.h"
#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

enum {
    PACKED_VERSION = 1, /* goes up when this format or a backend's layout of matrices changes */
    PACKED_UNIT_BYTES = 4096,
    PACKED_CHUNK_BYTES = 1 << 20,
    PACKED_LAYOUT_BYTES = 32,
    PACKED_ENTRIES_MAX = 1 << 20,
};

/* In the file as here: little-endian, no padding. */
typedef struct PackedHeader {
    char magic[8];
    uint32_t version;
    uint32_t rank_count;
    char layout[PACKED_LAYOUT_BYTES]; /* Kernels.layout, ended and filled by NUL */
    uint64_t fingerprint;             /* of the model, weights_fingerprint */
    uint64_t file_bytes;
    uint64_t entries_offset;
    uint64_t chunk_count;
    uint32_t entry_count;
    uint32_t reserved;           /* 0 */
    uint64_t directory_checksum; /* of entries and chunks */
    uint64_t header_checksum;    /* of all before it */
} PackedHeader;

/* Rank by rank, in layer order; matrices lie in this order. */
typedef struct PackedEntry {
    uint32_t rank, layer;
    uint64_t bytes;
    uint64_t name_hash; /* packed_name_hash */
    uint64_t sample;    /* packed_sample of the tensor that it was made of */
} PackedEntry;

typedef struct PackedPiece {
    PackedEntry entry;
    uint64_t offset;      /* of its first byte */
    uint64_t chunk_first; /* of its checksums */
} PackedPiece;

typedef struct PackedFile {
    int descriptor;   /* -1: none */
    const char *path; /* borrowed */
    PackedHeader header;
    PackedPiece *pieces; /* [header.entry_count] */
    uint64_t *checksums; /* [header.chunk_count] XXH3-64 */
} PackedFile;

extern const char packed_magic[8];

uint64_t packed_name_hash(const char *name);
/* Of the first, a middle and the last page of a tensor: another model of the same shape differs there. */
uint64_t packed_sample(const Tensor *tensor);
uint64_t packed_chunk_checksum(const void *bytes, uint64_t size);
uint64_t packed_header_checksum(const PackedHeader *header);
uint64_t packed_directory_checksum(const PackedEntry *entries, uint32_t entry_count,
                                   const uint64_t *checksums, uint64_t chunk_count);
uint64_t packed_chunk_count(uint64_t piece_bytes);

/* E-FILE-MISSING; E-PACKED-WEIGHTS: not such a file, damaged, cut off. */
Status packed_file_open(PackedFile *out, const char *path);
void packed_file_close(
    PackedFile *file); /* takes one that is closed or zeroed with descriptor -1 */

/* E-PACKED-WEIGHTS says which of these differs. */
Status packed_file_check(const PackedFile *file, const char *layout, uint32_t rank_count,
                         uint64_t fingerprint);

/* Those of a rank. */
const PackedPiece *packed_file_rank(const PackedFile *file, uint32_t rank, uint32_t *out_count);

/* All bytes of a piece. E-WEIGHTS-IO names the tensor. */
Status packed_file_read(const PackedFile *file, const PackedPiece *piece, const char *name,
                        void *out);

SPILLWAY_EXTERN_C_END

#endif
