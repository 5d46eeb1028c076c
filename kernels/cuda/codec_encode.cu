/* Raw blocks to bytes, those of codec_encode_block(): what decides a byte is one IEEE operation after the other, as kernels/codec
 * has them. A block of threads a head; a warp a group of numbers that share a scale, or a token. Extrema do not depend on order. */

#include "kernels/cuda/coded_tile.cuh"
#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"
#include "kernels/cuda/reduce.cuh"

enum { ENCODE_WARPS = 4, ENCODE_THREADS = ENCODE_WARPS * WARP_LANES };

struct EncodeHead {
    const uint16_t *halves; /* [token][head_dim] */
    uint8_t *out;
    uint32_t token_count, head_dim, bits;
    bool keys;
};

/* x after a step of arithmetic in f16; finite numbers beyond its range are kept. */
DEVICE float half_round(float x) {
    uint16_t half = float_to_half(x);
    return (half & 0x7fff) == 0x7c00 ? x : half_to_float(half);
}

DEVICE float number_clamp(float x, float low, float high) {
    return x < low ? low : x > high ? high : x;
}

DEVICE void store_half(uint8_t *halves, uint64_t index, uint16_t half) {
    reinterpret_cast<uint16_t *>(halves)[index] = half;
}

DEVICE void encode_copy(const EncodeHead &head) {
    uint64_t count = (uint64_t)head.token_count * head.head_dim;
    for (uint64_t i = thread_index().x; i < count; i += ENCODE_THREADS)
        store_half(head.out, i, head.halves[i]);
}

DEVICE void encode_int8(const EncodeHead &head) {
    uint32_t groups = (head.head_dim + WARP_LANES - 1) / WARP_LANES;
    uint8_t *scales = head.out + (uint64_t)head.token_count * head.head_dim;
    for (uint32_t item = warp_index(); item < head.token_count * groups; item += ENCODE_WARPS) {
        uint32_t d = item % groups * WARP_LANES + warp_lane();
        uint64_t at = (uint64_t)(item / groups) * head.head_dim + d;
        float number = d < head.head_dim ? half_to_float(head.halves[at]) : 0.0f;
        uint16_t scale = float_to_half(warp_max(fabsf(number)) / 127.0f);
        float divisor = half_to_float(scale);
        float code = divisor > 0.0f ? rintf(number / divisor) : 0.0f;
        if (d < head.head_dim) head.out[at] = (uint8_t)(int8_t)number_clamp(code, -127.0f, 127.0f);
        if (warp_lane() == 0) store_half(scales, item, scale);
    }
}

/* Nearest even. Below 2^-6 numbers are multiples of 2^-9; above, the float's own bits are rounded. */
DEVICE uint8_t fp8_from_float(float x) {
    uint32_t bits = float_to_bits(x), sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffff;
    if (fabsf(x) < 0x1p-6f) return (uint8_t)(sign | (uint32_t)rintf(fabsf(x) * 512.0f));
    uint32_t rounded = magnitude + 0x7ffff + (magnitude >> 20 & 1);
    return (uint8_t)(sign | ((rounded >> 20) - ((127 - 7) << 3)));
}

DEVICE void encode_fp8(const EncodeHead &head) {
    uint8_t *scales = head.out + (uint64_t)head.token_count * head.head_dim;
    for (uint32_t token = warp_index(); token < head.token_count; token += ENCODE_WARPS) {
        uint64_t first = (uint64_t)token * head.head_dim;
        float largest = 0.0f;
        for (uint32_t d = warp_lane(); d < head.head_dim; d += WARP_LANES)
            largest = fmaxf(largest, fabsf(half_to_float(head.halves[first + d])));
        uint16_t scale = float_to_half(warp_max(largest) / 448.0f);
        float divisor = half_to_float(scale);
        for (uint32_t d = warp_lane(); d < head.head_dim; d += WARP_LANES) {
            float number = half_to_float(head.halves[first + d]);
            number = divisor > 0.0f ? number / divisor : 0.0f;
            head.out[first + d] = fp8_from_float(number_clamp(number, -448.0f, 448.0f));
        }
        if (warp_lane() == 0) store_half(scales, token, scale);
    }
}

