#ifndef TIERS_RING_H
#define TIERS_RING_H

/* Reads and writes that go on while others compute: a bounded queue in front of io_uring, or of its twin, a pool of threads
 * with pread and pwrite, for machines that forbid io_uring.
 *
 * The thread that opens a ring owns it: only that thread calls. Memory of an operation belongs to the ring from ring_submit to
 * its result. Operations are not ordered among each other: whoever wants a read to see a write waits for the write's result.
 * Reads go before writes; while both wait, every eighth transfer is a write, so that neither starves.
 *
 * Every operation has exactly one result. What the kernel moved is compared with what was asked: the rest of a short transfer
 * goes again, EINTR and EAGAIN go again after a pause that grows, everything else is classified once, here.
 * Nothing is allocated after ring_open. The process ignores SIGXFSZ, else a write at the file size limit kills it. */

#include <stdbool.h>
#include <stdint.h>

#include "tiers/io_fault.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Ring Ring;

typedef enum RingKind { RING_READ, RING_WRITE, RING_KIND_COUNT } RingKind;

typedef struct RingOperation {
    RingKind kind;
    uint32_t file;   /* index into RingOptions.files */
    void *memory;    /* [bytes]; aligned as the file asks */
    uint64_t offset; /* in the file; aligned as the file asks */
    uint32_t bytes;  /* > 0; aligned as the file asks */
    uint64_t user;   /* comes back in the result */
} RingOperation;

/* What the caller can do about it. */
typedef enum RingError {
    RING_ERROR_NONE,      /* every byte was moved */
    RING_ERROR_SHORT,     /* the file ends before the last byte */
    RING_ERROR_NO_SPACE,  /* disk, quota or file size limit: grow no further */
    RING_ERROR_READ_ONLY, /* the file system takes no writes any more */
    RING_ERROR_REFUSED,   /* the file system cannot do it: alignment, direct I/O */
    RING_ERROR_IO,        /* the device failed: these bytes are lost */
    RING_ERROR_CANCELLED, /* by ring_cancel */
    RING_ERROR_COUNT,
} RingError;

const char *ring_error_name(RingError error); /* "no space" */

typedef struct RingResult {
    uint64_t user;
    RingError error;
    int os_error;   /* errno behind the error, or 0 */
    uint32_t bytes; /* moved from the first byte on; all of them without error */
} RingResult;

typedef struct RingFile {
    int descriptor; /* borrowed until ring_close */
    uint32_t
        alignment_bytes; /* of offset, bytes and memory: a power of two; 1 for buffered files */
} RingFile;

enum { RING_FILES_MAX = 64, RING_DEPTH_MAX = 1024, RING_QUEUE_MAX = 1 << 16 };

typedef struct RingOptions {
    const char *engine; /* "auto", "uring", "threads" */
    const RingFile *files;
    uint32_t file_count;
    void *staging;          /* where most transfers happen; registered as far as allowed; NULL */
    uint64_t staging_bytes; /* borrowed until ring_close */
    uint32_t depth;         /* transfers in the kernel at once, up to RING_DEPTH_MAX */
    uint32_t queue_count; /* operations that the ring holds at all, from depth to RING_QUEUE_MAX */
    uint32_t local_ranks; /* processes of this user here: they share one memlock limit */
    IoFaultPlan *faults;  /* NULL: none */
} RingOptions;

/* What is really on: for start-up lines, `doctor` and status. */
typedef struct RingFacts {
    const char *engine;        /* name of the row */
    char fallback_reason[160]; /* why a row before it was not taken; "" */
    uint32_t depth;
    uint32_t thread_count; /* of the pool; 0 with io_uring */
    bool files_registered;
    uint64_t staging_bytes, registered_bytes;
    uint64_t memlock_bytes; /* RLIMIT_MEMLOCK, or UINT64_MAX where it does not bind */
} RingFacts;

typedef struct RingStats {
    uint64_t operations[RING_KIND_COUNT],
        bytes[RING_KIND_COUNT]; /* with result and without error */
    uint64_t errors[RING_ERROR_COUNT];
    uint64_t resubmitted;    /* transfers for the rest of a short one */
    uint64_t retried;        /* transfers repeated after EINTR or EAGAIN */
    uint64_t submit_retries; /* batches that the kernel did not take at once */
    uint32_t held;           /* operations without result so far */
    uint32_t in_flight, in_flight_peak;
} RingStats;

/* "auto" takes the first engine that works and keeps the reason for passing over another. E-IO-ENGINE when the one asked for,
 * or none, works here. */
Status ring_open(Ring **out, const RingOptions *options);

/* Waits until the kernel is done with all memory; results not reaped are dropped, what was not handed over never happens.
 * False when transfers have not ended after 1 s, though they were cancelled: the ring is left behind, and the memory of its operations
 * may still be written to and must be left, too. NULL is allowed. */
bool ring_close(Ring *ring);

/* Queues the first operations, as many as there is room for, and says how many. No system call. */
uint32_t ring_submit(Ring *ring, const RingOperation *operations, uint32_t count);

/* How many transfers of this size keep a disk busy: those of 8 MiB, 32 at least (100 KiB: 1.6 to 2.4 GB/s at depth 32, 2.8 at
 * 128, on a virtio disk that gives 2.9). */
uint32_t ring_depth_auto(uint64_t transfer_bytes);

/* Hands queued operations to the kernel, in one batch as far as depth allows. Never waits. */
void ring_flush(Ring *ring);

/* Flushes, then waits up to wait_ns for a first result and takes what is there. 0 when time is up or nothing is held. */
uint32_t ring_reap(Ring *ring, RingResult *out_results, uint32_t result_max, uint64_t wait_ns);

/* Operations with this user word that the kernel does not have end as cancelled. For those that it has the kernel is asked; they
 * end by themselves, for it may still write to their memory. Returns how many have been cancelled. */
uint32_t ring_cancel(Ring *ring, uint64_t user);

const RingFacts *ring_facts(const Ring *ring);
RingStats ring_stats(const Ring *ring);

/* One line for people: "uring, depth 16, files registered, 4.0 of 64.0 MiB staging registered, memlock limit 8.0 MiB". */
void ring_describe(const RingFacts *facts, char *out_text, uint32_t text_bytes);

/* Whether an engine would work here, for `doctor`: "yes", or why not. index counts engines from 0; false behind the last. */
bool ring_probe(uint32_t index, const char **out_name, char *out_text, uint32_t text_bytes);

SPILLWAY_EXTERN_C_END

#endif
