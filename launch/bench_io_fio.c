/* fio as the yardstick: the same file, by way of /proc, so that it lies on the same blocks and leaves nothing behind. */

#include <errno.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <jansson.h>

#include "launch/bench_io.h"

enum { ARGUMENT_BYTES = 64, FIO_FAILED = 127 };

static json_t *read_answer(int descriptor) {
    FILE *answer = fdopen(descriptor, "r");
    if (!answer) {
        close(descriptor);
        return NULL;
    }
    json_t *root = json_loadf(answer, JSON_DISABLE_EOF_CHECK, NULL);
    while (getc(answer) != EOF)
        ;
    fclose(answer);
    return root;
}

/* Its standard output, or NULL. Standard error is the caller's. */
static json_t *run_fio(char *const *arguments, char *out_why, uint32_t why_bytes) {
    int ends[2], how = 0;
    pid_t child;
    posix_spawn_file_actions_t actions;
    if (pipe(ends) != 0) {
        snprintf(out_why, why_bytes, "fio: pipe: %s", strerror(errno));
        return NULL;
    }
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, ends[0]);
    posix_spawn_file_actions_addclose(&actions, ends[1]);
    int failed = posix_spawnp(&child, arguments[0], &actions, NULL, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[1]);
    if (failed) {
        close(ends[0]);
        snprintf(out_why, why_bytes, "fio: %s; install it to see its speed here", strerror(failed));
        return NULL;
    }
    json_t *root = read_answer(ends[0]);
    waitpid(child, &how, 0);
    if (root && WIFEXITED(how) && WEXITSTATUS(how) == 0) return root;
    snprintf(out_why, why_bytes, "fio failed (exit %d)", WIFEXITED(how) ? WEXITSTATUS(how) : -1);
    json_decref(root);
    return NULL;
}

static double number(const json_t *object, const char *name) {
    return json_number_value(json_object_get(object, name));
}

static bool take_times(const json_t *root, const BenchIoLoad *load, BenchIoTimes *times) {
    const json_t *job = json_array_get(json_object_get(root, "jobs"), 0);
    const json_t *side = json_object_get(job, load->kind == RING_READ ? "read" : "write");
    const json_t *percentiles = json_object_get(json_object_get(side, "clat_ns"), "percentile");
    double bytes = number(side, "io_bytes"), seconds = number(side, "runtime") * 1e-3;
    if (bytes <= 0 || seconds <= 0) return false;
    uint32_t turn = times->turns++;
    times->bytes_per_second[turn] = bytes / seconds;
    times->cpu_seconds_per_byte[turn] =
        (number(job, "usr_cpu") + number(job, "sys_cpu")) / 100 * seconds / bytes;
    times->latency_p50[turn] = number(percentiles, "50.000000") * 1e-9;
    times->latency_p99[turn] = number(percentiles, "99.000000") * 1e-9;
    return true;
}

bool bench_io_fio_turn(const SpillFile *file, const BenchIoLoad *load, const BenchIoArea *area,
                       BenchIoTimes *times, char *out_why, uint32_t why_bytes) {
    char name[ARGUMENT_BYTES], bytes[ARGUMENT_BYTES], depth[ARGUMENT_BYTES], size[ARGUMENT_BYTES],
        time[ARGUMENT_BYTES];
    snprintf(name, sizeof name, "--filename=/proc/%d/fd/%d", (int)getpid(), file->descriptor);
    snprintf(bytes, sizeof bytes, "--bs=%" PRIu32, load->transfer_bytes);
    snprintf(depth, sizeof depth, "--iodepth=%" PRIu32, load->depth);
    snprintf(size, sizeof size, "--size=%" PRIu64, area->file_bytes);
    snprintf(time, sizeof time, "--runtime=%.0fms", load->seconds * 1e3);
    const char *arguments[] = {"fio",
                               "--name=spill",
                               "--ioengine=io_uring",
                               "--fixedbufs=1",
                               "--registerfiles=1",
                               "--time_based=1",
                               "--fallocate=none",
                               "--allow_file_create=0",
                               "--output-format=json",
                               load->kind == RING_READ ? "--rw=read" : "--rw=write",
                               file->direct ? "--direct=1" : "--direct=0",
                               name,
                               bytes,
                               depth,
                               size,
                               time,
                               NULL};
    json_t *root = run_fio((char *const *)arguments, out_why, why_bytes);
    if (!root) return false;
    bool taken = take_times(root, load, times);
    if (!taken) snprintf(out_why, why_bytes, "fio moved nothing");
    json_decref(root);
    return taken;
}
