#ifndef RUNTIME_ENGINE_PLAN_MACHINE_H
#define RUNTIME_ENGINE_PLAN_MACHINE_H

/* What the planner knows of a machine: sizes and speeds, measured or written down (launch/machine_file.h). Plain data. Bytes and
 * seconds; rates are a second. A rate of 0 means that the thing is not there. */

#include <stdbool.h>
#include <stdint.h>

#include "runtime/engine/plan_shape.h"

SPILLWAY_EXTERN_C_BEGIN

enum { PLAN_ROW_POINTS = 5, PLAN_CODECS_MAX = 32, PLAN_NAME_BYTES = 96, PLAN_NOTE_BYTES = 400 };

/* Rows of a matrix product whose speed is known; between them it goes by the logarithm. */
extern const uint32_t plan_row_points[PLAN_ROW_POINTS]; /* 1, 8, 32, 128, 512 */

/* Attention of new tokens on cached ones: seconds = stored bytes / byte_rate + operations / operation_rate, with
 * 4 * head_dim operations a query head and token. */
typedef struct PlanAttention {
    double byte_rate, operation_rate;
} PlanAttention;

typedef struct PlanMachine {
    char name[PLAN_NAME_BYTES];
    char note[PLAN_NOTE_BYTES]; /* where the figures come from */
    uint32_t rank_count, node_count;
    uint32_t thread_count; /* kernels of a rank */
    uint32_t core_count;   /* of a node, which I/O shares with kernels; 0: it does not */
    bool unified;          /* the device's memory is that of the node: host.bytes counts for both */

    double device_bytes;                                       /* of a rank; unified: not used */
    double device_rate;                                        /* reading it, a rank */
    double operation_rate[PLAN_FORMAT_COUNT][PLAN_ROW_POINTS]; /* multiply and add are two */
    double head_speed; /* the head's share of those rates: its activations are more precise */
    PlanAttention attention[PLAN_CODECS_MAX]; /* by codec_at; zeros: as f16 */
    double prompt_rate;                       /* operations of a prompt's attention on itself */
    double row_rate;         /* bytes of activations read or written between matrix products */
    double layer_seconds;    /* a layer, besides */
    double sequence_seconds; /* a sequence in a layer, besides: its blocks are found and held */
    double logit_rate;       /* logits of the sampler */

    double host_bytes;                       /* of a node */
    double copy_rate;                        /* memory to memory, a node; each byte counted once */
    double to_device_rate, from_device_rate; /* a rank; unified: not used */

    double disk_bytes;                      /* of a node */
    double disk_read_rate, disk_write_rate; /* a node, in large transfers */
    double disk_transfer_seconds;           /* what a transfer costs besides, at full depth */
    double disk_core_seconds;               /* of the cores, for a byte moved */

    double peer_rate;    /* of a rank, to and from others; not used by one rank */
    double peer_seconds; /* a collective besides */
} PlanMachine;

static inline uint32_t plan_machine_local_ranks(const PlanMachine *machine) {
    return (machine->rank_count + machine->node_count - 1) / machine->node_count;
}

SPILLWAY_EXTERN_C_END

#endif
