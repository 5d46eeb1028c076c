/* Opening and closing: the backend, this rank's weights, KV memory, scratch, and what rank 0 needs to lead. All memory that steps
 * use is taken here. */

#include <stdlib.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/hash.h"
#include "runtime/base/monotonic.h"
#include "runtime/engine/engine_parts.h"

enum { ARENA_SLACK = 4096 }; /* for alignment */
static const uint64_t prefill_bytes_max = 1ull << 30;

static bool spills(const Engine *engine) {
    return engine->options.kv_bytes[TIER_HOST] > 0 || engine->options.kv_bytes[TIER_NVME] > 0;
}

/* Of this user on this machine, for they share one memlock limit. */
static uint32_t ring_count(const Engine *engine) {
    const EngineOptions *options = &engine->options;
    uint32_t own = (options->kv_bytes[TIER_NVME] > 0) + (options->weight_bytes[TIER_NVME] > 0);
    return (uint32_t)engine->comm->local_size * (own > 0 ? own : 1);
}

KvBudgetInput engine_budget_input(const Engine *engine) {
    const EngineOptions *options = &engine->options;
    KvBudgetInput input = {.layout = engine->layout,
                           .layer_count = engine->config.layer_count,
                           .sequence_max = options->max_num_seqs,
                           .sequence_auto = options->max_num_seqs_auto,
                           .bounces = !engine->device->host_addressable,
                           .reads_ahead = options->kv_reads_ahead,
                           .token_max = options->max_model_len,
                           .row_count_max = options->max_num_batched_tokens};
    memcpy(input.bytes, options->kv_bytes, sizeof input.bytes);
    return input;
}

/* *out NULL: blocks stay as they are. */
static Status find_codec(const char *option, const char *name, const KvShape *shape,
                         const Codec **out) {
    const Codec *codec = name ? codec_find(name) : NULL;
    if (name && !codec) FAIL(USAGE, "--%s %s: no such codec; see `spillway codecs`", option, name);
    *out = NULL;
    if (codec_is_raw(codec)) return STATUS_OK;
    const char *refusal = codec_refusal(codec, shape);
    if (refusal) FAIL(USAGE, "--%s %s does not fit: %s", option, name, refusal);
    *out = codec;
    return STATUS_OK;
}

static Status find_tier_codecs(const Engine *engine, const KvShape *shape,
                               const Codec *out[TIER_COUNT]) {
    static const char *const names[TIER_COUNT] = {
        [TIER_HOST] = "kv-host-codec", [TIER_NVME] = "kv-nvme-codec"};
    for (int tier = TIER_HOST; tier < TIER_COUNT; tier++) {
        const char *name = engine->options.kv_tier_codecs[tier];
        TRY(find_codec(names[tier], name, shape, &out[tier]));
        if (out[tier] && engine->options.kv_bytes[tier] == 0)
            FAIL(USAGE, "--%s %s: there is no such tier; see --kv-%s-size", names[tier],
                 out[tier]->name, tier_name((Tier)tier));
    }
    return STATUS_OK;
}

static Status plan_layout(Engine *engine) {
    const EngineOptions *options = &engine->options;
    KvShape shape = {share_count(engine->model.share.kv_heads), engine->config.head_dim,
                     options->block_tokens};
    const Codec *codec, *tier_codecs[TIER_COUNT] = {NULL};
    TRY(find_codec("kv-codec", options->kv_codec, &shape, &codec));
    TRY(find_tier_codecs(engine, &shape, tier_codecs));
    uint32_t residual_tokens = codec ? codec->residual_tokens : 0;
    for (int tier = TIER_HOST; tier < TIER_COUNT; tier++)
        if (tier_codecs[tier] && tier_codecs[tier]->residual_tokens > residual_tokens)
            residual_tokens = tier_codecs[tier]->residual_tokens;
    if (options->kv_residual >= 0) residual_tokens = (uint32_t)options->kv_residual;
    engine->layout = kv_layout(&shape, codec, residual_tokens, spills(engine));
    memcpy(engine->layout.tier_codecs, tier_codecs, sizeof tier_codecs);
    return STATUS_OK;
}

