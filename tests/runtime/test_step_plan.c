/* Step plans between two ranks as threads: what is sent arrives; a rank with another history, and plans with counts out
 * of range, are refused by name. */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "runtime/engine/step_plan.h"

enum { PLANS = 20 };
static const PlanLimits limits = {
    .slot_count = 5, .token_budget = 64, .layer_count = 3, .prefill_tokens = 40};

/* Plan `index` of both sides: derived, so that the receiver knows what to expect. */
static void fill_plan(uint32_t index, StepPlan *plan) {
    plan->close_count = index % 4;
    plan->open_count = index % 3;
    plan->sequence_count = index % 5;
    plan->park_count = index % 2;
    plan->unit_count = index % 3 ? 2 : 0;
    plan->token_count = 0;
    for (uint32_t i = 0; i < plan->park_count; i++)
        plan->parks[i] = (index + i) % limits.slot_count;
    for (uint32_t i = 0; i < plan->close_count; i++)
        plan->closes[i] = (index + i) % limits.slot_count;
    for (uint32_t i = 0; i < plan->open_count; i++)
        plan->opens[i] = (PlanOpen){.slot = i, .token_capacity = index * 10, .sequence_id = index};
    for (uint32_t i = 0; i < plan->sequence_count; i++) {
        plan->sequences[i] = (PlanSequence){
            .slot = i, .token_count = i + 1, .position_first = index, .logit_count = 1};
        for (uint32_t t = 0; t <= i; t++)
            plan->tokens[plan->token_count++] = (int32_t)(1000 * index + 10 * i + t);
    }
    if (plan->unit_count == 0) return;
    plan->prefill =
        (PlanPrefill){.slot = 4, .cached_count = index, .logit_first = 9, .logit_count = 2};
    plan->units[0] = (PlanUnit){.layer = 0, .position_first = index, .token_count = 3};
    plan->units[1] = (PlanUnit){.layer = 2, .position_first = 0, .token_count = 20};
    for (int32_t t = 0; t < 3; t++)
        plan->tokens[plan->token_count++] = t;
}

typedef struct Receiver {
    Comm *comm;
    uint64_t digest_before; /* history of this rank */
    uint32_t good_plans;
    Status status;
    ErrorCode error;
} Receiver;

static bool plans_equal(const StepPlan *got, const StepPlan *expected) {
    return got->close_count == expected->close_count && got->open_count == expected->open_count &&
           got->sequence_count == expected->sequence_count &&
           got->token_count == expected->token_count && got->park_count == expected->park_count &&
           got->unit_count == expected->unit_count &&
           !memcmp(&got->prefill, &expected->prefill, sizeof got->prefill) &&
           !memcmp(got->parks, expected->parks, got->park_count * sizeof *got->parks) &&
           !memcmp(got->units, expected->units, got->unit_count * sizeof *got->units) &&
           !memcmp(got->closes, expected->closes, got->close_count * sizeof *got->closes) &&
           !memcmp(got->opens, expected->opens, got->open_count * sizeof *got->opens) &&
           !memcmp(got->sequences, expected->sequences,
                   got->sequence_count * sizeof *got->sequences) &&
           !memcmp(got->tokens, expected->tokens, got->token_count * sizeof *got->tokens);
}

static void *receive_plans(void *argument) {
    Receiver *receiver = argument;
    PlanChannel channel;
    PlanOpen opens[8];
    PlanSequence sequences[8];
    uint32_t closes[8], parks[8];
    PlanUnit units[8];
    int32_t tokens[64];
    error_capture_begin();
    receiver->status = plan_channel_create(&channel, receiver->comm, &limits);
    channel.digest = receiver->digest_before;
    for (uint32_t i = 0; i < PLANS && receiver->status == STATUS_OK; i++) {
        StepPlan got, expected = {.opens = opens,
                                  .sequences = sequences,
                                  .closes = closes,
                                  .parks = parks,
                                  .units = units,
                                  .tokens = tokens};
        receiver->status = plan_receive(&channel, &got);
        fill_plan(i, &expected);
        if (receiver->status == STATUS_OK)
            receiver->good_plans += got.step == i && plans_equal(&got, &expected);
    }
    receiver->error = error_last(NULL);
    error_capture_end();
    plan_channel_destroy(&channel);
    return NULL;
}

/* Sends `count` plans to a receiver; `spoil` may damage the last one before it goes out. */
static Receiver exchange(uint32_t count, uint64_t receiver_digest, void (*spoil)(StepPlan *plan)) {
    Comm *ranks[2];
    pthread_t thread;
    PlanChannel channel;
    assert_int_equal(comm_threads_create(ranks, 2), STATUS_OK);
    Receiver receiver = {.comm = ranks[1], .digest_before = receiver_digest};
    assert_int_equal(pthread_create(&thread, NULL, receive_plans, &receiver), 0);
    assert_int_equal(plan_channel_create(&channel, ranks[0], &limits), STATUS_OK);
    for (uint32_t i = 0; i < count; i++) {
        StepPlan plan;
        plan_begin(&channel, STEP_RUN, &plan);
        fill_plan(i, &plan);
        if (spoil && i + 1 == count) spoil(&plan);
        assert_int_equal(plan_send(&channel, &plan), STATUS_OK);
    }
    pthread_join(thread, NULL);
    plan_channel_destroy(&channel);
    comm_destroy(ranks[0]);
    comm_destroy(ranks[1]);
    return receiver;
}

static void plans_arrive(void **state) {
    (void)state;
    Receiver receiver = exchange(PLANS, 0, NULL);
    assert_int_equal(receiver.status, STATUS_OK);
    assert_int_equal(receiver.good_plans, PLANS);
}

static void another_history_is_noticed(void **state) {
    (void)state;
    Receiver receiver = exchange(1, 12345, NULL);
    assert_int_equal(receiver.status, STATUS_PEER);
    assert_int_equal(receiver.error, ERROR_RANK_MISMATCH);
}

static void spoil_slot(StepPlan *plan) {
    plan->sequences[0].slot = 5;
}
static void spoil_rows(StepPlan *plan) {
    plan->sequences[0].token_count = 9;
}
static void spoil_logits(StepPlan *plan) {
    plan->sequences[0].logit_count = 2;
}
static void spoil_close(StepPlan *plan) {
    plan->closes[0] = 99;
}

static void spoil_park(StepPlan *plan) {
    plan->parks[0] = 5;
}
static void spoil_unit_layer(StepPlan *plan) {
    plan->units[1].layer = 3;
}
static void spoil_unit_rows(StepPlan *plan) {
    plan->units[1].position_first = 30;
}
static void spoil_unit_tokens(StepPlan *plan) {
    plan->units[0].token_count = 4;
}
static void spoil_prefill(StepPlan *plan) {
    plan->prefill.logit_first = 39;
}

static void counts_out_of_range_are_refused(void **state) {
    (void)state;
    void (*const spoils[])(StepPlan *) = {spoil_slot,      spoil_rows,        spoil_logits,
                                          spoil_close,     spoil_park,        spoil_unit_layer,
                                          spoil_unit_rows, spoil_unit_tokens, spoil_prefill};
    for (size_t i = 0; i < sizeof spoils / sizeof *spoils; i++) {
        Receiver receiver = exchange(2, 0, spoils[i]);
        assert_int_equal(receiver.status, STATUS_PEER);
        assert_int_equal(receiver.error, ERROR_RANK_MISMATCH);
        assert_int_equal(receiver.good_plans, 1);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_arrive),
        cmocka_unit_test(another_history_is_noticed),
        cmocka_unit_test(counts_out_of_range_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
