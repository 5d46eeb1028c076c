/* KV codecs: published vectors bit for bit, bytes and halves the same on every instruction set, each number within the
 * codec's bound, distortion of random data as the papers give it, and hostile bytes. What attention makes of encoded
 * blocks is tried in check_attention.c. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "kernels/codec/turboquant.h"
#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "tests/check/check.h"

typedef struct Drawn {
    const Codec *codec;
    KvShape shape;
    uint16_t *block;
    uint64_t bytes; /* encoded */
} Drawn;

/* ---- drawing */

static const Codec *draw_codec(Check *check) {
    uint32_t count = 0;
    while (codec_at(count))
        count++;
    return codec_at(check_below(check, count));
}

static void draw_shape(Check *check, Drawn *drawn) {
    static const uint32_t dims[] = {16, 32, 48, 64, 64, 80, 96, 128, 160, 256};
    do {
        drawn->codec = draw_codec(check);
        drawn->shape =
            (KvShape){.kv_head_count = 1 + check_below(check, 3),
                      .head_dim = dims[check_below(check, sizeof dims / sizeof *dims)],
                      .block_tokens = check_chance(check, 0.7) ? 32u << check_below(check, 4)
                                                               : 1 + check_below(check, 70)};
    } while (codec_refusal(drawn->codec, &drawn->shape));
    drawn->bytes = codec_block_bytes(drawn->codec, &drawn->shape);
}

static float draw_number(Check *check, uint32_t kind) {
    float normal = random_normal(&check->random);
    switch (kind) {
    case 0: return normal;
    case 1: return 0.0f;
    case 2: return 0.3f;
    case 3: return normal * 0x1p-22f;                                      /* subnormal halves */
    case 4: return check_chance(check, 0.05) ? 60000.0f * normal : normal; /* outliers */
    case 5: return check_chance(check, 0.5) ? 65504.0f : -65504.0f;
    case 6: return 1000.0f + normal * 0.3f; /* far from zero */
    default: return check_chance(check, 0.5) ? 0.0f : -0.0f;
    }
}

/* Every row of head_dim numbers is of one kind, or every column is. */
static void draw_block(Check *check, Drawn *drawn) {
    const KvShape *shape = &drawn->shape;
    uint64_t count = kv_block_bytes(shape) / sizeof(uint16_t);
    drawn->block = check_memory(check, count, sizeof(uint16_t));
    bool columns = check_chance(check, 0.5);
    uint32_t kinds[CODEC_HEAD_DIM_MAX];
    for (uint32_t d = 0; d < shape->head_dim; d++)
        kinds[d] = check_below(check, 8);
    for (uint64_t i = 0; i < count; i++) {
        uint32_t kind =
            columns ? kinds[i % shape->head_dim] : kinds[i / shape->head_dim % shape->head_dim];
        float number = draw_number(check, kind);
        drawn->block[i] = f32_to_f16(fmaxf(-65504.0f, fminf(number, 65504.0f)));
    }
}

static Drawn draw(Check *check) {
    Drawn drawn;
    draw_shape(check, &drawn);
    draw_block(check, &drawn);
    return drawn;
}

/* ---- encode and decode */

static void run_encode(Check *check) {
    Drawn drawn = draw(check);
    uint8_t *expected = check_memory(check, drawn.bytes, 1);
    uint8_t *actual = check_memory(check, drawn.bytes, 1);
    Status status = codec_encode_block(drawn.codec, &drawn.shape, drawn.block, expected);
    CHECK(status == STATUS_OK);
    if (check->kernels->kv_encode(drawn.codec, &drawn.shape, drawn.block, actual) != STATUS_OK)
        check_fail(check, "%s refuses a finite block", drawn.codec->name);
    check_same_bits(check, drawn.codec->name, expected, actual, drawn.bytes);

    static const uint16_t broken[] = {0x7c00, 0xfc00, 0x7e00, 0xfd01};
    uint64_t count = kv_block_bytes(&drawn.shape) / sizeof(uint16_t);
    drawn.block[random_below(&check->random, count)] = broken[check_below(check, 4)];
    if (check->kernels->kv_encode(drawn.codec, &drawn.shape, drawn.block, actual) !=
        STATUS_BAD_INPUT)
        check_fail(check, "%s encodes what is not finite", drawn.codec->name);
}

