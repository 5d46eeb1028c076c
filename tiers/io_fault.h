#ifndef TIERS_IO_FAULT_H
#define TIERS_IO_FAULT_H

/* Faults on demand at named points of the I/O layer, from a seed: what a disk, a file system or a kernel may do to us, made to
 * happen; and what an emulated device may. One text a fault, "POINT:KIND[:key=value,…]":
 *
 *     io.write:enospc:after=24        from the 25th write on
 *     io.read:eio:odds=0.01,seed=7    one read in a hundred, the same ones each time
 *     io.read:delay:ms=5000,count=1   the first read is 5 s late
 *     device.launch:ecc:after=99,rank=1    the 100th kernel on rank 1's device
 *
 * after: events that are spared first; count: faults at most; odds: of each event after that; seed; ms: of a delay, or until what is
 * stuck ends (without: never); rank: that rank alone. A device has one fault, and knows only `after`.
 * Without a plan every point is inert. A plan belongs to one thread at a time. */

#include <stdint.h>

#include "kernels/device.h"
#include "runtime/base/random.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum IoFaultPoint {
    IO_FAULT_READ,     /* a read goes to the kernel */
    IO_FAULT_WRITE,    /* a write goes to the kernel */
    IO_FAULT_SUBMIT,   /* a batch is handed over */
    IO_FAULT_SETUP,    /* an engine of the ring is tried */
    IO_FAULT_REGISTER, /* staging is registered */
    IO_FAULT_TMPFILE,  /* a spill file without a name is made */
    IO_FAULT_DIRECT,   /* a spill file is tried with direct I/O */
    IO_FAULT_ALLOCATE, /* a spill file is allocated */
    IO_FAULT_TAKE,     /* an emulated device gives memory */
    IO_FAULT_LAUNCH,   /* it runs a kernel */
    IO_FAULT_COPY,     /* it runs a copy */
    IO_FAULT_POINT_COUNT,
} IoFaultPoint;

typedef enum IoFaultKind {
    IO_FAULT_NONE,
    IO_FAULT_ERROR,       /* fails with os_error */
    IO_FAULT_SHORT,       /* moves only a part and says so */
    IO_FAULT_DELAY,       /* starts delay_ns late */
    IO_FAULT_SWALLOW,     /* never happens and never completes */
    IO_FAULT_STUCK,       /* happens delay_ns late, or never; cannot be cancelled */
    IO_FAULT_TORN,        /* moves the first half and says all */
    IO_FAULT_MISDIRECTED, /* goes to the neighbouring place */
    IO_FAULT_STALE,       /* moves nothing and says all */
    IO_FAULT_FLIP,        /* one bit of what was read is wrong */
    IO_FAULT_DEVICE,      /* the device breaks as `device` says */
    IO_FAULT_HANG,        /* the device never ends it */
} IoFaultKind;

typedef struct IoFault {
    IoFaultKind kind;
    int os_error;       /* of IO_FAULT_ERROR: EIO, … */
    DeviceFault device; /* of IO_FAULT_DEVICE */
    uint64_t delay_ns;  /* of IO_FAULT_DELAY and IO_FAULT_STUCK; 0: for ever */
    uint64_t draw;      /* random: where to split, which bit */
} IoFault;

enum { IO_FAULT_ROWS_MAX = 16 };

typedef struct IoFaultRow {
    IoFaultPoint point;
    IoFault fault;
    uint64_t after, count;
    int64_t rank; /* negative: every */
    double odds;
    Random random;
    uint64_t seen, hit; /* events at the point, faults made of them */
} IoFaultRow;

typedef struct IoFaultPlan {
    IoFaultRow rows[IO_FAULT_ROWS_MAX];
    uint32_t row_count;
} IoFaultPlan;

/* Adds one fault. E-USAGE says what is wrong and what there is. */
Status io_fault_add(IoFaultPlan *plan, const char *text);

/* Leaves out what is of another rank. */
void io_fault_keep_rank(IoFaultPlan *plan, int rank);

/* The last fault of each point of a device, for the device; the plan keeps the others. */
void io_fault_take_device(IoFaultPlan *plan, DeviceFailures *out);

/* What happens at this event: the first row that strikes. plan may be NULL. */
IoFault io_fault_next(IoFaultPlan *plan, IoFaultPoint point);

SPILLWAY_EXTERN_C_END

#endif
