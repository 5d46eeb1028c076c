#include "runtime/engine/planner.h"

#include <math.h>

#include "runtime/base/bytes.h"

enum { STEP_PERCENT = 5, HOST_PARTS = 4, BLOCK_TOKENS_MIN = 32, BLOCK_TOKENS_MAX = 256 };

typedef struct Search {
    const PlanShape *shape;
    const PlanMachine *machine;
    const PlanWork *work;
    const PlanFreedom *limits;
    PlanChoice best;
    bool found;
} Search;

static double smaller(double a, double b) {
    return a < b ? a : b;
}

static Status cost_of(const Search *search, const PlanPlacement *placement, PlanCost *out) {
    return plan_cost(search->shape, search->machine, search->work, placement, out);
}

static double on_device(const PlanPlacement *placement) {
    return placement->percent[PLAN_WEIGHTS_DEVICE] + placement->percent[PLAN_CACHE_DEVICE];
}

/* Of two that are as fast the one that moves less, which is the safer. */
static void keep_if_better(Search *search, const PlanPlacement *placement, const PlanCost *cost) {
    const PlanChoice *best = &search->best;
    if (!cost->fits) return;
    if (search->found && cost->seconds > best->cost.seconds) return;
    if (search->found && cost->seconds == best->cost.seconds &&
        on_device(placement) <= on_device(&best->placement))
        return;
    search->best = (PlanChoice){*placement, *cost};
    search->found = true;
}

/* ---- keys and values for given weights ---- */

/* Per cent of `bytes` that `room` holds, in whole tenths. */
static double percent_that_fits(double room, double bytes) {
    if (bytes <= 0 || room >= bytes) return 100;
    return room > 0 ? floor(1000 * room / bytes) / 10 : 0;
}

static double room_of(const PlanCost *cost, Tier tier) {
    return cost->needs[tier].capacity - cost->needs[tier].total;
}

/* As many as fit on the device, then on the host. A host that shares the device's memory is of hardly any use to them. */
static Status fill_cache(Search *search, PlanPlacement *placement) {
    PlanCost cost;
    double *device = &placement->percent[PLAN_CACHE_DEVICE];
    double *host = &placement->percent[PLAN_CACHE_HOST];
    *device = 100;
    *host = 0;
    TRY(cost_of(search, placement, &cost));
    keep_if_better(search, placement, &cost);
    if (cost.fits) return STATUS_OK;
    *device = 0;
    TRY(cost_of(search, placement, &cost));
    double all = cost.cache_bytes, slot = cost.slot_bytes; /* parts are whole slots */
    if (room_of(&cost, TIER_DEVICE) < 0) return STATUS_OK;
    *device = smaller(percent_that_fits(room_of(&cost, TIER_DEVICE) - slot, all), 99.9);
    TRY(cost_of(search, placement, &cost));
    if (!search->machine->unified) {
        double room = room_of(&cost, TIER_HOST) - slot, rest = 100 - *device;
        *host = smaller(percent_that_fits(room, all), rest);
        if (*host == rest) { /* then the host makes up for staging, which may be too much for it */
            TRY(cost_of(search, placement, &cost));
            keep_if_better(search, placement, &cost);
            *host = rest > 1 ? rest - 1 : 0;
        }
        TRY(cost_of(search, placement, &cost));
    }
    keep_if_better(search, placement, &cost);
    return STATUS_OK;
}

/* ---- weights ---- */

/* Per cent of the weights that fit a tier beside everything else as low as it goes. */
static Status weights_that_fit(const Search *search, const PlanPlacement *placement, Tier tier,
                               double *out) {
    PlanPlacement low = *placement;
    PlanCost cost;
    low.percent[PLAN_CACHE_DEVICE] = low.percent[PLAN_CACHE_HOST] = 0;
    TRY(cost_of(search, &low, &cost));
    double all = (double)cost.weight_bytes[TIER_DEVICE] + (double)cost.weight_bytes[TIER_HOST] +
                 (double)cost.weight_bytes[TIER_NVME];
    *out = percent_that_fits(room_of(&cost, tier), all);
    return STATUS_OK;
}

/* What the host takes of the rest: all that fits beside whole staging, parts of it, and steps. More may fit than that: the more stays, the
 * less is staged. */
