#include "tests/tiers/sim_engine.h"

#include <stdlib.h>
#include <string.h>

#include "runtime/base/invariant.h"

enum { BLOCKS_MAX = 40, LAYERS_MAX = 4, SEQUENCES_MAX = 8, PINS_MAX = 64, PLAN_MAX = 4096 };
enum { RANKS_MAX = 3 };

typedef enum SequenceState { SEQUENCE_WAITING, SEQUENCE_RUNNING, SEQUENCE_ENDED } SequenceState;

typedef struct Stream {
    BlockId ids[BLOCKS_MAX];
    uint64_t truth[BLOCKS_MAX]; /* hash of all tokens up to the block's end */
    uint32_t block_count;
} Stream;

typedef struct Sequence {
    SequenceState state;
    uint64_t uid;
    uint32_t prompt_tokens, target_tokens, token_count; /* stored */
    uint32_t step_tokens;                               /* being stored in this step */
    bool lost;
    bool parked; /* sits this step out, its blocks wherever they are */
    Stream streams[LAYERS_MAX];
} Sequence;

typedef struct Pin {
    Sequence *sequence;
    uint32_t ordinal;
    Tier tier; /* where it is attended */
    uint32_t slot;
} Pin;

/* What ranks tell each other after a step. */
typedef struct StepReport {
    uint32_t lost;   /* bit i: sequence i lost a block, or found no room */
    uint64_t places; /* blocks that the tiers can hold */
} StepReport;

/* One rank. */
typedef struct Simulation {
    SimOptions options;
    Random random, plan_random; /* of this rank; of the plan, the same on all */
    SimStore store;
    TierManager *manager;
    Sequence sequences[SEQUENCES_MAX]; /* oldest first */
    Pin pins[PINS_MAX];
    uint32_t pin_count, whole_count; /* the first whole_count are of groups that are whole */
    uint64_t folds[SEQUENCES_MAX];   /* of what was attended in this layer */
    uint64_t digests[SEQUENCES_MAX]; /* of the folds of this step */
    StepReport agreed;               /* of the last step */
    BlockId plan[PLAN_MAX];
    uint32_t plan_count, plan_next;
    uint64_t steps_max; /* until everything has ended */
    SimReport report;
} Simulation;

static bool chance(Simulation *sim, double odds) {
    return random_unit(&sim->random) < odds;
}

static void check(Simulation *sim) {
    tier_manager_check(sim->manager);
    sim->report.checks++;
}

static uint32_t worst_blocks(const Simulation *sim, const Sequence *sequence) {
    uint32_t tokens = sim->options.block_tokens;
    return (sequence->target_tokens + tokens - 1) / tokens * sim->options.layers;
}

/* Whether faults have taken slots away. */
static bool room_was_lost(const Simulation *sim) {
    TierManagerStats stats = tier_manager_stats(sim->manager);
    return stats.failed_transfers + stats.corrupt_blocks + stats.late_reads + stats.late_writes > 0;
}

/* ---- transfers ---- */

static void feed_plan(Simulation *sim) {
    uint32_t taken;
    tier_manager_want(sim->manager, sim->plan + sim->plan_next, sim->plan_count - sim->plan_next,
                      &taken);
    sim->plan_next += taken;
}

static void start_transfers(Simulation *sim) {
    Transfer transfer;
    feed_plan(sim);
    while (tier_manager_next_transfer(sim->manager, &transfer)) {
        check(sim);
        sim_store_start(&sim->store, &transfer, tier_manager_block(sim->manager, transfer.block));
    }
}

static bool end_next(Simulation *sim, uint64_t until) {
    uint32_t transfer_id;
    TransferResult result;
    bool ended = sim_store_end_next(&sim->store, until, &transfer_id, &result);
    tier_manager_tick(sim->manager, sim->store.now);
    if (!ended) return false;
    tier_manager_complete(sim->manager, transfer_id, result);
    check(sim);
    start_transfers(sim);
    return true;
}

