#include "launch/topology.h"

#include <stdio.h>

#include <hwloc.h>

static hwloc_topology_t hwloc_of(const Topology *topology) {
    return (hwloc_topology_t)(void *)topology;
}

Topology *topology_open(bool devices) {
    hwloc_topology_t topology;
    if (hwloc_topology_init(&topology) != 0) return NULL;
    enum hwloc_type_filter_e filter =
        devices ? HWLOC_TYPE_FILTER_KEEP_ALL : HWLOC_TYPE_FILTER_KEEP_NONE;
    bool loaded = hwloc_topology_set_io_types_filter(topology, filter) == 0 &&
                  hwloc_topology_load(topology) == 0;
    if (loaded) return (Topology *)(void *)topology;
    hwloc_topology_destroy(topology);
    return NULL;
}

void topology_close(Topology *topology) {
    if (topology) hwloc_topology_destroy(hwloc_of(topology));
}

TopologyCounts topology_counts(const Topology *topology) {
    hwloc_topology_t machine = hwloc_of(topology);
    return (TopologyCounts){.nodes = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_NUMANODE),
                            .packages = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_PACKAGE),
                            .cores = hwloc_get_nbobjs_by_type(machine, HWLOC_OBJ_CORE)};
}

/* The first with CPUs of those that are as near: memory alone, as some GPUs bring it, comes behind. */
static hwloc_obj_t node_with_cpus(hwloc_topology_t machine, hwloc_const_nodeset_t nodes) {
    unsigned index;
    hwloc_bitmap_foreach_begin(index, nodes) {
        hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(machine, index);
        if (node && !hwloc_bitmap_iszero(node->cpuset)) return node;
    }
    hwloc_bitmap_foreach_end();
    return NULL;
}

bool topology_find(const Topology *topology, const char *pci, TopologyPlace *out,
                   const char **out_reason) {
    hwloc_topology_t machine = hwloc_of(topology);
    if (topology_counts(topology).nodes < 2) {
        *out_reason = "this machine has one NUMA node";
        return false;
    }
    hwloc_obj_t device = hwloc_get_pcidev_by_busidstring(machine, pci);
    if (!device) {
        *out_reason = "hwloc knows no such device";
        return false;
    }
    hwloc_obj_t near = hwloc_get_non_io_ancestor_obj(machine, device);
    bool nearer =
        near && !hwloc_bitmap_isequal(near->nodeset, hwloc_get_root_obj(machine)->nodeset);
    hwloc_obj_t node = nearer ? node_with_cpus(machine, near->nodeset) : NULL;
    if (!node) {
        *out_reason = "it is not nearer to one NUMA node than to the others";
        return false;
    }
    *out = (TopologyPlace){.node = node->os_index};
    hwloc_bitmap_list_snprintf(out->cpus, sizeof out->cpus, node->cpuset);
    return true;
}

static bool bind_memory(hwloc_topology_t machine, hwloc_const_nodeset_t nodes) {
    return hwloc_set_membind(machine, nodes, HWLOC_MEMBIND_BIND,
                             HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET) == 0;
}

/* cpus: those that this thread may use; left are those of them that the node has. */
static bool bind_to(hwloc_topology_t machine, hwloc_obj_t node, hwloc_cpuset_t cpus,
                    const char **out_reason) {
    if (hwloc_get_cpubind(machine, cpus, HWLOC_CPUBIND_THREAD) != 0) {
        *out_reason = "the system does not say which CPUs it may use";
        return false;
    }
    hwloc_bitmap_and(cpus, cpus, node->cpuset);
    if (hwloc_bitmap_iszero(cpus)) {
        *out_reason = "none of its CPUs is among those that this process may use";
        return false;
    }
    if (hwloc_set_cpubind(machine, cpus, HWLOC_CPUBIND_THREAD) != 0) {
        *out_reason = "the system refuses";
        return false;
    }
    if (bind_memory(machine, node->nodeset)) return true;
    *out_reason = "threads are bound, but the system refuses to bind memory";
    return false;
}

bool topology_bind(const Topology *topology, const TopologyPlace *place, const char **out_reason) {
    hwloc_topology_t machine = hwloc_of(topology);
    hwloc_obj_t node = hwloc_get_numanode_obj_by_os_index(machine, place->node);
    if (!node || !hwloc_topology_is_thissystem(machine)) {
        *out_reason = "this is a description of another machine";
        return false;
    }
    hwloc_cpuset_t cpus = hwloc_bitmap_alloc();
    *out_reason = "no memory";
    bool bound = cpus && bind_to(machine, node, cpus, out_reason);
    hwloc_bitmap_free(cpus);
    return bound;
}