/* Several blocks where the backend keeps them; one that is not finite is named. */
static void run_encode_blocks(Check *check) {
    enum { BLOCKS_MAX = 4 };
    Drawn drawn;
    draw_shape(check, &drawn);
    uint32_t count = 1 + check_below(check, BLOCKS_MAX);
    const void *blocks[BLOCKS_MAX];
    void *out_bytes[BLOCKS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        draw_block(check, &drawn);
        blocks[i] = drawn.block;
        out_bytes[i] = check_memory(check, drawn.bytes, 1);
    }
    uint32_t refused[BLOCKS_MAX];
    KvEncodeArgs args = {drawn.codec, drawn.shape, count, blocks, out_bytes, refused};
    KernelContext context = {.team =
                                 check_team(check, 1 + check_below(check, check->thread_count))};
    if (check->kernels->kv_encode_blocks(check->kernels, &context, &args) != STATUS_OK)
        check_fail(check, "%s encodes no blocks", drawn.codec->name);
    for (uint32_t i = 0; i < count; i++)
        if (refused[i]) check_fail(check, "%s refuses a finite block", drawn.codec->name);
    uint8_t *expected = check_memory(check, drawn.bytes, 1);
    for (uint32_t i = 0; i < count; i++) {
        Status status = codec_encode_block(drawn.codec, &drawn.shape, blocks[i], expected);
        CHECK(status == STATUS_OK);
        check_same_bits(check, drawn.codec->name, expected, out_bytes[i], drawn.bytes);
    }
    uint64_t numbers = kv_block_bytes(&drawn.shape) / sizeof(uint16_t);
    drawn.block[random_below(&check->random, numbers)] = check_chance(check, 0.5) ? 0x7c00 : 0xfd01;
    if (check->kernels->kv_encode_blocks(check->kernels, &context, &args) != STATUS_OK)
        check_fail(check, "%s encodes no blocks", drawn.codec->name);
    for (uint32_t i = 0; i < count; i++) /* the last one was drawn into */
        if ((refused[i] != 0) != (i + 1 == count))
            check_fail(check, "%s: block %u of %u, only the last is not finite, refused: %u",
                       drawn.codec->name, i, count, refused[i]);
}

/* Verdicts alone: any of the blocks may hold a number that is not finite, anywhere. */
static void run_check_blocks(Check *check) {
    enum { BLOCKS_MAX = 6 };
    static const uint16_t broken[] = {0x7c00, 0xfc00, 0x7e00, 0xfd01};
    Drawn drawn;
    draw_shape(check, &drawn);
    uint64_t numbers = kv_block_bytes(&drawn.shape) / sizeof(uint16_t);
    uint32_t count = 1 + check_below(check, BLOCKS_MAX), refused[BLOCKS_MAX];
    const void *blocks[BLOCKS_MAX];
    bool is_broken[BLOCKS_MAX];
    for (uint32_t i = 0; i < count; i++) {
        draw_block(check, &drawn);
        blocks[i] = drawn.block;
        is_broken[i] = check_chance(check, 0.4);
        uint64_t place =
            check_chance(check, 0.3) ? numbers - 1 : random_below(&check->random, numbers);
        if (is_broken[i]) drawn.block[place] = broken[check_below(check, 4)];
    }
    const KvCheckArgs args = {drawn.shape, count, blocks, refused};
    KernelContext context = {.team =
                                 check_team(check, 1 + check_below(check, check->thread_count))};
    if (check->kernels->kv_check_blocks(&context, &args) != STATUS_OK)
        check_fail(check, "no blocks are looked at");
    for (uint32_t i = 0; i < count; i++)
        if ((refused[i] != 0) != is_broken[i])
            check_fail(check, "block %u of %u, %s, refused: %u", i, count,
                       is_broken[i] ? "not finite" : "finite", refused[i]);
}

/* Number `i` of a group: i steps of `stride` from `first`. */
typedef struct Group {
    const uint16_t *first, *decoded;
    uint32_t count, stride;
} Group;