static void compute(Simulation *sim, uint64_t time_max) {
    uint64_t until = sim->store.now + random_below(&sim->random, time_max);
    start_transfers(sim);
    while (end_next(sim, until))
        continue;
}

/* Somebody waits: then something must be in flight. */
static void wait(Simulation *sim) {
    start_transfers(sim);
    CHECK(end_next(sim, UINT64_MAX));
}

/* ---- sequences ---- */

static void leave(Simulation *sim, Sequence *sequence, SequenceState state) {
    for (uint32_t layer = 0; layer < sim->options.layers; layer++) {
        Stream *stream = &sequence->streams[layer];
        for (uint32_t i = 0; i < stream->block_count; i++) {
            tier_manager_release(sim->manager, stream->ids[i]);
            check(sim);
        }
        stream->block_count = 0;
    }
    sim->plan_count = sim->plan_next = 0; /* it may name released blocks */
    sequence->state = state;
    sequence->token_count = sequence->step_tokens = 0;
    sequence->lost = sequence->parked = false;
}

static Sequence *youngest_running(Simulation *sim) {
    Sequence *youngest = NULL;
    for (uint32_t i = 0; i < sim->options.sequence_count; i++)
        if (sim->sequences[i].state == SEQUENCE_RUNNING) youngest = &sim->sequences[i];
    return youngest;
}

static uint32_t running_count(const Simulation *sim) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < sim->options.sequence_count; i++)
        count += sim->sequences[i].state == SEQUENCE_RUNNING;
    return count;
}

/* Every tier is full: the youngest gives its place back, to be computed later; one that has all places is refused. */
static void make_way(Simulation *sim) {
    Sequence *youngest = youngest_running(sim);
    bool alone = running_count(sim) == 1;
    CHECK(room_was_lost(sim) || (!alone && !sim->options.reserve));
    sim->report.refused += alone;
    sim->report.preempted += !alone;
    leave(sim, youngest, alone ? SEQUENCE_ENDED : SEQUENCE_WAITING);
}

static uint64_t worst_running(const Simulation *sim) {
    uint64_t blocks = 0;
    for (uint32_t i = 0; i < sim->options.sequence_count; i++)
        if (sim->sequences[i].state == SEQUENCE_RUNNING)
            blocks += worst_blocks(sim, &sim->sequences[i]);
    return blocks;
}

static bool may_enter(const Simulation *sim, const Sequence *sequence) {
    const SimOptions *options = &sim->options;
    if (running_count(sim) == 0) return true;
    if (!options->reserve) return tier_manager_has_room(sim->manager, options->layers);
    return worst_running(sim) + worst_blocks(sim, sequence) <= sim->agreed.places;
}

/* With all tiers; one place below is kept to change places. */
static uint64_t places(const Simulation *sim) {
    const SimOptions *options = &sim->options;
    uint64_t below = options->slot_count[TIER_HOST] + options->slot_count[TIER_NVME];
    return options->slot_count[TIER_DEVICE] - options->staging_slots + below - (below > 0);
}

/* Age goes first: younger sequences make way for an older one that waits. */
static void admit(Simulation *sim) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        Sequence *sequence = &sim->sequences[i];
        if (sequence->state != SEQUENCE_WAITING) continue;
        while (running_count(sim) == sim->options.batch || !may_enter(sim, sequence)) {
            Sequence *youngest = youngest_running(sim);
            if (youngest < sequence) return;
            CHECK(!sim->options.reserve || sim->agreed.places < places(sim));
            sim->report.preempted++;
            leave(sim, youngest, SEQUENCE_WAITING);
        }
        sequence->state = SEQUENCE_RUNNING;
    }
}

static bool attends(const Sequence *sequence) {
    return sequence->state == SEQUENCE_RUNNING && !sequence->lost && !sequence->parked;
}

/* ---- storing ---- */

