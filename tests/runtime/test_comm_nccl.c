/* Sums over ranks by the devices, on emulated ones and the twin of NCCL, with ranks as threads: the bits of comm_all_reduce for every
 * size and count of ranks, which way is chosen and why, and every call that fails, once at a time, through a table whose slots
 * are exchanged. What fails ends in time, and closing gives everything back; what is slow goes on, and what hangs is told from it. */

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "kernels/backend.h"
#include "kernels/cuda/emulation/emulated_device.h"
#include "runtime/base/invariant.h"
#include "runtime/base/monotonic.h"
#include "runtime/comm/comm_device.h"
#include "tests/runtime/engine_rounds.h"

enum { SIZE_MAX_RANKS = 4, COUNT_MAX = 70000, LINE_BYTES = 256, ENGINE_PLANS = 3 };

static const double short_seconds = 1;
static const double long_seconds = 60;

typedef struct RankRun RankRun;
typedef Status RankWork(RankRun *run);

/* One rank: its thread, its device, and what it found. */
struct RankRun {
    RankWork *work;
    pthread_t thread;
    int size;
    uint64_t seed;
    const NcclApi *api; /* of this rank, for work that makes a CommNccl itself */
    double timeout_seconds;
    bool away;    /* it joins, and takes no part in sums */
    bool forgets; /* an event */

    int comm_rank;
    Comm *comm;
    Device *device;
    Kernels kernels;
    KernelContext context;
    Status status;
    ErrorCode error;
    char text[LINE_BYTES];
    int wrong;
};

static const NcclApi *twin(void) {
    const char *reason;
    return nccl_library_find("emulated")->open(&reason);
}

static void *rank_main(void *argument) {
    RankRun *run = argument;
    const char *text;
    const BackendOptions options = {.cpu_isa = "auto", .seed = run->seed};
    const KernelLimits limits = {
        .row_count = 1, .column_count = 32, .head_count = 1, .head_dim = 32, .block_tokens = 32};
    CHECK(backend_open("emulated", &options, &run->device, &run->kernels) == STATUS_OK);
    CHECK(run->kernels.context_open(&run->kernels, run->device, &limits, &run->context) ==
          STATUS_OK);
    error_capture_begin();
    run->status = run->work(run);
    error_capture_end();
    run->error = error_last(&text);
    if (run->status != STATUS_OK) snprintf(run->text, sizeof run->text, "%s", text);
    run->kernels.context_close(run->device, &run->context);
    run->device->close(run->device);
    return NULL;
}

/* All ranks, from the same settings but for their numbers. */
static void run_ranks(RankRun *runs, int size) {
    Comm *comms[SIZE_MAX_RANKS];
    assert_int_equal(comm_threads_create(comms, size), STATUS_OK);
    for (int rank = 0; rank < size; rank++) {
        runs[rank].comm = comms[rank];
        runs[rank].size = size;
        runs[rank].comm_rank = rank;
        runs[rank].seed += (uint64_t)rank * 1000;
        assert_int_equal(pthread_create(&runs[rank].thread, NULL, rank_main, &runs[rank]), 0);
    }
    for (int rank = 0; rank < size; rank++)
        pthread_join(runs[rank].thread, NULL);
    for (int rank = 0; rank < size; rank++)
        comm_destroy(comms[rank]);
}

/* ---- bits */

/* Mixed signs and very different sizes, so that another order gives other bits. */
static float value_of(uint64_t seed, int rank, uint64_t i) {
    Random random = {.key = seed, .stream = (uint64_t)rank << 32 | i};
    uint64_t bits = random_u64(&random);
    return (float)(int32_t)(uint32_t)bits * 0x1p-31f * (float)(1u << (bits >> 40 & 15));
}

typedef struct Buffers {
    float *host;   /* pinned, [COUNT_MAX] */
    float *device; /* [COUNT_MAX] */
} Buffers;

static void take_buffers(RankRun *run, Buffers *out) {
    uint64_t bytes = COUNT_MAX * sizeof(float);
    Device *device = run->device;
    CHECK(device->memory_take(device, MEMORY_HOST, bytes, "test", (void **)&out->host) ==
          STATUS_OK);
    CHECK(device->memory_take(device, MEMORY_DEVICE, bytes, "test", (void **)&out->device) ==
          STATUS_OK);
}

