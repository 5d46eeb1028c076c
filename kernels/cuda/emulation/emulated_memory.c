#include "kernels/cuda/emulation/emulated_memory.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum { PIECES_MAX = 4096, POISON = 0xFF, ALIGNMENT = 256 };
static const uint64_t huge_bytes = 2ull << 20;
static const uint64_t guard_bytes = 1ull << 20; /* a multiple of every page size; without access */

/* [slack][pages of the bytes][guard]; the bytes end at its border, but for the rounding to ALIGNMENT. Large pieces
 * begin at a huge page: rights change often, page by page. */
typedef struct Piece {
    uint8_t *mapping;
    uint64_t mapping_bytes;
    uint8_t *body;
    uint64_t body_bytes; /* whole pages */
    uint8_t *user;
    uint64_t user_bytes;
    MemoryPlace place;
} Piece;

struct EmulatedMemory {
    uint64_t page_bytes;
    uint64_t device_bytes_max, device_bytes_used;
    uint32_t open_depth;
    uint32_t piece_count;
    Piece pieces[PIECES_MAX]; /* by rising address */
};

Status emulated_memory_create(EmulatedMemory **out, uint64_t device_bytes_max) {
    void *taken;
    TRY(memory_take(&taken, 1, sizeof(EmulatedMemory), "the emulated device"));
    EmulatedMemory *memory = taken;
    memory->page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
    memory->device_bytes_max = device_bytes_max;
    *out = memory;
    return STATUS_OK;
}

static void piece_unmap(const Piece *piece) {
    munmap(piece->mapping, piece->mapping_bytes);
}

static bool piece_map(Piece *piece) {
    uint64_t slack = piece->body_bytes >= huge_bytes ? huge_bytes : 0;
    piece->mapping_bytes = slack + piece->body_bytes + guard_bytes;
    piece->mapping = mmap(NULL, piece->mapping_bytes, PROT_NONE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (piece->mapping == MAP_FAILED) return false;
    uint64_t past = (uintptr_t)piece->mapping % huge_bytes;
    piece->body = piece->mapping + (slack && past ? huge_bytes - past : 0);
    if (slack) madvise(piece->body, piece->body_bytes, MADV_HUGEPAGE); /* advice only */
    return true;
}

void emulated_memory_destroy(EmulatedMemory *memory) {
    if (!memory) return;
    for (uint32_t i = 0; i < memory->piece_count; i++)
        piece_unmap(&memory->pieces[i]);
    free(memory);
}

static void piece_protect(const Piece *piece, int rights) {
    CHECK(mprotect(piece->body, piece->body_bytes, rights) == 0);
}

uint64_t emulated_memory_free_bytes(const EmulatedMemory *memory) {
    return memory->device_bytes_max - memory->device_bytes_used;
}

/* Number of pieces that begin at or below the address. */
static uint32_t pieces_below(const EmulatedMemory *memory, const void *address) {
    uint32_t low = 0, high = memory->piece_count;
    while (low < high) {
        uint32_t middle = (low + high) / 2;
        if (memory->pieces[middle].user <= (const uint8_t *)address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void piece_insert(EmulatedMemory *memory, const Piece *piece) {
    uint32_t at = pieces_below(memory, piece->user);
    memmove(&memory->pieces[at + 1], &memory->pieces[at],
            (memory->piece_count - at) * sizeof(Piece));
    memory->pieces[at] = *piece;
    memory->piece_count++;
}

Status emulated_memory_take(EmulatedMemory *memory, MemoryPlace place, uint64_t bytes,
                            const char *what, void **out) {
    bool device = place == MEMORY_DEVICE;
    uint64_t rounded = align_up(bytes ? bytes : 1, ALIGNMENT);
    if (device && rounded > emulated_memory_free_bytes(memory))
        return device_fault_raise(
            DEVICE_FAULT_MEMORY, "emulated:0", "%s: %llu of the %llu bytes are left", what,
            (unsigned long long)emulated_memory_free_bytes(memory), (unsigned long long)bytes);
    if (memory->piece_count == PIECES_MAX)
        FAIL(MEMORY, "%s: the emulated device has no more than %d pieces of memory", what,
             PIECES_MAX);
    Piece piece = {
        .body_bytes = align_up(rounded, memory->page_bytes), .user_bytes = bytes, .place = place};
    if (!piece_map(&piece))
        FAIL(MEMORY, "%s: cannot map %llu bytes", what, (unsigned long long)bytes);
    piece.user = piece.body + piece.body_bytes - rounded;
    piece_protect(&piece, PROT_READ | PROT_WRITE);
    if (device) {
        memset(piece.body, POISON, piece.body_bytes);
        if (memory->open_depth == 0) piece_protect(&piece, PROT_NONE);
        memory->device_bytes_used += rounded;
    }
    piece_insert(memory, &piece);
    *out = piece.user;
    return STATUS_OK;
}

void emulated_memory_give(EmulatedMemory *memory, void *address) {
    if (!address) return;
    uint32_t at = pieces_below(memory, address);
    CHECK(at > 0 && memory->pieces[at - 1].user == address);
    const Piece *piece = &memory->pieces[at - 1];
    if (piece->place == MEMORY_DEVICE)
        memory->device_bytes_used -= align_up(piece->user_bytes ? piece->user_bytes : 1, ALIGNMENT);
    piece_unmap(piece);
    memory->piece_count--;
    memmove(&memory->pieces[at - 1], &memory->pieces[at],
            (memory->piece_count - (at - 1)) * sizeof(Piece));
}

static void protect_device(const EmulatedMemory *memory, int rights) {
    for (uint32_t i = 0; i < memory->piece_count; i++)
        if (memory->pieces[i].place == MEMORY_DEVICE) piece_protect(&memory->pieces[i], rights);
}

void emulated_memory_open(EmulatedMemory *memory) {
    if (memory->open_depth++ == 0) protect_device(memory, PROT_READ | PROT_WRITE);
}

void emulated_memory_close(EmulatedMemory *memory) {
    CHECK(memory->open_depth > 0);
    if (--memory->open_depth == 0) protect_device(memory, PROT_NONE);
}

bool emulated_memory_holds(const EmulatedMemory *memory, MemoryPlace place, const void *address,
                           uint64_t bytes) {
    uint32_t at = pieces_below(memory, address);
    if (at == 0) return false;
    const Piece *piece = &memory->pieces[at - 1];
    uint64_t offset = (uint64_t)((const uint8_t *)address - piece->user);
    return piece->place == place && offset <= piece->user_bytes &&
           bytes <= piece->user_bytes - offset;
}
