#include "tiers/io_fault.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct KindRow {
    const char *name;
    IoFaultKind kind;
    int os_error;    /* IO_FAULT_DEVICE: a DeviceFault */
    uint32_t points; /* bits of the IoFaultPoints where it makes sense */
} KindRow;

#define AT(point) (1u << IO_FAULT_##point)

enum {
    TRANSFERS = AT(READ) | AT(WRITE),
    STARTS = AT(SETUP) | AT(TMPFILE) | AT(DIRECT) | AT(ALLOCATE),
    WORK = AT(LAUNCH) | AT(COPY),
};

static const KindRow kinds[] = {
    {"eio", IO_FAULT_ERROR, EIO, TRANSFERS | STARTS},
    {"enospc", IO_FAULT_ERROR, ENOSPC, AT(WRITE) | AT(ALLOCATE)},
    {"efbig", IO_FAULT_ERROR, EFBIG, AT(WRITE) | AT(ALLOCATE)},
    {"erofs", IO_FAULT_ERROR, EROFS, AT(WRITE) | AT(TMPFILE)},
    {"eintr", IO_FAULT_ERROR, EINTR, TRANSFERS | AT(SUBMIT)},
    {"eagain", IO_FAULT_ERROR, EAGAIN, TRANSFERS | AT(SUBMIT)},
    {"eperm", IO_FAULT_ERROR, EPERM, AT(SETUP)},
    {"enosys", IO_FAULT_ERROR, ENOSYS, AT(SETUP)},
    {"enomem", IO_FAULT_ERROR, ENOMEM, AT(SETUP) | AT(REGISTER)},
    {"eopnotsupp", IO_FAULT_ERROR, EOPNOTSUPP, AT(TMPFILE) | AT(ALLOCATE)},
    {"einval", IO_FAULT_ERROR, EINVAL, TRANSFERS | AT(DIRECT)},
    {"short", IO_FAULT_SHORT, 0, TRANSFERS},
    {"delay", IO_FAULT_DELAY, 0, TRANSFERS},
    {"swallow", IO_FAULT_SWALLOW, 0, TRANSFERS},
    {"stuck", IO_FAULT_STUCK, 0, TRANSFERS},
    {"torn", IO_FAULT_TORN, 0, TRANSFERS},
    {"misdirected", IO_FAULT_MISDIRECTED, 0, TRANSFERS},
    {"stale", IO_FAULT_STALE, 0, TRANSFERS},
    {"flip", IO_FAULT_FLIP, 0, AT(READ)},
    {"memory", IO_FAULT_DEVICE, DEVICE_FAULT_MEMORY, AT(TAKE)},
    {"other", IO_FAULT_DEVICE, DEVICE_FAULT_OTHER, WORK},
    {"ecc", IO_FAULT_DEVICE, DEVICE_FAULT_ECC, WORK},
    {"lost", IO_FAULT_DEVICE, DEVICE_FAULT_LOST, WORK},
    {"kernel", IO_FAULT_DEVICE, DEVICE_FAULT_KERNEL, WORK},
    {"link", IO_FAULT_DEVICE, DEVICE_FAULT_LINK, WORK},
    {"hang", IO_FAULT_HANG, 0, WORK},
};

static const char *const points[IO_FAULT_POINT_COUNT] = {
    "io.read",     "io.write",      "io.submit",    "io.setup",
    "io.register", "spill.tmpfile", "spill.direct", "spill.allocate",
    "device.take", "device.launch", "device.copy",
};

enum { KIND_COUNT = sizeof kinds / sizeof *kinds };

/* The names that a point knows, for messages. */
static void list_kinds(uint32_t point_bit, char *out, size_t out_bytes) {
    size_t used = 0;
    out[0] = '\0';
    for (size_t i = 0; i < KIND_COUNT; i++)
        if ((kinds[i].points & point_bit) && used < out_bytes)
            used += (size_t)snprintf(out + used, out_bytes - used, " %s", kinds[i].name);
}

static void list_points(char *out, size_t out_bytes) {
    size_t used = 0;
    for (size_t i = 0; i < IO_FAULT_POINT_COUNT && used < out_bytes; i++)
        used += (size_t)snprintf(out + used, out_bytes - used, " %s", points[i]);
}

static bool word_is(const char *name, const char *word, size_t word_bytes) {
    return strlen(name) == word_bytes && memcmp(name, word, word_bytes) == 0;
}

static Status read_point(IoFaultRow *row, const char *text, const char *word, size_t word_bytes) {
    char known[256];
    for (uint32_t i = 0; i < IO_FAULT_POINT_COUNT; i++)
        if (word_is(points[i], word, word_bytes)) {
            row->point = (IoFaultPoint)i;
            return STATUS_OK;
        }
    list_points(known, sizeof known);
    FAIL(USAGE, "fault \"%.100s\": no point \"%.*s\"; there are%s", text, (int)word_bytes, word,
         known);
}

