/* What this machine offers and what stands in the way: one line a check, with the fix. Looks only, changes nothing. */

#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <jansson.h>

#include "kernels/backend.h"
#include "kernels/cpu_features.h"
#include "launch/command.h"
#include "launch/launcher.h"
#include "launch/rank_place.h"
#include "launch/topology.h"
#include "runtime/base/machine.h"
#include "runtime/comm/comm.h"
#include "runtime/comm/nccl_api.h"
#include "tiers/ring.h"
#include "tiers/spill_file.h"

enum { STAGING_BYTES = 16 << 20, IO_DEPTH = 32 };

typedef enum Verdict { VERDICT_OK, VERDICT_WARN, VERDICT_FAIL } Verdict;

static const char *const verdict_names[] = {"ok", "warn", "fail"};

typedef struct Finding {
    Verdict verdict;
    uint32_t round; /* of a check that finds more than one thing */
    bool again;     /* there is another round */
    char text[768];
    char fix[256]; /* "" when there is nothing to do */
} Finding;

static void say(Finding *finding, Verdict verdict, const char *fix, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

static void say(Finding *finding, Verdict verdict, const char *fix, const char *format, ...) {
    finding->verdict = verdict;
    snprintf(finding->fix, sizeof finding->fix, "%s", fix);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(finding->text, sizeof finding->text, format, arguments);
    va_end(arguments);
}

/* The first number behind `key` in a file of lines; false when it is not there. */
static bool read_number(const char *path, const char *key, unsigned long long *out) {
    FILE *file = fopen(path, "re");
    char line[256];
    bool found = false;
    while (file && !found && fgets(line, sizeof line, file))
        found =
            strncmp(line, key, strlen(key)) == 0 && sscanf(line + strlen(key), " %llu", out) == 1;
    if (file) fclose(file);
    return found;
}

static void check_cpu(const Settings *settings, Finding *out) {
    uint32_t features = cpu_features();
    const BackendOptions options = {.cpu_isa = settings->cpu_isa};
    Device *device;
    Kernels kernels;
    error_capture_begin();
    Status status = backend_open("cpu", &options, &device, &kernels);
    error_capture_end();
    const char *text;
    error_last(&text);
    if (status != STATUS_OK) {
        say(out, VERDICT_FAIL, "leave out --cpu-isa", "%s", text);
        return;
    }
    bool fast = features & (CPU_AVX2 | CPU_AVX512);
    say(out, fast ? VERDICT_OK : VERDICT_WARN,
        fast ? "" : "the plain C kernels are many times slower: use a CPU with AVX2",
        "%s; kernels %s", cpu_features_text(), kernels.name);
    device->close(device);
}

static void check_backends(const Settings *settings, Finding *out) {
    (void)settings;
    char text[200] = "";
    for (const Backend *const *row = backends; *row; row++) {
        const char *reason = NULL;
        bool good = (*row)->probe(&reason) == STATUS_OK;
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, "%s%s%s%s", used ? ", " : "", (*row)->name,
                 good ? "" : " not: ", good || !reason ? "" : reason);
    }
    say(out, VERDICT_OK, "", "%s", text);
}

static bool have_gpu(void) {
    const char *reason;
    for (const Backend *const *row = backends; *row; row++)
        if (strcmp((*row)->name, "cuda") == 0) return (*row)->probe(&reason) == STATUS_OK;
    return false;
}

/* Only ranks with GPUs miss it. */
static void check_nccl(const Settings *settings, Finding *out) {
    (void)settings;
    const char *reason;
    int version = 0;
    bool gpus = have_gpu();
    const NcclApi *api = nccl_library_find("nccl")->open(&reason);
    if (api && api->get_version(&version) == NCCL_SUCCESS)
        say(out, VERDICT_OK, "", "%d.%d.%d", version / 10000, version / 100 % 100, version % 100);
    else
        say(out, gpus ? VERDICT_WARN : VERDICT_OK,
            gpus ? "install libnccl2: without it GPUs sum over ranks through host memory" : "",
            "not here: %s", reason);
}

