/* Weight formats against the numbers that the gguf package decodes (golden/quant) and blocks that FlexGen's arithmetic gives, the
 * halves against their definition, expand against dequantise, and what encoding promises for any numbers. */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "runtime/base/bytes.h"
#include "runtime/base/invariant.h"
#include "tests/check/check.h"
#include "tests/kernels/check_blocks.h"

enum { GOLDEN_BYTES_MAX = 1 << 16, ELEMENTS_MAX = 8 * 256 };

static size_t read_golden(const char *name, uint8_t *bytes) {
    char path[512];
    snprintf(path, sizeof path, "%s/quant/%s.bin", GOLDEN, name);
    FILE *file = fopen(path, "rb");
    if (!file) return 0;
    size_t size = fread(bytes, 1, GOLDEN_BYTES_MAX, file);
    fclose(file);
    return size;
}

static bool golden_agrees(Check *check, const Quant *quant) {
    static uint8_t bytes[GOLDEN_BYTES_MAX];
    static float numbers[GOLDEN_BYTES_MAX / sizeof(float)];
    size_t size = read_golden(quant->name, bytes);
    uint64_t block_count = size >= 4 ? load_u32(bytes) : 0;
    uint64_t count = block_count * quant->block_elements;
    if (!block_count || size != 4 + block_count * quant->block_bytes + 4 * count) {
        check_fail(check, "golden/quant/%s.bin is missing or of another size", quant->name);
        return false;
    }
    quant->dequantise(bytes + 4, count, numbers);
    return check_same_bits(check, quant->name, bytes + 4 + block_count * quant->block_bytes,
                           numbers, 4 * count);
}

/* F32 is the identity, F16 is tried in full below. */
static void run_golden(Check *check) {
    for (const Quant *const *quant = quants; *quant; quant++)
        if (*quant != &quant_f32 && *quant != &quant_f16 && !golden_agrees(check, *quant)) return;
}

/* The value of a half by its definition. */
static double half_value(uint32_t half) {
    int exponent = (int)(half >> 10 & 31), fraction = (int)(half & 1023);
    double magnitude = exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24);
    return half & 0x8000 ? -magnitude : magnitude;
}

static void run_halves_decode(Check *check) {
    for (uint32_t half = 0; half < 65536; half++) {
        float number = f16_to_f32((uint16_t)half);
        bool special = (half & 0x7c00) == 0x7c00;
        bool right = !special       ? (double)number == half_value(half)
                     : half & 0x3ff ? isnan(number)
                                    : isinf(number);
        if (!right || (signbit(number) != 0) != (half >> 15 != 0))
            check_fail(check, "half %04x decodes to %g", half, (double)number);
        uint16_t back = f32_to_f16(number);
        if (back != half && !(isnan(number) && (back & 0x7fff) > 0x7c00))
            check_fail(check, "half %04x becomes %04x", half, back);
    }
}

/* Between neighbouring halves: up to the middle goes down, beyond it up, the middle to the even one. */
static void run_halves_round(Check *check) {
    for (uint32_t half = 0; half < 0x7c00; half++) {
        double low = half_value(half), high = half == 0x7bff ? 65536.0 : half_value(half + 1);
        float middle = (float)((low + high) / 2);
        uint16_t even = (uint16_t)(half & 1 ? half + 1 : half);
        if (f32_to_f16(middle) != even || f32_to_f16(-middle) != (even | 0x8000) ||
            f32_to_f16(nextafterf(middle, 0.0f)) != half ||
            f32_to_f16(nextafterf(middle, INFINITY)) != half + 1)
            check_fail(check, "rounding between halves %04x and %04x", half, half + 1);
    }
}

