/* The oracle is one softmax over all tokens that a row sees, in double, without blocks, groups or partials. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/invariant.h"
#include "tests/check/check.h"

enum {
    SEQUENCES_MAX = 4,
    HEADS_MAX = 12,
    HEAD_DIM_MAX = 256,
    CODECS_MAX = 32,
    CONTEXT_MAX = 700,
    BLOCKS_MAX = 40, /* of a sequence: five groups */
    ROWS_MAX = 40,   /* of a sequence */
    HEADS_LARGE = 4,
    BLOCKS_LARGE = 50, /* different ones, again and again */
};

typedef struct Sequence {
    uint32_t row_first, row_count, position_first, block_count;
    void *blocks[BLOCKS_MAX];
    const Codec *codecs[BLOCKS_MAX]; /* NULL: raw */
} Sequence;

typedef struct AttendCase {
    AttendArgs args; /* without state and runs */
    uint32_t row_count;
    uint32_t sequence_count;
    Sequence sequences[SEQUENCES_MAX];
    double q_deviation;
} AttendCase;

typedef struct State {
    float *maxima, *sums; /* [rows][heads] */
    float *out;           /* [rows][heads][head_dim] */
} State;

/* How the blocks of the sequences are handed over. Nothing of it may change a bit. */
typedef enum Cut {
    CUT_NONE,  /* one call, one run a sequence */
    CUT_RUNS,  /* one call, several runs a sequence */
    CUT_CALLS, /* one call a run, sequences taking turns */
    CUT_COUNT,
} Cut;

/* ---- drawing */

static uint32_t draw_head_dim(Check *check) {
    static const uint32_t usual[] = {1, 20, 36, 64, 64, 80, 128, 256};
    return check_chance(check, 0.7) ? usual[check_below(check, sizeof usual / sizeof *usual)]
                                    : check_size(check, 140);
}

/* one that codecs take */
static uint32_t draw_coded_dim(Check *check) {
    static const uint32_t dims[] = {16, 32, 48, 64, 64, 64, 80, 96, 128, 128, 256};
    return dims[check_below(check, sizeof dims / sizeof *dims)];
}

static uint16_t *draw_head_map(Check *check, uint32_t head_count, uint32_t kv_head_count) {
    uint16_t *map = check_memory(check, head_count, sizeof *map);
    bool grouped = check_chance(check, 0.7);
    for (uint32_t head = 0; head < head_count; head++)
        map[head] = (uint16_t)(grouped ? head * kv_head_count / head_count
                                       : check_below(check, kv_head_count));
    return map;
}

/* Slots beyond the context stay poison: NaN halves that must reach nobody. */
static void fill_block(Check *check, const KvShape *shape, void *block, uint32_t token_count) {
    uint16_t *halves = block;
    for (uint32_t part = 0; part < 2 * shape->kv_head_count; part++)
        for (uint32_t i = 0; i < token_count * shape->head_dim; i++)
            halves[(size_t)part * shape->block_tokens * shape->head_dim + i] =
                f32_to_f16(random_normal(&check->random));
}

/* The same codec under a name that no fast path knows. */
static const Codec *unlisted(uint32_t index) {
    static Codec copies[CODECS_MAX];
    CHECK(index < CODECS_MAX);
    copies[index] = *codec_at(index);
    copies[index].name = "unlisted";
    return &copies[index];
}

/* A codec that takes such blocks; NULL for a raw one, and where none does. */
static const Codec *draw_codec(Check *check, const KvShape *shape) {
    uint32_t count = 0;
    while (codec_at(count))
        count++;
    uint32_t index = check_below(check, count);
    const Codec *codec = check_chance(check, 0.1) ? unlisted(index) : codec_at(index);
    return codec_is_raw(codec) || codec_refusal(codec, shape) ? NULL : codec;
}

/* The block as the codec stores it. */
static void *encoded_block(Check *check, const Codec *codec, const KvShape *shape,
                           const void *block) {
    void *bytes = check_memory(check, codec_block_bytes(codec, shape), 1);
    if (codec_encode_block(codec, shape, block, bytes) != STATUS_OK)
        check_fail(check, "%s refuses a block", codec->name);
    return bytes;
}

static void draw_sequence(Check *check, const KvShape *shape, bool coded, uint32_t row_first,
                          Sequence *out) {
    uint32_t context_max = shape->block_tokens * BLOCKS_MAX;
    uint32_t context = check_size(check, context_max < CONTEXT_MAX ? context_max : CONTEXT_MAX);
    uint32_t rows = check_chance(check, 0.5) ? 1 : check_size(check, ROWS_MAX);
    if (rows > context) rows = context;
    *out = (Sequence){.row_first = row_first,
                      .row_count = rows,
                      .position_first = context - rows,
                      .block_count = (context + shape->block_tokens - 1) / shape->block_tokens};
    for (uint32_t block = 0; block < out->block_count; block++) {
        uint32_t left = context - block * shape->block_tokens;
        out->blocks[block] = check_memory(check, kv_block_bytes(shape), 1);
        fill_block(check, shape, out->blocks[block],
                   left < shape->block_tokens ? left : shape->block_tokens);
        if (coded && left >= shape->block_tokens) out->codecs[block] = draw_codec(check, shape);
        if (out->codecs[block])
            out->blocks[block] =
                encoded_block(check, out->codecs[block], shape, out->blocks[block]);
    }
}

