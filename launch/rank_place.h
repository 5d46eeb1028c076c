#ifndef LAUNCH_RANK_PLACE_H
#define LAUNCH_RANK_PLACE_H

/* Where a rank belongs on its node: on the CPUs of the NUMA node that its device is attached to, with its memory there, which pinned
 * memory and the threads of the rank follow. Ranks without a device on the PCI bus stay where they were started, and so do all where
 * there is one node. */

#include "kernels/backend.h"
#include "launch/settings.h"
#include "launch/topology.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct RankPlace {
    bool on_bus; /* it has a device with an address there */
    bool found;  /* and a node that is nearest to it */
    BackendDevice device;
    TopologyPlace node;
    const char *reason; /* why not found, or not bound; NULL */
} RankPlace;

/* Looks alone. topology may be NULL. */
void rank_place_find(const Settings *settings, const Topology *topology, int local_rank,
                     RankPlace *out);

/* Looks, and binds unless --numa none: early, for only what starts later follows. False: nothing was bound. */
bool rank_place_bind(const Settings *settings, int local_rank, RankPlace *out);

enum { RANK_PLACE_TEXT_BYTES = 512 };

/* "cuda:1 (NVIDIA H100 80GB HBM3) at 0000:3b:00.0, NUMA node 1, CPUs 32-63" */
void rank_place_text(const RankPlace *place, char out[RANK_PLACE_TEXT_BYTES]);

SPILLWAY_EXTERN_C_END

#endif
