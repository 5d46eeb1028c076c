/* Machine files: what is written reads back, every mistake is named, and the files of configs/machines are in order. */

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "launch/machine_file.h"
#include "launch/probe_compute.h"

static const char good[] =
    "{\"name\": \"m\", \"ranks\": 2, \"nodes\": 1,\n"
    " \"device\": {\"bytes\": 1e9, \"read_bytes_per_second\": 1e11},\n"
    " \"host\": {\"bytes\": 4e9, \"copy_bytes_per_second\": 1e10},\n"
    " \"link\": {\"to_device_bytes_per_second\": 2e10, \"from_device_bytes_per_second\": 1e10},\n"
    " \"disk\": {\"bytes\": 1e12, \"read_bytes_per_second\": 2e9, \"write_bytes_per_second\": "
    "1e9},\n"
    " \"peers\": {\"bytes_per_second\": 1e10},\n"
    " \"matmul\": {\"rows\": [1, 8, 32, 128, 512], \"float\": [1,2,3,4,5], \"8 bits\": "
    "[1,2,3,4,5],\n"
    "   \"4 bits\": [1, 2, 3, 4, 5.5]},\n"
    " \"compute\": {\"prompt_operations_per_second\": 1e12, \"activation_bytes_per_second\": "
    "1e11,\n"
    "   \"logits_per_second\": 1e9},\n"
    " \"attention\": {\"f16\": {\"bytes_per_second\": 1e11, \"operations_per_second\": 1e12}}}";

static Status parse(const char *text, PlanMachine *out) {
    return machine_file_parse(text, strlen(text), "some.json", out);
}

static void reads_and_writes(void **state) {
    (void)state;
    PlanMachine machine, again;
    char *text;
    assert_int_equal(parse(good, &machine), STATUS_OK);
    assert_int_equal(machine.rank_count, 2);
    assert_false(machine.unified);
    assert_true(machine.operation_rate[PLAN_4_BITS][4] == 5.5 && machine.head_speed == 1);
    assert_true(machine.attention[0].byte_rate == 1e11 && machine.attention[1].byte_rate == 0);
    machine.attention[1] = (PlanAttention){3e9, 4e9};
    machine.core_count = 3;
    machine.thread_count = 2;
    snprintf(machine.note, sizeof machine.note, "a \"note\"");
    assert_int_equal(machine_file_text(&machine, &text), STATUS_OK);
    assert_int_equal(parse(text, &again), STATUS_OK);
    assert_memory_equal(&machine, &again, sizeof machine);
    free(text);
}

typedef struct Mistake {
    const char *from, *to; /* replaced in the good one */
    const char *words;     /* of the error */
} Mistake;

static const Mistake mistakes[] = {
    {"\"name\"", "\"nam\"", "unknown key \"nam\""},
    {"\"bytes\": 1e12", "\"size\": 1e12", "disk: unknown key \"size\""},
    {"\"f16\"", "\"f61\"", "there is no codec \"f61\""},
    {"{\"bytes_per_second\": 1e11, \"op", "{\"bytes\": 1e11, \"op", "f16: unknown key \"bytes\""},
    {", \"operations_per_second\": 1e12", "", "operations_per_second are needed"},
    {"\"nodes\": 1", "\"nodes\": 1, \"nodes\": 1", "line 1, column"},
    {"\"nodes\": 1", "\"nodes\": 3", "do not share out"},
    {"\"nodes\": 1", "\"nodes\": 0", "nodes must be given"},
    {"\"ranks\": 2", "\"ranks\": -2", "ranks: a whole number"},
    {"\"ranks\": 2", "\"ranks\": 2.5", "ranks: a whole number"},
    {"\"ranks\": 2", "\"ranks\": 2, \"unified\": 1", "unified: true or false"},
    {"\"ranks\": 2", "\"ranks\": 2, \"cores\": 2", "threads must be given"},
    {"\"bytes\": 4e9", "\"bytes\": \"4e9\"", "bytes: 0, or a number"},
    {"\"bytes\": 4e9", "\"bytes\": -4e9", "bytes: 0, or a number"},
    {"\"bytes\": 4e9", "\"bytes\": 4e19", "bytes: 0, or a number"},
    {"\"bytes\": 4e9", "\"bytes\": 4e-19", "bytes: 0, or a number"},
    {"\"bytes\": 4e9, ", "", "host: bytes must be given"},
    {"\"bytes\": 1e9, ", "", "device: bytes must be given"},
    {", \"write_bytes_per_second\": 1e9", "", "disk: read_bytes_per_second and write"},
    {"\"to_device_bytes_per_second\": 2e10, ", "", "link: to_device"},
    {"\"bytes_per_second\": 1e10", "", "peers: bytes_per_second"},
    {"[1,2,3,4,5]", "[1,2,3,4]", "float: a list of 5"},
    {"[1,2,3,4,5]", "[1,2,3,4,0]", "float: a rate is 0"},
    {"[1,2,3,4,5]", "[1,2,3,4,null]", "float: 0, or a number"},
    {"[1, 8, 32", "[1, 9, 32", "rows must be"},
    {"\"disk\": {", "\"disk\": [], \"x\": {", "disk: an object"},
    {"\"m\"", "7", "name: a text"},
    {"{\"name\"", "[{\"name\"", "not JSON"},
    {"{\"name\": \"m\"", "{\"name\": \"\\u0000\"", "line 1"},
};