/* coded: shapes that codecs take, and most full blocks encoded, each by a codec of its own */
static AttendCase draw_case(Check *check, bool coded) {
    AttendCase drawn = {.sequence_count = 1 + check_below(check, SEQUENCES_MAX)};
    AttendArgs *args = &drawn.args;
    args->shape = (KvShape){.kv_head_count = 1 + check_below(check, 4),
                            .head_dim = coded ? draw_coded_dim(check) : draw_head_dim(check),
                            .block_tokens = coded && check_chance(check, 0.7)
                                                ? 32 * (1 + check_below(check, 3))
                                                : check_size(check, 80)};
    args->head_count = 1 + check_below(check, HEADS_MAX);
    args->kv_head_index = draw_head_map(check, args->head_count, args->shape.kv_head_count);
    args->scale = 1.0f / sqrtf((float)args->shape.head_dim);
    args->window = check_chance(check, 0.4) ? check_size(check, CONTEXT_MAX) : 0;
    for (uint32_t i = 0; i < drawn.sequence_count; i++) {
        draw_sequence(check, &args->shape, coded, drawn.row_count, &drawn.sequences[i]);
        drawn.row_count += drawn.sequences[i].row_count;
    }
    uint32_t columns = args->head_count * args->shape.head_dim;
    args->q_stride = columns + check_below(check, 4);
    size_t q_count = (drawn.row_count - 1) * args->q_stride + columns;
    float *q = check_memory(check, q_count, sizeof *q);
    drawn.q_deviation = check_chance(check, 0.3) ? 6.0 : 1.0;
    check_fill_normal(check, q, q_count, drawn.q_deviation);
    args->q = q;
    return drawn;
}

/* ---- running */

static State state_new(Check *check, const AttendCase *drawn) {
    size_t states = (size_t)drawn->row_count * drawn->args.head_count;
    return (State){
        .maxima = check_memory(check, states, sizeof(float)),
        .sums = check_memory(check, states, sizeof(float)),
        .out = check_memory(check, states * drawn->args.shape.head_dim, sizeof(float)),
    };
}

static AttendEdgeArgs edge_args(const AttendCase *drawn, const State *state) {
    return (AttendEdgeArgs){.row_count = drawn->row_count,
                            .head_count = drawn->args.head_count,
                            .head_dim = drawn->args.shape.head_dim,
                            .maxima = state->maxima,
                            .sums = state->sums,
                            .out = state->out};
}

static KernelContext context_for(Check *check, const Kernels *kernels, const AttendCase *drawn,
                                 uint32_t thread_count) {
    KernelLimits limits = {.row_count = drawn->row_count,
                           .column_count = 1,
                           .head_count = drawn->args.head_count,
                           .head_dim = drawn->args.shape.head_dim,
                           .block_tokens = drawn->args.shape.block_tokens};
    return check_context(check, kernels, &limits, thread_count);
}

static AttendRun run_of(const Sequence *sequence, uint32_t first, uint32_t end) {
    return (AttendRun){.row_first = sequence->row_first,
                       .row_count = sequence->row_count,
                       .position_first = sequence->position_first,
                       .block_ordinal_first = first,
                       .block_count = end - first,
                       .blocks = (const void *const *)sequence->blocks + first,
                       .codecs = sequence->codecs + first};
}

/* The blocks of `sequence` from *io_block to a group boundary; all of them when nothing is cut. */
static AttendRun next_run(Check *check, const Sequence *sequence, Cut cut, uint32_t *io_block) {
    uint32_t first = *io_block, end = sequence->block_count;
    if (cut != CUT_NONE) {
        uint32_t groups = 1 + check_below(check, 3);
        if (first + groups * ATTEND_GROUP_BLOCKS < end) end = first + groups * ATTEND_GROUP_BLOCKS;
    }
    *io_block = end;
    return run_of(sequence, first, end);
}

static void attend_runs(const Kernels *kernels, const KernelContext *context,
                        const AttendCase *drawn, const State *state, const AttendRun *runs,
                        uint32_t run_count) {
    AttendArgs args = drawn->args;
    args.maxima = state->maxima;
    args.sums = state->sums;
    args.out = state->out;
    args.runs = runs;
    args.run_count = run_count;
    kernels->attend(context, &args);
}

static void attend_in_one_call(Check *check, const Kernels *kernels, const KernelContext *context,
                               const AttendCase *drawn, const State *state, Cut cut) {
    AttendRun runs[SEQUENCES_MAX * BLOCKS_MAX];
    uint32_t run_count = 0;
    for (uint32_t i = 0; i < drawn->sequence_count; i++)
        for (uint32_t block = 0; block < drawn->sequences[i].block_count;)
            runs[run_count++] = next_run(check, &drawn->sequences[i], cut, &block);
    attend_runs(kernels, context, drawn, state, runs, run_count);
}