/* What the device has free for this rank. Every rank has opened its own by now, and none takes anything before all have asked. */
static Status find_room(Engine *engine) {
    TRY(engine->device->memory_free(engine->device, &engine->device_room));
    engine->device_room /= (uint64_t)engine->device_sharers;
    return STATUS_OK;
}

/* Half of what is free, or of the limit, beside the weights, which are still to be packed: of the host's memory others want some,
 * too. */
static uint64_t auto_budget_of_host(const Engine *engine) {
    const ModelSizes *sizes = &engine->sizes;
    uint64_t room = engine->device_room, limit = engine->options.memory_limit_bytes,
             weights = sizes->fixed_bytes + sizes->layer_bytes[TIER_DEVICE];
    if (limit > 0 && room > limit) room = limit;
    if (room > weights) return (room - weights) / 2;
    return limit > 0 ? UINT64_MAX : 0; /* the least: then the reckoning tells what it all needs */
}

/* Nine tenths of what is left beside all else; never less than works, so that it is the reckoning which refuses. */
static uint64_t auto_budget_of_device(const Engine *engine) {
    const KvBudgetInput input = engine_budget_input(engine);
    uint64_t most = memory_plan_device_left(engine) / 10 * 9, least = kv_budget_device_min(&input);
    return most > least ? most : least;
}

/* The device budget of keys and values in bytes, unless it was given so. */
static Status fill_budgets(Engine *engine) {
    uint64_t *budget = &engine->options.kv_bytes[TIER_DEVICE];
    double per_cent = engine->options.kv_device_per_cent;
    TRY(find_room(engine));
    if (per_cent > 0 && engine->device_room == 0)
        FAIL(UNAVAILABLE, "%s does not tell its free memory: give --kv-device-size in bytes",
             engine->device->name);
    if (per_cent > 0)
        *budget = (uint64_t)((double)engine->device_room * per_cent / 100);
    else if (*budget == 0 && engine->device->host_addressable)
        *budget = auto_budget_of_host(engine);
    else if (*budget == 0)
        *budget = auto_budget_of_device(engine);
    return STATUS_OK;
}

/* The same on every rank: reckoned for the one that holds most KV heads. */
static uint32_t auto_block_tokens(const Engine *engine) {
    uint32_t ranks = (uint32_t)engine->comm->size;
    const Codec *codec = engine->options.kv_codec ? codec_find(engine->options.kv_codec) : NULL;
    return kv_budget_block_tokens((uint32_t)divide_up(engine->config.kv_head_count, ranks),
                                  engine->config.head_dim, !codec_is_raw(codec));
}

static Status check_options(Engine *engine) {
    EngineOptions *options = &engine->options;
    if (options->max_model_len == 0) options->max_model_len = engine->config.context_length;
    if (options->max_model_len > engine->config.context_length)
        FAIL(USAGE, "--max-model-len %u: the model was made for at most %u tokens",
             options->max_model_len, engine->config.context_length);
    if (options->max_num_seqs == 0 || options->max_num_seqs > SLOTS_MAX)
        FAIL(USAGE, "--max-num-seqs %u: 1 to %d are possible", options->max_num_seqs, SLOTS_MAX);
    if (options->max_num_batched_tokens < options->max_num_seqs)
        options->max_num_batched_tokens = options->max_num_seqs;
    if (options->block_tokens == 0) options->block_tokens = auto_block_tokens(engine);
    if (!is_power_of_two(options->block_tokens) || options->block_tokens > 4096)
        FAIL(USAGE, "--block-size %u: a power of two up to 4096 is needed", options->block_tokens);
    return STATUS_OK;
}

static Status announce_device(const Engine *engine) {
    const EngineHooks *hooks = &engine->options.hooks;
    bool tells = hooks->device_open && !engine->device->host_addressable;
    return tells ? hooks->device_open(hooks->user, engine->device->name) : STATUS_OK;
}