/* Of several ranks, all have to say who leaves, after the step. */
static bool find_room(Simulation *sim, Sequence *sequence) {
    if (sim->options.ranks == 1) {
        make_way(sim);
        return sequence->state == SEQUENCE_RUNNING;
    }
    CHECK(room_was_lost(sim));
    sequence->lost = true;
    return false;
}

static bool take_block(Simulation *sim, Sequence *sequence, uint32_t layer) {
    Stream *stream = &sequence->streams[layer];
    uint32_t ordinal = stream->block_count;
    BlockIdentity identity = {.words = {sim->options.seed, sequence->uid, layer, ordinal}};
    uint64_t key = sequence->uid * sim->options.layers + layer;
    for (;;) {
        Status status =
            tier_manager_take(sim->manager, &identity, key, ordinal, &stream->ids[ordinal]);
        check(sim);
        if (status == STATUS_OK) break;
        if (status == STATUS_AGAIN) {
            wait(sim);
            continue;
        }
        CHECK(status == STATUS_NO_SPACE);
        if (!find_room(sim, sequence)) return false;
    }
    uint32_t slot = tier_manager_device_slot(sim->manager, stream->ids[ordinal]);
    sim_store_slot(&sim->store, TIER_DEVICE, slot)->cell = (SimCell){0};
    stream->block_count++;
    return true;
}

/* The block that fills comes to the device, to grow there. False: it is lost, or the sequence had to leave. */
static bool hold_block(Simulation *sim, Sequence *sequence, uint32_t layer) {
    uint32_t ordinal = sequence->token_count / sim->options.block_tokens;
    BlockId id = sequence->streams[layer].ids[ordinal];
    for (;;) {
        uint32_t slot;
        Status status = tier_manager_hold(sim->manager, id, &slot);
        check(sim);
        if (status == STATUS_OK) return true;
        if (status == STATUS_AGAIN) {
            wait(sim);
            continue;
        }
        if (status == STATUS_IO) {
            sequence->lost = true;
            return false;
        }
        CHECK(status == STATUS_NO_SPACE);
        if (!find_room(sim, sequence)) return false;
    }
}

static uint64_t true_hash(const Stream *stream, uint32_t ordinal) {
    return ordinal > 0 ? stream->truth[ordinal - 1] : 17;
}

/* The sequence keeps the true hash; the same token goes into whatever slot the manager names. */
static void append(Simulation *sim, Sequence *sequence, uint32_t layer, uint32_t position) {
    Stream *stream = &sequence->streams[layer];
    uint32_t ordinal = position / sim->options.block_tokens;
    uint64_t token = sim_mix(sequence->uid * LAYERS_MAX + layer, position);
    uint32_t slot = tier_manager_device_slot(sim->manager, stream->ids[ordinal]);
    SimSlot *device = sim_store_slot(&sim->store, TIER_DEVICE, slot);
    CHECK(device->readers == 0); /* a filling block does not move */
    if (position % sim->options.block_tokens == 0) {
        stream->truth[ordinal] = true_hash(stream, ordinal);
        device->cell.halves[0] = true_hash(stream, ordinal);
    }
    stream->truth[ordinal] = sim_mix(stream->truth[ordinal], token);
    device->cell.halves[0] = sim_mix(device->cell.halves[0], token);
    device->cell.halves[1] = sim_mix(device->cell.halves[0], 5);
}

static bool stores(const Sequence *sequence) {
    return sequence->state == SEQUENCE_RUNNING && sequence->step_tokens > 0 && !sequence->lost;
}

static void store_layer(Simulation *sim, uint32_t layer) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        Sequence *sequence = &sim->sequences[i];
        uint32_t tokens = sequence->token_count + sequence->step_tokens;
        uint32_t blocks = (tokens + sim->options.block_tokens - 1) / sim->options.block_tokens;
        bool begun = sequence->token_count % sim->options.block_tokens > 0;
        if (stores(sequence) && begun && !hold_block(sim, sequence, layer)) continue;
        while (stores(sequence) && sequence->streams[layer].block_count < blocks)
            if (!take_block(sim, sequence, layer)) break;
        for (uint32_t p = 0; stores(sequence) && p < sequence->step_tokens; p++)
            append(sim, sequence, layer, sequence->token_count + p);
    }
}