static void attend_in_turns(Check *check, const Kernels *kernels, const KernelContext *context,
                            const AttendCase *drawn, const State *state) {
    uint32_t blocks[SEQUENCES_MAX] = {0};
    for (bool more = true; more;) {
        more = false;
        for (uint32_t i = 0; i < drawn->sequence_count; i++) {
            if (blocks[i] == drawn->sequences[i].block_count) continue;
            AttendRun run = next_run(check, &drawn->sequences[i], CUT_CALLS, &blocks[i]);
            attend_runs(kernels, context, drawn, state, &run, 1);
            more = true;
        }
    }
}

/* Partials of every row: begin and all blocks, no end. */
static State attend_all(Check *check, const Kernels *kernels, const AttendCase *drawn, Cut cut,
                        uint32_t thread_count) {
    State state = state_new(check, drawn);
    AttendEdgeArgs edge = edge_args(drawn, &state);
    KernelContext context = context_for(check, kernels, drawn, thread_count);
    kernels->attend_begin(&context, &edge);
    if (cut == CUT_CALLS)
        attend_in_turns(check, kernels, &context, drawn, &state);
    else
        attend_in_one_call(check, kernels, &context, drawn, &state, cut);
    return state;
}

static void attend_finish(Check *check, const Kernels *kernels, const AttendCase *drawn,
                          const State *state) {
    AttendEdgeArgs edge = edge_args(drawn, state);
    KernelContext context = context_for(check, kernels, drawn, check->thread_count);
    kernels->attend_end(&context, &edge);
}

/* ---- oracle */

static const uint16_t *token_halves(const KvShape *shape, const Sequence *sequence,
                                    uint32_t kv_head, uint64_t position, bool value) {
    const uint16_t *block = sequence->blocks[position / shape->block_tokens];
    uint64_t part = (value ? shape->kv_head_count : 0) + kv_head;
    return block + (part * shape->block_tokens + position % shape->block_tokens) * shape->head_dim;
}

/* out[head_dim] */
static void token_numbers(const KvShape *shape, const Sequence *sequence, uint32_t kv_head,
                          uint64_t position, CodecPart part, float *out) {
    uint64_t block = position / shape->block_tokens;
    const Codec *codec = sequence->codecs[block];
    if (codec) {
        CodecHead head = codec_head(codec, shape, part);
        codec->expand(&head,
                      (const uint8_t *)sequence->blocks[block] +
                          codec_head_offset(codec, shape, part, kv_head),
                      (uint32_t)(position % shape->block_tokens), out);
        return;
    }
    const uint16_t *halves = token_halves(shape, sequence, kv_head, position, part == CODEC_VALUES);
    for (uint32_t i = 0; i < shape->head_dim; i++)
        out[i] = f16_to_f32(halves[i]);
}

static double oracle_score(const AttendArgs *args, const Sequence *sequence, const float *q,
                           uint32_t kv_head, uint64_t position) {
    float key[HEAD_DIM_MAX];
    double sum = 0.0;
    token_numbers(&args->shape, sequence, kv_head, position, CODEC_KEYS, key);
    for (uint32_t i = 0; i < args->shape.head_dim; i++)
        sum += (double)q[i] * (double)key[i];
    return sum * (double)args->scale;
}

/* The attention of one row and head; returns log(sum of exp(score)). */
static double oracle_row(const AttendArgs *args, const Sequence *sequence, uint32_t row,
                         uint32_t head, float *out) {
    double weights[CONTEXT_MAX], sums[HEAD_DIM_MAX] = {0.0};
    uint32_t head_dim = args->shape.head_dim, kv_head = args->kv_head_index[head];
    const float *q = args->q + (sequence->row_first + row) * args->q_stride + head * head_dim;
    int64_t own = (int64_t)sequence->position_first + row;
    int64_t first = args->window && own >= (int64_t)args->window ? own - args->window + 1 : 0;
    double max = -INFINITY, total = 0.0;
    for (int64_t position = first; position <= own; position++) {
        weights[position] = oracle_score(args, sequence, q, kv_head, (uint64_t)position);
        max = fmax(max, weights[position]);
    }
    for (int64_t position = first; position <= own; position++) {
        double weight = exp(weights[position] - max);
        float value[HEAD_DIM_MAX];
        token_numbers(&args->shape, sequence, kv_head, (uint64_t)position, CODEC_VALUES, value);
        total += weight;
        for (uint32_t i = 0; i < head_dim; i++)
            sums[i] += weight * (double)value[i];
    }
    for (uint32_t i = 0; i < head_dim; i++)
        out[i] = (float)(sums[i] / total);
    return max + log(total);
}

/* Relative error of a weight exp(s): that of the score, whose products are about q_deviation each. */
static double weight_error(const AttendCase *drawn) {
    double magnitude = 16.0 * drawn->q_deviation; /* |scores| reach a few deviations */
    return 4.0 * sqrt(drawn->args.shape.head_dim) * 0x1p-24 * magnitude + 16 * 0x1p-24;
}

