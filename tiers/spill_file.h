#ifndef TIERS_SPILL_FILE_H
#define TIERS_SPILL_FILE_H

/* One file that blocks spill to: without a name from the start, readable by its owner only, of its full size before anything
 * runs, so that a full disk shows at start. It ends with the process that has it open, however that ends; where the file
 * system knows no files without names, the name lives between two system calls, and the next run removes one that a kill
 * left there. Nothing is ever synced: no spill file outlives its process.
 *
 * Direct I/O where the file system takes it, else buffered, with the page cache asked to forget. One thread. */

#include <stdbool.h>
#include <stdint.h>

#include "tiers/io_fault.h"

SPILLWAY_EXTERN_C_BEGIN

enum { SPILL_ALIGNMENT_MIN = 4096 };

typedef struct SpillFileOptions {
    const char *directory;
    uint64_t bytes;               /* a multiple of SPILL_ALIGNMENT_MIN, > 0 */
    const char *directory_option; /* that a person can change: "--kv-nvme-dir", taken for NULL */
    const char *size_option;      /* the same: "--kv-nvme-size" */
    bool silent;                  /* the caller, or another process, warns of this directory */
    IoFaultPlan *faults;          /* NULL: none */
} SpillFileOptions;

/* Plain data to read; only the functions below change it. */
typedef struct SpillFile {
    int descriptor;
    uint64_t bytes;
    bool direct;    /* O_DIRECT is on */
    bool read_only; /* of spill_file_open_named */
    uint32_t
        alignment_bytes; /* of offset, length and memory; a multiple of SPILL_ALIGNMENT_MIN, but 1 where buffered */
    bool nameless;            /* never had a name */
    bool allocated;           /* the disk has set the space aside */
    const char *file_system;  /* "nfs", "tmpfs", … where it matters, else "local" */
    const char *warning;      /* what is bad about spilling there; NULL */
    char buffered_reason[96]; /* why direct is off; "" */
} SpillFile;

/* Why no one should spill there who was not told to: no such directory, a network file system, memory. NULL: nothing speaks
 * against it. Valid until the next call; opens nothing for writing and logs nothing. */
const char *spill_directory_objection(const char *path);

/* E-SPILL-CREATE: no such directory, not ours to write, or open to everyone without a sticky bit. E-SPILL-SPACE: the disk, a
 * quota or a file size limit has no room for `bytes`. Warns once about network and memory file systems. */
Status spill_file_open(SpillFile *out, const SpillFileOptions *options);
/* A file that is there already and outlives its readers, to be read as spill files are. E-FILE-MISSING. */
Status spill_file_open_named(SpillFile *out, const char *path, IoFaultPlan *faults);
void spill_file_close(SpillFile *file); /* the space is free again; twice is allowed */

/* Buffered files: starts to write back dirty pages of the range and drops the clean ones from the page cache, so that
 * spilled bytes do not take the memory that they were spilled to free. Nothing to do with direct I/O. */
void spill_file_forget(const SpillFile *file, uint64_t offset, uint64_t bytes);

/* One line for people: "65536.0 MiB, direct I/O in units of 4096, no name, allocated, file system local". */
void spill_file_describe(const SpillFile *file, char *out_text, uint32_t text_bytes);

SPILLWAY_EXTERN_C_END

#endif