static Status read_kind(IoFaultRow *row, const char *text, const char *word, size_t word_bytes) {
    char known[256];
    for (size_t i = 0; i < KIND_COUNT; i++)
        if (word_is(kinds[i].name, word, word_bytes) && (kinds[i].points & (1u << row->point))) {
            row->fault.kind = kinds[i].kind;
            row->fault.os_error = kinds[i].os_error;
            if (kinds[i].kind == IO_FAULT_DEVICE)
                row->fault.device = (DeviceFault)kinds[i].os_error;
            return STATUS_OK;
        }
    list_kinds(1u << row->point, known, sizeof known);
    FAIL(USAGE, "fault \"%.100s\": %s cannot \"%.*s\"; it can%s", text, points[row->point],
         (int)word_bytes, word, known);
}

/* One "key=value" behind the separator at *at, which moves to the next one. */
static Status read_setting(IoFaultRow *row, const char *text, const char **at) {
    ++*at;
    const char *value = strchr(*at, '=');
    size_t key_bytes = value ? (size_t)(value - *at) : 0;
    char *end = NULL;
    double number = value ? strtod(value + 1, &end) : 0;
    bool whole = value && end != value + 1 && (*end == ',' || *end == '\0');
    if (whole && word_is("odds", *at, key_bytes) && number >= 0 && number <= 1)
        row->odds = number;
    else if (whole && number >= 0 && number <= 0x1p53 && number == (double)(uint64_t)number &&
             word_is("after", *at, key_bytes))
        row->after = (uint64_t)number;
    else if (whole && number >= 0 && number <= 0x1p53 && word_is("count", *at, key_bytes))
        row->count = (uint64_t)number;
    else if (whole && number >= 0 && number <= 0x1p53 && word_is("seed", *at, key_bytes))
        row->random.key = (uint64_t)number;
    else if (whole && number >= 0 && number <= 1e9 && word_is("ms", *at, key_bytes))
        row->fault.delay_ns = (uint64_t)(number * 1e6);
    else if (whole && number >= 0 && number <= INT32_MAX && word_is("rank", *at, key_bytes))
        row->rank = (int64_t)number;
    else
        FAIL(USAGE,
             "fault \"%.100s\": cannot read \"%.40s\"; there are after=N count=N odds=0..1 seed=N "
             "ms=N rank=N",
             text, *at);
    *at = end;
    return STATUS_OK;
}

Status io_fault_add(IoFaultPlan *plan, const char *text) {
    if (plan->row_count == IO_FAULT_ROWS_MAX)
        FAIL(USAGE, "fault \"%.100s\": more than %d faults", text, IO_FAULT_ROWS_MAX);
    IoFaultRow row = {
        .odds = 1, .count = UINT64_MAX, .rank = -1, .random = {.stream = plan->row_count}};
    const char *kind = strchr(text, ':');
    if (!kind) FAIL(USAGE, "fault \"%.100s\" is not POINT:KIND[:key=value,…]", text);
    TRY(read_point(&row, text, text, (size_t)(kind - text)));
    kind++;
    size_t kind_bytes = strcspn(kind, ":");
    TRY(read_kind(&row, text, kind, kind_bytes));
    for (const char *at = kind + kind_bytes; *at;)
        TRY(read_setting(&row, text, &at));
    plan->rows[plan->row_count++] = row;
    return STATUS_OK;
}

void io_fault_keep_rank(IoFaultPlan *plan, int rank) {
    uint32_t kept = 0;
    for (uint32_t i = 0; i < plan->row_count; i++)
        if (plan->rows[i].rank < 0 || plan->rows[i].rank == rank)
            plan->rows[kept++] = plan->rows[i];
    plan->row_count = kept;
}

void io_fault_take_device(IoFaultPlan *plan, DeviceFailures *out) {
    uint64_t *const numbers[IO_FAULT_POINT_COUNT] = {[IO_FAULT_TAKE] = &out->take,
                                                     [IO_FAULT_LAUNCH] = &out->launch,
                                                     [IO_FAULT_COPY] = &out->copy};
    uint32_t kept = 0;
    for (uint32_t i = 0; i < plan->row_count; i++) {
        const IoFaultRow row = plan->rows[i];
        if (!numbers[row.point]) {
            plan->rows[kept++] = row;
            continue;
        }
        *numbers[row.point] = row.after + 1;
        out->hangs = row.fault.kind == IO_FAULT_HANG;
        if (row.point != IO_FAULT_TAKE) out->fault = row.fault.device;
    }
    plan->row_count = kept;
}

static bool strikes(IoFaultRow *row) {
    if (row->seen++ < row->after || row->hit >= row->count) return false;
    if (row->odds < 1 && random_unit(&row->random) >= row->odds) return false;
    row->hit++;
    return true;
}

IoFault io_fault_next(IoFaultPlan *plan, IoFaultPoint point) {
    for (uint32_t i = 0; plan && i < plan->row_count; i++) {
        IoFaultRow *row = &plan->rows[i];
        if (row->point != point || !strikes(row)) continue;
        IoFault fault = row->fault;
        fault.draw = random_u64(&row->random);
        return fault;
    }
    return (IoFault){.kind = IO_FAULT_NONE};
}