static void expect_oracle(Check *check, const AttendCase *drawn, const State *state,
                          const float *log_sums) {
    uint32_t head_dim = drawn->args.shape.head_dim, head_count = drawn->args.head_count;
    size_t states = (size_t)drawn->row_count * head_count;
    float *out = check_memory(check, states * head_dim, sizeof *out);
    float *expected_sums = check_memory(check, states, sizeof *expected_sums);
    for (uint32_t i = 0; i < drawn->sequence_count; i++)
        for (uint32_t row = 0; row < drawn->sequences[i].row_count; row++)
            for (uint32_t head = 0; head < head_count; head++) {
                size_t index = (drawn->sequences[i].row_first + row) * head_count + head;
                expected_sums[index] = (float)oracle_row(&drawn->args, &drawn->sequences[i], row,
                                                         head, out + index * head_dim);
            }
    CheckTolerance tolerance = {.absolute = 5.0 * weight_error(drawn)}; /* |v| is below 5 */
    CheckShape sums_shape = {drawn->row_count, head_count, head_count};
    CheckShape out_shape = {(uint32_t)states, head_dim, head_dim};
    check_close(check, "log of sums", expected_sums, log_sums, &sums_shape, tolerance);
    check_close(check, "out", out, state->out, &out_shape, tolerance);
}

static float *log_sums_of(Check *check, const AttendCase *drawn, const State *state) {
    size_t states = (size_t)drawn->row_count * drawn->args.head_count;
    float *log_sums = check_memory(check, states, sizeof *log_sums);
    for (size_t i = 0; i < states; i++)
        log_sums[i] = (float)((double)state->maxima[i] + log((double)state->sums[i]));
    return log_sums;
}

/* ---- properties */

/* Rows [first, first + count) of two states. */
static bool expect_same_rows(Check *check, const char *what, const AttendCase *drawn,
                             const State *expected, const State *actual, uint32_t first,
                             uint32_t count) {
    size_t offset = (size_t)first * drawn->args.head_count;
    size_t states = (size_t)count * drawn->args.head_count;
    uint32_t head_dim = drawn->args.shape.head_dim;
    return check_same_bits(check, what, expected->maxima + offset, actual->maxima + offset,
                           states * sizeof(float)) &&
           check_same_bits(check, what, expected->sums + offset, actual->sums + offset,
                           states * sizeof(float)) &&
           check_same_bits(check, what, expected->out + offset * head_dim,
                           actual->out + offset * head_dim, states * head_dim * sizeof(float));
}

/* However blocks are cut into runs and calls, and whatever the thread count: the same bits. */
static void expect_schedule_invariance(Check *check, const AttendCase *drawn,
                                       const State *expected) {
    static const char *const names[CUT_COUNT] = {"other threads", "cut into runs",
                                                 "cut into calls"};
    for (Cut cut = CUT_NONE; cut < CUT_COUNT; cut++) {
        uint32_t threads = 1 + check_below(check, check->thread_count + 2);
        State state = attend_all(check, check->kernels, drawn, cut, threads);
        expect_same_rows(check, names[cut], drawn, expected, &state, 0, drawn->row_count);
    }
}

/* Some rows of one sequence alone: what a decode step is to a prefill. */
static void expect_row_invariance(Check *check, const AttendCase *drawn, const State *expected) {
    AttendCase alone = *drawn;
    const Sequence *sequence = &drawn->sequences[check_below(check, drawn->sequence_count)];
    uint32_t skipped = check_below(check, sequence->row_count);
    uint32_t count = 1;
    if (check_chance(check, 0.5)) count += check_below(check, sequence->row_count - skipped);
    alone.sequence_count = 1;
    alone.sequences[0] = *sequence;
    alone.sequences[0].row_first += skipped;
    alone.sequences[0].row_count = count;
    alone.sequences[0].position_first += skipped;
    State state = attend_all(check, check->kernels, &alone, CUT_NONE, 1);
    expect_same_rows(check, "rows alone", drawn, expected, &state, alone.sequences[0].row_first,
                     count);
}

static bool sees(const AttendArgs *args, const Sequence *sequence, uint32_t row,
                 uint32_t position) {
    uint32_t own = sequence->position_first + row;
    return position <= own && (!args->window || own - position < args->window);
}

/* A damaged token makes the rows that see it NaN or infinite and changes no bit of the others. */
static void expect_damage_contained(Check *check, const AttendCase *drawn, const State *clean) {
    static const uint16_t damages[] = {0x7e00, 0x7c00, 0xfc00}; /* NaN, infinities */
    const AttendArgs *args = &drawn->args;
    const Sequence *sequence = &drawn->sequences[check_below(check, drawn->sequence_count)];
    /* half the time among the rows, where neighbours differ in what they see */
    uint32_t position = check_chance(check, 0.5)
                            ? sequence->position_first + check_below(check, sequence->row_count)
                            : check_below(check, sequence->position_first + sequence->row_count);
    if (sequence->codecs[position / args->shape.block_tokens]) return;
    bool value = check_chance(check, 0.5);
    uint16_t damage = value ? damages[check_below(check, 3)] : damages[0];
    uint32_t kv_head = args->kv_head_index[0], head_dim = args->shape.head_dim;
    uint16_t *half = (uint16_t *)token_halves(&args->shape, sequence, kv_head, position, value) +
                     check_below(check, head_dim);
    uint16_t saved = *half;
    *half = damage;
    State state = attend_all(check, check->kernels, drawn, CUT_NONE, check->thread_count);
    *half = saved;
    for (uint32_t row = 0; row < drawn->row_count; row++) {
        bool own = row >= sequence->row_first && row < sequence->row_first + sequence->row_count;
        if (!own || !sees(args, sequence, row - sequence->row_first, position)) {
            if (!expect_same_rows(check, "damage elsewhere", drawn, clean, &state, row, 1)) return;
            continue;
        }
        const float *out = state.out + (size_t)row * args->head_count * head_dim;
        bool finite = true;
        for (uint32_t i = 0; i < head_dim; i++)
            finite = finite && isfinite(out[i]);
        if (finite) check_fail(check, "damage at position %u is lost for row %u", position, row);
    }
}

