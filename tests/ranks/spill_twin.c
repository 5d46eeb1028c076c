/* A disk that fails, for machines without device mapper or nbdkit: preloaded, it stands before pread and pwrite of files without a
 * name, which only spill files are here. io_uring never passes by, so runs with it take --io threads.
 *
 *     SPILL_TWIN=read:eio:20      every read after the 20th of a process fails
 *     SPILL_TWIN=write:erofs:20   the file system takes no more writes
 *     SPILL_TWIN=read:slow:0      1 ms late
 *     SPILL_TWIN=read:crawl:0     20 ms late
 *     SPILL_TWIN=write:hang:20    never returns
 *     SPILL_TWIN=lies:nfs:0       every directory says that it lies on NFS */

#include <dlfcn.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/vfs.h>
#include <unistd.h>

#define EXPORTED __attribute__((visibility("default")))

static _Atomic long seen;

static bool is_spill_file(int descriptor) {
    struct stat found;
    return fstat(descriptor, &found) == 0 && S_ISREG(found.st_mode) && found.st_nlink == 0;
}

/* errno of what happens to this call, or 0. */
static int strike(const char *kind, int descriptor) {
    const char *plan = getenv("SPILL_TWIN");
    char wanted[16], how[16];
    long after;
    if (!plan || sscanf(plan, "%15[^:]:%15[^:]:%ld", wanted, how, &after) != 3) return 0;
    if (strcmp(wanted, kind) != 0 || !is_spill_file(descriptor)) return 0;
    if (atomic_fetch_add(&seen, 1) < after) return 0;
    if (strcmp(how, "eio") == 0) return EIO;
    if (strcmp(how, "erofs") == 0) return EROFS;
    if (strcmp(how, "slow") == 0) usleep(1000);
    if (strcmp(how, "crawl") == 0) usleep(20000);
    while (strcmp(how, "hang") == 0)
        pause();
    return 0;
}

EXPORTED ssize_t pread64(int descriptor, void *bytes, size_t count, off64_t offset) {
    static ssize_t (*real)(int, void *, size_t, off_t);
    if (!real) real = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread64");
    int failed = strike("read", descriptor);
    if (!failed) return real(descriptor, bytes, count, offset);
    errno = failed;
    return -1;
}

EXPORTED ssize_t pwrite64(int descriptor, const void *bytes, size_t count, off64_t offset) {
    static ssize_t (*real)(int, const void *, size_t, off_t);
    if (!real) real = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite64");
    int failed = strike("write", descriptor);
    if (!failed) return real(descriptor, bytes, count, offset);
    errno = failed;
    return -1;
}

EXPORTED int fstatfs64(int descriptor, struct statfs64 *out) {
    static int (*real)(int, struct statfs64 *);
    const char *plan = getenv("SPILL_TWIN");
    if (!real) real = (int (*)(int, struct statfs64 *))dlsym(RTLD_NEXT, "fstatfs64");
    int result = real(descriptor, out);
    if (result == 0 && plan && strncmp(plan, "lies:nfs:", 9) == 0) out->f_type = 0x6969;
    return result;
}