/* Some of the blocks that are full. */
static void cool_layer(Simulation *sim, uint32_t layer) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        const Stream *stream = &sim->sequences[i].streams[layer];
        for (uint32_t ordinal = 0; ordinal < stream->block_count; ordinal++) {
            BlockId id = stream->ids[ordinal];
            bool full = tier_manager_block(sim->manager, id)->state == BLOCK_SEALED;
            if (full && tier_manager_device_slot(sim->manager, id) != SLOT_NONE && chance(sim, 0.3))
                tier_manager_cool(sim->manager, id);
        }
    }
    check(sim);
}

static void seal_layer(Simulation *sim, uint32_t layer) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        Sequence *sequence = &sim->sequences[i];
        uint32_t end = (sequence->token_count + sequence->step_tokens) / sim->options.block_tokens;
        uint32_t begin = sequence->token_count / sim->options.block_tokens;
        const Stream *stream = &sequence->streams[layer];
        if (!stores(sequence)) continue; /* a lost one is released as it is */
        for (uint32_t ordinal = begin; ordinal < end; ordinal++) {
            tier_manager_seal(sim->manager, stream->ids[ordinal]);
            check(sim);
        }
        if (end < stream->block_count) tier_manager_let_go(sim->manager, stream->ids[end]);
        check(sim);
    }
}

/* ---- attending ---- */

static void unpin(Simulation *sim, uint32_t layer, const Pin *pin) {
    sim_store_slot(&sim->store, pin->tier, pin->slot)->pins--;
    tier_manager_unpin(sim->manager, pin->sequence->streams[layer].ids[pin->ordinal]);
    check(sim);
}

/* What is pinned in the host's tier is wanted for later, and stays where it is. */
static void want_ahead(Simulation *sim, uint32_t layer) {
    uint32_t taken;
    for (uint32_t i = 0; i < sim->whole_count; i++) {
        const Pin *pin = &sim->pins[i];
        if (pin->tier == TIER_HOST)
            tier_manager_want(sim->manager, &pin->sequence->streams[layer].ids[pin->ordinal], 1,
                              &taken);
    }
    start_transfers(sim);
}

/* Reads what is pinned as late as it may: just before the pins end. */
static void attend_pinned(Simulation *sim, uint32_t layer) {
    if (sim->whole_count == 0) return;
    if (sim->options.host_odds > 0 && chance(sim, 0.3)) want_ahead(sim, layer);
    if (chance(sim, 0.3)) compute(sim, 30);
    for (uint32_t i = 0; i < sim->whole_count; i++) {
        const Pin *pin = &sim->pins[i];
        const Stream *stream = &pin->sequence->streams[layer];
        const SimCell *cell = &sim_store_slot(&sim->store, pin->tier, pin->slot)->cell;
        CHECK(cell->form == tier_manager_block(sim->manager, stream->ids[pin->ordinal])->form);
        sim->report.coded += cell->form != 0;
        CHECK(cell->halves[0] == stream->truth[pin->ordinal]);
        CHECK(cell->halves[1] == sim_mix(cell->halves[0], 5));
        uint64_t *fold = &sim->folds[pin->sequence - sim->sequences];
        *fold = sim_mix(*fold, cell->halves[0]);
        sim->report.attended++;
        sim->report.in_host += pin->tier == TIER_HOST;
    }
    for (uint32_t i = 0; i < sim->whole_count; i++)
        unpin(sim, layer, &sim->pins[i]);
    for (uint32_t i = sim->whole_count; i < sim->pin_count; i++)
        sim->pins[i - sim->whole_count] = sim->pins[i];
    sim->pin_count -= sim->whole_count;
    sim->whole_count = 0;
    start_transfers(sim);
}