static void give_buffers(RankRun *run, const Buffers *buffers) {
    uint64_t bytes = COUNT_MAX * sizeof(float);
    run->device->memory_give(run->device, MEMORY_HOST, buffers->host, bytes);
    run->device->memory_give(run->device, MEMORY_DEVICE, buffers->device, bytes);
}

/* Puts this rank's numbers on the device, sums, and fetches: all on the compute stream, with no wait but the last. */
static Status sum_once(RankRun *run, const CommDevice *reduce, const Buffers *buffers,
                       uint64_t seed, uint64_t count) {
    Device *device = run->device;
    DeviceStream *stream = run->context.stream;
    uint64_t bytes = count * sizeof(float);
    for (uint64_t i = 0; i < count; i++)
        buffers->host[i] = value_of(seed, run->comm->rank, i);
    TRY(device->copy(device, stream, buffers->device, buffers->host, bytes));
    TRY(comm_device_all_reduce(reduce, buffers->device, count));
    TRY(device->copy(device, stream, buffers->host, buffers->device, bytes));
    TRY(device->stream_wait(device, stream));
    return comm_device_settle(reduce);
}

static int count_wrong(const RankRun *run, const float *found, uint64_t seed, uint64_t count) {
    int wrong = 0;
    for (uint64_t i = 0; i < count; i++) {
        float sum = value_of(seed, 0, i);
        for (int rank = 1; rank < run->size; rank++)
            sum += value_of(seed, rank, i);
        wrong += memcmp(&sum, &found[i], sizeof sum) != 0;
    }
    return wrong;
}

static Status sum_all_sizes(RankRun *run) {
    static const uint64_t counts[] = {1, 2, 3, 5, 63, 64, 577, 4096, 4099, 40000, COUNT_MAX};
    static const char *const choices[] = {"nccl", "host"};
    Buffers buffers;
    take_buffers(run, &buffers);
    for (int way = 0; way < 2; way++) {
        CommDevice reduce;
        const CommDeviceOptions options = {.comm = run->comm,
                                           .device = run->device,
                                           .kernels = &run->kernels,
                                           .context = &run->context,
                                           .choice = choices[way],
                                           .timeout_seconds = long_seconds};
        TRY(comm_device_create(&reduce, &options));
        CHECK((reduce.nccl != NULL) == (way == 0) && (reduce.bounce != NULL) == (way == 1));
        CHECK(strstr(reduce.text, way == 0 ? "on the devices, by the twin" : "--comm host"));
        uint64_t calls = comm_calls(run->comm);
        for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
            TRY(sum_once(run, &reduce, &buffers, i + 1, counts[i]));
            run->wrong += count_wrong(run, buffers.host, i + 1, counts[i]);
        }
        CHECK(comm_calls(run->comm) == calls + sizeof counts / sizeof *counts);
        comm_device_destroy(&reduce);
    }
    give_buffers(run, &buffers);
    return STATUS_OK;
}

static void test_bits(void **state) {
    (void)state;
    for (int size = 2; size <= SIZE_MAX_RANKS; size++)
        for (uint64_t seed = 1; seed <= 2; seed++) {
            RankRun runs[SIZE_MAX_RANKS] = {0};
            for (int rank = 0; rank < size; rank++)
                runs[rank] = (RankRun){.work = sum_all_sizes, .seed = seed};
            run_ranks(runs, size);
            for (int rank = 0; rank < size; rank++) {
                if (runs[rank].status != STATUS_OK) fail_msg("%s", runs[rank].text);
                assert_int_equal(runs[rank].wrong, 0);
            }
        }
}

/* ---- the twin is late */

static NcclComm *join_twin(RankRun *run) {
    NcclUniqueId id = {{0}};
    NcclConfig config = {
        .size = sizeof config, .magic = nccl_config_magic, .version = NCCL_VERSION_LEAST};
    NcclComm *link;
    int result, state = NCCL_IN_PROGRESS;
    if (run->comm->rank == 0) CHECK(twin()->get_unique_id(&id) == NCCL_SUCCESS);
    CHECK(comm_broadcast(run->comm, 0, &id, sizeof id) == STATUS_OK);
    result = twin()->comm_init(&link, run->size, id, run->comm->rank, &config);
    CHECK(result == NCCL_IN_PROGRESS);
    while (state == NCCL_IN_PROGRESS)
        CHECK(twin()->comm_async_error(link, &state) == NCCL_SUCCESS);
    return link;
}

