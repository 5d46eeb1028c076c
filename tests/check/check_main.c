/* The program `check`: every case of every group for every variant. See check.h. */

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "tests/check/check.h"
#include "tests/check/check_device.h"
#include "tests/kernels/check_groups.h"

#define CHECK_GROUP(name) extern const CheckGroup check_##name;
CHECK_GROUPS
#undef CHECK_GROUP

static const struct {
    const char *name;
    const CheckGroup *group;
} groups[] = {
#define CHECK_GROUP(name) {#name, &check_##name},
    CHECK_GROUPS
#undef CHECK_GROUP
};
enum { GROUP_COUNT = sizeof groups / sizeof *groups };

/* Lowest first; the first is the specification. */
static struct {
    const char *name;
    const char *backend;
    const char *cpu_isa;
    uint32_t slowness; /* sizes, and rounds, are so many times smaller; 0: 1 */
    bool here;
    Device *device;
    CheckDevice *check_device; /* NULL: the device's memory is the host's */
    Kernels kernels;           /* the backend's */
    Kernels table;             /* what cases call */
} variants[] = {
    {.name = "reference", .backend = "cpu", .cpu_isa = "reference"},
    {.name = "avx2", .backend = "cpu", .cpu_isa = "avx2"},
    {.name = "avx512", .backend = "cpu", .cpu_isa = "avx512"},
    {.name = "emulated", .backend = "emulated", .slowness = 3},
    {.name = "cuda", .backend = "cuda"},
};
enum { VARIANT_COUNT = sizeof variants / sizeof *variants };

typedef struct Options {
    uint64_t seed;
    uint64_t round_count;
    uint32_t thread_count;
    const char *variant; /* NULL: all */
    bool bench, list;
    char **filters; /* group, or group.case; none: all */
    int filter_count;
} Options;

typedef struct Tally {
    unsigned passed, failed, skipped;
} Tally;

static const char usage[] =
    "usage: check [--list] [--bench] [--seed N] [--rounds N] [--threads N] [--variant NAME]\n"
    "             [GROUP | GROUP.CASE]...\n"
    "exit: 0 all passed, 1 some failed, 77 nothing could run here\n";

static char case_text[128]; /* what runs, for the fault handler */

static bool parse_number(const char *text, uint64_t *out) {
    char *end;
    errno = 0;
    *out = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *text != '-';
}

static bool parse_options(int count, char **arguments, Options *out) {
    for (int i = 1; i < count; i++) {
        const char *word = arguments[i];
        const char *value = i + 1 < count ? arguments[i + 1] : "";
        uint64_t number = 0;
        if (word[0] != '-') {
            out->filters[out->filter_count++] = arguments[i];
            continue;
        }
        if (strcmp(word, "--list") == 0 || strcmp(word, "--bench") == 0) {
            *(word[2] == 'l' ? &out->list : &out->bench) = true;
            continue;
        }
        i++;
        if (strcmp(word, "--variant") == 0)
            out->variant = value;
        else if (!parse_number(value, &number))
            return false;
        else if (strcmp(word, "--seed") == 0)
            out->seed = number;
        else if (strcmp(word, "--rounds") == 0 && number > 0)
            out->round_count = number;
        else if (strcmp(word, "--threads") == 0 && number > 0 && number <= 1024)
            out->thread_count = (uint32_t)number;
        else
            return false;
    }
    return true;
}

static bool selected(const Options *options, const char *group, const char *name) {
    for (int i = 0; i < options->filter_count; i++) {
        const char *filter = options->filters[i];
        size_t length = strlen(group);
        if (strncmp(filter, group, length) != 0) continue;
        if (filter[length] == '\0') return true;
        if (filter[length] == '.' && strcmp(filter + length + 1, name) == 0) return true;
    }
    return options->filter_count == 0;
}

static Status open_variant(int i, uint64_t seed) {
    BackendOptions options = {.cpu_isa = variants[i].cpu_isa, .seed = seed};
    TRY(backend_open(variants[i].backend, &options, &variants[i].device, &variants[i].kernels));
    variants[i].here = true;
    variants[i].table = variants[i].kernels;
    if (variants[i].device->host_addressable) return STATUS_OK;
    check_device_fill(&variants[i].table);
    return check_device_open(&variants[i].check_device, variants[i].device, &variants[i].kernels);
}

/* Those that are asked for, and the specification. */
static Status open_variants(const Options *options) {
    for (int i = 0; i < VARIANT_COUNT; i++) {
        if (i > 0 && options->variant && strcmp(options->variant, variants[i].name) != 0) continue;
        error_capture_begin();
        Status status = open_variant(i, options->seed);
        error_capture_end();
        if (variants[i].here) TRY(status); /* a backend that opens works */
    }
    return STATUS_OK;
}

static void close_variants(void) {
    for (int i = 0; i < VARIANT_COUNT; i++) {
        check_device_close(variants[i].check_device);
        if (variants[i].here) variants[i].device->close(variants[i].device);
    }
}

