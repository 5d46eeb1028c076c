#include "tiers/extent.h"

#include <stdlib.h>

#include "runtime/base/arena.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"

enum { NO_SLAB = UINT32_MAX, NO_CLASS = UINT32_MAX, WORD_BITS = 64 };

#define SLAB_BYTES_MIN (4ull << 20)

typedef struct Slab {
    uint32_t class_index; /* NO_CLASS while nothing in it is taken */
    uint32_t slot_count, taken_count;
    uint32_t before, after; /* in the list that it is in: unused, or of its class with room */
} Slab;

struct ExtentSpace {
    ExtentOptions options;
    uint32_t slab_count;
    uint32_t words_per_slab;
    Slab *slabs;     /* [slab_count] */
    uint64_t *taken; /* [slab_count][words_per_slab] a bit a slot */
    uint32_t unused; /* lists: first slab */
    uint32_t with_room[EXTENT_CLASSES_MAX];
    ExtentStats stats;
};

/* ---- lists of slabs ---- */

static void link_first(ExtentSpace *space, uint32_t *list, uint32_t index) {
    Slab *slab = &space->slabs[index];
    slab->before = NO_SLAB;
    slab->after = *list;
    if (*list != NO_SLAB) space->slabs[*list].before = index;
    *list = index;
}

static void unlink_slab(ExtentSpace *space, uint32_t *list, uint32_t index) {
    Slab *slab = &space->slabs[index];
    if (slab->before == NO_SLAB)
        *list = slab->after;
    else
        space->slabs[slab->before].after = slab->after;
    if (slab->after != NO_SLAB) space->slabs[slab->after].before = slab->before;
}

/* ---- slots of a slab ---- */

static uint64_t *slab_words(const ExtentSpace *space, uint32_t slab) {
    return space->taken + (uint64_t)slab * space->words_per_slab;
}

static bool slot_taken(const ExtentSpace *space, uint32_t slab, uint32_t slot) {
    return slab_words(space, slab)[slot / WORD_BITS] >> slot % WORD_BITS & 1;
}

static void slot_flip(ExtentSpace *space, uint32_t slab, uint32_t slot) {
    slab_words(space, slab)[slot / WORD_BITS] ^= 1ull << slot % WORD_BITS;
}

/* The slab has room. */
static uint32_t lowest_slot(const ExtentSpace *space, uint32_t slab) {
    const uint64_t *words = slab_words(space, slab);
    uint32_t word = 0;
    while (words[word] == UINT64_MAX)
        word++;
    uint32_t slot = word * WORD_BITS + (uint32_t)__builtin_ctzll(~words[word]);
    CHECK(slot < space->slabs[slab].slot_count);
    return slot;
}

static uint64_t slab_bytes_at(const ExtentSpace *space, uint32_t slab) {
    uint64_t first = (uint64_t)slab * space->options.slab_bytes;
    uint64_t left = space->options.bytes - first;
    return left < space->options.slab_bytes ? left : space->options.slab_bytes;
}

/* ---- taking ---- */

static uint32_t class_of(const ExtentSpace *space, uint64_t bytes) {
    uint32_t index = 0;
    while (index < space->options.class_count && space->options.class_bytes[index] < bytes)
        index++;
    CHECK(bytes > 0 && index < space->options.class_count);
    return index;
}

/* The last slab may be too short for a class. */
static uint32_t find_unused(const ExtentSpace *space, uint32_t class_index) {
    uint32_t slab = space->unused;
    while (slab != NO_SLAB && slab_bytes_at(space, slab) < space->options.class_bytes[class_index])
        slab = space->slabs[slab].after;
    return slab;
}

static void start_slab(ExtentSpace *space, uint32_t index, uint32_t class_index) {
    Slab *slab = &space->slabs[index];
    unlink_slab(space, &space->unused, index);
    slab->class_index = class_index;
    slab->slot_count =
        (uint32_t)(slab_bytes_at(space, index) / space->options.class_bytes[class_index]);
    link_first(space, &space->with_room[class_index], index);
    space->stats.slabs_in_use++;
}

static void take_slot(ExtentSpace *space, uint32_t index, uint32_t slot, Extent *out) {
    Slab *slab = &space->slabs[index];
    uint64_t slot_bytes = space->options.class_bytes[slab->class_index];
    slot_flip(space, index, slot);
    if (++slab->taken_count == slab->slot_count)
        unlink_slab(space, &space->with_room[slab->class_index], index);
    space->stats.taken_count++;
    space->stats.taken_bytes += slot_bytes;
    if (space->stats.taken_bytes > space->stats.taken_bytes_peak)
        space->stats.taken_bytes_peak = space->stats.taken_bytes;
    *out = (Extent){.offset = index * space->options.slab_bytes + slot * slot_bytes,
                    .bytes = slot_bytes};
}

/* The slot that begins at `near`, when it is of this class, or can be. */
static bool take_near(ExtentSpace *space, uint32_t class_index, uint64_t near, Extent *out) {
    if (near >= space->options.bytes) return false;
    uint32_t index = (uint32_t)(near / space->options.slab_bytes);
    uint64_t within = near % space->options.slab_bytes,
             slot_bytes = space->options.class_bytes[class_index];
    const Slab *slab = &space->slabs[index];
    uint32_t slot = (uint32_t)(within / slot_bytes);
    if (within % slot_bytes != 0 || within + slot_bytes > slab_bytes_at(space, index)) return false;
    if (slab->class_index == NO_CLASS)
        start_slab(space, index, class_index);
    else if (slab->class_index != class_index || slot_taken(space, index, slot))
        return false;
    take_slot(space, index, slot, out);
    space->stats.adjacent_count++;
    return true;
}