static void check_cores(const Settings *settings, Finding *out) {
    (void)settings;
    cpu_set_t set;
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    int mine = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : (int)online;
    bool few = mine < online;
    say(out, few ? VERDICT_WARN : VERDICT_OK,
        few ? "this process is bound: start ranks with mpirun --bind-to none, or ask for more cores"
            : "",
        "%d of %ld hardware threads for this process", mine, online);
}

static void check_memory(const Settings *settings, Finding *out) {
    (void)settings;
    unsigned long long total_kib = 0, limit = 0;
    const double gibibyte = 1 << 30;
    double available = (double)machine_available_bytes() / gibibyte;
    read_number("/proc/meminfo", "MemTotal:", &total_kib);
    bool limited = read_number("/sys/fs/cgroup/memory.max", "", &limit);
    char group[64] = "";
    if (limited)
        snprintf(group, sizeof group, ", control group %.1f GiB", (double)limit / gibibyte);
    bool low = available < 1;
    say(out, low ? VERDICT_WARN : VERDICT_OK,
        low ? "less than 1 GiB is free: give a small --kv-device-size" : "",
        "%.1f of %.1f GiB free%s", available, (double)total_kib / (1 << 20), group);
}

static void describe_limit(rlim_t limit, char *out, size_t out_bytes) {
    if (limit == RLIM_INFINITY)
        snprintf(out, out_bytes, "no limit");
    else
        snprintf(out, out_bytes, "%llu", (unsigned long long)limit);
}

static void check_memlock(const Settings *settings, Finding *out) {
    (void)settings;
    struct rlimit limit = {0, 0};
    char text[40];
    getrlimit(RLIMIT_MEMLOCK, &limit);
    describe_limit(limit.rlim_cur, text, sizeof text);
    bool small = limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < 8 << 20;
    say(out, small ? VERDICT_WARN : VERDICT_OK,
        small ? "direct I/O is faster from registered memory: ulimit -l unlimited, or memlock in "
                "/etc/security/limits.conf"
              : "",
        "%s bytes", text);
}

static void check_files(const Settings *settings, Finding *out) {
    (void)settings;
    struct rlimit limit = {0, 0};
    char text[40];
    getrlimit(RLIMIT_NOFILE, &limit);
    describe_limit(limit.rlim_cur, text, sizeof text);
    bool small = limit.rlim_cur != RLIM_INFINITY && limit.rlim_cur < 256;
    say(out, small ? VERDICT_WARN : VERDICT_OK, small ? "ulimit -n 1024" : "", "%s", text);
}

static void check_huge_pages(const Settings *settings, Finding *out) {
    (void)settings;
    char text[64] = "";
    FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "re");
    if (!file || !fgets(text, sizeof text, file)) snprintf(text, sizeof text, "not in this kernel");
    if (file) fclose(file);
    text[strcspn(text, "\n")] = 0;
    bool never = strstr(text, "[never]") != NULL;
    say(out, never ? VERDICT_WARN : VERDICT_OK,
        never ? "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled" : "",
        "transparent: %s", text);
}

static void check_topology(const Settings *settings, Finding *out) {
    (void)settings;
    Topology *topology = topology_open(false);
    if (!topology) {
        say(out, VERDICT_WARN, "", "hwloc cannot read the topology");
        return;
    }
    TopologyCounts counts = topology_counts(topology);
    say(out, VERDICT_OK,
        counts.nodes > 1 ? "one rank a NUMA node keeps weights near their cores: --ranks" : "",
        "%d NUMA node%s, %d package%s, %d core%s", counts.nodes, counts.nodes == 1 ? "" : "s",
        counts.packages, counts.packages == 1 ? "" : "s", counts.cores,
        counts.cores == 1 ? "" : "s");
    topology_close(topology);
}