static Status scan_host(Search *search, PlanPlacement *placement) {
    double *host = &placement->percent[PLAN_WEIGHTS_HOST], fits;
    double rest = 100 - placement->percent[PLAN_WEIGHTS_DEVICE];
    *host = 0;
    if (search->machine->unified || rest <= 0) return fill_cache(search, placement);
    TRY(weights_that_fit(search, placement, TIER_HOST, &fits));
    fits = smaller(fits, rest);
    for (int part = 0; part <= HOST_PARTS; part++) {
        *host = fits * part / HOST_PARTS;
        TRY(fill_cache(search, placement));
        if (fits == 0) break;
    }
    for (double percent = STEP_PERCENT; percent <= rest; percent += STEP_PERCENT) {
        *host = percent;
        TRY(fill_cache(search, placement));
    }
    *host = rest;
    return fill_cache(search, placement);
}

static Status scan_weights(Search *search, PlanPlacement *placement) {
    double *device = &placement->percent[PLAN_WEIGHTS_DEVICE], fits;
    placement->percent[PLAN_ACTIVATIONS_DEVICE] = 100;
    *device = placement->percent[PLAN_WEIGHTS_HOST] = 0;
    TRY(weights_that_fit(search, placement, TIER_DEVICE, &fits));
    TRY(scan_host(search, placement));
    for (double percent = STEP_PERCENT; percent <= 100; percent += STEP_PERCENT) {
        *device = percent;
        TRY(scan_host(search, placement));
    }
    *device = fits;
    return scan_host(search, placement);
}

/* ---- what comes in steps ---- */

static Status scan_rows(Search *search, PlanPlacement *placement) {
    double all = (double)placement->sequences * search->work->prompt_tokens;
    placement->rows = search->limits->rows ? search->limits->rows : 512;
    TRY(scan_weights(search, placement));
    while (!search->limits->rows && placement->rows < 32768 && placement->rows < all) {
        placement->rows *= 4;
        TRY(scan_weights(search, placement));
    }
    return STATUS_OK;
}

static uint32_t sequences_most(const Search *search) {
    if (search->limits->sequences) return search->limits->sequences;
    return search->work->batch < PLAN_SEQUENCES_MAX ? search->work->batch : PLAN_SEQUENCES_MAX;
}

static Status scan_sequences(Search *search, PlanPlacement *placement) {
    placement->sequences = sequences_most(search);
    TRY(scan_rows(search, placement));
    while (!search->limits->sequences && placement->sequences > 1) {
        placement->sequences = (uint32_t)divide_up(placement->sequences, 2);
        TRY(scan_rows(search, placement));
    }
    return STATUS_OK;
}

/* With everything else as it was found best. */
static Status scan_blocks(Search *search) {
    PlanPlacement placement = search->best.placement;
    if (search->limits->block_tokens) return STATUS_OK;
    for (uint32_t tokens = BLOCK_TOKENS_MIN; tokens <= BLOCK_TOKENS_MAX; tokens *= 2) {
        placement.block_tokens = tokens;
        TRY(scan_weights(search, &placement));
    }
    return STATUS_OK;
}

/* Whether the codec takes heads of this size, with the blocks that it would get. */
static bool codec_serves(const Search *search, const Codec *codec) {
    PlanShare share;
    if (codec_is_raw(codec)) return true;
    if (plan_share(search->shape, search->machine->rank_count, &share) != STATUS_OK) return false;
    KvShape shape = {share.kv_heads, search->shape->head_dim, search->limits->block_tokens};
    if (shape.block_tokens == 0) shape.block_tokens = BLOCK_TOKENS_MIN;
    return codec_refusal(codec, &shape) == NULL;
}

static Status refuse_all(Search *search, const PlanPlacement *tried, PlanChoice *out) {
    PlanPlacement least = {.codec = tried->codec,
                           .residual_tokens = tried->residual_tokens,
                           .block_tokens = tried->block_tokens,
                           .sequences = tried->sequences,
                           .attend_host = tried->attend_host,
                           .rows = search->limits->rows ? search->limits->rows : 512};
    least.percent[PLAN_ACTIVATIONS_DEVICE] = 100;
    out->placement = least;
    return cost_of(search, &least, &out->cost);
}

Status plan_search(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                   const PlanFreedom *limits, PlanChoice *out) {
    Search search = {.shape = shape, .machine = machine, .work = work, .limits = limits};
    PlanPlacement placement = {.residual_tokens = limits->residual_tokens,
                               .attend_host = limits->attend_host};
    PlanShare share;
    uint32_t served = 0;
    TRY(plan_share(shape, machine->rank_count, &share));
    for (uint32_t i = 0; i < limits->codec_count; i++) {
        if (!codec_serves(&search, limits->codecs[i])) continue;
        placement.codec = limits->codecs[i];
        placement.block_tokens = limits->block_tokens;
        TRY(scan_sequences(&search, &placement));
        served++;
    }
    if (served == 0) FAIL(USAGE, "no codec that may be chosen takes heads of %u", shape->head_dim);
    if (!search.found) return refuse_all(&search, &placement, out);
    TRY(scan_blocks(&search));
    *out = search.best;
    return STATUS_OK;
}