/* A slab ends in less than a slot: the place behind its last slot is the next slab's first. */
static uint64_t skip_tail(const ExtentSpace *space, uint32_t class_index, uint64_t near) {
    if (near >= space->options.bytes) return near;
    uint64_t left = space->options.slab_bytes - near % space->options.slab_bytes;
    return left < space->options.class_bytes[class_index] ? near + left : near;
}

Status extent_take(ExtentSpace *space, uint64_t bytes, uint64_t near, Extent *out) {
    uint32_t class_index = class_of(space, bytes);
    if (take_near(space, class_index, skip_tail(space, class_index, near), out)) return STATUS_OK;
    uint32_t slab = space->with_room[class_index];
    if (slab == NO_SLAB) {
        slab = find_unused(space, class_index);
        if (slab == NO_SLAB) return STATUS_NO_SPACE;
        start_slab(space, slab, class_index);
    }
    take_slot(space, slab, lowest_slot(space, slab), out);
    return STATUS_OK;
}

void extent_release(ExtentSpace *space, const Extent *extent) {
    uint32_t index = (uint32_t)(extent->offset / space->options.slab_bytes);
    CHECK(index < space->slab_count);
    Slab *slab = &space->slabs[index];
    CHECK(slab->class_index != NO_CLASS &&
          space->options.class_bytes[slab->class_index] == extent->bytes);
    uint64_t within = extent->offset % space->options.slab_bytes;
    uint32_t slot = (uint32_t)(within / extent->bytes);
    CHECK(within % extent->bytes == 0 && slot < slab->slot_count && slot_taken(space, index, slot));
    slot_flip(space, index, slot);
    uint32_t *list = &space->with_room[slab->class_index];
    if (slab->taken_count-- == slab->slot_count) link_first(space, list, index);
    space->stats.taken_count--;
    space->stats.taken_bytes -= extent->bytes;
    if (slab->taken_count > 0) return;
    unlink_slab(space, list, index);
    slab->class_index = NO_CLASS;
    link_first(space, &space->unused, index);
    space->stats.slabs_in_use--;
}

ExtentStats extent_stats(const ExtentSpace *space) {
    return space->stats;
}

/* ---- making ---- */

static void check_options(const ExtentOptions *options) {
    CHECK(options->class_count > 0 && options->class_count <= EXTENT_CLASSES_MAX);
    CHECK(options->bytes > 0 && options->bytes % EXTENT_UNIT_BYTES == 0);
    CHECK(options->slab_bytes % EXTENT_UNIT_BYTES == 0);
    for (uint32_t i = 0; i < options->class_count; i++) {
        uint64_t bytes = options->class_bytes[i];
        CHECK(bytes > 0 && bytes % EXTENT_UNIT_BYTES == 0 && bytes <= options->bytes);
        CHECK(i == 0 || bytes > options->class_bytes[i - 1]);
    }
}

static uint64_t choose_slab_bytes(const ExtentOptions *options) {
    uint64_t largest = options->class_bytes[options->class_count - 1];
    uint64_t bytes = options->slab_bytes ? options->slab_bytes : 8 * largest;
    if (!options->slab_bytes && bytes < SLAB_BYTES_MIN)
        bytes = SLAB_BYTES_MIN / largest * largest; /* whole slots of the largest class */
    CHECK(bytes >= largest);
    return bytes;
}

static void fill_space(ExtentSpace *space, const ExtentOptions *options) {
    space->options = *options;
    space->stats.slab_count = space->slab_count;
    space->unused = NO_SLAB;
    for (uint32_t i = 0; i < EXTENT_CLASSES_MAX; i++)
        space->with_room[i] = NO_SLAB;
    for (uint32_t i = space->slab_count; i-- > 0;) { /* lowest slab first */
        space->slabs[i] = (Slab){.class_index = NO_CLASS};
        link_first(space, &space->unused, i);
    }
}

Status extent_create(ExtentSpace **out, const ExtentOptions *options) {
    check_options(options);
    ExtentOptions chosen = *options;
    chosen.slab_bytes = choose_slab_bytes(options);
    uint64_t slab_count = divide_up(options->bytes, chosen.slab_bytes);
    uint64_t words = divide_up(chosen.slab_bytes / options->class_bytes[0], WORD_BITS);
    CHECK(slab_count < NO_SLAB && words < UINT32_MAX);
    ExtentSpace *space;
    TRY(memory_take((void **)&space, 1, sizeof *space, "places in spill files"));
    space->slab_count = (uint32_t)slab_count;
    space->words_per_slab = (uint32_t)words;
    Status status = memory_take((void **)&space->slabs, slab_count, sizeof *space->slabs,
                                "slabs of spill files");
    if (status == STATUS_OK)
        status = memory_take((void **)&space->taken, slab_count * words, sizeof *space->taken,
                             "slots of spill files");
    if (status != STATUS_OK) {
        extent_destroy(space);
        return status;
    }
    fill_space(space, &chosen);
    *out = space;
    return STATUS_OK;
}

void extent_destroy(ExtentSpace *space) {
    if (!space) return;
    free(space->taken);
    free(space->slabs);
    free(space);
}