static void let_partial_go(Simulation *sim, uint32_t layer) {
    while (sim->pin_count > sim->whole_count)
        unpin(sim, layer, &sim->pins[--sim->pin_count]);
}

/* As it is attended there: bytes that are wrong are left to a read, which finds the block lost. */
static Status pin_in_host(Simulation *sim, BlockId id, uint32_t *out_slot) {
    TRY(tier_manager_pin_host(sim->manager, id, out_slot));
    check(sim);
    if (sim_store_is_right(&sim->store, TIER_HOST, *out_slot, tier_manager_block(sim->manager, id)))
        return STATUS_OK;
    tier_manager_unpin(sim->manager, id);
    return STATUS_NOT_FOUND;
}

static Status pin_somewhere(Simulation *sim, BlockId id, Pin *io_pin) {
    bool tries = sim->options.host_odds > 0 && chance(sim, sim->options.host_odds);
    io_pin->tier = TIER_HOST;
    if (tries && pin_in_host(sim, id, &io_pin->slot) == STATUS_OK) return STATUS_OK;
    io_pin->tier = TIER_DEVICE;
    return tier_manager_pin(sim->manager, id, &io_pin->slot);
}

/* STATUS_IO: the block is lost, and the sequence with it. */
static Status pin_block(Simulation *sim, Sequence *sequence, uint32_t layer, uint32_t ordinal) {
    BlockId id = sequence->streams[layer].ids[ordinal];
    for (;;) {
        Pin pin = {.sequence = sequence, .ordinal = ordinal};
        Status status = pin_somewhere(sim, id, &pin);
        check(sim);
        if (status == STATUS_OK) {
            sim->pins[sim->pin_count++] = pin;
            sim_store_slot(&sim->store, pin.tier, pin.slot)->pins++;
            tier_manager_score(sim->manager, id, random_unit(&sim->random));
        }
        if (status != STATUS_AGAIN) return status;
        if (sim->whole_count > 0)
            attend_pinned(sim, layer); /* time passes there, too */
        else
            wait(sim);
    }
}

static void attend_sequence(Simulation *sim, Sequence *sequence, uint32_t layer) {
    const Stream *stream = &sequence->streams[layer];
    for (uint32_t ordinal = 0; ordinal < stream->block_count; ordinal++) {
        if (pin_block(sim, sequence, layer, ordinal) == STATUS_IO) {
            sequence->lost = true;
            let_partial_go(sim, layer);
            return;
        }
        bool whole = (ordinal + 1) % sim->options.group_blocks == 0;
        if (!whole && ordinal + 1 < stream->block_count) continue;
        sim->whole_count = sim->pin_count;
        if (sim->pin_count + sim->options.group_blocks > PINS_MAX) attend_pinned(sim, layer);
    }
}

static void attend_layer(Simulation *sim, uint32_t layer) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        sim->folds[i] = 0;
        if (attends(&sim->sequences[i])) attend_sequence(sim, &sim->sequences[i], layer);
    }
    attend_pinned(sim, layer);
    CHECK(sim->pin_count == 0);
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        const Stream *stream = &sim->sequences[i].streams[layer];
        uint64_t truth = 0;
        for (uint32_t ordinal = 0; ordinal < stream->block_count; ordinal++)
            truth = sim_mix(truth, stream->truth[ordinal]);
        CHECK(!attends(&sim->sequences[i]) || sim->folds[i] == truth);
        sim->digests[i] = sim_mix(sim->digests[i], sim->folds[i]);
    }
}

/* ---- steps ---- */

static void plan_layer(Simulation *sim, uint32_t layer) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        const Stream *stream = &sim->sequences[i].streams[layer];
        if (sim->sequences[i].parked) continue;
        for (uint32_t b = 0; b < stream->block_count && sim->plan_count < PLAN_MAX; b++)
            sim->plan[sim->plan_count++] = stream->ids[b];
    }
}