/* One finding a rank of the node: as many as were asked for, else one a GPU. */
static void check_places(const Settings *settings, Finding *out) {
    RankPlace place;
    char text[RANK_PLACE_TEXT_BYTES];
    rank_place_find(settings, NULL, (int)out->round, &place);
    if (!place.on_bus) {
        say(out, VERDICT_OK, "", "no device on the PCI bus: ranks run where they are started");
        return;
    }
    Topology *topology = topology_open(true);
    rank_place_find(settings, topology, (int)out->round, &place);
    bool several = topology && topology_counts(topology).nodes > 1;
    topology_close(topology);
    uint32_t ranks = settings->ranks > 0 ? (uint32_t)settings->ranks : place.device.count;
    out->again = out->round + 1 < ranks;
    rank_place_text(&place, text);
    bool lost = several && !place.found;
    say(out, lost ? VERDICT_WARN : VERDICT_OK,
        lost ? "bind ranks yourself (mpirun --map-by, srun --cpu-bind): which node is nearest is "
               "not known"
             : "",
        "rank %u of a node: %s", out->round, text);
}

/* Is there such a program on the PATH? */
static bool find_program(const char *name, char *out, size_t out_bytes) {
    const char *path = getenv("PATH");
    for (const char *at = path ? path : ""; *at;) {
        size_t bytes = strcspn(at, ":");
        snprintf(out, out_bytes, "%.*s/%s", (int)bytes, at, name);
        if (bytes > 0 && access(out, X_OK) == 0) return true;
        at += bytes + (at[bytes] == ':');
    }
    return false;
}

static void check_mpi(const Settings *settings, Finding *out) {
    (void)settings;
    char path[512];
    LauncherPlace place = {0};
    if (!comm_mpi_built()) {
        say(out, VERDICT_WARN, "for --ranks: install libopenmpi-dev and build again",
            "not in this build; one rank only");
        return;
    }
    if (!find_program("mpirun", path, sizeof path)) {
        say(out, VERDICT_WARN, "for --ranks: apt-get install openmpi-bin",
            "built with it, but there is no mpirun on the PATH");
        return;
    }
    error_capture_begin();
    bool placed = launcher_find(&place) == STATUS_OK && place.name;
    error_capture_end();
    say(out, VERDICT_OK, "", "%.200s%s%s", path, placed ? ", running under " : "",
        placed ? place.name : "");
}

static void check_shared_memory(const Settings *settings, Finding *out) {
    (void)settings;
    struct statvfs about;
    if (statvfs("/dev/shm", &about) != 0) {
        say(out, VERDICT_WARN, "mount a tmpfs on /dev/shm: ranks of a node talk through it",
            "/dev/shm: %s", strerror(errno));
        return;
    }
    double mebibytes = (double)about.f_bavail * (double)about.f_frsize / (1 << 20);
    bool small = mebibytes < 64;
    say(out, small ? VERDICT_WARN : VERDICT_OK,
        small ? "make it larger (docker: --shm-size 1g)" : "", "/dev/shm has %.0f MiB free",
        mebibytes);
}

static void check_io(const Settings *settings, Finding *out) {
    (void)settings;
    const char *name;
    char why[160];
    if (!ring_probe(0, &name, why, sizeof why)) return;
    bool works = strcmp(why, "yes") == 0;
    say(out, works ? VERDICT_OK : VERDICT_WARN,
        works ? "" : "a pool of threads does its work, with more CPU time", "%s: %s", name, why);
}