/* ---- the nearest ---- */

static double distance(const PlanPlacement *a, const PlanPlacement *b) {
    double sum = 0;
    for (int part = 0; part <= PLAN_CACHE_HOST; part++)
        sum += fabs(a->percent[part] - b->percent[part]);
    return sum;
}

typedef struct Nearest {
    const Search *search;
    const PlanPlacement *asked;
    PlanChoice best;
    double distance;
    bool found;
} Nearest;

static Status consider(Nearest *nearest, const PlanPlacement *placement) {
    PlanCost cost;
    double away = distance(placement, nearest->asked);
    if (nearest->found && away > nearest->distance) return STATUS_OK;
    TRY(cost_of(nearest->search, placement, &cost));
    bool better =
        !nearest->found || away < nearest->distance || cost.seconds < nearest->best.cost.seconds;
    if (!cost.fits || !better) return STATUS_OK;
    nearest->best = (PlanChoice){*placement, cost};
    nearest->distance = away;
    nearest->found = true;
    return STATUS_OK;
}

static Status consider_cache(Nearest *nearest, PlanPlacement *placement) {
    double *percent = placement->percent;
    for (double device = 0; device <= 100; device += STEP_PERCENT)
        for (double host = 0; device + host <= 100; host += STEP_PERCENT) {
            percent[PLAN_CACHE_DEVICE] = device;
            percent[PLAN_CACHE_HOST] = host;
            TRY(consider(nearest, placement));
        }
    return STATUS_OK;
}

static Status consider_all(Nearest *nearest, PlanPlacement *placement) {
    double *percent = placement->percent;
    for (double device = 0; device <= 100; device += STEP_PERCENT)
        for (double host = 0; device + host <= 100; host += STEP_PERCENT) {
            percent[PLAN_WEIGHTS_DEVICE] = device;
            percent[PLAN_WEIGHTS_HOST] = host;
            TRY(consider_cache(nearest, placement));
        }
    return STATUS_OK;
}

Status plan_nearest(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                    const PlanPlacement *asked, PlanChoice *out) {
    const Search search = {.shape = shape, .machine = machine, .work = work};
    Nearest nearest = {.search = &search, .asked = asked};
    PlanPlacement placement = *asked;
    placement.percent[PLAN_ACTIVATIONS_DEVICE] = 100;
    placement.percent[PLAN_ACTIVATIONS_HOST] = 0;
    TRY(consider_all(&nearest, &placement));
    while (!nearest.found && placement.sequences > 1) {
        placement.sequences = (uint32_t)divide_up(placement.sequences, 2);
        TRY(consider_all(&nearest, &placement));
    }
    if (nearest.found) {
        *out = nearest.best;
        return STATUS_OK;
    }
    out->placement = *asked;
    return cost_of(&search, asked, &out->cost);
}

Status plan_take_budgets(const PlanShape *shape, const PlanMachine *machine, const PlanWork *work,
                         const uint64_t kv_bytes[TIER_COUNT], PlanPlacement *placement) {
    double *percent = placement->percent;
    PlanCost cost;
    percent[PLAN_CACHE_DEVICE] = 100;
    percent[PLAN_CACHE_HOST] = 0;
    TRY(plan_cost(shape, machine, work, placement, &cost));
    if (kv_bytes[TIER_DEVICE] >= cost.kv_bytes[TIER_DEVICE]) return STATUS_OK;
    percent[PLAN_CACHE_DEVICE] = 0;
    TRY(plan_cost(shape, machine, work, placement, &cost));
    double device = (double)kv_bytes[TIER_DEVICE] - (double)cost.kv_bytes[TIER_DEVICE];
    percent[PLAN_CACHE_DEVICE] = smaller(percent_that_fits(device, cost.cache_bytes), 99.9);
    percent[PLAN_CACHE_HOST] =
        smaller(percent_that_fits((double)kv_bytes[TIER_HOST], cost.cache_bytes),
                100 - percent[PLAN_CACHE_DEVICE]);
    return STATUS_OK;
}

PlanMachine plan_machine_with(const PlanMachine *machine, Tier tier, double bytes) {
    PlanMachine more = *machine;
    double *sizes[TIER_COUNT] = {machine->unified ? &more.host_bytes : &more.device_bytes,
                                 &more.host_bytes, &more.disk_bytes};
    *sizes[tier] += bytes;
    return more;
}
