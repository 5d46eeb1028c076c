#ifndef LAUNCH_TOPOLOGY_H
#define LAUNCH_TOPOLOGY_H

/* The machine as hwloc sees it: its NUMA nodes, which of them a device on the PCI bus is attached to, and binding to one. hwloc may be
 * told of another machine (HWLOC_SYNTHETIC, HWLOC_XMLFILE), to which nothing is bound unless HWLOC_THISSYSTEM says that it is this
 * one. hwloc.h is included by topology.c alone. One thread. */

#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

typedef struct Topology Topology;

/* NULL: hwloc cannot read it. devices: with the PCI bus, which takes a while (and its library leaks). */
Topology *topology_open(bool devices);
void topology_close(Topology *topology); /* takes NULL */

typedef struct TopologyCounts {
    int nodes, packages, cores;
} TopologyCounts;

TopologyCounts topology_counts(const Topology *topology);

enum { TOPOLOGY_TEXT_BYTES = 160 };

typedef struct TopologyPlace {
    unsigned node;                  /* as the system counts them */
    char cpus[TOPOLOGY_TEXT_BYTES]; /* of the node: "32-63,96-127" */
} TopologyPlace;

/* The node that a device is attached to. pci: "0000:3b:00.0". False, and *out_reason says why, where there is nothing to choose: one
 * node, no such device, or one that is no nearer to any node. */
bool topology_find(const Topology *topology, const char *pci, TopologyPlace *out,
                   const char **out_reason);

/* This thread, and those that it starts from now on, run on those CPUs of the node that they may use, and take their memory there while
 * it has some. False, and *out_reason says why, where that cannot be: then nothing has changed, or memory alone has not. */
bool topology_bind(const Topology *topology, const TopologyPlace *place, const char **out_reason);

SPILLWAY_EXTERN_C_END

#endif
