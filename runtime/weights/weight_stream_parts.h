#ifndef RUNTIME_WEIGHTS_WEIGHT_STREAM_PARTS_H
#define RUNTIME_WEIGHTS_WEIGHT_STREAM_PARTS_H

/* What a WeightStream is made of, for its files: weight_stream.c (the caller's side), weight_stream_slots.c (where chunks
 * lie) and weight_stream_thread.c (the ring). */

#include <pthread.h>

#include "runtime/weights/layer_order.h"
#include "runtime/weights/weight_stream.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum FrameState {
    FRAME_FREE,
    FRAME_PACKING, /* the caller writes to it */
    FRAME_DUE,     /* a read or write is asked for */
    FRAME_MOVING,  /* the ring has it */
    FRAME_READY,   /* holds its layer */
} FrameState;

typedef struct Frame {
    uint8_t *memory;
    FrameState state;
    uint32_t layer;
    bool held; /* ready, and used by the caller */
    RingKind kind;
    uint64_t turn; /* lower ones first */
    /* of the thread */
    bool moves;
    uint32_t chunk_next, chunks_left;
} Frame;

/* A chunk: where it lies in its layer's frame and in which file. */
typedef struct WeightSlot {
    uint64_t frame_offset, offset;
    uint64_t checksum;
    uint32_t file;
    uint32_t bytes;         /* that move: whole units of direct I/O */
    uint32_t checked_bytes; /* of them; what follows in the unit is used by nobody */
} WeightSlot;

/* What the ring has: RingOperation.user is its index. */
typedef struct Flight {
    uint32_t frame, chunk;
} Flight;

struct WeightStream {
    WeightStreamOptions options;
    uint64_t *layer_bytes; /* [layer_count] streamed, whole units */
    uint32_t *first_slot;  /* [layer_count + 1] the chunks of a layer begin here */
    WeightSlot *slots;     /* [slot_count] */
    uint32_t chunk_bytes, slot_count, depth;
    uint64_t frame_bytes;
    Frame frames[WEIGHT_FRAMES];
    SpillFile *files;     /* [directory_count] */
    RingFile *ring_files; /* the same, for the ring */
    uint32_t file_count;

    /* of the caller */
    LayerOrder order; /* what is expected */
    uint64_t turns;

    /* of the thread */
    Ring *ring;
    Flight *flights;        /* [depth] */
    uint32_t *free_flights; /* stack, [free_flight_count] */
    uint32_t free_flight_count;
    uint64_t in_flight_bytes, in_flight_now_max;
    uint32_t moving_count, reading_count; /* frames */

    /* shared under the lock: frames' states and orders, and these */
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    bool stop, opened, failed;
    uint64_t in_flight_max; /* bytes; not while a layer is waited for */
    bool waited_for;
    uint64_t progress; /* results so far */
    ErrorCode error;
    char error_text[512];
    WeightStreamStats stats;

    pthread_t thread;
    bool has_thread, closed_quietly;
    RingFacts facts;
};

Status weight_stream_cut(WeightStream *stream); /* layers, slots and depth, from the options */

void *weight_stream_run(void *stream); /* the thread */

SPILLWAY_EXTERN_C_END

#endif