/* A lane has two neighbours: a byte. */
DEVICE void encode_int4_group(const EncodeHead &head) {
    uint32_t groups = (head.head_dim + FormInt4Group::GROUP - 1) / FormInt4Group::GROUP;
    uint8_t *scales = head.out + (uint64_t)head.token_count * groups * FormInt4Group::GROUP_BYTES;
    for (uint32_t item = warp_index(); item < head.token_count * groups; item += ENCODE_WARPS) {
        uint32_t d = item % groups * FormInt4Group::GROUP + 2 * warp_lane();
        const uint16_t *halves = head.halves + (uint64_t)(item / groups) * head.head_dim + d;
        float first = d < head.head_dim ? half_to_float(halves[0]) : 0.0f;
        float second = d < head.head_dim ? half_to_float(halves[1]) : 0.0f;
        float min = warp_min(fminf(first, second)) + 0.0f; /* -0 becomes 0 */
        float max = warp_max(fmaxf(first, second)) + 0.0f;
        float scale = 15.0f / (max - min);
        uint16_t half = float_to_half(scale);
        uint32_t high = 0, low = 0;
        if (half != 0x7c00) {
            high = (uint32_t)rintf(number_clamp((first - min) * scale, 0.0f, 15.0f));
            low = (uint32_t)rintf(number_clamp((second - min) * scale, 0.0f, 15.0f));
        }
        head.out[(uint64_t)item * FormInt4Group::GROUP_BYTES + warp_lane()] =
            (uint8_t)(high << 4 | low);
        if (warp_lane() != 0) continue;
        store_half(scales, 2 * (uint64_t)item, half);
        store_half(scales, 2 * (uint64_t)item + 1, float_to_half(min));
    }
}

/* Where number `lane` of a group lies among the halves. */
DEVICE uint64_t kivi_source(const EncodeHead &head, uint32_t group, uint32_t lane) {
    uint32_t groups = (head.keys ? head.token_count : head.head_dim) / FormKivi::GROUP;
    uint32_t row = group / groups, column = group % groups * FormKivi::GROUP + lane;
    return head.keys ? (uint64_t)column * head.head_dim + row
                     : (uint64_t)row * head.head_dim + column;
}

DEVICE void encode_kivi(const EncodeHead &head) {
    uint32_t group_count = head.token_count * head.head_dim / FormKivi::GROUP;
    uint32_t bits = head.bits, codes_a_word = 32 / bits, word_bytes = FormKivi::GROUP * bits / 8;
    uint8_t *steps = head.out + (uint64_t)group_count * word_bytes;
    uint8_t *minima = steps + 2 * (uint64_t)group_count;
    float levels = (float)((1u << bits) - 1);
    for (uint32_t group = warp_index(); group < group_count; group += ENCODE_WARPS) {
        float number = half_to_float(head.halves[kivi_source(head, group, warp_lane())]);
        float min = warp_min(number) + 0.0f, max = warp_max(number) + 0.0f;
        uint16_t half_step = float_to_half(half_round(max - min) / levels);
        float step = half_to_float(half_step), code = 0.0f;
        if (step > 0.0f)
            code = rintf(number_clamp(half_round(half_round(number - min) / step), 0.0f, levels));
        uint32_t word = (uint32_t)code << warp_lane() % codes_a_word * bits;
        for (uint32_t mask = 1; mask < codes_a_word; mask *= 2)
            word |= warp_shuffle_xor(word, mask);
        uint32_t *words = reinterpret_cast<uint32_t *>(head.out + (uint64_t)group * word_bytes);
        if (warp_lane() % codes_a_word == 0) words[warp_lane() / codes_a_word] = word;
        if (warp_lane() != 0) continue;
        store_half(steps, group, half_step);
        store_half(minima, group, float_to_half(min));
    }
}

struct TurboShared {
    SharedArray<float> energies, numbers;     /* [head_dim]; [warps][head_dim] */
    SharedArray<uint32_t> outliers, channels; /* [head_dim] */
};