/* What a run would get from this file and this process: registered or not, and by which engine. */
static void describe_io(const SpillFile *file, char *out, size_t out_bytes) {
    const RingFile files[] = {{file->descriptor, file->alignment_bytes}};
    RingOptions options = {.engine = "auto",
                           .files = files,
                           .file_count = 1,
                           .staging = aligned_alloc(SPILL_ALIGNMENT_MIN, STAGING_BYTES),
                           .staging_bytes = STAGING_BYTES,
                           .depth = IO_DEPTH,
                           .queue_count = IO_DEPTH};
    Ring *ring;
    const char *reason;
    error_capture_begin();
    Status status = ring_open(&ring, &options);
    error_capture_end();
    error_last(&reason);
    if (status == STATUS_OK) {
        ring_describe(ring_facts(ring), out, (uint32_t)out_bytes);
        ring_close(ring);
    } else {
        snprintf(out, out_bytes, "%s", reason);
    }
    free(options.staging);
}

/* One finding a directory. */
static void check_spill(const Settings *settings, Finding *out) {
    bool given = settings->kv_nvme_dir.count > 0;
    const SpillFileOptions options = {.directory = given ? settings->kv_nvme_dir.items[out->round]
                                                         : settings->dir,
                                      .bytes = 1 << 20,
                                      .silent = true};
    out->again = out->round + 1 < settings->kv_nvme_dir.count;
    SpillFile file;
    const char *reason;
    char text[256], io[256];
    error_capture_begin();
    Status status = spill_file_open(&file, &options);
    error_capture_end();
    error_last(&reason);
    if (status != STATUS_OK) {
        say(out, given ? VERDICT_FAIL : VERDICT_WARN, "--kv-nvme-dir names another directory", "%s",
            reason);
        return;
    }
    spill_file_describe(&file, text, sizeof text);
    describe_io(&file, io, sizeof io);
    const char *wrong = file.warning ? file.warning
                        : file.direct
                            ? ""
                            : "give a local disk: spilled bytes go through the page cache";
    say(out, wrong[0] ? VERDICT_WARN : VERDICT_OK, wrong, "\"%.200s\": %s; %s", options.directory,
        text, io);
    spill_file_close(&file);
}

static const struct {
    const char *name;
    void (*check)(const Settings *settings, Finding *out);
} checks[] = {
    {"cpu", check_cpu},         {"backends", check_backends},
    {"nccl", check_nccl},       {"cores", check_cores},
    {"memory", check_memory},   {"numa", check_topology},
    {"places", check_places},   {"huge pages", check_huge_pages},
    {"memlock", check_memlock}, {"open files", check_files},
    {"mpi", check_mpi},         {"shared memory", check_shared_memory},
    {"io", check_io},           {"spill files", check_spill},
};

/* Onto the list, or without one as a line. */
static void tell(const char *check, const Finding *finding, json_t *list) {
    const char *verdict = verdict_names[finding->verdict];
    if (list)
        json_array_append_new(list, json_pack("{ss ss ss ss}", "check", check, "verdict", verdict,
                                              "finding", finding->text, "fix", finding->fix));
    else
        printf("%-4s  %-14s %s%s%s\n", verdict, check, finding->text, finding->fix[0] ? "; " : "",
               finding->fix);
}

static int doctor(const Settings *settings) {
    bool failed = false;
    json_t *list = json_array();
    for (size_t i = 0; i < sizeof checks / sizeof *checks; i++) {
        Finding finding = {.again = true};
        for (uint32_t round = 0; finding.again; round++) {
            finding = (Finding){.verdict = VERDICT_OK, .round = round};
            checks[i].check(settings, &finding);
            failed |= finding.verdict == VERDICT_FAIL;
            tell(checks[i].name, &finding, settings->json ? list : NULL);
        }
    }
    if (settings->json) {
        json_dumpf(list, stdout, JSON_INDENT(2));
        putchar('\n');
    }
    json_decref(list);
    return failed ? error_row(ERROR_UNAVAILABLE)->exit_code : 0;
}

const Command command_doctor[] = {
    {.name = "doctor",
     .summary = "check this machine: one line each, and the fix",
     .positionals = "",
     .needs = "",
     .takes = "backend emulation-pci ranks cpu-isa json dir kv-nvme-dir",
     .run = doctor},
    {.name = NULL},
};
