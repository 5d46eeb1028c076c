#include "runtime/comm/shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void *map_descriptor(int descriptor, uint64_t size_bytes) {
    void *base = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    return base == MAP_FAILED ? NULL : base;
}

Status shared_memory_create(SharedMemory *out, uint64_t size_bytes,
                            SharedMemoryTicket *out_ticket) {
    struct stat file;
    int descriptor = memfd_create("spillway", MFD_CLOEXEC);
    if (descriptor < 0)
        FAIL(MEMORY, "memory shared by the ranks of this node: %s", strerror(errno));
    void *base = NULL;
    if (fstat(descriptor, &file) == 0 && ftruncate(descriptor, (off_t)size_bytes) == 0)
        base = map_descriptor(descriptor, size_bytes);
    if (!base) {
        int cause = errno;
        close(descriptor);
        FAIL(MEMORY, "%llu bytes shared by the ranks of this node: %s",
             (unsigned long long)size_bytes, strerror(cause));
    }
    *out = (SharedMemory){.base = base, .size_bytes = size_bytes, .descriptor = descriptor};
    *out_ticket = (SharedMemoryTicket){.size_bytes = size_bytes,
                                       .device = file.st_dev,
                                       .inode = file.st_ino,
                                       .process = getpid(),
                                       .descriptor = descriptor};
    return STATUS_OK;
}

Status shared_memory_open(SharedMemory *out, const SharedMemoryTicket *ticket) {
    char path[64];
    struct stat file;
    snprintf(path, sizeof path, "/proc/%d/fd/%d", ticket->process, ticket->descriptor);
    int descriptor = open(path, O_RDWR | O_CLOEXEC);
    if (descriptor < 0) return STATUS_NOT_FOUND;
    void *base = NULL;
    if (fstat(descriptor, &file) == 0 && file.st_dev == ticket->device &&
        file.st_ino == ticket->inode && (uint64_t)file.st_size == ticket->size_bytes)
        base = map_descriptor(descriptor, ticket->size_bytes);
    close(descriptor);
    if (!base) return STATUS_NOT_FOUND;
    *out = (SharedMemory){.base = base, .size_bytes = ticket->size_bytes, .descriptor = -1};
    return STATUS_OK;
}

void shared_memory_close_door(SharedMemory *memory) {
    if (memory->descriptor >= 0) close(memory->descriptor);
    memory->descriptor = -1;
}

void shared_memory_destroy(SharedMemory *memory) {
    if (!memory->base) return;
    shared_memory_close_door(memory);
    munmap(memory->base, memory->size_bytes);
    memory->base = NULL;
}