/* The outliers: the channels of most energy, of equal ones the first. Writes the head's mask. */
DEVICE void turbo_choose_outliers(const EncodeHead &head, const TurboPlan *plan,
                                  const TurboShared &shared) {
    for (uint32_t d = thread_index().x; d < head.head_dim; d += ENCODE_THREADS) {
        float energy = 0.0f;
        for (uint32_t token = 0; token < head.token_count; token++) {
            float x = half_to_float(head.halves[(uint64_t)token * head.head_dim + d]);
            energy += x * x;
        }
        shared.energies[d] = energy;
    }
    block_sync();
    for (uint32_t d = thread_index().x; d < head.head_dim; d += ENCODE_THREADS) {
        float own = shared.energies[d];
        uint32_t before = 0;
        for (uint32_t e = 0; e < head.head_dim; e++) {
            float other = shared.energies[e];
            before += other > own || (other == own && e < d);
        }
        shared.outliers[d] = before < plan->vectors[0].dim;
    }
    block_sync();
    for (uint32_t byte = thread_index().x; byte < plan->mask_bytes; byte += ENCODE_THREADS) {
        uint32_t bits = 0;
        for (uint32_t i = 0; i < 8; i++)
            bits |= (uint32_t)shared.outliers[8 * byte + i] << i;
        head.out[byte] = (uint8_t)bits;
    }
    block_sync();
}

/* Sixteen lanes of squares, then the tree of the specification. */
DEVICE float turbo_squares(SharedArray<float> x, uint32_t count) {
    enum { LANES = 16 };
    float sum = 0.0f;
    for (uint32_t i = warp_lane(); i < count && warp_lane() < LANES; i += LANES) {
        float number = x[i];
        sum += number * number;
    }
    for (uint32_t reach = LANES / 2; reach > 0; reach /= 2)
        sum += warp_shuffle_down(sum, reach);
    return warp_shuffle(sum, 0);
}

/* Codes, one a float, into bytes from the lowest bit on: a lane a byte. */
DEVICE void turbo_put_codes(SharedArray<float> codes, uint32_t count, uint32_t bits, uint8_t *out) {
    for (uint32_t byte = warp_lane(); byte < count * bits / 8; byte += WARP_LANES) {
        uint32_t value = 0, begin = 8 * byte;
        for (uint32_t i = begin / bits; i < count && i * bits < begin + 8; i++) {
            uint32_t code = (uint32_t)(float)codes[i], at = i * bits;
            value |= at >= begin ? code << (at - begin) : code >> (begin - at);
        }
        out[byte] = (uint8_t)value;
    }
}

/* x[dim]: the vector of a token; becomes its codes. Returns its squared length. By one warp. */
DEVICE float turbo_encode_vector(const TurboPlan *plan, const TurboVector *vector,
                                 SharedArray<float> x) {
    float squares = turbo_squares(x, vector->dim);
    float inverse = squares > 0.0f ? vector->gain / sqrtf(squares) : 0.0f;
    warp_sync();
    for (uint32_t i = warp_lane(); i < vector->dim; i += WARP_LANES)
        x[i] *= plan->signs[i];
    turbo_butterflies(x, vector->dim, vector->part_dim);
    if (vector->part_dim < vector->dim) turbo_reflect(x, vector->part_dim);
    for (uint32_t i = warp_lane(); i < vector->dim; i += WARP_LANES) {
        float coordinate = (float)x[i] * inverse;
        uint32_t code = 0;
        for (uint32_t t = 0; t + 1 < 1u << vector->bits; t++)
            code += coordinate > vector->thresholds[t];
        x[i] = (float)code;
    }
    warp_sync();
    return squares;
}

DEVICE void encode_turbo(const EncodeHead &head, const TurboPlan *plan) {
    uint32_t dim = head.head_dim, word = (uint32_t)sizeof(float);
    TurboShared shared = {shared_array<float>(0, dim),
                          shared_array<float>(dim * word, ENCODE_WARPS * dim),
                          shared_array<uint32_t>((1 + ENCODE_WARPS) * dim * word, dim),
                          shared_array<uint32_t>((2 + ENCODE_WARPS) * dim * word, dim)};
    if (plan->mask_bytes) turbo_choose_outliers(head, plan, shared);
    turbo_channel_order(plan, head.out, dim, shared.channels);
    block_sync();
    SharedArray<float> x = shared.numbers + warp_index() * dim;
    uint8_t *rows = head.out + plan->mask_bytes;
    uint8_t *norms = rows + (uint64_t)head.token_count * plan->row_bytes;
    for (uint32_t token = warp_index(); token < head.token_count; token += ENCODE_WARPS) {
        for (uint32_t place = warp_lane(); place < dim; place += WARP_LANES) {
            uint32_t channel = shared.channels[place];
            x[place] = half_to_float(head.halves[(uint64_t)token * dim + channel]);
        }
        warp_sync();
        for (uint32_t v = 0; v < plan->vector_count; v++) {
            const TurboVector *vector = &plan->vectors[v];
            float squares = turbo_encode_vector(plan, vector, x + vector->first);
            turbo_put_codes(x + vector->first, vector->dim, vector->bits,
                            rows + (uint64_t)token * plan->row_bytes + vector->row_offset);
            if (warp_lane() == 0)
                store_half(norms, (uint64_t)token * plan->vector_count + v,
                           float_to_half(sqrtf(squares / (float)vector->dim)));
        }
        warp_sync();
    }
}