static void shuffle_plan(Simulation *sim) {
    for (uint32_t i = 1; i < sim->plan_count; i++) {
        uint32_t j = (uint32_t)random_below(&sim->random, i + 1);
        BlockId id = sim->plan[i];
        sim->plan[i] = sim->plan[j];
        sim->plan[j] = id;
    }
}

static void make_plan(Simulation *sim) {
    if (sim->options.staging_varies) {
        uint32_t least = sim->options.group_blocks, most = sim->options.staging_slots;
        tier_manager_set_staging(sim->manager,
                                 least + (uint32_t)random_below(&sim->random, most - least + 1));
        check(sim);
    }
    if (sim->options.plan != 2 || chance(sim, 0.2)) tier_manager_forget_wants(sim->manager);
    sim->plan_count = sim->plan_next = 0;
    if (sim->options.plan == 0) return;
    for (uint32_t layer = 0; layer < sim->options.layers; layer++)
        plan_layer(sim, layer);
    if (sim->options.plan == 2) plan_layer(sim, 0);
    if (sim->options.plan == 3) shuffle_plan(sim);
    start_transfers(sim);
}

static void draw_faults(Simulation *sim) {
    const SimOptions *options = &sim->options;
    bool faults = sim->report.steps < options->fault_steps;
    for (int fault = 0; fault < SIM_FAULT_COUNT; fault++)
        sim->store.odds[fault] = faults || fault == SIM_FAULT_SLOW ? options->odds[fault] : 0;
    Tier tier = chance(sim, 0.5) ? TIER_HOST : TIER_NVME;
    sim->store.dead[tier] |= chance(sim, options->death_odds);
    if (chance(sim, options->full_odds))
        sim->store.full_until[tier] = sim->store.now + random_below(&sim->random, 5000);
    if (chance(sim, options->hang_odds))
        sim->store.hung_until[tier] = sim->store.now + random_below(&sim->random, 2000);
    if (faults) return;
    sim->store.hung_until[TIER_HOST] = sim->store.hung_until[TIER_NVME] = 0;
    sim->store.dead[TIER_HOST] = sim->store.dead[TIER_NVME] = false;
    sim->store.full_until[TIER_HOST] = sim->store.full_until[TIER_NVME] = 0;
}

/* All but the oldest may pause for a step, their blocks with them. */
static void park_some(Simulation *sim, const Sequence *first) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        Sequence *sequence = &sim->sequences[i];
        sequence->parked = sequence->state == SEQUENCE_RUNNING && sequence != first &&
                           random_unit(&sim->plan_random) < sim->options.park_odds;
        for (uint32_t layer = 0; sequence->parked && layer < sim->options.layers; layer++)
            for (uint32_t b = 0; b < sequence->streams[layer].block_count; b++) {
                tier_manager_park(sim->manager, sequence->streams[layer].ids[b]);
                check(sim);
            }
    }
}

static void choose_tokens(Simulation *sim) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        Sequence *sequence = &sim->sequences[i];
        if (sequence->state != SEQUENCE_RUNNING || sequence->parked) continue;
        uint32_t left = sequence->token_count < sequence->prompt_tokens
                            ? sequence->prompt_tokens - sequence->token_count
                            : 1;
        sequence->step_tokens = left < sim->options.chunk_tokens ? left : sim->options.chunk_tokens;
    }
}

/* A lost block after faults have stopped: what was stuck then, or written wrong, and is found late. */
static void lose(Simulation *sim, Sequence *sequence) {
    bool fits = running_count(sim) > 1 || worst_blocks(sim, sequence) <= sim->agreed.places;
    sim->report.lost++;
    sim->steps_max +=
        sim->report.steps >= sim->options.fault_steps ? sequence->target_tokens + 1 : 0;
    sim->report.refused += sim->options.ranks > 1 && !fits;
    leave(sim, sequence, sim->options.ranks == 1 || fits ? SEQUENCE_WAITING : SEQUENCE_ENDED);
}