static bool group_in_bound(Check *check, const Drawn *drawn, const Group *group) {
    double min = INFINITY, max = -INFINITY, squares = 0.0;
    for (uint32_t i = 0; i < group->count; i++) {
        double number = (double)f16_to_f32(group->first[i * group->stride]);
        min = fmin(min, number);
        max = fmax(max, number);
        squares += number * number;
    }
    double bound = drawn->codec->error_max(drawn->codec, min, max, sqrt(squares));
    for (uint32_t i = 0; i < group->count; i++) {
        double number = (double)f16_to_f32(group->first[i * group->stride]);
        double decoded = (double)f16_to_f32(group->decoded[i * group->stride]);
        if (fabs(number - decoded) <= bound) continue;
        check_fail(check, "%s: %g in [%g, %g] decodes to %g, more than %g off", drawn->codec->name,
                   number, min, max, decoded, bound);
        return false;
    }
    return true;
}

/* The groups that share scales: of tokens in keys, of numbers of a token elsewhere. */
static bool head_in_bound(Check *check, const Drawn *drawn, CodecPart part, const uint16_t *halves,
                          const uint16_t *decoded) {
    const Codec *codec = drawn->codec;
    uint32_t dims = drawn->shape.head_dim, tokens = drawn->shape.block_tokens;
    bool across = part == CODEC_KEYS && codec->group_tokens > 1;
    uint32_t rows = across ? dims : tokens, columns = across ? tokens : dims;
    uint32_t group = across ? codec->group_tokens : codec->group_dims ? codec->group_dims : dims;
    for (uint32_t row = 0; row < rows; row++)
        for (uint32_t first = 0; first < columns; first += group) {
            uint64_t at = across ? (uint64_t)first * dims + row : (uint64_t)row * dims + first;
            uint32_t left = columns - first;
            Group one = {halves + at, decoded + at, left < group ? left : group, across ? dims : 1};
            if (!group_in_bound(check, drawn, &one)) return false;
        }
    return true;
}

static void run_decode(Check *check) {
    Drawn drawn = draw(check);
    uint64_t size = kv_block_bytes(&drawn.shape),
             half_head = (uint64_t)drawn.shape.block_tokens * drawn.shape.head_dim;
    uint8_t *bytes = check_memory(check, drawn.bytes, 1);
    uint16_t *expected = check_memory(check, size / 2, 2),
             *actual = check_memory(check, size / 2, 2);
    Status status = codec_encode_block(drawn.codec, &drawn.shape, drawn.block, bytes);
    CHECK(status == STATUS_OK);
    codec_decode_block(drawn.codec, &drawn.shape, bytes, expected);
    check->kernels->kv_decode(drawn.codec, &drawn.shape, bytes, actual);
    if (!check_same_bits(check, drawn.codec->name, expected, actual, size)) return;
    for (uint32_t i = 0; i < 2 * drawn.shape.kv_head_count; i++)
        if (!head_in_bound(check, &drawn, i < drawn.shape.kv_head_count ? CODEC_KEYS : CODEC_VALUES,
                           drawn.block + i * half_head, actual + i * half_head))
            return;
}

/* What decode gives is what expand gives, rounded. */
static void run_expand(Check *check) {
    Drawn drawn = draw(check);
    uint8_t *bytes = check_memory(check, drawn.bytes, 1);
    uint16_t *decoded = check_memory(check, kv_block_bytes(&drawn.shape) / 2, 2);
    Status status = codec_encode_block(drawn.codec, &drawn.shape, drawn.block, bytes);
    CHECK(status == STATUS_OK);
    check->kernels->kv_decode(drawn.codec, &drawn.shape, bytes, decoded);
    CodecPart part = (CodecPart)check_below(check, CODEC_PART_COUNT);
    uint32_t kv_head = check_below(check, drawn.shape.kv_head_count);
    CodecHead head = codec_head(drawn.codec, &drawn.shape, part);
    const uint8_t *from = bytes + codec_head_offset(drawn.codec, &drawn.shape, part, kv_head);
    uint32_t token = check_below(check, drawn.shape.block_tokens);
    float *numbers = check_memory(check, drawn.shape.head_dim, sizeof *numbers);
    drawn.codec->expand(&head, from, token, numbers);
    double largest = 0.0;
    for (uint32_t d = 0; d < drawn.shape.head_dim; d++)
        largest = fmax(largest, fabs((double)numbers[d]));
    for (uint32_t d = 0; d < drawn.shape.head_dim; d++) {
        uint64_t row =
            ((uint64_t)part * drawn.shape.kv_head_count + kv_head) * drawn.shape.block_tokens +
            token;
        double half = (double)f16_to_f32(decoded[row * drawn.shape.head_dim + d]);
        double number = fmax(-65504.0, fmin((double)numbers[d], 65504.0));
        /* a product and a sum are rounded one after the other: the product is up to twice the range */
        double off = fmax(largest, 65504.0 * (fabs(half) == 65504.0)) * 0x1p-9 + 0x1p-23;
        if (fabs(half - number) > off && fabs(half - number) > 0x1p-9 * 131008.0 * (largest > 4096))
            check_fail(check, "%s: decodes to %g, expands to %g", drawn.codec->name, half, number);
    }
}