/* A key of infinity gives a score of -inf: the token counts for nothing, alone in its block or beside others, and
 * a row that sees nothing else stays empty instead of becoming NaN. */
static void expect_infinite_keys_ignored(Check *check) {
    enum { TOKENS = 3 }; /* one a block; the last one is sound */
    uint16_t blocks[TOKENS][2] = {{0x7c00, 0x3c00}, {0x7c00, 0x4000}, {0x3c00, 0x4200}};
    const void *block_list[TOKENS] = {blocks[0], blocks[1], blocks[2]};
    uint16_t kv_head = 0;
    float q[TOKENS] = {-1.0f, -1.0f, -1.0f}, maxima[TOKENS], sums[TOKENS], out[TOKENS];
    AttendRun run = {.row_count = TOKENS, .block_count = TOKENS, .blocks = block_list};
    AttendCase drawn = {.row_count = TOKENS,
                        .args = {.shape = {1, 1, 1},
                                 .head_count = 1,
                                 .kv_head_index = &kv_head,
                                 .scale = 1.0f,
                                 .q = q,
                                 .q_stride = 1}};
    State state = {maxima, sums, out};
    AttendEdgeArgs edge = edge_args(&drawn, &state);
    KernelContext context = context_for(check, check->kernels, &drawn, 1);
    check->kernels->attend_begin(&context, &edge);
    attend_runs(check->kernels, &context, &drawn, &state, &run, 1);
    check->kernels->attend_end(&context, &edge);
    const float expected[TOKENS] = {0.0f, 0.0f, 3.0f};
    check_same_bits(check, "rows that see infinite keys", expected, out, sizeof out);
}

static void attend_round(Check *check, bool coded) {
    AttendCase drawn = draw_case(check, coded);
    Cut cut = (Cut)check_below(check, CUT_COUNT);
    State state = attend_all(check, check->kernels, &drawn, cut, check->thread_count);
    expect_schedule_invariance(check, &drawn, &state);
    expect_row_invariance(check, &drawn, &state);
    expect_damage_contained(check, &drawn, &state);
    expect_infinite_keys_ignored(check);
    float *log_sums = log_sums_of(check, &drawn, &state);
    attend_finish(check, check->kernels, &drawn, &state);
    expect_oracle(check, &drawn, &state, log_sums);

    State reference = attend_all(check, check->reference, &drawn, CUT_NONE, 1);
    attend_finish(check, check->reference, &drawn, &reference);
    CheckShape shape = {drawn.row_count * drawn.args.head_count, drawn.args.shape.head_dim,
                        drawn.args.shape.head_dim};
    CheckTolerance tolerance = {.absolute = 5.0 * weight_error(&drawn)};
    check_close(check, "out against reference", reference.out, state.out, &shape, tolerance);
}

static void run_attend(Check *check) {
    attend_round(check, false);
}

static void run_attend_coded(Check *check) {
    attend_round(check, true);
}

/* ---- merging */

/* From *io_block on: whole groups, or a part of one. */
static AttendRun next_piece(Check *check, const Sequence *sequence, uint32_t *io_block) {
    uint32_t first = *io_block, place = first % ATTEND_GROUP_BLOCKS;
    uint32_t most = place > 0 ? ATTEND_GROUP_BLOCKS - place : 2u * ATTEND_GROUP_BLOCKS;
    uint32_t left = sequence->block_count - first, count = 1 + check_below(check, most);
    *io_block = first + (count < left ? count : left);
    return run_of(sequence, first, *io_block);
}

static State state_begin(Check *check, const KernelContext *context, const AttendCase *drawn) {
    State state = state_new(check, drawn);
    AttendEdgeArgs edge = edge_args(drawn, &state);
    check->kernels->attend_begin(context, &edge);
    return state;
}

static void merge(const Check *check, const KernelContext *context, const AttendCase *drawn,
                  const State *into, const State *from) {
    AttendMergeArgs args = {.state = edge_args(drawn, into),
                            .maxima = from->maxima,
                            .sums = from->sums,
                            .out = from->out};
    check->kernels->attend_merge(context, &args);
}