static void mistakes_are_named(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        const Mistake *mistake = &mistakes[i];
        const char *place = strstr(good, mistake->from), *told;
        char text[4096];
        PlanMachine machine;
        assert_non_null(place);
        snprintf(text, sizeof text, "%.*s%s%s", (int)(place - good), good, mistake->to,
                 place + strlen(mistake->from));
        error_capture_begin();
        Status status = parse(text, &machine);
        error_capture_end();
        if (status != STATUS_BAD_INPUT) fail_msg("accepted: %s", mistake->to);
        assert_int_equal(error_last(&told), ERROR_MACHINE);
        if (!strstr(told, mistake->words) || !strstr(told, "some.json"))
            fail_msg("\"%s\" should say \"%s\"", told, mistake->words);
    }
    PlanMachine machine;
    assert_int_equal(parse("[]", &machine), STATUS_BAD_INPUT);
    assert_int_equal(parse("", &machine), STATUS_BAD_INPUT);
    assert_int_equal(machine_file_read("/nowhere/x.json", &machine), STATUS_NOT_FOUND);
}

static void files_are_kept(void **state) {
    (void)state;
    char folder[] = "/tmp/spillway_machineXXXXXX", path[128];
    PlanMachine machine, again;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/a/b/machine.json", folder);
    assert_int_equal(parse(good, &machine), STATUS_OK);
    assert_int_equal(machine_file_write(&machine, path), STATUS_OK); /* makes the folders */
    assert_int_equal(machine_file_write(&machine, path), STATUS_OK);
    assert_int_equal(machine_file_read(path, &again), STATUS_OK);
    assert_memory_equal(&machine, &again, sizeof machine);
    assert_int_equal(remove(path), 0);
    for (int i = 0; i < 3; i++) {
        *strrchr(path, '/') = 0;
        assert_int_equal(remove(path), 0);
    }
    assert_true(machine_file_write(&machine, "/proc/none/machine.json") != STATUS_OK);
}

static void machines_of_the_tree(void **state) {
    (void)state;
    static const char *const names[] = {"t4-flexgen", "a100-8", "laptop"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        PlanMachine machine;
        snprintf(path, sizeof path, "%s/%s.json", MACHINES, names[i]);
        assert_int_equal(machine_file_read(path, &machine), STATUS_OK);
        assert_true(machine.name[0] && machine.note[0]);
    }
}

/* Two rates behind two times, and what noise may do to them. */
static void rates_of_two_times(void **state) {
    (void)state;
    PlanAttention rates =
        probe_attention_rates(100, 30, 100 / 20.0 + 30 / 6.0, 100 / 20.0 + 120 / 6.0);
    assert_true(fabs(rates.byte_rate - 20) < 1e-9 && fabs(rates.operation_rate - 6) < 1e-9);
    rates = probe_attention_rates(100, 30, 10, 9);
    assert_true(rates.byte_rate > 10 && rates.byte_rate < 11 && rates.operation_rate == 60);
    rates = probe_attention_rates(100, 30, 10, 1000);
    assert_true(rates.operation_rate > 3 && rates.byte_rate > 0 && isfinite(rates.byte_rate));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reads_and_writes),   cmocka_unit_test(mistakes_are_named),
        cmocka_unit_test(files_are_kept),     cmocka_unit_test(machines_of_the_tree),
        cmocka_unit_test(rates_of_two_times),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
