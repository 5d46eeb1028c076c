/* Weight formats against the numbers that the gguf package decodes (golden/quant), the halves against their definition,
 * and expand against dequantise. */

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
        if (quant_find((*quant)->name) != *quant ||
            quant_find_gguf((*quant)->gguf_type) != *quant ||
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
    {0},
}};