static Status open_backend(Engine *engine) {
    BackendOptions backend = {.cpu_isa = engine->options.cpu_isa,
                              .device_index = (uint32_t)engine->comm->local_rank,
                              .seed = engine->options.emulation_seed,
                              .emulated_bytes = engine->options.emulation_bytes,
                              .failures = engine->options.device_failures};
    TRY(backend_open(engine->options.backend, &backend, &engine->device, &engine->kernels));
    TRY(announce_device(engine));
    const ModelConfig *config = &engine->config;
    uint64_t attention_width = (uint64_t)config->head_count * config->head_dim;
    uint64_t widest = config->hidden_size;
    if (config->intermediate_size > widest) widest = config->intermediate_size;
    if (attention_width > widest) widest = attention_width;
    if (config->embedding_size > widest) widest = config->embedding_size;
    KernelLimits limits = {.row_count = engine->options.max_num_batched_tokens,
                           .column_count = (uint32_t)widest,
                           .head_count = config->head_count,
                           .head_dim = config->head_dim,
                           .block_tokens = engine->options.block_tokens};
    TRY(team_create(&engine->context.team, engine->options.thread_count));
    return engine->kernels.context_open(&engine->kernels, engine->device, &limits,
                                        &engine->context);
}

/* What a rank says of itself as it opens; what it does not know yet is 0. */
typedef struct OpenVote {
    uint32_t status;
    uint32_t layer_blocks, sequence_max;
    uint64_t device; /* hash of its identity; 0: its memory is the host's */
    RankShare share;
} OpenVote;

static uint64_t device_hash(const Device *device) {
    if (!device || !device->identity) return 0;
    return hash_xxh3(device->identity, strlen(device->identity), 0);
}

/* Did it work on all ranks? Every one leaves with the status of the first that failed, or with its own; votes [ranks] are filled. */
static Status exchange_votes(Engine *engine, Status mine, OpenVote *votes) {
    int size = engine->comm->size;
    const OpenVote vote = {.status = (uint32_t)mine,
                           .layer_blocks = engine->budget.layer_blocks,
                           .sequence_max = engine->budget.sequence_max,
                           .device = device_hash(engine->device),
                           .share = engine->model.share};
    for (int rank = 0; rank < size; rank++)
        engine->gather.part_bytes[rank] = sizeof vote;
    Status status = comm_all_gather(engine->comm, &vote, votes, engine->gather.part_bytes);
    for (int rank = 0; rank < size && status == STATUS_OK; rank++)
        status = votes[rank].status < STATUS_COUNT ? (Status)votes[rank].status : STATUS_PEER;
    return mine != STATUS_OK ? mine : status;
}

/* The ranks of a node share the host's memory; a GPU is a rank's own, unless there are more ranks than GPUs. */
static void count_sharers(Engine *engine, const OpenVote *votes) {
    uint64_t mine = votes[engine->comm->rank].device;
    engine->device_sharers = mine == 0 ? engine->comm->local_size : 0;
    for (int rank = 0; rank < engine->comm->size; rank++)
        engine->device_sharers += mine != 0 && votes[rank].device == mine;
}

/* Ranks agree on the smallest capacity and learn each other's shares. */
static void take_votes(Engine *engine, const OpenVote *votes, RankShare *shares) {
    for (int rank = 0; rank < engine->comm->size; rank++) {
        shares[rank] = votes[rank].share;
        if (votes[rank].layer_blocks < engine->budget.layer_blocks)
            engine->budget.layer_blocks = votes[rank].layer_blocks;
        if (votes[rank].sequence_max < engine->options.max_num_seqs)
            engine->options.max_num_seqs = votes[rank].sequence_max;
    }
}

static Status open_packed(Engine *engine) {
    const char *path = engine->options.packed_weights;
    if (!path) return STATUS_OK;
    TRY(packed_file_open(&engine->packed, path));
    return packed_file_check(&engine->packed, engine->kernels.layout, (uint32_t)engine->comm->size,
                             weights_fingerprint(engine->weights));
}

static WeightTierOptions weight_tiers(const Engine *engine) {
    const EngineOptions *options = &engine->options;
    bool own = options->weight_nvme_dir_count > 0;
    WeightTierOptions tiers = {
        .directories = own ? options->weight_nvme_dirs : options->kv_nvme_dirs,
        .directory_count = own ? options->weight_nvme_dir_count : options->kv_nvme_dir_count,
        .io_engine = options->io_engine ? options->io_engine : "auto",
        .io_depth = options->io_depth,
        .local_rings = ring_count(engine),
        .io_timeout_seconds = options->io_timeout_seconds,
        .silent = engine->comm->local_rank > 0,
        .packed = options->packed_weights ? &engine->packed : NULL,
        .packed_rank = (uint32_t)engine->comm->rank,
        .drop_sources = options->memory_limit_bytes > 0 || options->weight_bytes[TIER_NVME] > 0,
        .faults = options->weight_faults};
    memcpy(tiers.bytes, options->weight_bytes, sizeof tiers.bytes);
    memcpy(tiers.per_cent, options->weight_per_cent, sizeof tiers.per_cent);
    return tiers;
}