/* Any bytes: nothing outside the block is read or written (fences), whatever comes out. */
static void run_hostile(Check *check) {
    Drawn drawn;
    draw_shape(check, &drawn);
    uint8_t *bytes = check_memory(check, drawn.bytes, 1);
    for (uint64_t i = 0; i < drawn.bytes; i++)
        bytes[i] = (uint8_t)random_u64(&check->random);
    uint16_t *out = check_memory(check, kv_block_bytes(&drawn.shape) / 2, 2);
    check->kernels->kv_decode(drawn.codec, &drawn.shape, bytes, out);
}

/* ---- published numbers */

static void run_table(Check *check) {
    const Codec *codec;
    for (uint32_t i = 0; (codec = codec_at(i)); i++) {
        if (codec_find(codec->name) != codec) check_fail(check, "%s is there twice", codec->name);
        KvShape odd = {1, 17, 33};
        if (!codec_is_raw(codec) && !codec_refusal(codec, &odd))
            check_fail(check, "%s takes heads of 17", codec->name);
        KvShape empty = {1, 64, 0};
        if (!codec_refusal(codec, &empty)) check_fail(check, "%s takes no tokens", codec->name);
    }
    if (codec_find("int3")) check_fail(check, "an unknown codec is found");
}

/* Bits a number, all overheads, as methods and papers give them. */
static void run_bits(Check *check) {
    static const struct {
        const char *name;
        uint32_t head_dim;
        double bits;
    } rows[] = {
        {"f16", 64, 16},
        {"int8", 64, 8.5},
        {"fp8", 128, 8 + 16.0 / 128},
        {"int4_group", 64, 4.5},
        {"int4_group", 128, 4.5},
        {"kivi4", 64, 5},
        {"kivi2", 128, 3},
        {"turboquant2", 128, 2.125},
        {"turboquant3", 128, 3.125},
        {"turboquant4", 128, 4.125},
        {"turboquant2_5", 128,
         2.5 + 1.0 / 64}, /* a bit a channel and block says which are outliers */
        {"turboquant3_5", 128, 3.5 + 1.0 / 64},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const Codec *codec = codec_find(rows[i].name);
        KvShape shape = {3, rows[i].head_dim, 64};
        double numbers = (double)kv_block_bytes(&shape) / 2;
        double bits = 8 * (double)codec_block_bytes(codec, &shape) / numbers;
        if (fabs(bits - rows[i].bits) > 1e-9)
            check_fail(check, "%s takes %g bits, not %g", rows[i].name, bits, rows[i].bits);
    }
    /* KIVI at a length of 10,000 with 128 tokens in f16: 5.05 and 3.11 times smaller */
    double kept = 128.0 / 10000;
    if (fabs(16 / (3 * (1 - kept) + 16 * kept) - 5.053) > 1e-3 ||
        codec_find("kivi2")->residual_tokens != 128 || codec_find("kivi4")->residual_tokens != 128)
        check_fail(check, "kivi's ratio");
}

static const uint16_t published_numbers[8] = {0xbd00, 0x3800, 0x4380, 0xb4cd,
                                              0x2e66, 0x4066, 0xc000, 0x3c00};

typedef struct Published {
    const char *name;
    CodecPart part;
    uint32_t head_dim, tokens;
    uint8_t codes[4]; /* of eight numbers */
    uint32_t code_bytes;
    uint16_t scale, min;
    uint64_t scale_at, min_at; /* bytes from the head's begin */
    float decoded[8];
} Published;