/* Each piece of a sequence is attended into one of two states, as by a device and its host, and these are merged. */
static void run_attend_merge(Check *check) {
    AttendCase drawn = draw_case(check, check_chance(check, 0.5));
    KernelContext context = context_for(check, check->kernels, &drawn, check->thread_count);
    State empty = state_begin(check, &context, &drawn);
    State parts[2] = {state_begin(check, &context, &drawn), state_begin(check, &context, &drawn)};
    for (uint32_t i = 0; i < drawn.sequence_count; i++)
        for (uint32_t block = 0; block < drawn.sequences[i].block_count;) {
            AttendRun run = next_piece(check, &drawn.sequences[i], &block);
            attend_runs(check->kernels, &context, &drawn, &parts[check_below(check, 2)], &run, 1);
        }
    size_t states = (size_t)drawn.row_count * drawn.args.head_count;
    const State before = {
        check_copy(check, parts[0].maxima, states * sizeof(float)),
        check_copy(check, parts[0].sums, states * sizeof(float)),
        check_copy(check, parts[0].out, states * drawn.args.shape.head_dim * sizeof(float))};
    merge(check, &context, &drawn, &parts[0], &empty);
    expect_same_rows(check, "merged with nothing", &drawn, &before, &parts[0], 0, drawn.row_count);
    merge(check, &context, &drawn, &empty, &parts[0]);
    expect_same_rows(check, "merged into nothing", &drawn, &before, &empty, 0, drawn.row_count);
    merge(check, &context, &drawn, &parts[0], &parts[1]);
    float *log_sums = log_sums_of(check, &drawn, &parts[0]);
    attend_finish(check, check->kernels, &drawn, &parts[0]);
    expect_oracle(check, &drawn, &parts[0], log_sums);
}

/* More blocks or rows than a backend that works from tables of bounded size takes at a time. */
typedef struct LargeCase {
    uint32_t row_count, block_count;
    KvShape shape;
} LargeCase;

static AttendCase draw_large(Check *check, const LargeCase *large, AttendRun *out_run) {
    const KvShape *shape = &large->shape;
    uint32_t columns = HEADS_LARGE * shape->head_dim;
    size_t block_halves = kv_block_bytes(shape) / sizeof(uint16_t);
    uint16_t *memory = check_memory(check, BLOCKS_LARGE * block_halves, sizeof *memory);
    const void **blocks = check_memory(check, large->block_count, sizeof *blocks);
    for (size_t i = 0; i < BLOCKS_LARGE; i++)
        fill_block(check, shape, memory + i * block_halves, shape->block_tokens);
    for (size_t i = 0; i < large->block_count; i++)
        blocks[i] = memory + i % BLOCKS_LARGE * block_halves;
    float *q = check_memory(check, (size_t)large->row_count * columns, sizeof *q);
    check_fill_normal(check, q, (size_t)large->row_count * columns, 1.0);
    uint16_t *map = check_memory(check, HEADS_LARGE, sizeof *map);
    memset(map, 0, HEADS_LARGE * sizeof *map);
    *out_run = (AttendRun){.row_count = large->row_count,
                           .position_first = large->block_count * shape->block_tokens,
                           .block_count = large->block_count,
                           .blocks = blocks};
    return (AttendCase){.args = {.shape = *shape,
                                 .head_count = HEADS_LARGE,
                                 .kv_head_index = map,
                                 .scale = 0.5f,
                                 .q = q,
                                 .q_stride = columns},
                        .row_count = large->row_count,
                        .q_deviation = 1.0};
}

static State attend_run(Check *check, const Kernels *kernels, const AttendCase *drawn,
                        const AttendRun *run) {
    State state = state_new(check, drawn);
    AttendEdgeArgs edge = edge_args(drawn, &state);
    KernelContext context = context_for(check, kernels, drawn, 1);
    kernels->attend_begin(&context, &edge);
    attend_runs(kernels, &context, drawn, &state, run, 1);
    kernels->attend_end(&context, &edge);
    return state;
}

static void run_attend_large(Check *check) {
    static const LargeCase cases[] = {{1, 2100, {1, 4, 1}}, {5000, 1, {1, 4, 2}}};
    if (check->seed % 32 != 1) return; /* slow to emulate */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        AttendRun run;
        AttendCase drawn = draw_large(check, &cases[i], &run);
        State state = attend_run(check, check->kernels, &drawn, &run);
        State expected = attend_run(check, check->reference, &drawn, &run);
        CheckShape shape = {drawn.row_count * HEADS_LARGE, drawn.args.shape.head_dim,
                            drawn.args.shape.head_dim};
        CheckTolerance tolerance = {.absolute = 5.0 * weight_error(&drawn)};
        check_close(check, "out of a large call", expected.out, state.out, &shape, tolerance);
    }
}

/* ---- edges */

static void run_attend_edges(Check *check) {
    uint32_t rows = check_size(check, 9), heads = check_size(check, 9), dim = check_size(check, 90);
    size_t states = (size_t)rows * heads;
    float *maxima = check_memory(check, states, sizeof(float));
    float *sums = check_memory(check, states, sizeof(float));
    float *out = check_memory(check, states * dim, sizeof(float));
    AttendEdgeArgs args = {rows, heads, dim, maxima, sums, out};
    KernelContext context = {.team =
                                 check_team(check, 1 + check_below(check, check->thread_count))};
    check->kernels->attend_begin(&context, &args);
    bool empty = true;
    for (size_t i = 0; i < states; i++)
        empty = empty && maxima[i] == -INFINITY && sums[i] == 0.0f;
    for (size_t i = 0; i < states * dim; i++)
        empty = empty && out[i] == 0.0f;
    if (!empty) check_fail(check, "attend_begin leaves a state that is not (-inf, 0, 0)");

    size_t chosen = check_below(check, (uint32_t)states);
    sums[chosen] = 4.0f;
    maxima[chosen] = 1.0f;
    for (uint32_t i = 0; i < dim; i++)
        out[chosen * dim + i] = 2.0f * (float)i;
    check->kernels->attend_end(&context, &args);
    for (size_t i = 0; i < states * dim; i++) {
        float expected = i / dim == chosen ? 0.5f * (float)(i % dim) : 0.0f;
        if (out[i] == expected) continue;
        check_fail(check, "attend_end gives %g, expected %g", (double)out[i], (double)expected);
        return;
    }
}