static void begin_load(void *user, const char *part) {
    const EngineHooks *hooks = &((const Engine *)user)->options.hooks;
    if (hooks->load_begin) hooks->load_begin(hooks->user, part);
}

static Status measure_model(Engine *engine) {
    TRY(open_packed(engine));
    engine->load = (ModelLoadOptions){.device = engine->device,
                                      .kernels = &engine->kernels,
                                      .context = &engine->context,
                                      .rank = engine->comm->rank,
                                      .rank_count = engine->comm->size,
                                      .max_model_len = engine->options.max_model_len,
                                      .tiers = weight_tiers(engine),
                                      .begin_part = begin_load,
                                      .begin_part_user = engine};
    return model_measure(&engine->model, engine->weights, &engine->config, &engine->load,
                         &engine->sizes);
}

/* This rank's spill files: the budget in equal parts, one a directory. */
static Status open_spill_files(Engine *engine) {
    const EngineOptions *options = &engine->options;
    uint32_t count = options->kv_nvme_dir_count;
    if (options->kv_bytes[TIER_NVME] == 0 || count == 0) return STATUS_OK;
    TRY(memory_take((void **)&engine->spill_files, count, sizeof(SpillFile), "spill files"));
    TRY(memory_take((void **)&engine->ring_files, count, sizeof(RingFile), "spill files"));
    uint64_t slots = divide_up(engine->budget.slots[TIER_NVME], count);
    for (uint32_t i = 0; i < count; i++) {
        SpillFileOptions file = {.directory = options->kv_nvme_dirs[i],
                                 .bytes = slots * engine->layout.slot_bytes,
                                 .silent = engine->comm->local_rank > 0,
                                 .faults = options->io_faults};
        TRY(spill_file_open(&engine->spill_files[i], &file));
        engine->ring_files[i] =
            (RingFile){engine->spill_files[i].descriptor, engine->spill_files[i].alignment_bytes};
        engine->spill_file_count++;
    }
    return STATUS_OK;
}

static Status open_cache(Engine *engine) {
    const EngineOptions *options = &engine->options;
    KvCacheOptions cache = {
        .device = engine->device,
        .kernels = &engine->kernels,
        .context = &engine->context,
        .layout = engine->layout,
        .codec_during_prefill = options->codec_during_prefill,
        .layer_count = engine->config.layer_count,
        .slot_count = options->max_num_seqs,
        .row_count_max = options->max_num_batched_tokens,
        .staging_slots = engine->budget.staging_slots,
        .bounce_slots = engine->budget.bounce_slots,
        .placement = placement_find(options->kv_placement ? options->kv_placement : "scan"),
        .trace = options->kv_trace,
        .trace_count = options->kv_trace_count,
        .record = options->kv_record,
        .record_user = options->kv_record_user,
        .ring = {.engine = options->io_engine ? options->io_engine : "auto",
                 .files = engine->ring_files,
                 .file_count = engine->spill_file_count,
                 .depth = options->io_depth ? options->io_depth
                                            : ring_depth_auto(engine->layout.slot_bytes),
                 .local_ranks = ring_count(engine),
                 .faults = options->io_faults},
        .directories = options->kv_nvme_dirs,
        .io_timeout_ns = (uint64_t)(options->io_timeout_seconds * 1e9),
        .corrupt_max = options->corrupt_max,
        .corrupt_is_fatal = options->corrupt_is_fatal,
        .attends_host = options->attend_host,
        .model_fingerprint = weights_fingerprint(engine->weights)};
    memcpy(cache.slots, engine->budget.slots, sizeof cache.slots);
    if (!cache.placement) FAIL(USAGE, "--kv-placement %s: no such policy", options->kv_placement);
    return kv_cache_create(&engine->cache, &cache);
}