/* A group of eight repeated: extents and scales are the same. */
static void expect_published(Check *check, const Published *row) {
    KvShape shape = {1, row->head_dim, row->tokens};
    const Codec *codec = codec_find(row->name);
    CodecHead head = codec_head(codec, &shape, row->part);
    uint16_t halves[32 * 64], decoded[32 * 64];
    uint8_t bytes[32 * 64 * 2];
    uint32_t count = row->head_dim * row->tokens;
    bool across = row->part == CODEC_KEYS && codec->group_tokens > 1;
    for (uint32_t i = 0; i < count; i++)
        halves[i] = published_numbers[(across ? i / row->head_dim : i % row->head_dim) % 8];
    codec->encode(&head, halves, bytes);
    codec->decode(&head, bytes, decoded);
    if (memcmp(bytes, row->codes, row->code_bytes) != 0)
        check_fail(check, "%s: codes are %02x %02x %02x %02x", row->name, bytes[0], bytes[1],
                   bytes[2], bytes[3]);
    if (load_u16(bytes + row->scale_at) != row->scale || load_u16(bytes + row->min_at) != row->min)
        check_fail(check, "%s: scale %04x, minimum %04x", row->name,
                   load_u16(bytes + row->scale_at), load_u16(bytes + row->min_at));
    for (uint32_t i = 0; i < count; i++) {
        float expected = row->decoded[(across ? i / row->head_dim : i % row->head_dim) % 8];
        if (f16_to_f32(decoded[i]) != expected)
            check_fail(check, "%s: number %u decodes to %.12g, not %.12g", row->name, i,
                       (double)f16_to_f32(decoded[i]), (double)expected);
    }
}

static void run_published(Check *check) {
    static const float four[8] = {-1.2333984375f, 0.68359375f, 3.75f, -0.466796875f,
                                  -0.083984375f,  2.21484375f, -2.0f, 1.06640625f};
    static const float two[8] = {-2.0f,          -0.0830078125f, 3.75f, -0.0830078125f,
                                 -0.0830078125f, 1.833984375f,   -2.0f, 1.833984375f};
    Published rows[] = {
        {"int4_group", CODEC_KEYS, 64, 1, {0x27, 0xf4, 0x5b, 0x08}, 4, 0x4138, 0xc000, 32, 34, {0}},
        {"kivi4", CODEC_VALUES, 32, 1, {0x72, 0x4f, 0xb5, 0x80}, 4, 0x3622, 0xc000, 16, 18, {0}},
        {"kivi4", CODEC_KEYS, 32, 32, {0x72, 0x4f, 0xb5, 0x80}, 4, 0x3622, 0xc000, 512, 576, {0}},
        {"kivi2", CODEC_VALUES, 32, 1, {0x74, 0x89}, 2, 0x3fab, 0xc000, 8, 10, {0}},
        {"kivi2", CODEC_KEYS, 32, 32, {0x74, 0x89}, 2, 0x3fab, 0xc000, 256, 320, {0}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        memcpy(rows[i].decoded, codec_find(rows[i].name)->code_bits == 4 ? four : two, sizeof four);
        expect_published(check, &rows[i]);
    }
}

/* ---- what the authors' code gives (golden/codec/make_vectors.py) */

enum { AUTHORS_BYTES_MAX = 1 << 16 };

typedef struct Authors {
    const Codec *codec;
    KvShape shape;
    const uint8_t *at; /* the next part of the file */
} Authors;

static void expect_part(Check *check, Authors *authors, CodecPart part) {
    CodecHead head = codec_head(authors->codec, &authors->shape, part);
    uint64_t half_bytes = 2u * (uint64_t)head.token_count * head.head_dim;
    uint64_t bytes = authors->codec->head_bytes(&head);
    uint16_t *halves = check_copy(check, authors->at, half_bytes);
    uint8_t *encoded = check_memory(check, bytes, 1);
    uint16_t *decoded = check_memory(check, half_bytes, 1);
    authors->codec->encode(&head, halves, encoded);
    check_same_bits(check, authors->codec->name, authors->at + half_bytes, encoded, bytes);
    authors->codec->decode(&head, encoded, decoded);
    check_same_bits(check, authors->codec->name, authors->at + half_bytes + bytes, decoded,
                    half_bytes);
    authors->at += 2 * half_bytes + bytes;
}

static void run_authors(Check *check) {
    static const char *const names[] = {"int4_group", "kivi4", "kivi2"};
    static uint8_t bytes[AUTHORS_BYTES_MAX];
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[512];
        snprintf(path, sizeof path, "%s/codec/%s.bin", GOLDEN, names[i]);
        FILE *file = fopen(path, "rb");
        size_t size = file ? fread(bytes, 1, sizeof bytes, file) : 0;
        if (file) fclose(file);
        Authors authors = {.codec = codec_find(names[i]), .at = bytes + 8};
        if (size > 8) authors.shape = (KvShape){1, load_u32(bytes + 4), load_u32(bytes)};
        if (size <= 8 || size != 8 + 2 * kv_block_bytes(&authors.shape) +
                                     codec_block_bytes(authors.codec, &authors.shape)) {
            check_fail(check, "%s is missing or of another size", path);
            continue;
        }
        expect_part(check, &authors, CODEC_KEYS);
        expect_part(check, &authors, CODEC_VALUES);
    }
}

