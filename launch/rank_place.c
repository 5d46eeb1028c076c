#include "launch/rank_place.h"

#include <stdio.h>
#include <string.h>

void rank_place_find(const Settings *settings, const Topology *topology, int local_rank,
                     RankPlace *out) {
    const BackendOptions options = {.device_index = (uint32_t)local_rank,
                                    .emulated_pci = settings->emulation_pci};
    *out = (RankPlace){.reason = "hwloc cannot read this machine"};
    out->on_bus = backend_find_device(settings->backend, &options, &out->device);
    if (out->on_bus && topology)
        out->found = topology_find(topology, out->device.pci, &out->node, &out->reason);
    if (out->found) out->reason = NULL;
}

static bool bind_found(const Settings *settings, const Topology *topology, RankPlace *place) {
    if (!place->found) return false;
    if (strcmp(settings->numa, "none") != 0)
        return topology_bind(topology, &place->node, &place->reason);
    place->reason = "--numa none";
    return false;
}

/* Reading a topology takes a while, so it is read for ranks with a device alone. */
bool rank_place_bind(const Settings *settings, int local_rank, RankPlace *out) {
    rank_place_find(settings, NULL, local_rank, out);
    if (!out->on_bus) return false;
    Topology *topology = topology_open(true);
    rank_place_find(settings, topology, local_rank, out);
    bool bound = topology && bind_found(settings, topology, out);
    topology_close(topology);
    return bound;
}

void rank_place_text(const RankPlace *place, char out[RANK_PLACE_TEXT_BYTES]) {
    const BackendDevice *device = &place->device;
    int used = snprintf(out, RANK_PLACE_TEXT_BYTES, "%s (%s) at %s", device->name, device->model,
                        device->pci);
    if (place->found)
        used += snprintf(out + used, RANK_PLACE_TEXT_BYTES - (size_t)used,
                         ", NUMA node %u, CPUs %s", place->node.node, place->node.cpus);
    if (place->reason)
        snprintf(out + used, RANK_PLACE_TEXT_BYTES - (size_t)used, "%s%s",
                 place->found ? ", not bound: " : ": ", place->reason);
}