/* ---- kv_store */

static void run_kv_store(Check *check) {
    enum { BLOCKS = 3 };
    KvShape shape = {1 + check_below(check, 5), draw_head_dim(check), check_size(check, 40)};
    uint32_t rows = check_size(check, BLOCKS * shape.block_tokens);
    uint32_t columns = shape.kv_head_count * shape.head_dim;
    uint64_t k_stride = columns + check_below(check, 3), v_stride = columns + check_below(check, 3);
    float *k = check_memory(check, (rows - 1) * k_stride + columns, sizeof *k);
    float *v = check_memory(check, (rows - 1) * v_stride + columns, sizeof *v);
    double deviation = check_chance(check, 0.5) ? 1.0 : check_chance(check, 0.5) ? 1e-6 : 1e5;
    check_fill_normal(check, k, (rows - 1) * k_stride + columns, deviation);
    check_fill_normal(check, v, (rows - 1) * v_stride + columns, deviation);
    if (check_chance(check, 0.3)) v[check_below(check, columns)] = NAN;
    void **blocks = check_memory(check, rows, sizeof *blocks);
    uint32_t *slots = check_memory(check, rows, sizeof *slots);
    uint16_t *actual[BLOCKS], *expected[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        actual[i] = check_memory(check, kv_block_bytes(&shape), 1);
        expected[i] = check_memory(check, kv_block_bytes(&shape), 1);
    }
    uint64_t head_elements = (uint64_t)shape.block_tokens * shape.head_dim;
    uint32_t first = check_below(check, BLOCKS * shape.block_tokens); /* no slot is taken twice */
    for (uint32_t row = 0; row < rows; row++) {
        uint32_t token = (first + row) % (BLOCKS * shape.block_tokens);
        blocks[row] = actual[token / shape.block_tokens];
        slots[row] = token % shape.block_tokens;
        uint16_t *out = expected[token / shape.block_tokens];
        for (uint32_t i = 0; i < columns; i++) {
            uint64_t at = i / shape.head_dim * head_elements +
                          (uint64_t)slots[row] * shape.head_dim + i % shape.head_dim;
            out[at] = f32_to_f16(k[row * k_stride + i]);
            out[shape.kv_head_count * head_elements + at] = f32_to_f16(v[row * v_stride + i]);
        }
    }
    KvStoreArgs args = {.shape = shape,
                        .k = k,
                        .v = v,
                        .k_stride = k_stride,
                        .v_stride = v_stride,
                        .row_count = rows,
                        .blocks = blocks,
                        .block_slots = slots};
    KernelContext context = {.team =
                                 check_team(check, 1 + check_below(check, check->thread_count))};
    check->kernels->kv_store(&context, &args);
    for (int i = 0; i < BLOCKS; i++)
        check_same_bits(check, "block", expected[i], actual[i], kv_block_bytes(&shape));
}

/* ---- timing */

typedef struct AttendShape {
    const char *label;
    uint32_t sequences, rows, context; /* the last `rows` of each context attend */
    uint32_t heads, kv_heads, head_dim, block_tokens;
} AttendShape;

typedef struct AttendBench {
    KernelContext context;
    AttendArgs args;
    const Kernels *kernels;
} AttendBench;

static void call_attend(void *argument) {
    AttendBench *bench = argument;
    bench->kernels->attend(&bench->context, &bench->args);
}

static const void **bench_blocks(Check *check, const KvShape *shape, const Codec *codec,
                                 size_t count) {
    size_t bytes = codec_block_bytes(codec, shape);
    uint8_t *memory = check_memory_aligned(check, count * bytes);
    const void **blocks = check_memory(check, count, sizeof *blocks);
    void *raw = check_memory(check, kv_block_bytes(shape), 1);
    fill_block(check, shape, raw, shape->block_tokens);
    Status status = codec_encode_block(codec, shape, raw, memory);
    CHECK(status == STATUS_OK);
    for (size_t i = 0; i < count; i++)
        blocks[i] = i ? memcpy(memory + i * bytes, memory, bytes) : memory;
    return blocks;
}