/* scale * code + offset, codes in range, and the bias that ties offset to scale. */
static void run_expand(Check *check) {
    const Quant *quant = check_draw_quant(check);
    if (!quant->expand) return;
    uint32_t blocks = 1 + check_below(check, ELEMENTS_MAX / quant->block_elements);
    uint32_t count = blocks * quant->block_elements;
    uint8_t *bytes = check_memory(check, blocks, quant->block_bytes);
    check_blocks_fill(check, quant, blocks, bytes);
    uint8_t *codes = check_memory(check, count, 1);
    float *scales = check_memory(check, count / quant->group_elements, sizeof(float));
    float *offsets = check_memory(check, count / quant->group_elements, sizeof(float));
    float *numbers = check_memory(check, count, sizeof(float));
    quant->expand(bytes, count, codes, scales, offsets);
    quant->dequantise(bytes, count, numbers);
    for (uint32_t i = 0; i < count; i++) {
        uint32_t group = i / quant->group_elements;
        float number = scales[group] * (float)codes[i] + offsets[group];
        if (number != numbers[i] || codes[i] >> quant->code_bits)
            check_fail(check, "%s: element %u is %g, expands to %g", quant->name, i,
                       (double)numbers[i], (double)number);
    }
    for (uint32_t group = 0; group < count / quant->group_elements; group++) {
        if (quant->code_bias && offsets[group] != -(float)quant->code_bias * scales[group])
            check_fail(check, "%s: offset %g is not -%u x %g", quant->name, (double)offsets[group],
                       quant->code_bias, (double)scales[group]);
        if (quant->scales_f16 &&
            (f16_to_f32(f32_to_f16(scales[group])) != scales[group] ||
             (!quant->code_bias && f16_to_f32(f32_to_f16(offsets[group])) != offsets[group])))
            check_fail(check, "%s: a scale is no half", quant->name);
    }
}

/* A row of golden/quant/<format>_encoded.bin: numbers, the blocks they become, and what the method's own arithmetic decodes those to,
 * from which a block's numbers may be a 32nd of a step away. Returns what follows, or NULL. */
static const uint8_t *encoded_row_agrees(Check *check, const Quant *quant, const uint8_t *row,
                                         const uint8_t *end) {
    static uint8_t blocks[GOLDEN_BYTES_MAX], codes[ELEMENTS_MAX];
    static float given[ELEMENTS_MAX], wanted[ELEMENTS_MAX], decoded[ELEMENTS_MAX];
    static float scales[ELEMENTS_MAX], offsets[ELEMENTS_MAX];
    uint32_t count = load_u32(row), block_count = (uint32_t)divide_up(count, quant->block_elements);
    size_t bytes = (size_t)block_count * quant->block_bytes, numbers = count * sizeof(float);
    if (block_count * quant->block_elements > ELEMENTS_MAX || row + 4 + 2 * numbers + bytes > end)
        return NULL;
    memcpy(given, row + 4, numbers);
    memcpy(wanted, row + 4 + numbers + bytes, numbers);
    if (!quant->encode(given, count, blocks)) return NULL;
    if (!check_same_bits(check, quant->name, row + 4 + numbers, blocks, bytes)) return NULL;
    quant->dequantise(blocks, block_count * quant->block_elements, decoded);
    quant->expand(blocks, block_count * quant->block_elements, codes, scales, offsets);
    for (uint32_t i = 0; i < count; i++) {
        float step = scales[i / quant->group_elements];
        if (!(fabsf(decoded[i] - wanted[i]) <= step / 32 + fabsf(wanted[i]) * 0x1p-23f))
            check_fail(check, "%s: number %u decodes to %g, by the method to %g", quant->name, i,
                       (double)decoded[i], (double)wanted[i]);
    }
    return row + 4 + 2 * numbers + bytes;
}

static void run_encode_golden(Check *check) {
    static uint8_t bytes[GOLDEN_BYTES_MAX];
    for (const Quant *const *row = quants; *row; row++) {
        char name[64];
        if (!(*row)->encode) continue;
        snprintf(name, sizeof name, "%s_encoded", (*row)->name);
        size_t size = read_golden(name, bytes);
        uint32_t left = size >= 4 ? load_u32(bytes) : 0;
        const uint8_t *at = left > 0 ? bytes + 4 : NULL;
        for (; at && left > 0; left--)
            at = encoded_row_agrees(check, *row, at, bytes + size);
        if (at != bytes + size)
            check_fail(check,
                       "golden/quant/%s.bin: missing, of another size, or other blocks, %u "
                       "rows before its end",
                       name, left);
    }
}