/* Prompts of more than one chunk run layer by layer where KV spills or weights stream, if their residual stream fits. */
static bool prefills_by_layer(const Engine *engine) {
    const EngineOptions *options = &engine->options;
    uint64_t row_bytes = engine->config.hidden_size * sizeof(float);
    bool whole = engine->layout.codec != NULL; /* then there is no other way */
    bool fits = options->max_model_len <= prefill_bytes_max / row_bytes;
    bool cuts = options->max_model_len > options->max_num_batched_tokens;
    const ModelSizes *sizes = &engine->sizes;
    bool moves = spills(engine) || sizes->frame_bytes + sizes->device_frame_bytes > 0;
    return whole || (moves && fits && cuts);
}

uint64_t engine_prefill_bytes(const Engine *engine) {
    uint64_t row_bytes = engine->config.hidden_size * sizeof(float) + sizeof(uint32_t);
    return prefills_by_layer(engine) ? engine->options.max_model_len * row_bytes : 0;
}

static Status open_prefill(Engine *engine) {
    uint64_t row_bytes = engine->config.hidden_size * sizeof(float);
    if (!prefills_by_layer(engine)) return STATUS_OK;
    engine->prefill_rows = engine->options.max_model_len;
    TRY(memory_take((void **)&engine->prefill_numbers, engine->prefill_rows, sizeof(uint32_t),
                    "prefill"));
    for (uint32_t i = 0; i < engine->prefill_rows; i++)
        engine->prefill_numbers[i] = i;
    return engine->device->memory_take(engine->device, MEMORY_DEVICE,
                                       engine->prefill_rows * row_bytes, "prefill",
                                       (void **)&engine->prefill_x);
}

static uint32_t head_rows(const Engine *engine) {
    uint32_t rows = engine->options.max_num_batched_tokens;
    return rows < HEAD_ROWS_MAX ? rows : HEAD_ROWS_MAX;
}

/* Of this rank, where they are not read in place; and, where rank 0 puts the parts of several ranks together, the parts and the whole. */
static uint64_t own_logit_floats(const Engine *engine) {
    bool in_place = engine->device->host_addressable;
    return in_place ? 0 : (uint64_t)head_rows(engine) * share_count(engine->model.share.vocab_rows);
}

static uint64_t join_logit_floats(const Engine *engine) {
    bool joins = engine->comm->size > 1 && engine->comm->rank == 0;
    return joins ? (uint64_t)head_rows(engine) * engine->config.vocab_count : 0;
}

uint64_t engine_activation_bytes(const Engine *engine) {
    uint64_t floats =
        pass_float_count(&engine->model, engine->options.max_num_batched_tokens, head_rows(engine));
    return floats * sizeof(float) + ARENA_SLACK;
}

uint64_t engine_logits_bytes(const Engine *engine) {
    return (own_logit_floats(engine) + 2 * join_logit_floats(engine)) * sizeof(float) + ARENA_SLACK;
}

static Status take_arena(Engine *engine, MemoryPlace place, uint64_t floats, const char *what,
                         Arena *out) {
    uint64_t bytes = floats * sizeof(float) + ARENA_SLACK;
    void *memory;
    TRY(engine->device->memory_take(engine->device, place, bytes, what, &memory));
    *out = (Arena){.base = memory, .size_bytes = bytes};
    return STATUS_OK;
}

static void give_arena(Engine *engine, MemoryPlace place, Arena *arena) {
    if (arena->base)
        engine->device->memory_give(engine->device, place, arena->base, arena->size_bytes);
}

/* This rank's logits, where they are not read in place, and on rank 0 of several those of all ranks. */
static Status open_host_logits(Engine *engine) {
    uint64_t own_floats = own_logit_floats(engine), join_floats = join_logit_floats(engine);
    TRY(take_arena(engine, MEMORY_HOST, own_floats + 2 * join_floats, "logits",
                   &engine->host_logits));
    Arena *arena = &engine->host_logits;
    engine->pass.host_logits =
        own_floats > 0 ? arena_take(arena, own_floats * sizeof(float)) : engine->pass.logits;
    if (join_floats == 0) return STATUS_OK;
    engine->gather.parts = arena_take(arena, join_floats * sizeof(float));
    engine->gather.rows = arena_take(arena, join_floats * sizeof(float));
    return STATUS_OK;
}