static void end_step(Simulation *sim) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++) {
        Sequence *sequence = &sim->sequences[i];
        if (sequence->state != SEQUENCE_RUNNING) continue;
        sequence->token_count += sequence->step_tokens;
        sequence->step_tokens = 0;
        if (sim->agreed.lost >> i & 1) {
            lose(sim, sequence);
        } else if (sequence->token_count >= sequence->target_tokens) {
            sim->report.finished++;
            leave(sim, sequence, SEQUENCE_ENDED);
        } else if (random_unit(&sim->plan_random) < sim->options.cancel_odds) {
            sim->report.cancelled++;
            leave(sim, sequence, SEQUENCE_ENDED);
        }
    }
}

static Sequence *oldest(Simulation *sim) {
    for (uint32_t i = 0; i < sim->options.sequence_count; i++)
        if (sim->sequences[i].state != SEQUENCE_ENDED) return &sim->sequences[i];
    return NULL;
}

static StepReport report_step(const Simulation *sim) {
    StepReport report = {.places = tier_manager_places(sim->manager)};
    if (report.places > places(sim)) report.places = places(sim); /* what staging lends, it takes */
    for (uint32_t i = 0; i < SEQUENCES_MAX && i < sim->options.sequence_count; i++)
        report.lost |= (uint32_t)sim->sequences[i].lost << i;
    return report;
}

/* As far as the ranks need not agree. first: the oldest that has not ended. */
static void run_step(Simulation *sim, const Sequence *first) {
    memset(sim->digests, 0, sizeof sim->digests);
    draw_faults(sim);
    admit(sim);
    park_some(sim, first);
    choose_tokens(sim);
    make_plan(sim);
    CHECK(first->state == SEQUENCE_RUNNING);
    for (uint32_t layer = 0; layer < sim->options.layers; layer++) {
        store_layer(sim, layer);
        compute(sim, 40);
        attend_layer(sim, layer);
        seal_layer(sim, layer);
        if (sim->options.encodes[TIER_HOST] || sim->options.encodes[TIER_NVME])
            cool_layer(sim, layer);
    }
}

static void check_agreement(const Simulation *ours, const Simulation *first) {
    CHECK(ours->report.steps == first->report.steps);
    for (uint32_t i = 0; i < first->options.sequence_count; i++) {
        const Sequence *mine = &ours->sequences[i], *theirs = &first->sequences[i];
        CHECK(mine->state == theirs->state && mine->token_count == theirs->token_count &&
              mine->step_tokens == theirs->step_tokens);
    }
}

static void check_digests(const Simulation *ours, const Simulation *first, uint32_t lost) {
    for (uint32_t i = 0; i < first->options.sequence_count; i++)
        CHECK(lost >> i & 1 || ours->digests[i] == first->digests[i]);
}

static void step(Simulation *ranks, uint32_t rank_count) {
    StepReport agreed = {.places = UINT64_MAX};
    uint32_t oldest_index = (uint32_t)(oldest(ranks) - ranks->sequences);
    uint32_t tokens_before = ranks->sequences[oldest_index].token_count;
    for (uint32_t r = 0; r < rank_count; r++) {
        run_step(&ranks[r], &ranks[r].sequences[oldest_index]);
        StepReport report = report_step(&ranks[r]);
        agreed.lost |= report.lost;
        if (report.places < agreed.places) agreed.places = report.places;
    }
    for (uint32_t r = 0; r < rank_count; r++) {
        check_agreement(&ranks[r], ranks);
        check_digests(&ranks[r], ranks, agreed.lost);
    }
    for (uint32_t r = 0; r < rank_count; r++) {
        const Sequence *first = &ranks[r].sequences[oldest_index];
        ranks[r].agreed = agreed;
        end_step(&ranks[r]);
        CHECK(first->state == SEQUENCE_ENDED || agreed.lost >> oldest_index & 1 ||
              first->token_count > tokens_before);
        ranks[r].report.steps++;
    }
}

