/* Spill files: no trace in the directory while open or after kill -9, refusals with their numbers, and the ways out where a
 * file system lacks something. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "tiers/spill_file.h"

enum { FILE_BYTES = 1 << 20 };

static char directory[64];

static int make_directory(void **state) {
    (void)state;
    strcpy(directory, "/tmp/spill_file_XXXXXX");
    return mkdtemp(directory) ? 0 : -1;
}

/* Also the check that nothing remained: only an empty directory can be removed. */
static int remove_directory(void **state) {
    (void)state;
    return rmdir(directory);
}

static int count_entries(void) {
    DIR *listing = opendir(directory);
    int count = 0;
    assert_non_null(listing);
    while (readdir(listing))
        count++;
    closedir(listing);
    return count - 2;
}

static Status open_with(SpillFile *file, const char *fault) {
    IoFaultPlan plan = {0};
    if (fault) assert_int_equal(io_fault_add(&plan, fault), STATUS_OK);
    const SpillFileOptions options = {.directory = directory, .bytes = FILE_BYTES, .faults = &plan};
    return spill_file_open(file, &options);
}

static void has_no_name_and_its_full_size(void **state) {
    (void)state;
    SpillFile file;
    struct stat found;
    assert_int_equal(open_with(&file, NULL), STATUS_OK);
    assert_int_equal(count_entries(), 0);
    assert_int_equal(fstat(file.descriptor, &found), 0);
    assert_int_equal(found.st_mode & 07777, 0600);
    assert_int_equal(found.st_size, FILE_BYTES);
    if (file.allocated) assert_true(found.st_blocks * 512 >= FILE_BYTES);
    if (file.nameless) assert_int_equal(found.st_nlink, 0);
    assert_true(fcntl(file.descriptor, F_GETFD) & FD_CLOEXEC);
    assert_int_equal((fcntl(file.descriptor, F_GETFL) & O_DIRECT) != 0, file.direct);
    assert_true(file.direct ? file.alignment_bytes >= SPILL_ALIGNMENT_MIN
                            : file.alignment_bytes == 1 && file.buffered_reason[0]);
    spill_file_close(&file);
    spill_file_close(&file);
}

static void without_nameless_files_it_unlinks(void **state) {
    (void)state;
    SpillFile file;
    char leftover[128], other[128];
    snprintf(leftover, sizeof leftover, "%s/.spillway-spill-0123456789abcdef", directory);
    snprintf(other, sizeof other, "%s/notes.txt", directory);
    close(open(leftover, O_CREAT | O_WRONLY, 0600));
    close(open(other, O_CREAT | O_WRONLY, 0600));
    assert_int_equal(open_with(&file, "spill.tmpfile:eopnotsupp"), STATUS_OK);
    assert_false(file.nameless);
    assert_int_equal(count_entries(),
                     1); /* what a killed run left is gone, what others keep stays */
    spill_file_close(&file);
    assert_int_equal(unlink(other), 0);
}

static void without_direct_it_is_buffered_and_forgets(void **state) {
    (void)state;
    SpillFile file;
    static char text[1 << 16];
    memset(text, 7, sizeof text);
    assert_int_equal(open_with(&file, "spill.direct:einval"), STATUS_OK);
    assert_false(file.direct);
    assert_int_equal(file.alignment_bytes, 1);
    assert_non_null(strstr(file.buffered_reason, strerror(EINVAL)));
    assert_int_equal(pwrite(file.descriptor, text, sizeof text, 0), sizeof text);
    assert_int_equal(fdatasync(file.descriptor), 0);
    spill_file_forget(&file, 0, sizeof text);
    unsigned char resident[sizeof text / 4096];
    void *view = mmap(NULL, sizeof text, PROT_READ, MAP_SHARED, file.descriptor, 0);
    assert_ptr_not_equal(view, MAP_FAILED);
    assert_int_equal(mincore(view, sizeof text, resident), 0);
    bool in_memory = strcmp(file.file_system, "tmpfs") == 0;
    for (size_t i = 0; i < sizeof resident && !in_memory; i++)
        assert_false(resident[i] & 1);
    munmap(view, sizeof text);
    spill_file_close(&file);
}

static void without_allocation_it_has_its_size(void **state) {
    (void)state;
    SpillFile file;
    struct stat found;
    assert_int_equal(open_with(&file, "spill.allocate:eopnotsupp"), STATUS_OK);
    assert_false(file.allocated);
    assert_int_equal(fstat(file.descriptor, &found), 0);
    assert_int_equal(found.st_size, FILE_BYTES);
    spill_file_close(&file);
}

static void describes_itself(void **state) {
    (void)state;
    SpillFile file;
    char text[256];
    assert_int_equal(open_with(&file, "spill.direct:einval"), STATUS_OK);
    spill_file_describe(&file, text, sizeof text);
    assert_non_null(strstr(text, "buffered (direct I/O was refused"));
    spill_file_close(&file);
}