/* Every thread that meets a number that is not finite writes the same word. */
DEVICE void refuse_infinite(const uint16_t *halves, uint64_t count, uint32_t *refused) {
    bool finite = true;
    for (uint64_t i = thread_index().x; i < count; i += ENCODE_THREADS)
        finite = finite && (halves[i] & 0x7c00) != 0x7c00;
    if (!finite) *refused = 1;
}

/* Grid: heads of keys, then of values; blocks. */
KERNEL(ENCODE_THREADS) void encode_heads(EncodeLaunch launch) {
    uint32_t index = block_index().x, kv_head = index % launch.shape.kv_head_count;
    CodecPart part = index < launch.shape.kv_head_count ? CODEC_KEYS : CODEC_VALUES;
    CodedHead out = coded_head(launch.form, &launch.shape,
                               (const uint8_t *)launch.out_bytes[block_index().y], part, kv_head);
    uint64_t numbers = (uint64_t)out.token_count * out.head_dim;
    EncodeHead head = {(const uint16_t *)launch.blocks[block_index().y] + index * numbers,
                       const_cast<uint8_t *>(out.bytes),
                       out.token_count,
                       out.head_dim,
                       out.bits,
                       out.keys};
    refuse_infinite(head.halves, numbers, &launch.refused[block_index().y]);
    switch (launch.form->kind) {
    case CODED_RAW: encode_copy(head); break;
    case CODED_INT8: encode_int8(head); break;
    case CODED_FP8: encode_fp8(head); break;
    case CODED_INT4_GROUP: encode_int4_group(head); break;
    case CODED_KIVI: encode_kivi(head); break;
    case CODED_TURBOQUANT: encode_turbo(head, &launch.form->plan); break;
    }
}

/* Grid as encode_heads. */
KERNEL(ENCODE_THREADS) void check_heads(CheckLaunch launch) {
    uint64_t numbers = (uint64_t)launch.shape.block_tokens * launch.shape.head_dim;
    const uint16_t *halves = (const uint16_t *)launch.blocks[block_index().y];
    refuse_infinite(halves + block_index().x * numbers, numbers, &launch.refused[block_index().y]);
}

KERNEL(ENCODE_THREADS) void refused_clear(uint32_t *refused, uint32_t count) {
    uint32_t i = block_index().x * ENCODE_THREADS + thread_index().x;
    if (i < count) refused[i] = 0;
}

static void clear_launch(DeviceStream *stream, uint32_t *refused, uint32_t count) {
    LAUNCH(refused_clear, extent((count + ENCODE_THREADS - 1) / ENCODE_THREADS),
           extent(ENCODE_THREADS), 0, stream, refused, count);
}

static void encode_launch(DeviceStream *stream, const EncodeLaunch *launch) {
    uint32_t floats = (3 + ENCODE_WARPS) * launch->shape.head_dim;
    clear_launch(stream, launch->refused, launch->block_count);
    LAUNCH(encode_heads, extent(2 * launch->shape.kv_head_count, launch->block_count),
           extent(ENCODE_THREADS), launch->turbo ? floats * sizeof(float) : 0, stream, *launch);
}

static void check_launch(DeviceStream *stream, const CheckLaunch *launch) {
    clear_launch(stream, launch->refused, launch->block_count);
    LAUNCH(check_heads, extent(2 * launch->shape.kv_head_count, launch->block_count),
           extent(ENCODE_THREADS), 0, stream, *launch);
}

extern "C" void PORT_NAME(codec_encode_fill)(CudaLaunchers *launchers) {
    launchers->codec_encode = encode_launch;
    launchers->codec_check = check_launch;
}
