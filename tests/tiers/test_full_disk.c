/* A disk that fills up: a small tmpfs, mounted in a namespace of this process alone. Skipped where mounting is not allowed. */

#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "runtime/base/log.h"
#include "tiers/ring.h"
#include "tiers/spill_file.h"

enum { MEBIBYTE = 1 << 20, DISK_MEBIBYTES = 16, TRANSFERS = 64, SKIPPED = 77 };

static char directory[] = "/tmp/full_disk_XXXXXX";

static bool mount_disk(void) {
    char options[32];
    snprintf(options, sizeof options, "size=%dm", DISK_MEBIBYTES);
    return mkdtemp(directory) && unshare(CLONE_NEWNS) == 0 &&
           mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
           mount("none", directory, "tmpfs", 0, options) == 0;
}

static uint64_t free_bytes(void) {
    struct statvfs space;
    assert_int_equal(statvfs(directory, &space), 0);
    return (uint64_t)space.f_bavail * space.f_frsize;
}

static Status open_file(SpillFile *file, uint64_t mebibytes, IoFaultPlan *faults) {
    const SpillFileOptions options = {
        .directory = directory, .bytes = mebibytes * MEBIBYTE, .faults = faults};
    return spill_file_open(file, &options);
}

static void a_file_that_does_not_fit_is_refused_at_start(void **state) {
    (void)state;
    SpillFile file;
    const char *text;
    error_capture_begin();
    assert_int_equal(open_file(&file, 2 * DISK_MEBIBYTES, NULL), STATUS_NO_SPACE);
    assert_int_equal(error_last(&text), ERROR_SPILL_SPACE);
    error_capture_end();
    assert_non_null(strstr(text, "33554432 bytes"));
    assert_int_equal(free_bytes(), DISK_MEBIBYTES * MEBIBYTE);
}

/* Not set aside ahead: the writes that find no room say so, in whatever order, and the others are whole. */
static void writes_without_room_say_so(void **state) {
    IoFaultPlan faults = {0};
    SpillFile file;
    Ring *ring;
    RingResult result;
    int whole = 0, refused = 0;
    assert_int_equal(io_fault_add(&faults, "spill.allocate:eopnotsupp"), STATUS_OK);
    assert_int_equal(open_file(&file, TRANSFERS, &faults), STATUS_OK);
    uint8_t *memory = aligned_alloc(4096, MEBIBYTE);
    assert_non_null(memory);
    memset(memory, 1, MEBIBYTE);
    const RingFile ring_file = {file.descriptor, file.alignment_bytes};
    const RingOptions options = {.engine = *state,
                                 .files = &ring_file,
                                 .file_count = 1,
                                 .depth = 16,
                                 .queue_count = TRANSFERS,
                                 .local_ranks = 1};
    assert_int_equal(ring_open(&ring, &options), STATUS_OK);
    for (uint64_t i = 0; i < TRANSFERS; i++) {
        const RingOperation write = {
            .kind = RING_WRITE, .memory = memory, .offset = i * MEBIBYTE, .bytes = MEBIBYTE};
        assert_int_equal(ring_submit(ring, &write, 1), 1);
    }
    while (ring_reap(ring, &result, 1, 20000000000ull) == 1) {
        bool full = result.error == RING_ERROR_NONE;
        assert_true(full ? result.bytes == MEBIBYTE : result.error == RING_ERROR_NO_SPACE);
        whole += full;
        refused += !full;
    }
    assert_int_equal(whole + refused, TRANSFERS);
    assert_true(whole > 0 && whole <= DISK_MEBIBYTES);
    ring_close(ring);
    spill_file_close(&file);
    free(memory);
    assert_int_equal(free_bytes(), DISK_MEBIBYTES * MEBIBYTE);
}

static void a_killed_run_gives_its_space_back(void **state) {
    (void)state;
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        SpillFile file;
        if (open_file(&file, DISK_MEBIBYTES / 2, NULL) == STATUS_OK && write(ready[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_true(free_bytes() <= DISK_MEBIBYTES / 2 * MEBIBYTE);
    kill(child, SIGKILL);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(free_bytes(), DISK_MEBIBYTES * MEBIBYTE);
    close(ready[0]);
}

int main(void) {
    const LogOptions quiet = {.level = LOG_ERROR, .descriptor = 2, .rank = -1};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_that_does_not_fit_is_refused_at_start),
        cmocka_unit_test_prestate(writes_without_room_say_so, "auto"),
        cmocka_unit_test_prestate(writes_without_room_say_so, "threads"),
        cmocka_unit_test(a_killed_run_gives_its_space_back),
    };
    if (!mount_disk()) {
        print_message("skipped: mounting a tmpfs is not allowed here\n");
        rmdir(directory);
        return SKIPPED;
    }
    log_configure(&quiet); /* the warning that tmpfs is no disk is not news here */
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    umount(directory);
    rmdir(directory);
    return failed;
}
