#include "tiers/spill_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "runtime/base/log.h"

/* A file with this prefix in its name is one that a run left between creating and unlinking it. */
#define NAME_PREFIX ".spillway-spill-"

enum { NAME_TRIES = 100, NAME_BYTES = sizeof NAME_PREFIX + 16 };

/* ---- the directory ---- */

typedef struct FileSystemRow {
    uint64_t magic; /* statfs f_type */
    const char *name;
    const char *warning; /* what is bad about spilling there; NULL */
} FileSystemRow;

static const char slow_warning[] =
    "is a network file system: slow, and a killed run may leave its file there for a while; give "
    "a local disk";
static const char memory_warning[] = "lies in memory: spilling there frees none; give a disk";

static const FileSystemRow file_systems[] = {
    {0x6969, "nfs", slow_warning},         {0xfe534d42, "smb", slow_warning},
    {0xff534d42, "cifs", slow_warning},    {0x0bd00bd0, "lustre", slow_warning},
    {0x00c36400, "ceph", slow_warning},    {0x47504653, "gpfs", slow_warning},
    {0x19830326, "beegfs", slow_warning},  {0x01021997, "9p", slow_warning},
    {0x5346414f, "afs", slow_warning},     {0x65735546, "fuse", NULL},
    {0x01021994, "tmpfs", memory_warning}, {0x858458f6, "ramfs", memory_warning},
};

static const FileSystemRow *find_file_system(int directory) {
    static const FileSystemRow local = {0, "local", NULL};
    struct statfs found;
    if (fstatfs(directory, &found) != 0) return &local;
    for (size_t i = 0; i < sizeof file_systems / sizeof *file_systems; i++)
        if (file_systems[i].magic == ((uint64_t)found.f_type & 0xffffffff)) return &file_systems[i];
    return &local;
}

static const char *directory_option(const SpillFileOptions *options) {
    return options->directory_option ? options->directory_option : "--kv-nvme-dir";
}

static Status open_directory(const SpillFileOptions *options, int *out) {
    const char *path = options->directory;
    struct stat found;
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0)
        FAIL(SPILL_CREATE, "spill directory \"%s\": %s; see %s", path, strerror(errno),
             directory_option(options));
    if (fstat(directory, &found) == 0 &&
        ((found.st_mode & S_IWOTH) == 0 || (found.st_mode & S_ISVTX) != 0)) {
        *out = directory;
        return STATUS_OK;
    }
    close(directory);
    FAIL(SPILL_CREATE,
         "spill directory \"%s\" can be written by everyone and has no sticky bit: others could "
         "exchange files; chmod o-w or +t, or see %s",
         path, directory_option(options));
}

const char *spill_directory_objection(const char *path) {
    int directory = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (directory < 0) return strerror(errno);
    const FileSystemRow *found = find_file_system(directory);
    close(directory);
    return found->warning;
}

/* ---- the file ---- */

/* Its maker has it open and unlinks it, or is dead: either way the name may go. */
static void remove_leftovers(int directory) {
    int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *listing = copy < 0 ? NULL : fdopendir(copy);
    if (!listing) {
        if (copy >= 0) close(copy);
        return;
    }
    for (struct dirent *entry; (entry = readdir(listing));)
        if (strncmp(entry->d_name, NAME_PREFIX, strlen(NAME_PREFIX)) == 0)
            unlinkat(directory, entry->d_name, 0);
    closedir(listing);
}

