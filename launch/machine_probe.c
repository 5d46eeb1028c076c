#include "launch/machine_probe.h"

#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "launch/machine_file.h"
#include "launch/probe_compute.h"
#include "launch/probe_disk.h"
#include "runtime/base/hash.h"
#include "runtime/base/log.h"
#include "runtime/base/machine.h"

enum {
    KEY_BYTES = 320,
    PATH_BYTES = 1024,
    PROBE_FORM = 5 /* rises when figures change their meaning */
};
static const double collective_seconds = 20e-6; /* waking a rank of the same node */
/* Of a rank: the program, tables, kernel scratch; and what is left to the system. */
static const double program_bytes = 128 << 20, spare_share = 0.03;

/* ---- what the speeds belong to ---- */

static void processor_name(char *out, size_t out_bytes) {
    char line[256];
    FILE *file = fopen("/proc/cpuinfo", "re");
    snprintf(out, out_bytes, "unknown processor");
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, "model name", 10) != 0 || !colon) continue;
        snprintf(out, out_bytes, "%.*s", (int)strcspn(colon + 2, "\n"), colon + 2);
        break;
    }
    if (file) fclose(file);
}

uint32_t machine_core_count(void) {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
    return (uint32_t)CPU_COUNT(&set);
}

static uint32_t thread_count(const MachineProbeOptions *options) {
    uint32_t ranks = options->rank_count / options->node_count, cores = machine_core_count();
    if (options->thread_count > 0) return options->thread_count;
    return cores > ranks ? cores / ranks : 1;
}

static void describe(const MachineProbeOptions *options, char out[KEY_BYTES]) {
    char name[128];
    struct stat folder = {0};
    processor_name(name, sizeof name);
    if (options->directory_count > 0) (void)stat(options->directories[0], &folder);
    snprintf(out, KEY_BYTES,
             "probe %d: %s, %u cores, kernels %s, %u threads, disk %" PRIx64 " by %s, depth %u",
             PROBE_FORM, name, machine_core_count(), options->cpu_isa, thread_count(options),
             (uint64_t)folder.st_dev, options->io_engine, options->io_depth);
}

bool machine_probe_path(const MachineProbeOptions *options, char *out, size_t out_bytes) {
    char key[KEY_BYTES];
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    bool own = cache && cache[0] == '/';
    if (!own && (!home || home[0] != '/')) return false;
    describe(options, key);
    int used = snprintf(out, out_bytes, "%s%s/spillway/machine-%016" PRIx64 ".json",
                        own ? cache : home, own ? "" : "/.cache", hash_xxh3(key, strlen(key), 0));
    return used > 0 && (size_t)used < out_bytes;
}

/* ---- measuring, or remembering ---- */

static Status measure(const MachineProbeOptions *options, PlanMachine *out) {
    PlanMachine machine = {.rank_count = 1,
                           .node_count = 1,
                           .unified = true,
                           .thread_count = thread_count(options),
                           .core_count = machine_core_count(),
                           .host_bytes = (double)machine_available_bytes()};
    log_note("measuring this machine for the planner: some seconds, once");
    describe(options, machine.note);
    processor_name(machine.name, sizeof machine.name);
    TRY(probe_compute(options->cpu_isa, machine.thread_count, &machine));
    if (options->directory_count > 0) {
        const ProbeDiskOptions disk = {options->directories[0], options->io_engine,
                                       options->io_depth};
        TRY(probe_disk(&disk, &machine));
    }
    *out = machine;
    return STATUS_OK;
}

static bool recall(const MachineProbeOptions *options, const char *path, PlanMachine *out) {
    char key[KEY_BYTES];
    describe(options, key);
    error_capture_begin();
    Status status = machine_file_read(path, out);
    error_capture_end();
    return status == STATUS_OK && strcmp(out->note, key) == 0;
}

static void keep(const PlanMachine *machine, const char *path) {
    error_capture_begin();
    Status status = machine_file_write(machine, path);
    error_capture_end();
    if (status != STATUS_OK) log_note("the figures of this machine cannot be kept in %s", path);
}

/* ---- as it is now ---- */

static double free_disk_bytes(const MachineProbeOptions *options) {
    double bytes = 0;
    for (uint32_t i = 0; i < options->directory_count; i++) {
        struct statvfs space;
        if (statvfs(options->directories[i], &space) != 0) continue;
        double own = (double)space.f_bavail * (double)space.f_frsize;
        if (i == 0 || own < bytes) bytes = own;
    }
    return bytes; /* several folders may be one disk */
}

static Status set_sizes(const MachineProbeOptions *options, PlanMachine *machine) {
    machine->rank_count = options->rank_count;
    machine->node_count = options->node_count;
    machine->host_bytes = (double)machine_available_bytes();
    double ranks = plan_machine_local_ranks(machine), limit = options->memory_limit_bytes * ranks;
    if (limit > 0 && limit < machine->host_bytes) machine->host_bytes = limit;
    machine->host_bytes *= 1 - spare_share;
    machine->host_bytes -= program_bytes * ranks;
    if (machine->host_bytes < 0) machine->host_bytes = 0;
    machine->disk_bytes = free_disk_bytes(options);
    machine->peer_rate = machine->copy_rate / 2; /* written by one, read by the other */
    machine->peer_seconds = collective_seconds;
    if (machine_available_bytes() == 0)
        FAIL(UNAVAILABLE, "/proc/meminfo does not tell the free memory: plan with --machine FILE");
    return STATUS_OK;
}

Status machine_probe(const MachineProbeOptions *options, PlanMachine *out) {
    char path[PATH_BYTES];
    PlanMachine machine;
    bool kept = machine_probe_path(options, path, sizeof path);
    struct stat folder;
    if (options->directory_count > 0 && stat(options->directories[0], &folder) != 0)
        FAIL(SPILL_CREATE, "spill directory \"%s\": %s; see --kv-nvme-dir", options->directories[0],
             strerror(errno));
    bool known = kept && !options->renew && recall(options, path, &machine);
    if (!known && options->only_kept) return STATUS_NOT_FOUND;
    if (!known) {
        TRY(measure(options, &machine));
        if (kept) keep(&machine, path);
    }
    TRY(set_sizes(options, &machine));
    *out = machine;
    return STATUS_OK;
}
