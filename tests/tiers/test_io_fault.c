/* The texts of --fault, and when a fault strikes. */

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>

#include <cmocka.h>

#include "tiers/io_fault.h"

static IoFaultPlan plan_of(const char *text) {
    IoFaultPlan plan = {0};
    assert_int_equal(io_fault_add(&plan, text), STATUS_OK);
    return plan;
}

static void nothing_without_a_plan(void **state) {
    (void)state;
    IoFaultPlan plan = plan_of("io.write:eio");
    assert_int_equal(io_fault_next(NULL, IO_FAULT_READ).kind, IO_FAULT_NONE);
    assert_int_equal(io_fault_next(&plan, IO_FAULT_READ).kind, IO_FAULT_NONE);
}

static void spares_then_strikes_then_stops(void **state) {
    (void)state;
    IoFaultPlan plan = plan_of("io.write:enospc:after=3,count=2,seed=7");
    for (int i = 0; i < 10; i++) {
        IoFault fault = io_fault_next(&plan, IO_FAULT_WRITE);
        assert_int_equal(fault.kind, i == 3 || i == 4 ? IO_FAULT_ERROR : IO_FAULT_NONE);
        if (fault.kind != IO_FAULT_NONE) assert_int_equal(fault.os_error, ENOSPC);
    }
}

static void odds_come_from_the_seed(void **state) {
    (void)state;
    IoFaultPlan plan = plan_of("io.read:delay:odds=0.25,seed=11,ms=1.5"), twin = plan;
    int struck = 0;
    for (int i = 0; i < 4000; i++) {
        IoFault fault = io_fault_next(&plan, IO_FAULT_READ);
        IoFault again = io_fault_next(&twin, IO_FAULT_READ);
        assert_memory_equal(&fault, &again, sizeof fault);
        struck += fault.kind == IO_FAULT_DELAY;
        if (fault.kind == IO_FAULT_DELAY) assert_int_equal(fault.delay_ns, 1500000);
    }
    assert_in_range(struck, 850, 1150); /* 1000 and more than five deviations */
}

static void stuck_is_for_ever_or_for_a_time(void **state) {
    (void)state;
    IoFaultPlan ever = plan_of("io.read:stuck"), time = plan_of("io.write:stuck:ms=2");
    IoFault fault = io_fault_next(&ever, IO_FAULT_READ);
    assert_int_equal(fault.kind, IO_FAULT_STUCK);
    assert_int_equal(fault.delay_ns, 0);
    assert_int_equal(io_fault_next(&time, IO_FAULT_WRITE).delay_ns, 2000000);
}

static void several_at_one_point(void **state) {
    (void)state;
    IoFaultPlan plan = plan_of("io.read:eio:count=1");
    assert_int_equal(io_fault_add(&plan, "io.read:short:count=1"), STATUS_OK);
    assert_int_equal(io_fault_next(&plan, IO_FAULT_READ).kind, IO_FAULT_ERROR);
    assert_int_equal(io_fault_next(&plan, IO_FAULT_READ).kind, IO_FAULT_SHORT);
    assert_int_equal(io_fault_next(&plan, IO_FAULT_READ).kind, IO_FAULT_NONE);
}

static void refuses_other_texts(void **state) {
    (void)state;
    static const char *const texts[] = {
        "",
        "io.read",
        "io.reed:eio",
        "io.read:",
        "io.read:enospc", /* only writes run out of space */
        "io.read:eio:",
        "io.read:eio:after=1,",
        "io.read:eio:after",
        "io.read:eio:after=",
        "io.read:eio:after=x",
        "io.read:eio:after=-1",
        "io.read:eio:after=1.5",
        "io.read:eio:odds=2",
        "io.read:eio:after=1;count=2",
        "io.read:eio:before=1",
        "io.read:eio:rank=-1",
        "io.read:ecc", /* a device's */
        "device.take:ecc",
        "device.launch:eio",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        IoFaultPlan plan = {0};
        error_capture_begin();
        Status status = io_fault_add(&plan, texts[i]);
        error_capture_end();
        assert_int_equal(status, STATUS_BAD_INPUT);
        assert_int_equal(error_last(NULL), ERROR_USAGE);
        assert_int_equal(plan.row_count, 0);
    }
}

/* What is of another rank goes; what is of a device goes to it; the rest stays in order. */
static void sorts_ranks_and_devices(void **state) {
    (void)state;
    IoFaultPlan plan = {0};
    static const char *const texts[] = {
        "io.read:eio:rank=1", "device.launch:lost:after=9",        "io.write:eio:rank=0",
        "io.read:short",      "device.take:memory:after=2,rank=1", "device.copy:ecc:rank=0"};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++)
        assert_int_equal(io_fault_add(&plan, texts[i]), STATUS_OK);
    io_fault_keep_rank(&plan, 1);
    assert_int_equal(plan.row_count, 4);
    DeviceFailures failures = {0};
    io_fault_take_device(&plan, &failures);
    assert_int_equal(failures.launch, 10);
    assert_int_equal(failures.take, 3);
    assert_int_equal(failures.copy, 0);
    assert_int_equal(failures.fault, DEVICE_FAULT_LOST);
    assert_false(failures.hangs);
    assert_int_equal(plan.row_count, 2);
    assert_int_equal(plan.rows[0].fault.kind, IO_FAULT_ERROR);
    assert_int_equal(plan.rows[1].fault.kind, IO_FAULT_SHORT);
    assert_int_equal(io_fault_add(&plan, "device.copy:hang"), STATUS_OK);
    io_fault_take_device(&plan, &failures);
    assert_true(failures.hangs && failures.copy == 1);
}

static void holds_a_limited_number(void **state) {
    (void)state;
    IoFaultPlan plan = {0};
    for (int i = 0; i < IO_FAULT_ROWS_MAX; i++)
        assert_int_equal(io_fault_add(&plan, "io.read:eio"), STATUS_OK);
    error_capture_begin();
    assert_int_equal(io_fault_add(&plan, "io.read:eio"), STATUS_BAD_INPUT);
    error_capture_end();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_without_a_plan),
        cmocka_unit_test(spares_then_strikes_then_stops),
        cmocka_unit_test(odds_come_from_the_seed),
        cmocka_unit_test(stuck_is_for_ever_or_for_a_time),
        cmocka_unit_test(several_at_one_point),
        cmocka_unit_test(refuses_other_texts),
        cmocka_unit_test(sorts_ranks_and_devices),
        cmocka_unit_test(holds_a_limited_number),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