/* Rank 0 sends, on another stream, what its compute stream is still to make. */
static Status send_behind_work(RankRun *run) {
    enum { COUNT = 1000 };
    Device *device = run->device;
    DeviceStream *stream;
    DeviceEvent *event;
    Buffers buffers;
    take_buffers(run, &buffers);
    NcclComm *link = join_twin(run);
    TRY(device->stream_create(device, STREAM_COMPUTE, &stream));
    TRY(device->event_create(device, &event));
    for (uint64_t i = 0; i < COUNT; i++)
        buffers.host[i] = 1;
    TRY(device->copy(device, run->context.stream, buffers.device, buffers.host,
                     COUNT * sizeof(float)));
    TRY(device->event_record(device, event, run->context.stream));
    if (!run->forgets) TRY(device->stream_wait_event(device, stream, event));
    CHECK(twin()->group_start() == NCCL_SUCCESS);
    if (run->comm->rank == 0)
        CHECK(twin()->send(buffers.device, COUNT, NCCL_FLOAT32, 1, link, stream) == NCCL_SUCCESS);
    else
        CHECK(twin()->recv(buffers.device, COUNT, NCCL_FLOAT32, 0, link, stream) == NCCL_SUCCESS);
    CHECK(twin()->group_end() == NCCL_SUCCESS);
    TRY(device->stream_wait(device, stream));
    TRY(device->copy(device, stream, buffers.host, buffers.device, COUNT * sizeof(float)));
    TRY(device->stream_wait(device, stream));
    for (uint64_t i = 0; i < COUNT; i++)
        run->wrong += buffers.host[i] != 1;
    CHECK(twin()->comm_destroy(link) == NCCL_SUCCESS);
    device->event_destroy(device, event);
    device->stream_destroy(device, stream);
    give_buffers(run, &buffers);
    return STATUS_OK;
}

static int wrong_of_seeds(bool forgets) {
    int wrong = 0;
    for (uint64_t seed = 1; seed <= 5; seed++) {
        RankRun runs[2];
        for (int rank = 0; rank < 2; rank++)
            runs[rank] = (RankRun){.work = send_behind_work, .seed = seed, .forgets = forgets};
        run_ranks(runs, 2);
        for (int rank = 0; rank < 2; rank++)
            assert_int_equal(runs[rank].status, STATUS_OK);
        wrong += runs[1].wrong > 0;
    }
    return wrong;
}

static void test_lateness(void **state) {
    (void)state;
    assert_int_equal(wrong_of_seeds(false), 0);
    assert_true(wrong_of_seeds(true) > 0);
}

/* ---- which way */

typedef struct Choice {
    const char *choice;
    void (*spoil)(RankRun *run); /* on rank 1 */
    Status status;
    const char *says;
} Choice;

static const Choice *choice_now;

static void spoil_nothing(RankRun *run) {
    (void)run;
}

static void share_device(RankRun *run) {
    run->device->identity = "a";
}

static void lose_library(RankRun *run) {
    run->device->collectives = NULL;
}

static Status take_nothing(Device *device, MemoryPlace place, uint64_t bytes, const char *what,
                           void **out) {
    (void)device, (void)place, (void)out;
    FAIL(MEMORY, "%s: no %llu bytes are left", what, (unsigned long long)bytes);
}

static void lose_memory(RankRun *run) {
    run->device->memory_take = take_nothing;
}

static Status choose(RankRun *run) {
    CommDevice reduce;
    const CommDeviceOptions options = {.comm = run->comm,
                                       .device = run->device,
                                       .kernels = &run->kernels,
                                       .context = &run->context,
                                       .choice = choice_now->choice,
                                       .timeout_seconds = long_seconds};
    if (run->comm->rank == 0) run->device->identity = "a";
    if (run->comm->rank == 1) choice_now->spoil(run);
    TRY(comm_device_create(&reduce, &options));
    run->wrong = !strstr(reduce.text, choice_now->says) || reduce.nccl || !reduce.bounce;
    comm_device_destroy(&reduce);
    return STATUS_OK;
}