/* Descriptor, or -errno. */
static int create_and_unlink(int directory) {
    remove_leftovers(directory);
    for (int i = 0; i < NAME_TRIES; i++) {
        uint64_t number;
        char name[NAME_BYTES + 1];
        if (getrandom(&number, sizeof number, 0) != sizeof number) return -EIO;
        snprintf(name, sizeof name, NAME_PREFIX "%016" PRIx64, number);
        int descriptor =
            openat(directory, name, O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
        if (descriptor < 0 && errno == EEXIST) continue;
        if (descriptor < 0) return -errno;
        if (unlinkat(directory, name, 0) == 0 || errno == ENOENT) return descriptor;
        int failed = errno;
        close(descriptor);
        return -failed;
    }
    return -EEXIST;
}

static int create_nameless(int directory, IoFaultPlan *faults) {
    IoFault fault = io_fault_next(faults, IO_FAULT_TMPFILE);
    if (fault.kind == IO_FAULT_ERROR) return -fault.os_error;
    int descriptor = openat(directory, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    return descriptor < 0 ? -errno : descriptor;
}

static Status create(SpillFile *file, int directory, const SpillFileOptions *options) {
    int made = create_nameless(directory, options->faults);
    file->nameless = made >= 0;
    if (made == -EOPNOTSUPP || made == -EISDIR || made == -EINVAL || made == -ENOENT)
        made = create_and_unlink(directory);
    if (made < 0)
        FAIL(SPILL_CREATE, "spill file in \"%s\": %s; see %s", options->directory, strerror(-made),
             directory_option(options));
    file->descriptor = made;
    return STATUS_OK;
}

/* ---- its space ---- */

static Status fail_space(const SpillFile *file, const SpillFileOptions *options, int failed) {
    struct statvfs space;
    uint64_t available =
        fstatvfs(file->descriptor, &space) == 0 ? (uint64_t)space.f_bavail * space.f_frsize : 0;
    FAIL(SPILL_SPACE,
         "spill file in \"%s\": cannot set %" PRIu64 " bytes aside, %" PRIu64
         " are free: %s; see %s",
         options->directory, options->bytes, available, strerror(failed),
         options->size_option ? options->size_option : "--kv-nvme-size");
}

static int allocate_once(const SpillFile *file, const SpillFileOptions *options) {
    IoFault fault = io_fault_next(options->faults, IO_FAULT_ALLOCATE);
    if (fault.kind == IO_FAULT_ERROR) return fault.os_error;
    int failed;
    do
        failed = fallocate(file->descriptor, 0, 0, (off_t)options->bytes) == 0 ? 0 : errno;
    while (failed == EINTR);
    return failed;
}

static Status allocate(SpillFile *file, const SpillFileOptions *options) {
    int failed = allocate_once(file, options);
    file->allocated = failed == 0;
    if (failed == EOPNOTSUPP || failed == ENOSYS)
        failed = ftruncate(file->descriptor, (off_t)options->bytes) == 0 ? 0 : errno;
    return failed ? fail_space(file, options, failed) : STATUS_OK;
}

/* ---- direct I/O ---- */

/* What the file system says it needs; SPILL_ALIGNMENT_MIN where it says nothing, 0 where it says no. */
static uint32_t stated_alignment(int descriptor) {
#ifdef STATX_DIOALIGN
    struct statx found;
    if (statx(descriptor, "", AT_EMPTY_PATH, STATX_DIOALIGN, &found) == 0 &&
        (found.stx_mask & STATX_DIOALIGN) != 0) {
        uint32_t most = found.stx_dio_offset_align > found.stx_dio_mem_align
                            ? found.stx_dio_offset_align
                            : found.stx_dio_mem_align;
        return most > 0 && most < SPILL_ALIGNMENT_MIN ? SPILL_ALIGNMENT_MIN : most;
    }
#endif
    (void)descriptor;
    return SPILL_ALIGNMENT_MIN;
}

/* One unit is really written, where it may be, and read: some file systems accept the flag and refuse the transfer. 0 or errno. */
static int try_direct(int descriptor, uint32_t alignment, bool read_only) {
    void *unit = aligned_alloc(alignment, alignment);
    if (!unit) return ENOMEM;
    memset(unit, 0, alignment);
    bool written = read_only || pwrite(descriptor, unit, alignment, 0) == (ssize_t)alignment;
    int failed = written && pread(descriptor, unit, alignment, 0) == (ssize_t)alignment ? 0 : errno;
    free(unit);
    return failed;
}

static int set_direct(int descriptor, bool on) {
    int flags = fcntl(descriptor, F_GETFL);
    int wanted = on ? flags | O_DIRECT : flags & ~O_DIRECT;
    return flags >= 0 && fcntl(descriptor, F_SETFL, wanted) == 0 ? 0 : errno;
}

static int turn_direct_on(SpillFile *file, uint32_t alignment, IoFaultPlan *faults) {
    IoFault fault = io_fault_next(faults, IO_FAULT_DIRECT);
    if (fault.kind == IO_FAULT_ERROR) return fault.os_error;
    int failed = set_direct(file->descriptor, true);
    if (failed) return failed;
    failed = try_direct(file->descriptor, alignment, file->read_only);
    if (failed) set_direct(file->descriptor, false);
    return failed;
}

static void choose_direct(SpillFile *file, IoFaultPlan *faults) {
    uint32_t alignment = stated_alignment(file->descriptor);
    file->alignment_bytes = 1;
    if (alignment == 0 || !is_power_of_two(alignment) || file->bytes % alignment != 0) {
        snprintf(file->buffered_reason, sizeof file->buffered_reason,
                 "the file system offers no direct I/O in units that fit (%u bytes)", alignment);
        return;
    }
    int failed = turn_direct_on(file, alignment, faults);
    if (failed) {
        snprintf(file->buffered_reason, sizeof file->buffered_reason, "direct I/O was refused: %s",
                 strerror(failed));
        return;
    }
    file->direct = true;
    file->alignment_bytes = alignment;
}

/* ---- the owner's calls ---- */

Status spill_file_open(SpillFile *out, const SpillFileOptions *options) {
    CHECK(options->bytes > 0 && options->bytes % SPILL_ALIGNMENT_MIN == 0 &&
          options->bytes <= INT64_MAX);
    SpillFile file = {.descriptor = -1, .bytes = options->bytes};
    int directory = -1;
    TRY(open_directory(options, &directory));
    const FileSystemRow *found = find_file_system(directory);
    file.file_system = found->name;
    file.warning = found->warning;
    Status status = create(&file, directory, options);
    close(directory);
    if (status == STATUS_OK) status = allocate(&file, options);
    if (status != STATUS_OK) {
        spill_file_close(&file);
        return status;
    }
    choose_direct(&file, options->faults);
    if (found->warning && !options->silent)
        log_warning("E-SPILL-CREATE", "spill directory \"%s\" (%s) %s", options->directory,
                    found->name, found->warning);
    *out = file;
    return STATUS_OK;
}

/* Its places are in units of SPILL_ALIGNMENT_MIN: where direct I/O takes no such units, it is read through the page cache. */
Status spill_file_open_named(SpillFile *out, const char *path, IoFaultPlan *faults) {
    struct stat found;
    SpillFile file = {.read_only = true, .alignment_bytes = 1};
    file.descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (file.descriptor < 0) FAIL(FILE_MISSING, "\"%s\": %s", path, strerror(errno));
    if (fstat(file.descriptor, &found) == 0) file.bytes = (uint64_t)found.st_size;
    const FileSystemRow *row = find_file_system(file.descriptor);
    file.file_system = row->name;
    file.warning = row->warning;
    choose_direct(&file, faults);
    if (file.alignment_bytes > SPILL_ALIGNMENT_MIN) {
        set_direct(file.descriptor, false);
        file.direct = false;
        file.alignment_bytes = 1;
        snprintf(file.buffered_reason, sizeof file.buffered_reason,
                 "direct I/O needs units of more than %d bytes", SPILL_ALIGNMENT_MIN);
    }
    *out = file;
    return STATUS_OK;
}

void spill_file_close(SpillFile *file) {
    if (file->descriptor >= 0) close(file->descriptor);
    file->descriptor = -1;
}

void spill_file_forget(const SpillFile *file, uint64_t offset, uint64_t bytes) {
    if (file->direct) return;
    sync_file_range(file->descriptor, (off_t)offset, (off_t)bytes, SYNC_FILE_RANGE_WRITE);
    posix_fadvise(file->descriptor, (off_t)offset, (off_t)bytes, POSIX_FADV_DONTNEED);
}

void spill_file_describe(const SpillFile *file, char *out_text, uint32_t text_bytes) {
    char access[160];
    if (file->direct)
        snprintf(access, sizeof access, "direct I/O in units of %u", file->alignment_bytes);
    else
        snprintf(access, sizeof access, "buffered (%s)", file->buffered_reason);
    const char *name = file->nameless ? "no name" : file->read_only ? "kept" : "unlinked";
    const char *place = file->allocated ? "allocated" : "not allocated ahead";
    snprintf(out_text, text_bytes, "%.1f MiB, %s, %s, %s, file system %s",
             (double)file->bytes / (1 << 20), access, name, file->read_only ? "read only" : place,
             file->file_system);
}
