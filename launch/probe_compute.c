#include "launch/probe_compute.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/backend.h"
#include "launch/bench_measure.h"
#include "runtime/base/arena.h"
#include "runtime/base/monotonic.h"
#include "runtime/base/random.h"
#include "runtime/engine/sampler.h"

enum { ROUNDS = 3, VOCABULARY = 32768, CALLS_A_LAYER = 10, PIECES = 16, ADDED_ROWS = 128 };
enum { AREA_BYTES = 128 << 20, AREA_PIECES = 128 };
static const double round_seconds = 0.03;
/* What SmolLM2-135M took of a core beyond its kernels, a sequence and layer, at batch 8, 32 and 128 (6.6 to 7.5 us of an Intel Xeon, family 6
 * model 207): no kernel can be timed for it. */
static const double sequence_seconds = 7e-6;

double probe_seconds(uint32_t thread_count, void (*work)(void *user), void *user) {
    double rounds[ROUNDS];
    work(user);
    for (int round = 0; round < ROUNDS; round++) {
        double begin = monotonic_seconds(), cpu_begin = bench_cpu_seconds(), seconds;
        uint32_t calls = 0;
        do {
            work(user);
            calls++;
            seconds = monotonic_seconds() - begin;
        } while (seconds < round_seconds);
        double cpu = (bench_cpu_seconds() - cpu_begin) / thread_count;
        if (cpu > 0 && cpu < seconds) seconds = cpu;
        rounds[round] = seconds / calls;
    }
    return bench_statistics(rounds, ROUNDS).median;
}

/* ---- the sampler ---- */

typedef struct Draw {
    SamplerWorkspace *workspace;
    SamplerInput input;
    SamplerOutput output;
} Draw;

static void draw(void *user) {
    Draw *own = user;
    (void)sampler_sample(own->workspace, &own->input, &own->output); /* numbers of our own */
}

static Status measure_sampler(PlanMachine *machine) {
    const SamplingOptions options = {.temperature = 1, .top_p = 1, .repetition_penalty = 1};
    Random random = {.key = 2};
    float *logits;
    Draw own = {.input = {.vocab_count = VOCABULARY, .options = &options}};
    TRY(memory_take((void **)&logits, VOCABULARY, sizeof *logits, "logits"));
    for (uint32_t i = 0; i < VOCABULARY; i++)
        logits[i] = random_normal(&random);
    own.input.logits = logits;
    Status status = sampler_workspace_create(&own.workspace, VOCABULARY);
    if (status == STATUS_OK) machine->logit_rate = VOCABULARY / probe_seconds(1, draw, &own);
    sampler_workspace_destroy(own.workspace);
    free(logits);
    return status;
}

/* ---- memory ---- */

typedef struct Area {
    Team *team;
    uint8_t *from, *to; /* [AREA_BYTES] */
} Area;

static void copy_piece(void *user, uint32_t piece, uint32_t thread_index) {
    (void)thread_index;
    const Area *area = user;
    size_t bytes = AREA_BYTES / AREA_PIECES, offset = piece * bytes;
    memcpy(area->to + offset, area->from + offset, bytes);
}

static void copy_area(void *user) {
    const Area *area = user;
    team_run(area->team, AREA_PIECES, copy_piece, user);
}

static Status measure_memory(const ProbeKernels *probe, PlanMachine *machine) {
    Area area = {.team = probe->context->team};
    TRY(memory_take((void **)&area.from, 2, AREA_BYTES, "memory to measure its speed"));
    area.to = area.from + AREA_BYTES;
    memset(area.from, 1, 2 * (size_t)AREA_BYTES);
    machine->copy_rate = AREA_BYTES / probe_seconds(team_thread_count(area.team), copy_area, &area);
    free(area.from);
    return STATUS_OK;
}

/* ---- between matrix products ---- */

typedef struct Between {
    const ProbeKernels *probe;
    ElementwiseArgs args;
} Between;

static void add_rows(void *user) {
    const Between *between = user;
    between->probe->kernels->add(between->probe->context, &between->args);
}

static void do_nothing(void *user, uint32_t piece, uint32_t thread_index) {
    (void)user;
    (void)piece;
    (void)thread_index;
}

static void call_team(void *user) {
    const Between *between = user;
    team_run(between->probe->context->team, PIECES, do_nothing, NULL);
}

static Status measure_between(const ProbeKernels *probe, PlanMachine *machine) {
    float *numbers;
    uint64_t count = (uint64_t)ADDED_ROWS * PROBE_COLUMNS;
    TRY(memory_take((void **)&numbers, 2 * count, sizeof *numbers, "rows to measure with"));
    Between between = {.probe = probe,
                       .args = {.a = numbers,
                                .b = numbers + count,
                                .out = numbers,
                                .a_stride = PROBE_COLUMNS,
                                .b_stride = PROBE_COLUMNS,
                                .out_stride = PROBE_COLUMNS,
                                .row_count = ADDED_ROWS,
                                .element_count = PROBE_COLUMNS}};
    uint32_t threads = team_thread_count(probe->context->team);
    machine->row_rate =
        3.0 * (double)(count * sizeof *numbers) / probe_seconds(threads, add_rows, &between);
    machine->layer_seconds = CALLS_A_LAYER * probe_seconds(threads, call_team, &between);
    free(numbers);
    return STATUS_OK;
}

/* ---- all ---- */

static Status measure_with(const ProbeKernels *probe, PlanMachine *machine) {
    TRY(measure_memory(probe, machine));
    TRY(measure_between(probe, machine));
    TRY(measure_sampler(machine));
    TRY(probe_matmul(probe, machine));
    return probe_attention(probe, machine);
}

static Status measure_kernels(const Kernels *kernels, uint32_t thread_count, PlanMachine *machine) {
    const KernelLimits limits = {.row_count = PROBE_ROWS,
                                 .column_count = PROBE_COLUMNS,
                                 .head_count = PROBE_HEADS,
                                 .head_dim = PROBE_HEAD_DIM,
                                 .block_tokens = PROBE_BLOCK_TOKENS};
    KernelContext context = {.scratch_bytes = kernels->scratch_bytes(&limits, thread_count)};
    const ProbeKernels probe = {kernels, &context};
    TRY(team_create(&context.team, thread_count));
    Status status = memory_take(&context.scratch, context.scratch_bytes, 1, "kernel scratch");
    if (status == STATUS_OK) status = measure_with(&probe, machine);
    free(context.scratch);
    team_destroy(context.team);
    return status;
}

Status probe_compute(const char *cpu_isa, uint32_t thread_count, PlanMachine *machine) {
    const BackendOptions options = {.cpu_isa = cpu_isa};
    Device *device;
    Kernels kernels;
    machine->sequence_seconds = sequence_seconds;
    TRY(backend_open("cpu", &options, &device, &kernels));
    Status status = measure_kernels(&kernels, thread_count, machine);
    device->close(device);
    return status;
}