/* ---- turboquant against its theory */

/* Density of a coordinate of a random unit vector, cut to the cell of a code: mass and first moment, both without the constant. The
 * density of x = sin(t) is cos(t)^(dim - 2). */
static void cell_moments(const TurboVector *vector, uint32_t code, double *out_mass,
                         double *out_moment) {
    enum { STEPS = 2000 };
    double root = sqrt(vector->dim), power = 0.5 * (vector->dim - 1), last = 1u << vector->bits;
    double low = code ? (double)vector->thresholds[code - 1] / root : -1.0;
    double high = code + 1 < last ? (double)vector->thresholds[code] / root : 1.0;
    double mass = 0.0, a = asin(low), h = (asin(high) - a) / STEPS;
    for (uint32_t i = 0; i <= STEPS; i++) {
        double weight = i % STEPS == 0 ? 1 : i % 2 ? 4 : 2;
        mass += weight * pow(cos(a + i * h), vector->dim - 2) * h / 3;
    }
    *out_mass = mass;
    *out_moment = (pow(1 - low * low, power) - pow(1 - high * high, power)) / (vector->dim - 1);
}

/* The mean of x in a cell is its centroid. */
static void run_codebooks(Check *check) {
    static const char *const names[] = {"turboquant2", "turboquant3", "turboquant4"};
    for (uint32_t dim = 16; dim <= 256; dim *= 2)
        for (uint32_t n = 0; n < 3; n++) {
            CodecHead head = {codec_find(names[n]), CODEC_KEYS, 1, dim};
            const TurboVector *vector = &turbo_plan(&head)->vectors[0];
            for (uint32_t c = 0; c < 1u << vector->bits; c++) {
                double mass, moment;
                cell_moments(vector, c, &mass, &moment);
                double off = moment / mass * sqrt(dim) - (double)vector->centroids[c];
                if (fabs(off) > 1e-6)
                    check_fail(check, "dim %u, %u bits: centroid %u is %g off", dim, vector->bits,
                               c, off);
            }
        }
}

/* Expected squared error of a unit vector: 1 - dim * E[centroid^2], as each is the mean of its cell. */
static double vector_distortion(const TurboVector *vector) {
    double all = 0, kept = 0;
    for (uint32_t c = 0; c < 1u << vector->bits; c++) {
        double mass, moment, centroid = (double)vector->centroids[c];
        cell_moments(vector, c, &mass, &moment);
        all += mass;
        kept += mass * centroid * centroid;
    }
    return 1 - kept / all;
}

typedef struct Distortion {
    double squares, error; /* of the numbers, and of what they are off */
    double inner, count;   /* squared errors of inner products, times dim */
    double expected;       /* of error, by the energy of each vector's channels */
} Distortion;

enum { DISTORTION_DIM = 128, DISTORTION_PROBES = 8 };