static void test_choice(void **state) {
    (void)state;
    static const Choice choices[] = {
        {"host", spoil_nothing, STATUS_OK, "through host memory: --comm host"},
        {"auto", spoil_nothing, STATUS_OK, "through host memory: rank 0: an emulated device does"},
        {NULL, spoil_nothing, STATUS_OK, "through host memory: rank 0: an emulated device does"},
        {"nccl", share_device, STATUS_UNSUPPORTED, "--comm nccl: ranks 0 and 1 share a device"},
        {"nccl", lose_library, STATUS_UNSUPPORTED, "--comm nccl: rank 1: its device has no"},
        {"nccl", lose_memory, STATUS_UNSUPPORTED, "--comm nccl: rank 1: sums over ranks: no "},
    };
    for (size_t i = 0; i < sizeof choices / sizeof *choices; i++) {
        RankRun runs[2];
        choice_now = &choices[i];
        for (int rank = 0; rank < 2; rank++)
            runs[rank] = (RankRun){.work = choose, .seed = 3};
        run_ranks(runs, 2);
        for (int rank = 0; rank < 2; rank++) {
            assert_int_equal(runs[rank].status, choices[i].status);
            assert_int_equal(runs[rank].wrong, 0);
            if (choices[i].status == STATUS_OK) continue;
            assert_int_equal(runs[rank].error, ERROR_UNAVAILABLE);
            if (!strstr(runs[rank].text, choices[i].says)) fail_msg("\"%s\"", runs[rank].text);
        }
    }
}

/* ---- failures */

static int refuse_id(NcclUniqueId *out) {
    memset(out, 0, sizeof *out);
    return NCCL_SYSTEM_ERROR;
}

static int refuse_init(NcclComm **out, int size, NcclUniqueId id, int rank, NcclConfig *config) {
    (void)size, (void)id, (void)rank, (void)config;
    *out = NULL;
    return NCCL_SYSTEM_ERROR;
}

static int refuse_group(void) {
    return NCCL_SYSTEM_ERROR;
}

static int refuse_send(const void *data, size_t count, int type, int peer, NcclComm *comm,
                       DeviceStream *stream) {
    (void)data, (void)count, (void)type, (void)peer, (void)comm, (void)stream;
    return NCCL_INVALID_ARGUMENT;
}

static int refuse_recv(void *data, size_t count, int type, int peer, NcclComm *comm,
                       DeviceStream *stream) {
    return refuse_send(data, count, type, peer, comm, stream);
}

static _Thread_local int good_looks;

/* Breaks in the first sum: the start ends with a good look. */
static int break_later(NcclComm *comm, int *out_state) {
    int result = twin()->comm_async_error(comm, out_state);
    if (*out_state == NCCL_SUCCESS && ++good_looks > 1) *out_state = NCCL_REMOTE_ERROR;
    return result;
}

static const char *explain(NcclComm *comm) {
    (void)comm;
    return "the cable is out";
}

static Status join(RankRun *run, CommNccl **out) {
    const CommNcclOptions options = {.api = run->api,
                                     .comm = run->comm,
                                     .device = run->device,
                                     .kernels = &run->kernels,
                                     .context = &run->context,
                                     .timeout_seconds = run->timeout_seconds};
    TRY(comm_nccl_create(out, &options));
    return comm_nccl_join(*out);
}

/* The whole life of a communicator: two sums, of which a rank that stays away takes no part. */
static Status live(RankRun *run) {
    CommNccl *nccl = NULL;
    Buffers buffers;
    good_looks = 0;
    take_buffers(run, &buffers);
    Status status = join(run, &nccl);
    for (int sum = 0; sum < 2 && status == STATUS_OK && !run->away; sum++) {
        status = comm_nccl_all_reduce(nccl, buffers.device, 1000);
        if (status == STATUS_OK) status = comm_nccl_settle(nccl);
    }
    comm_nccl_destroy(nccl);
    give_buffers(run, &buffers);
    return status;
}

static void expect_error(const RankRun *run, ErrorCode error, const char *says) {
    char place[32];
    snprintf(place, sizeof place, "rank %d on emulated:0: ", run->comm_rank);
    assert_int_equal(run->status, STATUS_PEER);
    if (run->error != error || !strstr(run->text, says) || !strstr(run->text, place))
        fail_msg("\"%s\" is not \"%s… %s\"", run->text, place, says);
}

/* One rank has a broken table and patience; the other learns of nothing, and its time runs out. */
static void live_with(RankRun *runs, int broken_rank, const NcclApi *broken) {
    for (int rank = 0; rank < 2; rank++)
        runs[rank] =
            (RankRun){.work = live,
                      .seed = 7,
                      .api = rank == broken_rank ? broken : twin(),
                      .timeout_seconds = rank == broken_rank ? long_seconds : short_seconds};
    run_ranks(runs, 2);
}

