#include "kernels/cuda/emulation/shared_shadow.h"

#include <stdlib.h>

#include "runtime/base/arena.h"

enum { WARP_LANES = 32 };

/* How many threads read a byte in its read_epoch. */
typedef enum ReaderSpread { READER_ONE, READER_ONE_WARP, READER_MANY } ReaderSpread;

typedef struct ShadowByte {
    uint32_t write_epoch, write_turn;
    uint32_t read_epoch, read_turn;
    uint16_t writer, reader;
    uint8_t spread;
} ShadowByte;

struct SharedShadow {
    uint32_t epoch, block_epoch; /* now, and when the block began */
    ShadowByte bytes[];
};

Status shared_shadow_create(SharedShadow **out, uint32_t bytes_max) {
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(SharedShadow) + bytes_max * sizeof(ShadowByte),
                    "shadow of shared memory"));
    *out = memory;
    (*out)->epoch = 1;
    return STATUS_OK;
}

void shared_shadow_destroy(SharedShadow *shadow) {
    free(shadow);
}

void shared_shadow_barrier(SharedShadow *shadow) {
    shadow->epoch++;
}

void shared_shadow_begin_block(SharedShadow *shadow) {
    shadow->block_epoch = ++shadow->epoch;
}

static bool same_warp(uint32_t a, uint32_t b) {
    return a / WARP_LANES == b / WARP_LANES;
}

static bool write_is_ordered(const SharedShadow *shadow, const ShadowByte *byte,
                             const SharedTouch *touch) {
    if (byte->write_epoch != shadow->epoch || byte->writer == touch->thread) return true;
    return same_warp(byte->writer, touch->thread) && byte->write_turn < touch->warp_turn;
}

static bool reads_are_ordered(const SharedShadow *shadow, const ShadowByte *byte,
                              const SharedTouch *touch) {
    if (byte->read_epoch != shadow->epoch) return true;
    if (byte->spread == READER_ONE && byte->reader == touch->thread) return true;
    return byte->spread != READER_MANY && same_warp(byte->reader, touch->thread) &&
           byte->read_turn < touch->warp_turn;
}

static void note_read(const SharedShadow *shadow, ShadowByte *byte, const SharedTouch *touch) {
    bool first = byte->read_epoch != shadow->epoch;
    if (first)
        byte->spread = READER_ONE;
    else if (!same_warp(byte->reader, touch->thread))
        byte->spread = READER_MANY;
    else if (byte->spread != READER_MANY && byte->read_turn < touch->warp_turn)
        byte->spread = READER_ONE; /* the warp has met since the others read */
    else if (byte->reader != touch->thread && byte->spread == READER_ONE)
        byte->spread = READER_ONE_WARP;
    byte->read_epoch = shadow->epoch;
    byte->read_turn = touch->warp_turn;
    byte->reader = (uint16_t)touch->thread;
}

static SharedVerdict touch_byte(const SharedShadow *shadow, ShadowByte *byte,
                                const SharedTouch *touch, uint32_t *out_thread) {
    *out_thread = byte->writer;
    if (!touch->write) {
        if (byte->write_epoch < shadow->block_epoch) return SHARED_NEVER_WRITTEN;
        if (!write_is_ordered(shadow, byte, touch)) return SHARED_READ_OF_WRITE;
        note_read(shadow, byte, touch);
        return SHARED_FINE;
    }
    if (!write_is_ordered(shadow, byte, touch)) return SHARED_WRITE_OF_WRITE;
    *out_thread = byte->reader;
    if (!reads_are_ordered(shadow, byte, touch)) return SHARED_WRITE_OF_READ;
    byte->write_epoch = shadow->epoch;
    byte->write_turn = touch->warp_turn;
    byte->writer = (uint16_t)touch->thread;
    return SHARED_FINE;
}

SharedVerdict shared_shadow_touch(SharedShadow *shadow, const SharedTouch *touch,
                                  uint32_t *out_thread) {
    for (uint32_t i = 0; i < touch->bytes; i++) {
        SharedVerdict verdict =
            touch_byte(shadow, &shadow->bytes[touch->offset + i], touch, out_thread);
        if (verdict != SHARED_FINE) return verdict;
    }
    return SHARED_FINE;
}