/* Inner products with random signs, a vector of squared length dim. */
static void add_distortion(Check *check, const uint16_t *halves, const uint16_t *decoded,
                           Distortion *io) {
    double off[DISTORTION_DIM], length = 0.0;
    for (uint32_t d = 0; d < DISTORTION_DIM; d++) {
        double number = (double)f16_to_f32(halves[d]);
        off[d] = number - (double)f16_to_f32(decoded[d]);
        length += number * number;
        io->error += off[d] * off[d];
    }
    io->squares += length;
    for (uint32_t probe = 0; probe < DISTORTION_PROBES; probe++) {
        double dot = 0.0;
        for (uint32_t d = 0; d < DISTORTION_DIM; d += 64) {
            uint64_t signs = random_u64(&check->random);
            for (uint32_t i = 0; i < 64; i++)
                dot += signs >> i & 1 ? off[d + i] : -off[d + i];
        }
        io->inner += dot * dot / length;
        io->count++;
    }
}

/* What theory says about the block: each vector's distortion, weighed by the energy of its channels. */
static double expected_error(const CodecHead *head, const uint16_t *halves, const uint8_t *bytes) {
    const TurboPlan *plan = turbo_plan(head);
    uint16_t channels[CODEC_HEAD_DIM_MAX];
    double error = 0;
    turbo_channels(plan, bytes, head->head_dim, channels);
    for (uint32_t v = 0; v < plan->vector_count; v++) {
        const TurboVector *vector = &plan->vectors[v];
        double energy = 0;
        for (uint32_t t = 0; t < head->token_count; t++)
            for (uint32_t i = vector->first; i < vector->first + vector->dim; i++) {
                double number = (double)f16_to_f32(halves[t * head->head_dim + channels[i]]);
                energy += number * number;
            }
        error += energy * vector_distortion(vector);
    }
    return error;
}

/* outliers: channels that are ten times as large as the others. */
static Distortion measure_distortion(Check *check, const Codec *codec, uint32_t outliers) {
    enum { DIM = DISTORTION_DIM, TOKENS = 64, BATCHES = 40 };
    static uint16_t halves[TOKENS * DIM], decoded[TOKENS * DIM];
    static uint8_t bytes[TOKENS * DIM];
    const KvShape shape = {1, DIM, TOKENS};
    CodecHead head = codec_head(codec, &shape, CODEC_KEYS);
    Distortion sum = {0};
    for (uint32_t batch = 0; batch < BATCHES; batch++) {
        for (uint32_t i = 0; i < TOKENS * DIM; i++)
            halves[i] = f32_to_f16(random_normal(&check->random) *
                                   (i % DIM * 37 % DIM < outliers ? 10.0f : 1.0f));
        codec->encode(&head, halves, bytes);
        codec->decode(&head, bytes, decoded);
        sum.expected += expected_error(&head, halves, bytes);
        for (uint32_t token = 0; token < TOKENS; token++)
            add_distortion(check, halves + token * DIM, decoded + token * DIM, &sum);
    }
    return sum;
}

/* Squared error over random vectors, and that of inner products with unit vectors times dim, against theory: the paper's
 * D_mse, printed as 0.36, 0.117, 0.03 and 0.009; at 128 exactly 0.1160, 0.0340 and 0.0093. Mixes: each vector by itself,
 * on even channels and with outliers. */
static void run_distortion(Check *check) {
    static const struct {
        const char *name;
        double distortion; /* 0: not in the paper */
        uint32_t outliers;
    } rows[] = {{"turboquant2", 0.11600, 0}, {"turboquant3", 0.03397, 0},
                {"turboquant4", 0.00932, 0}, {"turboquant2_5", 0, 0},
                {"turboquant3_5", 0, 0},     {"turboquant2_5", 0, 12},
                {"turboquant3_5", 0, 12}};
    for (uint32_t r = 0; r < sizeof rows / sizeof *rows; r++) {
        Distortion sum = measure_distortion(check, codec_find(rows[r].name), rows[r].outliers);
        double error = sum.error / sum.squares, inner = sum.inner / sum.count,
               expected = sum.expected / sum.squares;
        if (rows[r].distortion > 0 && fabs(expected / rows[r].distortion - 1) > 0.005)
            check_fail(check, "%s: theory here %g, in the paper %g", rows[r].name, expected,
                       rows[r].distortion);
        /* energy in few channels: a rotated coordinate has lighter tails than theory's */
        double slack = rows[r].outliers ? 0.12 : 0;
        if (error > 1.02 * expected || error < (0.98 - slack) * expected)
            check_fail(check, "%s, %u outliers: squared error %g, theory %g", rows[r].name,
                       rows[r].outliers, error, expected);
        /* 20,480 squares of normal numbers: a deviation of 1 % */
        if (inner > 1.05 * expected || inner < (0.95 - slack) * expected)
            check_fail(check, "%s, %u outliers: error of inner products %g, theory %g",
                       rows[r].name, rows[r].outliers, inner, expected);
    }
}