static const void *slot_of(int variant, int slot) {
    const void *function;
    memcpy(&function, (const char *)&variants[variant].table + slot, sizeof function);
    return function;
}

/* Does the variant bring a function of its own, not one that a lower variant was already checked with? What stands between a case
 * and a device's slot is the same for every device. */
static bool fills(int variant, int slot) {
    for (int lower = 0; lower < variant; lower++)
        if (variants[lower].here && !variants[lower].check_device &&
            slot_of(lower, slot) == slot_of(variant, slot))
            return false;
    return true;
}

static void on_fault(int number) {
    /* only async-signal-safe calls */
    static const char text[] = "FAIL: touched memory outside a buffer, or trapped, in ";
    if (write(STDOUT_FILENO, text, sizeof text - 1) < 0 ||
        write(STDOUT_FILENO, case_text, strlen(case_text)) < 0)
        _exit(1);
    signal(number, SIG_DFL);
    _exit(1);
}

static uint64_t hash_text(uint64_t hash, const char *text) {
    for (; *text; text++)
        hash = (hash ^ (uint8_t)*text) * 0x100000001B3u;
    return hash;
}

static void run_rounds(const Options *options, Check *check, const CheckCase *row) {
    uint64_t count = 1 + (options->round_count - 1) / check->slowness;
    for (uint64_t round = 0; round < count && check->failure_count == 0; round++) {
        uint64_t seed = options->seed + round;
        snprintf(case_text, sizeof case_text, "%s.%s [%s] --seed %llu --rounds 1\n", check->group,
                 check->name, check->variant, (unsigned long long)seed);
        check_round_begin(check, seed);
        check->random.stream = hash_text(hash_text(0, check->group), check->name);
        row->run(check);
        check_round_end(check);
    }
}

static void run_case(const Options *options, Check *check, const CheckCase *row, Tally *tally) {
    check->name = row->name;
    check->failure_count = 0;
    if (!options->bench) {
        run_rounds(options, check, row);
    } else {
        if (!row->bench) return;
        snprintf(case_text, sizeof case_text, "%s.%s [%s] --bench\n", check->group, check->name,
                 check->variant);
        check_round_begin(check, options->seed);
        row->bench(check);
        check_round_end(check);
    }
    *(check->failure_count ? &tally->failed : &tally->passed) += 1;
}

static void run_variants(const Options *options, Check *check, const CheckCase *row, Tally *tally) {
    for (int i = 0; i < VARIANT_COUNT; i++) {
        if (options->variant && strcmp(options->variant, variants[i].name) != 0) continue;
        if (!variants[i].here) {
            tally->skipped++;
            continue;
        }
        if (!fills(i, row->slot)) continue;
        check->variant = variants[i].name;
        check->kernels = &variants[i].table;
        check->slowness = variants[i].slowness ? variants[i].slowness : 1;
        check->device = variants[i].check_device;
        check_device_use(check->device);
        run_case(options, check, row, tally);
    }
}

static void list_case(const char *group, const CheckCase *row) {
    printf("%s.%s:", group, row->name);
    for (int i = 0; i < VARIANT_COUNT && row->slot != CHECK_NO_SLOT; i++)
        if (variants[i].here && fills(i, row->slot)) printf(" %s", variants[i].name);
    printf("\n");
}

static void run_groups(const Options *options, Tally *tally) {
    for (int g = 0; g < GROUP_COUNT; g++) {
        Check check = {.group = groups[g].name, .thread_count = options->thread_count};
        for (const CheckCase *row = groups[g].group->cases; row->name; row++) {
            if (!selected(options, check.group, row->name)) continue;
            check.variant = "-";
            check.kernels = NULL;
            check.device = NULL;
            check.slowness = 1;
            check.reference = &variants[0].kernels;
            if (options->list)
                list_case(check.group, row);
            else if (row->slot == CHECK_NO_SLOT)
                run_case(options, &check, row, tally);
            else
                run_variants(options, &check, row, tally);
        }
    }
}

int main(int count, char **arguments) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    char **filters = calloc((size_t)count, sizeof *filters);
    long processors = sysconf(_SC_NPROCESSORS_ONLN);
    Options options = {
        .seed = (uint64_t)now.tv_sec * 1000u,
        .round_count = 50,
        .thread_count = processors > 0 ? (uint32_t)processors : 1,
        .filters = filters,
    };
    if (!filters || !parse_options(count, arguments, &options)) {
        fputs(usage, stderr);
        free(filters);
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    signal(SIGILL, on_fault);
    signal(SIGFPE, on_fault);
    if (open_variants(&options) != STATUS_OK || !variants[0].here) {
        fputs("check: a backend does not open\n", stderr);
        return 1;
    }
    Tally tally = {0};
    if (!options.list) printf("seed %llu\n", (unsigned long long)options.seed);
    run_groups(&options, &tally);
    close_variants();
    free(filters);
    if (options.list) return 0;
    printf("%u passed, %u failed, %u skipped\n", tally.passed, tally.failed, tally.skipped);
    if (tally.failed) return 1;
    return tally.passed ? 0 : 77;
}