static void expect_failure(const char *fault, const char *where, ErrorCode code,
                           const char *words) {
    SpillFile file = {.descriptor = -7};
    IoFaultPlan plan = {0};
    const char *text;
    if (fault) assert_int_equal(io_fault_add(&plan, fault), STATUS_OK);
    const SpillFileOptions options = {.directory = where, .bytes = FILE_BYTES, .faults = &plan};
    error_capture_begin();
    Status status = spill_file_open(&file, &options);
    error_capture_end();
    assert_int_equal(status, error_row(code)->status);
    assert_int_equal(error_last(&text), code);
    assert_non_null(strstr(text, words));
    assert_int_equal(file.descriptor, -7);
}

static void refuses_with_a_reason(void **state) {
    (void)state;
    expect_failure(NULL, "/nowhere/at/all", ERROR_SPILL_CREATE, "/nowhere/at/all");
    expect_failure(NULL, "/dev/null", ERROR_SPILL_CREATE, strerror(ENOTDIR));
    expect_failure("spill.tmpfile:erofs", directory, ERROR_SPILL_CREATE, strerror(EROFS));
    expect_failure("spill.allocate:enospc", directory, ERROR_SPILL_SPACE, "1048576 bytes");
    assert_int_equal(chmod(directory, 0777), 0);
    expect_failure(NULL, directory, ERROR_SPILL_CREATE, "sticky");
    assert_int_equal(chmod(directory, 01777), 0);
    SpillFile file;
    assert_int_equal(open_with(&file, NULL), STATUS_OK);
    spill_file_close(&file);
}

/* Opens a file, says so, and waits to be killed. */
static void child_that_spills(const char *fault, int ready) {
    SpillFile file;
    if (open_with(&file, fault) == STATUS_OK && write(ready, "x", 1) == 1) pause();
    _exit(1);
}

static void a_killed_run_leaves_nothing(void **state) {
    (void)state;
    static const char *const faults[] = {NULL, "spill.tmpfile:eopnotsupp"};
    for (size_t i = 0; i < 2; i++) {
        int ready[2], how;
        char byte;
        assert_int_equal(pipe(ready), 0);
        pid_t child = fork();
        if (child == 0) child_that_spills(faults[i], ready[1]);
        close(ready[1]);
        assert_int_equal(read(ready[0], &byte, 1), 1);
        assert_int_equal(count_entries(), 0);
        assert_int_equal(kill(child, SIGKILL), 0);
        assert_int_equal(waitpid(child, &how, 0), child);
        assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGKILL);
        assert_int_equal(count_entries(), 0);
        close(ready[0]);
    }
}

/* A file that is there already: read as it lies, and there when it is closed. */
static void a_named_file_is_read_only(void **state) {
    (void)state;
    static const char *const faults[] = {NULL, "spill.direct:einval"};
    char path[96], text[256];
    SpillFile file;
    snprintf(path, sizeof path, "%s/kept", directory);
    int made = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(made, FILE_BYTES), 0);
    close(made);
    for (int i = 0; i < 2; i++) {
        IoFaultPlan plan = {0};
        if (faults[i]) assert_int_equal(io_fault_add(&plan, faults[i]), STATUS_OK);
        assert_int_equal(spill_file_open_named(&file, path, &plan), STATUS_OK);
        assert_int_equal(file.bytes, FILE_BYTES);
        assert_true(file.direct ? i == 0 && file.alignment_bytes == SPILL_ALIGNMENT_MIN
                                : file.alignment_bytes == 1 && file.buffered_reason[0]);
        assert_int_equal(write(file.descriptor, "x", 1), -1);
        spill_file_describe(&file, text, sizeof text);
        assert_non_null(strstr(text, "kept, read only"));
        spill_file_close(&file);
        assert_int_equal(count_entries(), 1);
    }
    assert_int_equal(unlink(path), 0);
    error_capture_begin();
    assert_int_equal(spill_file_open_named(&file, path, NULL), STATUS_NOT_FOUND);
    error_capture_end();
}

int main(void) {
#define IN_DIRECTORY(test) cmocka_unit_test_setup_teardown(test, make_directory, remove_directory)
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(has_no_name_and_its_full_size),
        IN_DIRECTORY(without_nameless_files_it_unlinks),
        IN_DIRECTORY(a_named_file_is_read_only),
        IN_DIRECTORY(without_direct_it_is_buffered_and_forgets),
        IN_DIRECTORY(without_allocation_it_has_its_size),
        IN_DIRECTORY(describes_itself),
        IN_DIRECTORY(refuses_with_a_reason),
        IN_DIRECTORY(a_killed_run_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
