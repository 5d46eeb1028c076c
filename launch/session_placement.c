#include "launch/session_placement.h"

#include <string.h>

#include "kernels/backend.h"
#include "launch/plan_report.h"
#include "launch/plan_settings.h"
#include "runtime/base/bytes.h"
#include "runtime/base/log.h"

/* What rank 0 tells the others. */
typedef struct Budgets {
    uint64_t kv_bytes[TIER_COUNT];
    double weight_percent[TIER_COUNT];
    uint32_t sequences;
} Budgets;

static Status check_alone(const Settings *settings) {
    static const char *const names[] = {"kv-device-size", "kv-host-size", "kv-nvme-size",
                                        "weights-device-size", "weights-host-size"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (options_source(settings->options, names[i]) != OPTION_SOURCE_DEFAULT)
            FAIL(USAGE, "--placement makes the budgets: leave --%s out", names[i]);
    return STATUS_OK;
}

/* Budgets must hold whatever --max-model-len allows. */
static PlanWork work_of(const Session *session, uint32_t prompt_tokens, uint32_t context,
                        const EngineOptions *options) {
    const Settings *settings = session->settings;
    uint32_t all = options->max_model_len ? options->max_model_len : context;
    uint32_t output = settings->max_tokens < all / 2 ? (uint32_t)settings->max_tokens : all / 2;
    uint64_t batch = session->request_count_max;
    if (prompt_tokens == 0 || prompt_tokens >= all) prompt_tokens = all - output;
    return (PlanWork){.batch =
                          batch > 0 && batch < UINT32_MAX ? (uint32_t)batch : options->max_num_seqs,
                      .prompt_tokens = prompt_tokens,
                      .output_tokens = all - prompt_tokens};
}

typedef struct Choosing {
    Session *session;
    PlanWork work;
    const EngineOptions *options;
} Choosing;

/* Is the device's memory the host's own? The probe knows no other. */
static Status find_device(const Settings *settings, bool *out_unified) {
    const BackendOptions options = {.cpu_isa = settings->cpu_isa};
    Device *device;
    Kernels kernels;
    TRY(backend_open(settings->backend, &options, &device, &kernels));
    *out_unified = device->host_addressable;
    device->close(device);
    return STATUS_OK;
}

/* What a file says, or what this machine was found to be: only the CPU's kernels can be measured. */
static Status read_machine(Choosing *choosing, bool given) {
    bool unified;
    Session *session = choosing->session;
    const Settings *settings = session->settings;
    PlanMachine *machine = &session->plan_machine;
    TRY(find_device(settings, &unified));
    if (!unified && !given && !settings->machine)
        FAIL(UNAVAILABLE, "--placement auto: only the CPU's kernels can be measured so far; "
                          "describe the machine with --machine FILE, or give six numbers, such as "
                          "those of `spillway plan --machine FILE`");
    const Comm *comm = session->ranks.comm;
    uint32_t nodes = (uint32_t)(comm->size / comm->local_size);
    const PlanRanks ranks = {.rank_count = (uint32_t)comm->size,
                             .node_count = nodes > 0 ? nodes : 1,
                             .thread_count = session->ranks.threads,
                             .only_kept = given};
    Status status = STATUS_NOT_FOUND;
    if (unified || settings->machine) status = plan_settings_machine(settings, &ranks, machine);
    if (status == STATUS_OK && machine->unified != unified)
        FAIL(MACHINE, "%s: \"unified\" should be %s for --backend %s", settings->machine,
             unified ? "true" : "false", settings->backend);
    if (status == STATUS_OK) session->plan_predicts = true;
    if (status != STATUS_NOT_FOUND || !given) return status;
    *machine = (PlanMachine){
        .rank_count = ranks.rank_count, .node_count = ranks.node_count, .unified = unified};
    return STATUS_OK;
}

/* The size of blocks is never chosen here: it would change bits. */
static Status block_tokens(const Choosing *choosing, const Codec *codec, uint32_t *out) {
    PlanShare share;
    *out = choosing->options->block_tokens;
    if (*out > 0) return STATUS_OK;
    TRY(plan_share(&choosing->session->plan_shape, choosing->session->plan_machine.rank_count,
                   &share));
    *out = kv_budget_block_tokens(share.kv_heads, choosing->session->plan_shape.head_dim,
                                  !codec_is_raw(codec));
    return STATUS_OK;
}

static Status take_given(const Choosing *choosing, const double *percent, PlanPlacement *placement,
                         PlanChoice *out) {
    bool planned = choosing->session->plan_predicts;
    memcpy(placement->percent, percent, sizeof placement->percent);
    TRY(plan_cost(&choosing->session->plan_shape, &choosing->session->plan_machine, &choosing->work,
                  placement, &out->cost));
    out->placement = *placement;
    if (percent[PLAN_ACTIVATIONS_DEVICE] != 100)
        FAIL(PLACEMENT, "activations stay on the device: the last two numbers must be 100,0");
    if (planned && !out->cost.fits) FAIL(PLACEMENT, "%s", out->cost.refusal);
    return STATUS_OK;
}

static Status search(const Choosing *choosing, const PlanPlacement *placement, PlanChoice *out) {
    const EngineOptions *options = choosing->options;
    const PlanFreedom limits = {.codecs = &placement->codec,
                                .codec_count = 1,
                                .residual_tokens = placement->residual_tokens,
                                .block_tokens = placement->block_tokens,
                                .sequences = options->max_num_seqs_auto ? 0 : options->max_num_seqs,
                                .rows = options->max_num_batched_tokens,
                                .attend_host = options->attend_host};
    TRY(plan_search(&choosing->session->plan_shape, &choosing->session->plan_machine,
                    &choosing->work, &limits, out));
    if (!out->cost.fits) FAIL(PLACEMENT, "%s", out->cost.refusal);
    return STATUS_OK;
}

static void tell(const PlanChoice *choice, bool predicts) {
    char text[96];
    plan_placement_text(&choice->placement, text, sizeof text);
    if (!predicts)
        log_note("placement %s, without a prediction: `spillway plan` measures machines whose CPU "
                 "computes",
                 text);
    else
        log_note("placement %s, %u sequences at once: decode %.4g tok/s predicted, bound by %s",
                 text, choice->placement.sequences, choice->cost.decode_rate,
                 plan_bottleneck_name(&choice->cost));
}

/* On rank 0. */
static Status choose(Session *session, uint32_t prompt_tokens, const EngineOptions *options) {
    const Settings *settings = session->settings;
    Choosing choosing = {.session = session, .options = options};
    PlanPlacement placement = {.codec = codec_find(settings->kv_codec),
                               .residual_tokens = settings->kv_residual,
                               .sequences = options->max_num_seqs,
                               .rows = options->max_num_batched_tokens,
                               .attend_host = options->attend_host};
    ModelConfig config;
    double percent[PLAN_PART_COUNT];
    bool given;
    if (!settings->placement) FAIL(USAGE, "--machine is what --placement goes by: give that, too");
    TRY(plan_settings_percent(settings->placement, percent, &given));
    TRY(check_alone(settings));
    TRY(read_machine(&choosing, given));
    TRY(model_read_config(session->weights, &config));
    choosing.work = work_of(session, prompt_tokens, config.context_length, options);
    TRY(plan_settings_shape(settings, session->weights, &session->plan_machine, &choosing.work,
                            &session->plan_shape));
    TRY(block_tokens(&choosing, placement.codec, &placement.block_tokens));
    TRY(given ? take_given(&choosing, percent, &placement, &session->plan)
              : search(&choosing, &placement, &session->plan));
    if (session->plan.cost.kv_bytes[TIER_NVME] > 0 && session->kv_sizes.nvme_dir_count == 0)
        FAIL(USAGE, "--placement puts keys and values on disk: say where with --kv-nvme-dir");
    if (session->plan.cost.weight_bytes[TIER_NVME] > 0 && session->weight_sizes.nvme_dir_count == 0)
        FAIL(USAGE, "--placement puts weights on disk: say where with --weights-nvme-dir or "
                    "--kv-nvme-dir");
    tell(&session->plan, session->plan_predicts);
    return STATUS_OK;
}

/* Matrices stay whole: where none shall be on disk, the host takes all that the device leaves. */
static Budgets budgets_of(const PlanChoice *choice) {
    const double *percent = choice->placement.percent;
    double device = percent[PLAN_WEIGHTS_DEVICE], host = percent[PLAN_WEIGHTS_HOST];
    Budgets budgets = {.weight_percent = {device, host, 100 - device - host},
                       .sequences = choice->placement.sequences};
    if (budgets.weight_percent[TIER_NVME] <= 0 && device < 100)
        budgets.weight_percent[TIER_HOST] = 100;
    memcpy(budgets.kv_bytes, choice->cost.kv_bytes, sizeof budgets.kv_bytes);
    return budgets;
}

static void set_weights(const Budgets *budgets, EngineOptions *options) {
    const double *percent = budgets->weight_percent;
    bool stay = percent[TIER_DEVICE] >= 100;
    options->weight_bytes[TIER_DEVICE] = stay ? UINT64_MAX : 0;
    options->weight_bytes[TIER_HOST] = 0;
    options->weight_bytes[TIER_NVME] = percent[TIER_NVME] > 0 ? UINT64_MAX : 0;
    options->weight_per_cent[TIER_DEVICE] = stay ? 0 : percent[TIER_DEVICE];
    options->weight_per_cent[TIER_HOST] = percent[TIER_HOST];
}

Status session_placement_choose(Session *session, uint32_t prompt_tokens, EngineOptions *options) {
    Comm *comm = session->ranks.comm;
    Budgets budgets = {0};
    Status status = STATUS_OK;
    if (!session->settings->placement && !session->settings->machine) return STATUS_OK;
    error_capture_begin();
    if (comm->rank == 0) status = choose(session, prompt_tokens, options);
    error_capture_end();
    TRY(ranks_vote_captured(&session->ranks, status));
    if (comm->rank == 0) budgets = budgets_of(&session->plan);
    TRY(comm_broadcast(comm, 0, &budgets, sizeof budgets));
    memcpy(options->kv_bytes, budgets.kv_bytes, sizeof budgets.kv_bytes);
    options->kv_reads_ahead = true;
    set_weights(&budgets, options);
    options->max_num_seqs = budgets.sequences;
    options->max_num_seqs_auto = false;
    return STATUS_OK;
}

PlanChoice session_placement_hindsight(const Session *session, const EngineStats *stats) {
    PlanChoice choice = session->plan;
    uint64_t requests = stats->requests_ok + stats->requests_failed + stats->requests_cancelled;
    uint64_t steps = session->decode_steps;
    if (requests == 0 || steps == 0 || session->decode_tokens < steps) return choice;
    PlanWork work = {.batch = (uint32_t)requests,
                     .prompt_tokens = (uint32_t)divide_up(stats->prompt_tokens, requests),
                     .output_tokens = (uint32_t)divide_up(stats->generated_tokens, requests)};
    choice.placement.sequences = (uint32_t)divide_up(session->decode_tokens, steps);
    if (work.prompt_tokens == 0) return session->plan; /* contexts that were made up */
    const PlanShape *shape = &session->plan_shape;
    const PlanMachine *machine = &session->plan_machine;
    error_capture_begin();
    Status status =
        plan_take_budgets(shape, machine, &work, session->plan.cost.kv_bytes, &choice.placement);
    if (status == STATUS_OK)
        status = plan_cost(shape, machine, &work, &choice.placement, &choice.cost);
    error_capture_end();
    return status == STATUS_OK ? choice : session->plan;
}