/* ---- timing */

typedef struct CodecBench {
    const Kernels *kernels;
    const Codec *codec;
    KvShape shape;
    uint8_t *blocks, *bytes;
    uint64_t block_bytes, encoded_bytes;
    uint32_t count;
} CodecBench;

static void call_encode(void *argument) {
    CodecBench *bench = argument;
    for (uint32_t i = 0; i < bench->count; i++)
        bench->kernels->kv_encode(bench->codec, &bench->shape,
                                  bench->blocks + i * bench->block_bytes,
                                  bench->bytes + i * bench->encoded_bytes);
}

static void call_decode(void *argument) {
    CodecBench *bench = argument;
    for (uint32_t i = 0; i < bench->count; i++)
        bench->kernels->kv_decode(bench->codec, &bench->shape,
                                  bench->bytes + i * bench->encoded_bytes,
                                  bench->blocks + i * bench->block_bytes);
}

static void call_copy(void *argument) {
    CodecBench *bench = argument;
    memcpy(bench->blocks, bench->blocks + bench->count / 2 * bench->block_bytes,
           bench->count / 2 * bench->block_bytes);
}

/* GB/s are of f16 numbers. */
static void bench_each(Check *check, void (*call)(void *argument)) {
    const Codec *codec;
    KvShape shape = {3, 64, 64};
    for (uint32_t i = 0; (codec = codec_at(i)); i++) {
        CodecBench bench = {.kernels = check->kernels,
                            .codec = codec,
                            .shape = shape,
                            .block_bytes = kv_block_bytes(&shape),
                            .encoded_bytes = codec_block_bytes(codec, &shape),
                            .count = 1024};
        bench.blocks = check_memory_aligned(check, bench.count * bench.block_bytes);
        bench.bytes = check_memory_aligned(check, bench.count * bench.encoded_bytes);
        uint16_t *halves = (uint16_t *)bench.blocks;
        for (uint64_t n = 0; n < bench.block_bytes / 2; n++)
            halves[n] = f32_to_f16(random_normal(&check->random));
        for (uint32_t block = 1; block < bench.count; block++)
            memcpy(bench.blocks + block * bench.block_bytes, bench.blocks, bench.block_bytes);
        call_encode(&bench);
        CheckWork work = {.bytes = (double)(bench.count * bench.block_bytes), .peak = PEAK_F32};
        check_bench(check, codec->name, &work, call, &bench);
        if (codec_at(i + 1)) continue;
        work.bytes /= 2;
        check_bench(check, "memcpy", &work, call_copy, &bench);
    }
}

static void bench_encode(Check *check) {
    bench_each(check, call_encode);
}

static void bench_decode(Check *check) {
    bench_each(check, call_decode);
}

const CheckGroup check_codec = {{
    {"table", CHECK_NO_SLOT, run_table, NULL},
    {"bits", CHECK_NO_SLOT, run_bits, NULL},
    {"published", CHECK_NO_SLOT, run_published, NULL},
    {"authors", CHECK_NO_SLOT, run_authors, NULL},
    {"codebooks", CHECK_NO_SLOT, run_codebooks, NULL},
    {"distortion", CHECK_NO_SLOT, run_distortion, NULL},
    {"expand", CHECK_SLOT(kv_decode), run_expand, NULL},
    {"encode", CHECK_SLOT(kv_encode), run_encode, bench_encode},
    {"encode_blocks", CHECK_SLOT(kv_encode_blocks), run_encode_blocks, NULL},
    {"check_blocks", CHECK_SLOT(kv_check_blocks), run_check_blocks, NULL},
    {"decode", CHECK_SLOT(kv_decode), run_decode, bench_decode},
    {"hostile", CHECK_SLOT(kv_decode), run_hostile, NULL},
    {0},
}};