static void note_layer(void *user) {
    engine_unit_begin(user, "layer");
}

static Status open_pass(Engine *engine) {
    uint32_t rows = engine->options.max_num_batched_tokens;
    engine->head_rows = head_rows(engine);
    uint64_t floats = pass_float_count(&engine->model, rows, engine->head_rows);
    TRY(take_arena(engine, MEMORY_DEVICE, floats, "activations", &engine->activations));
    engine->pass = (Pass){.model = &engine->model,
                          .kernels = &engine->kernels,
                          .context = &engine->context,
                          .comm = engine->comm,
                          .reduce = &engine->reduce,
                          .cache = engine->cache,
                          .host_attend = engine->host_attend,
                          .batch = &engine->batch,
                          .times = &engine->times,
                          .progress = note_layer,
                          .progress_user = engine};
    pass_bind(&engine->pass, arena_take(&engine->activations, floats * sizeof(float)), rows,
              engine->head_rows);
    TRY(open_host_logits(engine));
    TRY(memory_take((void **)&engine->batch_sequences, engine->options.max_num_seqs,
                    sizeof(BatchSequence), "batch"));
    TRY(memory_take((void **)&engine->positions, rows, sizeof(uint32_t), "batch"));
    TRY(memory_take((void **)&engine->logit_rows, rows, sizeof(uint32_t), "batch"));
    TRY(open_prefill(engine));
    TRY(memory_take((void **)&engine->layers_expected, 3ull * engine->config.layer_count,
                    sizeof(uint32_t), "expected layers"));
    PlanLimits limits = {.slot_count = engine->options.max_num_seqs,
                         .token_budget = rows,
                         .layer_count = engine->config.layer_count,
                         .prefill_tokens = engine->prefill_rows};
    return plan_channel_create(&engine->channel, engine->comm, &limits);
}

static Status open_rank0(Engine *engine) {
    const EngineOptions *options = &engine->options;
    SchedulerLimits limits = {.slot_count = options->max_num_seqs,
                              .token_budget = options->max_num_batched_tokens,
                              .layout = engine->layout,
                              .whole_prompts = engine->layout.codec != NULL,
                              .block_count = engine->budget.layer_blocks,
                              .queue_count = QUEUE_COUNT,
                              .layer_major_tokens =
                                  engine->prefill_rows ? options->max_num_batched_tokens : 0};
    TRY(scheduler_create(&engine->scheduler, &limits));
    TRY(memory_take((void **)&engine->sequences, limits.slot_count + QUEUE_COUNT, sizeof(Sequence),
                    "sequences"));
    TRY(memory_take((void **)&engine->runs, limits.slot_count, sizeof(ScheduledRun), "schedule"));
    TRY(memory_take((void **)&engine->owners, limits.token_budget + engine->prefill_rows,
                    sizeof(LogitOwner), "schedule"));
    TRY(memory_take((void **)&engine->dropped, limits.slot_count, sizeof(uint32_t), "schedule"));
    TRY(memory_take((void **)&engine->closes, limits.slot_count, sizeof(uint32_t), "schedule"));
    TRY(memory_take((void **)&engine->sampled, engine->head_rows, sizeof(SamplerOutput),
                    "samples"));
    TRY(memory_take((void **)&engine->sample_status, engine->head_rows, sizeof(Status), "samples"));
    TRY(memory_take((void **)&engine->samplers, options->thread_count, sizeof(SamplerWorkspace *),
                    "samplers"));
    for (uint32_t i = 0; i < options->thread_count; i++)
        TRY(sampler_workspace_create(&engine->samplers[i], engine->config.vocab_count));
    return STATUS_OK;
}

static Status open_reports(Engine *engine) {
    int size = engine->comm->size;
    TRY(memory_take((void **)&engine->reports, (uint64_t)size, sizeof(RankReport), "rank reports"));
    return memory_take((void **)&engine->report_bytes, (uint64_t)size, sizeof(uint64_t),
                       "rank reports");
}