/* GB/s are of f16 numbers, however they are stored. */
static void bench_shape(Check *check, const AttendShape *shape, const Codec *codec) {
    uint32_t per_sequence = (shape->context + shape->block_tokens - 1) / shape->block_tokens;
    uint32_t rows = shape->sequences * shape->rows, columns = shape->heads * shape->head_dim;
    KvShape kv = {shape->kv_heads, shape->head_dim, shape->block_tokens};
    size_t block_count = (size_t)shape->sequences * per_sequence;
    const void **blocks = bench_blocks(check, &kv, codec, block_count);
    const Codec **block_codecs = check_memory(check, block_count, sizeof *block_codecs);
    for (size_t i = 0; i < block_count; i++)
        block_codecs[i] = codec;
    AttendRun *runs = check_memory(check, shape->sequences, sizeof *runs);
    for (uint32_t i = 0; i < shape->sequences; i++)
        runs[i] = (AttendRun){.row_first = i * shape->rows,
                              .row_count = shape->rows,
                              .position_first = shape->context - shape->rows,
                              .block_count = per_sequence,
                              .blocks = blocks + (size_t)i * per_sequence,
                              .codecs = block_codecs + (size_t)i * per_sequence};
    float *q = check_memory(check, (size_t)rows * columns, sizeof *q);
    check_fill_normal(check, q, (size_t)rows * columns, 1.0);
    AttendCase drawn = {.args = {.shape = kv,
                                 .head_count = shape->heads,
                                 .scale = 1.0f / sqrtf((float)shape->head_dim),
                                 .q = q,
                                 .q_stride = columns,
                                 .runs = runs,
                                 .run_count = shape->sequences},
                        .row_count = rows};
    uint16_t *map = check_memory(check, shape->heads, sizeof *map);
    for (uint32_t head = 0; head < shape->heads; head++)
        map[head] = (uint16_t)(head * shape->kv_heads / shape->heads);
    drawn.args.kv_head_index = map;
    State state = state_new(check, &drawn);
    drawn.args.maxima = state.maxima;
    drawn.args.sums = state.sums;
    drawn.args.out = state.out;
    AttendBench bench = {.context = context_for(check, check->kernels, &drawn, check->thread_count),
                         .args = drawn.args,
                         .kernels = check->kernels};
    AttendEdgeArgs edge = edge_args(&drawn, &state);
    check->kernels->attend_begin(&bench.context, &edge);
    double seen = (double)rows * (shape->context - 0.5 * (shape->rows - 1));
    CheckWork work = {.operations = 4.0 * seen * columns,
                      .bytes =
                          (double)shape->sequences * per_sequence * (double)kv_block_bytes(&kv),
                      .peak = PEAK_F32};
    char label[80];
    snprintf(label, sizeof label, "%s%s%s", shape->label, codec_is_raw(codec) ? "" : ", ",
             codec_is_raw(codec) ? "" : codec->name);
    check_bench(check, label, &work, call_attend, &bench);
}

static void bench_attend(Check *check) {
    static const AttendShape shapes[] = {
        {"decode 1 x 512", 1, 1, 512, 9, 3, 64, 32},
        {"decode 1 x 4096", 1, 1, 4096, 9, 3, 64, 32},
        {"decode 32 x 144", 32, 1, 144, 9, 3, 64, 32},
        {"decode 64 x 512", 64, 1, 512, 9, 3, 64, 32},
        {"decode 64 x 512, blocks of 256", 64, 1, 512, 9, 3, 64, 256},
        {"decode 64 x 4096", 64, 1, 4096, 9, 3, 64, 32},
        {"decode 8 x 1024, 32/8 heads of 128", 8, 1, 1024, 32, 8, 128, 32},
        {"decode 8 x 512, 32/32 heads of 64", 8, 1, 512, 32, 32, 64, 32},
        {"prefill 512", 1, 512, 512, 9, 3, 64, 32},
        {"prefill 512, blocks of 256", 1, 512, 512, 9, 3, 64, 256},
        {"prefill 128 of 2048", 1, 128, 2048, 9, 3, 64, 32},
        {"prefill 256, 32/32 heads of 64", 1, 256, 256, 32, 32, 64, 32},
    };
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        bench_shape(check, &shapes[i], codec_find("f16"));
}

/* Encoded blocks from memory, beside f16 ones. */
static void bench_attend_coded(Check *check) {
    static const AttendShape shapes[] = {
        {"decode 64 x 2048", 64, 1, 2048, 9, 3, 64, 64},
        {"decode 16 x 512, 32/32 heads of 128", 16, 1, 512, 32, 32, 128, 32},
    };
    const Codec *codec;
    for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++)
        for (uint32_t c = 0; (codec = codec_at(c)); c++)
            bench_shape(check, &shapes[i], codec);
}

const CheckGroup check_attention = {{
    {"kv_store", CHECK_SLOT(kv_store), run_kv_store, NULL},
    {"attend_begin", CHECK_SLOT(attend_begin), run_attend_edges, NULL},
    {"attend_end", CHECK_SLOT(attend_end), run_attend_edges, NULL},
    {"attend", CHECK_SLOT(attend), run_attend, bench_attend},
    {"attend_coded", CHECK_SLOT(attend), run_attend_coded, bench_attend_coded},
    {"attend_merge", CHECK_SLOT(attend_merge), run_attend_merge, NULL},
    {"attend_pieces", CHECK_SLOT(attend), run_attend_merge, NULL},
    {"attend_large", CHECK_SLOT(attend), run_attend_large, NULL},
    {0},
}};