/* Numbers of a range that is drawn too, some of them all alike. */
static void draw_numbers(Check *check, uint32_t count, float *out) {
    float deviation = ldexpf(1, (int)check_below(check, 24) - 14);
    float mean = check_below(check, 3) == 0 ? 4 * deviation : 0;
    bool alike = check_below(check, 8) == 0;
    for (uint32_t i = 0; i < count; i++)
        out[i] = alike && i > 0 ? out[0] : mean + deviation * random_normal(&check->random);
}

/* What a block was made of: its numbers as halves, zeros behind the last. */
typedef struct MadeBlock {
    float halves[256], low, high;
} MadeBlock;

static MadeBlock made_block(uint32_t elements, uint32_t count, const float *numbers) {
    MadeBlock made = {.low = INFINITY, .high = -INFINITY};
    for (uint32_t i = 0; i < elements; i++) {
        made.halves[i] = i < count ? f16_to_f32(f32_to_f16(numbers[i])) : 0.0f;
        made.low = fminf(made.low, made.halves[i]);
        made.high = fmaxf(made.high, made.halves[i]);
    }
    return made;
}

/* Every number within half a step of its half, and a few places of f16; the smallest exact. A range below 15 / 65504 is lost. Then true. */
static bool made_block_agrees(Check *check, const Quant *quant, const MadeBlock *made,
                              const float *decoded) {
    float range = made->high - made->low, largest = fmaxf(-made->low, made->high);
    bool lost = range * 65504 < 1.05f * 15;
    float allowed = lost ? range : range / 15 * (0.5f + 0x1p-4f) + largest * 0x1p-22f;
    for (uint32_t i = 0; i < quant->block_elements; i++)
        if (!(fabsf(decoded[i] - made->halves[i]) <= allowed) ||
            (made->halves[i] == made->low && decoded[i] != made->low))
            check_fail(check, "%s: %g becomes %g in a block from %g to %g", quant->name,
                       (double)made->halves[i], (double)decoded[i], (double)made->low,
                       (double)made->high);
    return !lost;
}

/* A block at a time; what was decoded has the same codes again. */
static void check_encoded(Check *check, const Quant *quant, uint32_t count, const float *numbers) {
    uint32_t elements = quant->block_elements, blocks = (uint32_t)divide_up(count, elements);
    uint8_t *bytes = check_memory(check, blocks, quant->block_bytes);
    if (!quant->encode(numbers, count, bytes)) {
        check_fail(check, "%s: finite numbers are refused", quant->name);
        return;
    }
    for (uint32_t b = 0; b < blocks; b++) {
        uint32_t left = count - b * elements;
        MadeBlock made =
            made_block(elements, left < elements ? left : elements, numbers + b * elements);
        const uint8_t *block = bytes + b * quant->block_bytes;
        float decoded[256], scales[16], offsets[16];
        uint8_t again[512], codes[2][256] = {{0}};
        CHECK(elements <= 256 && quant->block_bytes <= sizeof again);
        quant->dequantise(block, elements, decoded);
        if (!made_block_agrees(check, quant, &made, decoded)) continue;
        quant->expand(block, elements, codes[0], scales, offsets);
        if (quant->encode(decoded, elements, again))
            quant->expand(again, elements, codes[1], scales, offsets);
        check_same_bits(check, quant->name, codes[0], codes[1], elements);
    }
}