static Status check_attend_host(const Engine *engine) {
    if (!engine->options.attend_host) return STATUS_OK;
    if (engine->device->host_addressable)
        FAIL(UNAVAILABLE,
             "--attend host: device %s computes in host memory, so that blocks are attended where "
             "they lie as it is; leave it out",
             engine->device->name);
    if (engine->budget.slots[TIER_HOST] == 0)
        FAIL(USAGE, "--attend host: there is no room for blocks in host memory; see "
                    "--kv-host-size");
    return STATUS_OK;
}

/* What can fail on one rank alone, in three parts; the ranks vote on each. First what each must know of its device before it asks
 * what that has free. */
static Status open_device(Engine *engine) {
    TRY(model_read_config(engine->weights, &engine->config));
    TRY(check_options(engine));
    return open_backend(engine);
}

/* Then checks and sizes: nothing is packed or taken yet. */
static Status plan_own(Engine *engine) {
    TRY(measure_model(engine));
    TRY(plan_layout(engine));
    TRY(fill_budgets(engine));
    KvBudgetInput input = engine_budget_input(engine);
    if (engine->options.kv_bytes[TIER_DEVICE] == UINT64_MAX)
        engine->options.kv_bytes[TIER_DEVICE] = input.bytes[TIER_DEVICE] =
            kv_budget_device_min(&input);
    TRY(kv_budget_plan(&input, &engine->budget));
    TRY(check_attend_host(engine));
    return memory_plan_check(engine);
}

static HostAttendOptions host_attend_options(const Engine *engine) {
    return (HostAttendOptions){.device = engine->device,
                               .kernels = &engine->kernels,
                               .context = &engine->context,
                               .cpu_isa = engine->options.cpu_isa,
                               .row_count = engine->options.max_num_seqs,
                               .head_count = share_count(engine->model.share.heads),
                               .head_dim = engine->config.head_dim,
                               .block_tokens = engine->options.block_tokens};
}

uint64_t engine_host_attend_bytes(const Engine *engine, MemoryPlace place) {
    HostAttendOptions options = host_attend_options(engine);
    return engine->options.attend_host ? host_attend_bytes(&options, place) : 0;
}

static Status open_host_attend(Engine *engine) {
    HostAttendOptions options = host_attend_options(engine);
    return engine->options.attend_host ? host_attend_create(&engine->host_attend, &options)
                                       : STATUS_OK;
}

/* Watched, for much of it waits for the device. */
static Status take_parts(Engine *engine) {
    begin_load(engine, "weights");
    TRY(model_load(&engine->model, engine->weights, &engine->load));
    begin_load(engine, "memory of keys and values");
    TRY(open_spill_files(engine));
    TRY(open_cache(engine));
    begin_load(engine, "memory of a step");
    TRY(open_host_attend(engine));
    TRY(open_pass(engine));
    TRY(open_reports(engine));
    return engine->comm->rank == 0 ? open_rank0(engine) : STATUS_OK;
}

static Status open_parts(Engine *engine) {
    Status status = take_parts(engine);
    engine_unit_end(engine);
    return status;
}

/* Collective: a rank that failed before must have said so. */
static Status open_sums(Engine *engine) {
    const CommDeviceOptions options = {.comm = engine->comm,
                                       .device = engine->device,
                                       .kernels = &engine->kernels,
                                       .context = &engine->context,
                                       .choice = engine->options.comm,
                                       .timeout_seconds = engine->options.comm_timeout_seconds};
    return comm_device_create(&engine->reduce, &options);
}

static Status open_in_turn(Engine *engine, OpenVote *votes, RankShare *shares) {
    TRY(exchange_votes(engine, open_device(engine), votes));
    count_sharers(engine, votes);
    TRY(exchange_votes(engine, plan_own(engine), votes));
    take_votes(engine, votes, shares);
    TRY(exchange_votes(engine, open_parts(engine), votes));
    return open_sums(engine);
}

static Status open_with_votes(Engine *engine) {
    uint64_t size = (uint64_t)engine->comm->size;
    void *votes, *shares;
    TRY(memory_take((void **)&engine->gather.part_bytes, size, sizeof(uint64_t), "start-up votes"));
    TRY(memory_take(&shares, size, sizeof(RankShare), "rank shares"));
    engine->gather.shares = shares;
    TRY(memory_take(&votes, size, sizeof(OpenVote), "start-up votes"));
    Status status = open_in_turn(engine, votes, shares);
    free(votes);
    return status;
}

