/* Which NUMA node a rank belongs on, on machines that hwloc is told of: two nodes with a device each and one between them (two_nodes.xml),
 * synthetic ones, this one; and binding, where this process has the CPUs. Each case is a process of its own, for bindings last. */

#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "launch/rank_place.h"

static const char *const hwloc_variables[] = {"HWLOC_XMLFILE", "HWLOC_SYNTHETIC",
                                              "HWLOC_THISSYSTEM"};

static void describe_machine(const char *variable, const char *value) {
    for (size_t i = 0; i < sizeof hwloc_variables / sizeof *hwloc_variables; i++)
        unsetenv(hwloc_variables[i]);
    if (variable) setenv(variable, value, 1);
}

static Settings settings_of(const char *pci) {
    return (Settings){.backend = "emulated", .emulation_pci = pci, .numa = "auto"};
}

static RankPlace place_of(const char *pci) {
    const Settings settings = settings_of(pci);
    RankPlace place;
    Topology *topology = topology_open(true);
    assert_non_null(topology);
    rank_place_find(&settings, topology, 0, &place);
    topology_close(topology);
    return place;
}

static void expect_reason(const RankPlace *place, const char *reason) {
    char text[RANK_PLACE_TEXT_BYTES];
    rank_place_text(place, text);
    assert_true(place->on_bus);
    assert_false(place->found);
    if (!strstr(text, reason)) fail_msg("\"%s\"", text);
}

static void test_two_nodes(void **state) {
    (void)state;
    static const struct {
        const char *pci, *text;
    } devices[] = {
        {"0000:3b:00.0", "emulated:0 (emulated) at 0000:3b:00.0, NUMA node 0, CPUs 0"},
        {"0000:86:00.0", "emulated:0 (emulated) at 0000:86:00.0, NUMA node 1, CPUs 1"},
        {"86:00.0", "emulated:0 (emulated) at 86:00.0, NUMA node 1, CPUs 1"},
    };
    describe_machine("HWLOC_XMLFILE", TWO_NODES);
    for (size_t i = 0; i < sizeof devices / sizeof *devices; i++) {
        char text[RANK_PLACE_TEXT_BYTES];
        RankPlace place = place_of(devices[i].pci);
        assert_true(place.on_bus && place.found);
        rank_place_text(&place, text);
        assert_string_equal(text, devices[i].text);
    }
    RankPlace between = place_of("0000:c1:00.0"), absent = place_of("0000:01:00.0");
    expect_reason(&between, "it is not nearer to one NUMA node than to the others");
    expect_reason(&absent, "hwloc knows no such device");
    Topology *topology = topology_open(true);
    TopologyCounts counts = topology_counts(topology);
    topology_close(topology);
    assert_true(counts.nodes == 2 && counts.packages == 2 && counts.cores == 2);
}

/* Synthetic machines have no devices; nothing is chosen on one node, or without a device. */
static void test_nothing_to_choose(void **state) {
    (void)state;
    describe_machine("HWLOC_SYNTHETIC", "numa:2 core:4 pu:1");
    RankPlace place = place_of("0000:3b:00.0");
    expect_reason(&place, "hwloc knows no such device");
    describe_machine("HWLOC_SYNTHETIC", "numa:1 core:4 pu:1");
    place = place_of("0000:3b:00.0");
    expect_reason(&place, "this machine has one NUMA node");
    describe_machine("HWLOC_XMLFILE", TWO_NODES);
    place = place_of(NULL);
    assert_false(place.on_bus || place.found);
}

static cpu_set_t allowed_cpus(void) {
    cpu_set_t set;
    assert_int_equal(sched_getaffinity(0, sizeof set, &set), 0);
    return set;
}

/* Does this thread's memory prefer a node? */
static bool memory_is_bound(void) {
    int mode = -1;
    return syscall(SYS_get_mempolicy, &mode, NULL, 0, NULL, 0) == 0 && mode != 0;
}

/* May it, here? Containers often forbid it. */
static bool memory_can_be_bound(void) {
    unsigned long node = 1;
    bool can = syscall(SYS_set_mempolicy, 1, &node, 8 * sizeof node) == 0 && memory_is_bound();
    syscall(SYS_set_mempolicy, 0, NULL, 0);
    return can;
}

/* What a bind does in a process of its own: bit 0: it says that it bound; the others: the CPUs that are left, 0 to 5. */
static int bind_in_child(const char *pci, const char *numa, const char *reason) {
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        Settings settings = settings_of(pci);
        RankPlace place;
        settings.numa = numa;
        int result = rank_place_bind(&settings, 0, &place);
        if (reason && (!place.reason || !strstr(place.reason, reason))) _exit(255);
        if (result && !memory_is_bound()) _exit(255);
        cpu_set_t left = allowed_cpus();
        for (int cpu = 0; cpu < 6; cpu++)
            result |= CPU_ISSET(cpu, &left) ? 2 << cpu : 0;
        _exit(result);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 255);
    return WEXITSTATUS(status);
}

static int cpu_bits(void) {
    cpu_set_t set = allowed_cpus();
    int bits = 0;
    for (int cpu = 0; cpu < 6; cpu++)
        bits |= CPU_ISSET(cpu, &set) ? 2 << cpu : 0;
    return bits;
}

/* As if this machine were the one described. It has no second node where it is not: then threads alone are bound. */
static void test_binding(void **state) {
    (void)state;
    int all = cpu_bits(), bound = memory_can_be_bound();
    if ((all & 6) != 6) skip();
    describe_machine("HWLOC_XMLFILE", TWO_NODES);
    assert_int_equal(bind_in_child("0000:86:00.0", "auto", "of another machine"), all);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    assert_int_equal(bind_in_child("0000:3b:00.0", "auto", NULL), 2 | bound);
    assert_int_equal(bind_in_child("0000:86:00.0", "auto", NULL) & ~1, 4);
    assert_int_equal(bind_in_child("0000:86:00.0", "none", "--numa none"), all);
    assert_int_equal(bind_in_child("0000:c1:00.0", "auto", "not nearer"), all);
    assert_int_equal(bind_in_child(NULL, "auto", NULL), all);
}

/* What a launcher has left is never exceeded. */
static void test_binding_within_a_binding(void **state) {
    (void)state;
    cpu_set_t before = allowed_cpus(), first;
    int bound = memory_can_be_bound();
    if ((cpu_bits() & 6) != 6) skip();
    describe_machine("HWLOC_XMLFILE", TWO_NODES);
    setenv("HWLOC_THISSYSTEM", "1", 1);
    CPU_ZERO(&first);
    CPU_SET(0, &first);
    assert_int_equal(sched_setaffinity(0, sizeof first, &first), 0);
    assert_int_equal(bind_in_child("0000:3b:00.0", "auto", NULL), 2 | bound);
    assert_int_equal(bind_in_child("0000:86:00.0", "auto", "none of its CPUs"), 2);
    assert_int_equal(sched_setaffinity(0, sizeof before, &before), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_two_nodes),
        cmocka_unit_test(test_nothing_to_choose),
        cmocka_unit_test(test_binding),
        cmocka_unit_test(test_binding_within_a_binding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