static void test_start_fails(void **state) {
    (void)state;
    RankRun runs[2];
    char says[LINE_BYTES];
    NcclApi broken = *twin();
    broken.get_unique_id = refuse_id;
    live_with(runs, 0, &broken);
    for (int rank = 0; rank < 2; rank++)
        expect_error(&runs[rank], ERROR_COMM, "ncclGetUniqueId of rank 0: unhandled system error");
    for (int rank = 0; rank < 2; rank++) {
        broken = *twin();
        broken.comm_init = refuse_init;
        live_with(runs, rank, &broken);
        snprintf(says, sizeof says, "ncclCommInitRankConfig: rank %d has not come within 1 s",
                 rank);
        expect_error(&runs[rank], ERROR_COMM, "ncclCommInitRankConfig: unhandled system error");
        expect_error(&runs[1 - rank], ERROR_PEER_LOST, says);
    }
}

static void test_sums_fail(void **state) {
    (void)state;
    RankRun runs[2];
    NcclApi group = *twin(), ending = *twin(), sending = *twin(), receiving = *twin(),
            breaking = *twin();
    group.group_start = refuse_group;
    ending.group_end = refuse_group;
    sending.send = refuse_send;
    receiving.recv = refuse_recv;
    breaking.comm_async_error = break_later;
    breaking.last_error = explain;
    const struct {
        const NcclApi *api;
        const char *says;
    } cases[] = {
        {&group, "ncclGroupStart in sum 1 over ranks: unhandled system error"},
        {&ending, "ncclGroupEnd in sum 1 over ranks: unhandled system error"},
        {&sending, "ncclSend in sum 1 over ranks: invalid argument"},
        {&receiving, "ncclRecv in sum 1 over ranks: invalid argument"},
        {&breaking, "a wait in sum 1 over ranks: remote process exited or there was a network "
                    "error; the cable is out"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        live_with(runs, 1, cases[i].api);
        expect_error(&runs[1], ERROR_COMM, cases[i].says);
    }
}

/* ---- another thread ends it */

static void *abort_later(void *comm) {
    usleep(200000);
    CHECK(comm_abort(comm, long_seconds));
    return NULL;
}

/* Waits where nobody looks for a peer that never comes: without the other thread, for ever. */
static Status wait_blindly(RankRun *run) {
    CommNccl *nccl;
    Buffers buffers;
    pthread_t watchdog;
    take_buffers(run, &buffers);
    TRY(join(run, &nccl));
    Status status = STATUS_OK;
    if (!run->away) {
        TRY(comm_nccl_all_reduce(nccl, buffers.device, 1000));
        CHECK(pthread_create(&watchdog, NULL, abort_later, run->comm) == 0);
        TRY(run->device->stream_wait(run->device, run->context.stream));
        pthread_join(watchdog, NULL);
        status = comm_nccl_settle(nccl);
        CHECK(comm_nccl_all_reduce(nccl, buffers.device, 1000) == status);
    }
    comm_nccl_destroy(nccl);
    CHECK(comm_abort(run->comm, long_seconds)); /* nothing is there any more */
    give_buffers(run, &buffers);
    return status;
}

static void test_ended_from_outside(void **state) {
    (void)state;
    RankRun runs[2];
    for (int rank = 0; rank < 2; rank++)
        runs[rank] = (RankRun){.work = wait_blindly,
                               .seed = 11,
                               .api = twin(),
                               .timeout_seconds = long_seconds,
                               .away = rank == 1};
    run_ranks(runs, 2);
    assert_int_equal(runs[1].status, STATUS_OK);
    expect_error(&runs[0], ERROR_PEER_LOST, "its communicator was given up");
}

static int abort_slowly(NcclComm *comm) {
    usleep(2000000);
    return twin()->comm_abort(comm);
}

/* An abort that takes long holds nobody up, and what comes after it waits. */
static Status abort_in_vain(RankRun *run) {
    CommNccl *nccl;
    TRY(join(run, &nccl));
    double start = monotonic_seconds();
    run->wrong += comm_abort(run->comm, 0.05);
    run->wrong += monotonic_seconds() - start > 1.5;
    comm_nccl_destroy(nccl);
    run->wrong += monotonic_seconds() - start < 1.9;
    return STATUS_OK;
}

static void test_slow_abort(void **state) {
    (void)state;
    RankRun run = {.work = abort_in_vain, .seed = 1, .timeout_seconds = long_seconds};
    NcclApi slow = *twin();
    slow.comm_abort = abort_slowly;
    run.api = &slow;
    run_ranks(&run, 1);
    assert_int_equal(run.status, STATUS_OK);
    assert_int_equal(run.wrong, 0);
}

static void test_peer_stays_away(void **state) {
    (void)state;
    RankRun runs[2];
    for (int rank = 0; rank < 2; rank++)
        runs[rank] = (RankRun){.work = live,
                               .seed = 11,
                               .api = twin(),
                               .timeout_seconds = rank == 0 ? long_seconds : 2,
                               .away = rank == 0};
    run_ranks(runs, 2);
    assert_int_equal(runs[0].status, STATUS_OK);
    expect_error(&runs[1], ERROR_PEER_LOST,
                 "a wait in sum 1 over ranks: rank 0 has not come within 2 s");
}

/* ---- slow and stuck devices */

enum { SLOW_SUMS = 10, PIECE_US = 250000 };

static bool take_long(void *user) {
    (void)user;
    usleep(PIECE_US);
    return true;
}

static atomic_bool device_hangs;

static bool never_end(void *user) {
    (void)user;
    return !atomic_load(&device_hangs);
}

static void leave_alone(void *user) {
    (void)user;
}

static void put_task(RankRun *run, bool (*work)(void *user)) {
    const EmulatedTask task = {.run = work, .end = leave_alone};
    emulated_device_task(run->context.stream, &task);
}

/* A queue of sums, each behind work that takes a while, or for rank 1 behind some that never ends where devices hang. */
static Status sum_behind_work(RankRun *run) {
    CommNccl *nccl = NULL;
    Buffers buffers;
    take_buffers(run, &buffers);
    Status status = join(run, &nccl);
    for (int sum = 0; sum < SLOW_SUMS && status == STATUS_OK; sum++) {
        put_task(run, take_long);
        if (sum == SLOW_SUMS / 2 && run->comm->rank == 1) put_task(run, never_end);
        status = comm_nccl_all_reduce(nccl, buffers.device, 1000);
    }
    if (status == STATUS_OK) status = comm_nccl_settle(nccl);
    comm_barrier(run->comm); /* all have had their time */
    atomic_store(&device_hangs, false);
    comm_nccl_destroy(nccl);
    give_buffers(run, &buffers);
    return status;
}

static void sum_slowly(RankRun *runs, bool hangs) {
    atomic_store(&device_hangs, hangs);
    for (int rank = 0; rank < 2; rank++)
        runs[rank] = (RankRun){
            .work = sum_behind_work, .seed = 5, .api = twin(), .timeout_seconds = short_seconds};
    run_ranks(runs, 2);
}

/* The queue takes longer than any one wait may. */
static void test_slow_device(void **state) {
    (void)state;
    RankRun runs[2];
    sum_slowly(runs, false);
    for (int rank = 0; rank < 2; rank++)
        if (runs[rank].status != STATUS_OK) fail_msg("%s", runs[rank].text);
}

static void test_device_hangs(void **state) {
    (void)state;
    RankRun runs[2];
    char says[LINE_BYTES];
    sum_slowly(runs, true);
    snprintf(says, sizeof says, "in sum %d over ranks: rank 1 has not come within 1 s",
             SLOW_SUMS / 2 + 1);
    expect_error(&runs[0], ERROR_PEER_LOST, says);
    snprintf(says, sizeof says, "emulated:0: no progress for 0.833333 s in front of sum %d over ",
             SLOW_SUMS / 2 + 1);
    assert_int_equal(runs[1].status, STATUS_DEVICE);
    assert_int_equal(runs[1].error, ERROR_DEVICE_LOST);
    if (!strstr(runs[1].text, says)) fail_msg("\"%s\" is not \"%s\"", runs[1].text, says);
}

/* A rank alone has no sums, and its watchdog sees how its device gets on nonetheless. */
static Status work_alone(RankRun *run) {
    enum { PIECES = 12, NUMBERS = 1 << 16, AHEAD_MAX = 8 };
    CommDevice reduce;
    const CommDeviceOptions options = {
        .comm = run->comm, .device = run->device, .context = &run->context};
    TRY(comm_device_create(&reduce, &options));
    for (uint64_t piece = 1; piece <= PIECES; piece++) {
        put_task(run, never_end); /* which ends at once here */
        TRY(comm_device_keep_pace(&reduce, NUMBERS));
        run->wrong += comm_moves(run->comm) > piece || comm_moves(run->comm) + AHEAD_MAX < piece;
    }
    TRY(comm_device_wait(&reduce));
    run->wrong += comm_moves(run->comm) != PIECES;
    for (int i = 0; i < PIECES; i++)
        TRY(comm_device_keep_pace(&reduce, 1)); /* too little for a mark */
    TRY(comm_device_wait(&reduce));
    run->wrong += comm_moves(run->comm) != PIECES;
    comm_device_destroy(&reduce);
    return STATUS_OK;
}

static void test_pace_alone(void **state) {
    (void)state;
    RankRun run = {.work = work_alone, .seed = 2};
    atomic_store(&device_hangs, false);
    run_ranks(&run, 1);
    assert_int_equal(run.status, STATUS_OK);
    assert_int_equal(run.wrong, 0);
}

/* ---- the library of this machine, if there is one */

static void test_installed(void **state) {
    (void)state;
    const char *reason = NULL;
    int version = 0;
    const NcclApi *api = nccl_library_find("nccl")->open(&reason);
    assert_null(nccl_library_find("abacus"));
    if (!api) {
        assert_non_null(strstr(reason, "libnccl.so.2"));
        skip();
    }
    assert_int_equal(api->get_version(&version), NCCL_SUCCESS);
    assert_true(version >= NCCL_VERSION_LEAST);
    assert_string_equal(api->error_string(NCCL_SUCCESS), "no error");
    for (int result = NCCL_SUCCESS; result <= NCCL_IN_PROGRESS; result++)
        assert_true(strlen(api->error_string(result)) > 0);
}

/* ---- an engine */

static void run_engine(const char *comm, uint64_t seed, const Plan *plans, Result *results) {
    Random random = {.key = seed};
    const ModelChoice *choice = random_model(&random);
    Weights *weights = open_model(choice);
    Round round = {.weights = weights,
                   .options = {.backend = "emulated",
                               .emulation_seed = random_u64(&random),
                               .cpu_isa = "auto",
                               .comm = comm,
                               .comm_timeout_seconds = long_seconds,
                               .thread_count = 1,
                               .max_num_seqs = 3,
                               .max_num_batched_tokens = 16,
                               .block_tokens = 4,
                               .kv_bytes = {UINT64_MAX, 4 << 20}},
                   .rank_count = (int)pick(&random, 2, choice->ranks_max),
                   .plans = plans,
                   .plan_count = ENGINE_PLANS,
                   .results = results};
    run_round(&round);
    weights_close(weights);
}

/* Blocks spill to host memory, so that ranks also wait for their compute streams between sums. */
static void test_engine(void **state) {
    (void)state;
    static Plan plans[ENGINE_PLANS];
    static Result host[ENGINE_PLANS], devices[ENGINE_PLANS];
    for (uint64_t seed = 1; seed <= 2; seed++) {
        Random random = {.key = seed, .stream = 1};
        random_plans(&random, plans, ENGINE_PLANS);
        for (uint32_t i = 0; i < ENGINE_PLANS; i++)
            plans[i].cancel_step = 0; /* how far it came by then may differ */
        run_engine("host", seed, plans, host);
        run_engine("nccl", seed, plans, devices);
        for (uint32_t i = 0; i < ENGINE_PLANS; i++) {
            const char *odd = difference(&host[i], &devices[i], false);
            if (odd) fail_msg("seed %u, request %u: %s differs", (unsigned)seed, i, odd);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),        cmocka_unit_test(test_lateness),
        cmocka_unit_test(test_choice),      cmocka_unit_test(test_start_fails),
        cmocka_unit_test(test_sums_fail),   cmocka_unit_test(test_peer_stays_away),
        cmocka_unit_test(test_slow_device), cmocka_unit_test(test_device_hangs),
        cmocka_unit_test(test_pace_alone),  cmocka_unit_test(test_ended_from_outside),
        cmocka_unit_test(test_slow_abort),  cmocka_unit_test(test_installed),
        cmocka_unit_test(test_engine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