static void run_encode(Check *check) {
    for (const Quant *const *row = quants; *row; row++) {
        uint32_t count = 1 + check_below(check, ELEMENTS_MAX);
        if (!(*row)->encode) continue;
        float *numbers = check_memory(check, count, sizeof *numbers);
        draw_numbers(check, count, numbers);
        check_encoded(check, *row, count, numbers);
        static const float wrong[] = {INFINITY, -INFINITY, NAN, 65520.0f, -1e30f};
        numbers[check_below(check, count)] = wrong[check_below(check, 5)];
        uint8_t *blocks =
            check_memory(check, divide_up(count, (*row)->block_elements), (*row)->block_bytes);
        if ((*row)->encode(numbers, count, blocks))
            check_fail(check, "%s: a number that is not finite, or too large, is encoded",
                       (*row)->name);
    }
}

/* Random blocks of every format have the deviation asked for and no mean. */
static void run_draw(Check *check) {
    enum { DRAWN = 4096 };
    const float wanted = 0.02f;
    for (const Quant *const *row = quants; *row; row++) {
        const Quant *quant = *row;
        Random random = {.key = check_below(check, UINT32_MAX)};
        double sum = 0, squares = 0;
        uint32_t blocks = DRAWN / quant->block_elements > 256 ? DRAWN / quant->block_elements : 256;
        for (uint32_t b = 0; b < blocks; b++) {
            uint8_t block[512];
            float numbers[256];
            CHECK(quant->block_bytes <= sizeof block && quant->block_elements <= 256);
            quant_draw_block(quant, &random, wanted, block);
            quant->dequantise(block, quant->block_elements, numbers);
            for (uint32_t i = 0; i < quant->block_elements; i++) {
                sum += (double)numbers[i];
                squares += (double)numbers[i] * (double)numbers[i];
            }
        }
        double count = (double)blocks * quant->block_elements;
        double deviation = sqrt(squares / count) / (double)wanted;
        if (!(deviation > 0.9 && deviation < 1.1) || !(fabs(sum / count) < 0.1 * (double)wanted))
            check_fail(check, "%s: drawn with %.3f of the deviation, mean %g", quant->name,
                       deviation, sum / count);
    }
}

static void run_table(Check *check) {
    uint64_t bytes;
    for (const Quant *const *quant = quants; *quant; quant++) {
        bool in_gguf = (*quant)->gguf_type != QUANT_NOT_IN_GGUF;
        if (quant_find((*quant)->name) != *quant ||
            quant_find_gguf((*quant)->gguf_type) != (in_gguf ? *quant : NULL) ||
            ((*quant)->safetensors_name &&
             quant_find_safetensors((*quant)->safetensors_name) != *quant))
            check_fail(check, "%s: a lookup finds another row", (*quant)->name);
        if (!quant_row_bytes(*quant, 3 * (*quant)->block_elements, &bytes) ||
            bytes != 3 * (*quant)->block_bytes ||
            ((*quant)->block_elements > 1 && quant_row_bytes(*quant, 33, &bytes)) ||
            ((*quant)->block_elements < (*quant)->block_bytes &&
             quant_row_bytes(*quant, UINT64_MAX - UINT64_MAX % (*quant)->block_elements, &bytes)))
            check_fail(check, "%s: bytes of a row", (*quant)->name);
    }
    if (quant_find("q9_9") || quant_find_gguf(4711) || quant_find_safetensors("I64"))
        check_fail(check, "an unknown format is found");
}

const CheckGroup check_quant = {{
    {"table", CHECK_NO_SLOT, run_table, NULL},
    {"golden", CHECK_NO_SLOT, run_golden, NULL},
    {"halves_decode", CHECK_NO_SLOT, run_halves_decode, NULL},
    {"halves_round", CHECK_NO_SLOT, run_halves_round, NULL},
    {"expand", CHECK_NO_SLOT, run_expand, NULL},
    {"draw", CHECK_NO_SLOT, run_draw, NULL},
    {"encode_golden", CHECK_NO_SLOT, run_encode_golden, NULL},
    {"encode", CHECK_NO_SLOT, run_encode, NULL},
    {0},
}};