/* Steps that every sequence needs, one after the other: the oldest always advances. */
static uint64_t steps_max(const Simulation *sim) {
    uint64_t steps = sim->options.fault_steps + 1u;
    for (uint32_t i = 0; i < sim->options.sequence_count; i++)
        steps += sim->sequences[i].target_tokens + 1u;
    return steps;
}

static void open(Simulation *sim, const SimOptions *options, uint32_t rank) {
    sim->options = *options;
    sim->random = (Random){.key = options->seed, .stream = 2 + 2 * rank};
    sim->plan_random = (Random){.key = options->seed, .stream = 3};
    TierManagerOptions manager = {.placement = options->placement,
                                  .staging_slots = options->staging_slots,
                                  .stream_groups = options->layers,
                                  .transfers_max = options->transfers_max,
                                  .writes_max = options->writes_max,
                                  .want_count_max = options->want_count_max,
                                  .staging_min = options->group_blocks,
                                  .failures_to_off = options->failures_to_off,
                                  .failure_window_ns = options->failure_window,
                                  .corrupt_to_off = options->corrupt_to_off,
                                  .grow_pause_ns = options->grow_pause};
    for (int tier = 0; tier < TIER_COUNT; tier++) {
        manager.slot_count[tier] = options->slot_count[tier];
        manager.encodes[tier] = options->encodes[tier];
    }
    CHECK(tier_manager_create(&sim->manager, &manager) == STATUS_OK);
    tier_manager_set_free_target(sim->manager, options->free_target);
    sim_store_create(&sim->store, &sim->random, options->slot_count, options->transfers_max);
    sim->store.io_timeout = options->io_timeout;
    for (uint32_t i = 0; i < options->sequence_count; i++) {
        Sequence *sequence = &sim->sequences[i];
        sequence->uid = i + 1;
        sequence->prompt_tokens =
            1 + (uint32_t)random_below(&sim->plan_random, options->prompt_max);
        sequence->target_tokens = sequence->prompt_tokens +
                                  (uint32_t)random_below(&sim->plan_random, options->answer_max);
    }
    sim->agreed = report_step(sim);
    sim->steps_max = steps_max(sim);
}

static void close(Simulation *sim, SimReport *sum) {
    while (end_next(sim, UINT64_MAX))
        continue;
    TierManagerStats stats = tier_manager_stats(sim->manager);
    CHECK(stats.filling + stats.sealed + stats.lost == 0);
    for (int tier = 0; tier < TIER_COUNT; tier++)
        CHECK(stats.tiers[tier].slots_used == sim_store_held(&sim->store, (Tier)tier));
    SimReport *report = &sim->report;
    report->moves = sim->store.completed;
    report->late = sim->store.late;
    for (int fault = 0; fault < SIM_FAULT_COUNT; fault++)
        report->injected[fault] = sim->store.injected[fault];
    sim_report_add(sum, report);
    sim_store_destroy(&sim->store);
    tier_manager_destroy(sim->manager);
}

void sim_report_add(SimReport *sum, const SimReport *report) {
    const uint64_t *from = (const uint64_t *)report;
    uint64_t *to = (uint64_t *)sum;
    for (size_t i = 0; i < sizeof *sum / sizeof *to; i++)
        to[i] += from[i];
}

SimReport sim_run(const SimOptions *options) {
    Simulation *ranks = calloc(options->ranks, sizeof *ranks);
    CHECK(ranks && options->ranks <= RANKS_MAX && options->sequence_count <= SEQUENCES_MAX &&
          options->layers <= LAYERS_MAX && options->prompt_max + options->answer_max <= BLOCKS_MAX);
    for (uint32_t r = 0; r < options->ranks; r++)
        open(&ranks[r], options, r);
    while (oldest(ranks)) {
        CHECK(ranks->report.steps < ranks->steps_max);
        step(ranks, options->ranks);
    }
    SimReport sum = {0};
    for (uint32_t r = 0; r < options->ranks; r++)
        close(&ranks[r], &sum);
    free(ranks);
    return sum;
}