static Status note_taken(Engine *engine) {
    uint64_t left;
    if (engine->device->host_addressable || engine->device_sharers > 1) return STATUS_OK;
    TRY(engine->device->memory_free(engine->device, &left));
    engine->stats.device_taken_bytes = engine->device_room > left ? engine->device_room - left : 0;
    return STATUS_OK;
}

static Status open_all(Engine *engine) {
    TRY(open_with_votes(engine));
    TRY(note_taken(engine));
    engine->stats.kv_block_tokens = engine->options.block_tokens;
    engine->stats.kv_block_bytes = engine->layout.slot_bytes;
    engine->stats.kv_pack_blocks = engine->layout.pack_blocks;
    engine->stats.kv_residual_tokens = engine->layout.residual_tokens;
    engine->stats.weight_bytes = engine->model.weight_bytes;
    memcpy(engine->stats.weights.bytes, engine->sizes.layer_bytes,
           sizeof engine->stats.weights.bytes);
    engine->stats.random_weights = weights_are_random(engine->weights);
    const Quant *type = weights_type(engine->weights);
    engine->stats.weight_type = type ? type->name : NULL;
    engine_note_kv(engine);
    return STATUS_OK;
}

Status engine_open(Engine **out, const EngineOptions *options, const Weights *weights,
                   const Tokenizer *tokenizer, Comm *comm) {
    double start = monotonic_seconds();
    void *memory;
    TRY(memory_take(&memory, 1, sizeof(Engine), "engine"));
    Engine *engine = memory;
    engine->options = *options;
    engine->packed.descriptor = -1;
    engine->weights = weights;
    engine->tokenizer = tokenizer;
    engine->comm = comm;
    Status status = open_all(engine);
    if (status != STATUS_OK) {
        engine_close(engine);
        return status;
    }
    engine->stats.seconds_load = monotonic_seconds() - start;
    *out = engine;
    return STATUS_OK;
}

static void close_rank0(Engine *engine) {
    for (uint32_t i = 0; engine->sequences && i < engine->options.max_num_seqs + QUEUE_COUNT; i++)
        if (engine->sequences[i].live) sequence_end(&engine->sequences[i]);
    for (uint32_t i = 0; engine->samplers && i < engine->options.thread_count; i++)
        sampler_workspace_destroy(engine->samplers[i]);
    scheduler_destroy(engine->scheduler);
    free(engine->sequences);
    free(engine->runs);
    free(engine->owners);
    free(engine->closes);
    free(engine->dropped);
    free(engine->sampled);
    free(engine->sample_status);
    free(engine->samplers);
}

void engine_close(Engine *engine) {
    if (!engine) return;
    close_rank0(engine);
    plan_channel_destroy(&engine->channel);
    kv_cache_destroy(engine->cache);
    host_attend_destroy(engine->host_attend);
    for (uint32_t i = 0; i < engine->spill_file_count; i++)
        spill_file_close(&engine->spill_files[i]);
    free(engine->spill_files);
    free(engine->ring_files);
    model_unload(&engine->model);
    packed_file_close(&engine->packed);
    comm_device_destroy(&engine->reduce);
    give_arena(engine, MEMORY_DEVICE, &engine->activations);
    give_arena(engine, MEMORY_HOST, &engine->host_logits);
    free(engine->reports);
    free(engine->report_bytes);
    free(engine->batch_sequences);
    free(engine->positions);
    free(engine->logit_rows);
    if (engine->prefill_x)
        engine->device->memory_give(engine->device, MEMORY_DEVICE, engine->prefill_x,
                                    (uint64_t)engine->prefill_rows * engine->config.hidden_size *
                                        sizeof(float));
    free(engine->prefill_numbers);
    free(engine->layers_expected);
    free((void *)engine->gather.shares);
    free(engine->gather.part_bytes);
    if (engine->device) engine->kernels.context_close(engine->device, &engine->context);
    team_destroy(engine->context.team);
    if (engine->device) engine->device->close(engine->device);
    free(engine);
}
