#ifndef LAUNCH_TIER_VIEW_H
#define LAUNCH_TIER_VIEW_H

/* What the tiers hold, moved and made wait, as JSON and as lines for people: the summary of a run and the view of a running
 * job are made here, so that both say the same. */

#include <stdio.h>

#include <jansson.h>

#include "runtime/engine/engine.h"

SPILLWAY_EXTERN_C_BEGIN

bool tier_view_spills(const EngineStats *stats);  /* is there a tier below the device? */
bool tier_view_streams(const EngineStats *stats); /* do weights lie anywhere but on the device? */
double tier_view_used_share(const EngineStats *stats, Tier tier); /* negative: no such tier */
double
tier_view_hit_share(const EngineStats *stats); /* pins that the device served; 0 without any */
double tier_view_stall_share(const EngineStats *stats); /* of this rank's time in steps */

/* {"device": {…}, "host": {…}, "nvme": {…}}; NULL when there is no memory for it. */
json_t *tier_view_tiers(const EngineStats *stats);
/* Over all tiers: {"raw_bytes", "stored_bytes", "compression_ratio", "blocks": …, "prefetch": …, "tier_thread": …}; the first three of this
 * rank, when most tokens were cached: what they would take as f16, and the slots that they take. */
json_t *tier_view_kv(const EngineStats *stats);

/* Packed layers of all ranks by tier, what was read of them, a pass and a second: {"device_bytes", "host_bytes", "nvme_bytes", "read_bytes",
 * "sent_bytes", "read_bytes_a_pass", "read_bytes_per_second", "stall_seconds"}; the last of rank 0. */
json_t *tier_view_weights(const EngineStats *stats);

/* A table of the tiers and what moved between them, from an object that holds these as "tiers", "kv" and "weights"; fields that are
 * not there count as zero. */
void tier_view_print(const json_t *view, FILE *out);

SPILLWAY_EXTERN_C_END

#endif
