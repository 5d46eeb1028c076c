#ifndef KERNELS_CPU_CODEC_VECTOR_H
#define KERNELS_CPU_CODEC_VECTOR_H

/* Encoding and decoding of KV blocks for the vectors of the instruction set that the file is compiled for; included by
 * one file an ISA. Bytes and halves are those of kernels/codec: each number goes through the same rounding steps.
 * Heads of a codec without a row here go through its own functions. */

#include "kernels/cpu/codec_turbo_tokens.h"
#include "kernels/kernels.h"

#ifdef VECTOR_LANES

#include <math.h>

typedef struct CodecVectorRow {
    const char *name;
    void (*encode)(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes);
    void (*decode)(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves);
} CodecVectorRow;

INLINE void store_half(uint8_t *halves, uint64_t index, uint16_t half) {
    memcpy(halves + 2 * index, &half, sizeof half);
}

INLINE uint16_t load_half(const uint8_t *halves, uint64_t index) {
    uint16_t half;
    memcpy(&half, halves + 2 * index, sizeof half);
    return half;
}

/* ---- int8 and fp8: one scale for `count` numbers of a token */

/* The largest magnitude, a half: halves without their signs are in order as integers. */
INLINE uint16_t largest_of(const uint16_t *halves, uint32_t count) {
    const __m256i magnitude = _mm256_set1_epi16(0x7fff);
    __m256i largest = _mm256_setzero_si256();
    for (uint32_t i = 0; i < count; i += CHUNK) {
        __m256i some = _mm256_loadu_si256((const __m256i *)(halves + i));
        largest = _mm256_max_epu16(largest, _mm256_and_si256(some, magnitude));
    }
    __m128i eight =
        _mm_max_epu16(_mm256_castsi256_si128(largest), _mm256_extracti128_si256(largest, 1));
    __m128i rest = _mm_minpos_epu16(_mm_xor_si128(eight, _mm_set1_epi16(-1)));
    return (uint16_t)~_mm_cvtsi128_si32(rest);
}

/* Codes of 16 numbers as in kernels/codec/codec_fp8.c; the divisor is 256 times the scale. Magnitudes are rounded by adding a
 * power of two beside which three bits of their fraction stay, or multiples of 2^-9; after a division by 256 they have the
 * exponents of halves. */
INLINE void encode_fp8_chunk(const uint16_t *halves, const Divisor *divisor, uint8_t *codes) {
    uint16_t rounded[CHUNK];
    for (uint32_t v = 0; v < CHUNK; v += VECTOR_LANES) {
        Vector x = vector_absolute(vector_load_half(halves + v));
        x = vector_min(vector_divide_half(x, divisor), vector_set(448.0f / 256));
        Vector power = vector_power_below(vector_max(x, vector_set(0x1p-14f)));
        power = vector_multiply(power, vector_set(0x1p20f));
        vector_store_half(rounded + v, vector_subtract(vector_add(x, power), power));
    }
    const __m128i *numbers = (const __m128i *)halves, *magnitudes = (const __m128i *)rounded;
    __m128i low = _mm_srli_epi16(_mm_loadu_si128(magnitudes), 7);
    __m128i high = _mm_srli_epi16(_mm_loadu_si128(magnitudes + 1), 7);
    __m128i signs = _mm_packs_epi16(_mm_loadu_si128(numbers), _mm_loadu_si128(numbers + 1));
    signs = _mm_and_si128(signs, _mm_set1_epi8((char)0x80));
    _mm_storeu_si128((__m128i *)codes, _mm_or_si128(signs, _mm_packus_epi16(low, high)));
}

INLINE void encode_bytes(bool fp8, const uint16_t *halves, uint32_t count, const Divisor *divisor,
                         uint8_t *codes) {
    for (uint32_t i = 0; fp8 && i < count; i += CHUNK)
        encode_fp8_chunk(halves + i, divisor, codes + i);
    for (uint32_t i = 0; !fp8 && i < count; i += VECTOR_LANES) {
        Vector number = vector_divide_half(vector_load_half(halves + i), divisor);
        lanes_store_bytes(codes + i, lanes_from_vector(vector_clamp(number, -127.0f, 127.0f)));
    }
}

/* VECTOR_LANES groups at a time: first their largest numbers, then all scales, then codes, so that no group waits for its
 * own scale. A token's last group may be shorter. */
INLINE void encode_byte_head(bool fp8, uint32_t group, const CodecHead *head,
                             const uint16_t *halves, uint8_t *out_bytes) {
    const Vector limit = vector_set(fp8 ? 448.0f : 127.0f), unit = vector_set(fp8 ? 256.0f : 1.0f);
    const uint64_t elements = (uint64_t)head->token_count * head->head_dim;
    uint8_t *scales = out_bytes + elements;
    uint32_t d = 0;
    for (uint64_t next = 0; next < elements;) {
        uint64_t first[VECTOR_LANES];
        uint32_t counts[VECTOR_LANES], groups = 0;
        uint16_t largest[VECTOR_LANES] = {0}, rounded[VECTOR_LANES];
        float steps[VECTOR_LANES], inverses[VECTOR_LANES];
        for (; groups < VECTOR_LANES && next < elements; groups++) {
            uint32_t left = head->head_dim - d, count = left < group ? left : group;
            first[groups] = next;
            counts[groups] = count;
            largest[groups] = largest_of(halves + next, count);
            fetch_next_head(head, halves + next, count);
            next += count;
            d = count == left ? 0 : d + count;
        }
        Vector scale = vector_half_round(vector_divide(vector_load_half(largest), limit));
        Divisor divisor = divisor_of(scale);
        vector_store_half(rounded, scale);
        vector_store(steps, vector_multiply(divisor.half, unit));
        vector_store(inverses, vector_divide(divisor.inverse, unit));
        for (uint32_t g = 0; g < groups; g++, scales += sizeof *rounded) {
            const uint16_t *numbers = halves + first[g];
            const Divisor own = {vector_set(steps[g]), vector_set(inverses[g])};
            store_half(scales, 0, rounded[g]);
            if (rounded[g] == 0)
                memset(out_bytes + first[g], 0, counts[g]); /* no sign of a zero */
            else if (counts[g] == 32)                       /* a constant: loops unroll */
                encode_bytes(fp8, numbers, 32, &own, out_bytes + first[g]);
            else
                encode_bytes(fp8, numbers, counts[g], &own, out_bytes + first[g]);
        }
    }
}

INLINE void decode_byte_head(CodeForm form, uint32_t group, const CodecHead *head,
                             const uint8_t *bytes, uint16_t *out_halves) {
    uint64_t rows = head->token_count;
    uint32_t groups = (head->head_dim + group - 1) / group;
    const uint8_t *scales = bytes + rows * head->head_dim;
    for (uint64_t token = 0; token < rows; token++) {
        fetch_tokens(head, out_halves + token * head->head_dim, head->head_dim,
                     bytes + token * head->head_dim, head->head_dim, head->head_dim);
        for (uint32_t d = 0; d < head->head_dim; d += CHUNK) {
            uint64_t first = token * head->head_dim + d;
            Vector scale = vector_set(float_of(load_half(scales, token * groups + d / group)));
            Vector numbers[CHUNK_VECTORS];
            form_chunk(form, bytes + first, NULL, numbers);
            for (uint32_t v = 0; v < CHUNK_VECTORS; v++)
                vector_store_finite_half(out_halves + first + v * VECTOR_LANES,
                                         vector_multiply(scale, numbers[v]));
        }
    }
}

static void encode_int8_vector(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    encode_byte_head(false, 32, head, halves, out_bytes);
}

static void decode_int8_vector(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves) {
    decode_byte_head(FORM_INT8, 32, head, bytes, out_halves);
}

static void encode_fp8_vector(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    encode_byte_head(true, head->head_dim, head, halves, out_bytes);
}

static void decode_fp8_vector(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves) {
    decode_byte_head(FORM_FP8, head->head_dim, head, bytes, out_halves);
}

/* ---- groups between minimum and maximum */

typedef struct Extent {
    uint16_t min, max; /* halves */
} Extent;

/* Halves in an order that integers have, and back. */
INLINE __m256i halves_ordered(__m256i halves) {
    __m256i below_zero = _mm256_srai_epi16(halves, 15);
    return _mm256_xor_si256(halves, _mm256_and_si256(below_zero, _mm256_set1_epi16(0x7fff)));
}

INLINE uint16_t half_from_order(uint32_t order) {
    return (uint16_t)(order ^ (order & 0x8000 ? 0x7fff : 0));
}

/* The smallest of unsigned words of 16 bits. */
INLINE uint32_t smallest_word(__m256i words) {
    __m128i eight =
        _mm_min_epu16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    return (uint32_t)_mm_cvtsi128_si32(_mm_minpos_epu16(eight)) & 0xffff;
}

/* count: a multiple of 16 */
INLINE Extent extent_of(const uint16_t *halves, uint32_t count) {
    __m256i min = halves_ordered(_mm256_loadu_si256((const __m256i *)halves)), max = min;
    for (uint32_t i = CHUNK; i < count; i += CHUNK) {
        __m256i some = halves_ordered(_mm256_loadu_si256((const __m256i *)(halves + i)));
        min = _mm256_min_epi16(min, some);
        max = _mm256_max_epi16(max, some);
    }
    uint32_t low = smallest_word(_mm256_xor_si256(min, _mm256_set1_epi16((short)0x8000)));
    uint32_t high = smallest_word(_mm256_xor_si256(max, _mm256_set1_epi16(0x7fff)));
    Extent extent = {half_from_order(low ^ 0x8000), half_from_order(high ^ 0x7fff)};
    return extent;
}

enum { INT4_GROUP = 64, INT4_BYTES = INT4_GROUP / 2 };

INLINE uint64_t int4_groups(const CodecHead *head) {
    return (head->head_dim + INT4_GROUP - 1) / INT4_GROUP;
}

INLINE void encode_int4_group(const uint16_t *halves, uint8_t *codes, uint8_t *scale_min) {
    Extent extent = extent_of(halves, INT4_GROUP);
    float low = float_of(extent.min) + 0.0f, high = float_of(extent.max) + 0.0f;
    float scale = 15.0f / (high - low);
    uint16_t half = half_of(scale);
    Vector min = vector_set(low), factor = vector_set(scale);
    store_half(scale_min, 0, half);
    store_half(scale_min, 1, half_of(low));
    if (half == 0x7c00) {
        memset(codes, 0, INT4_BYTES);
        return;
    }
    for (uint32_t first = 0; first < INT4_GROUP; first += RUN) {
        Lanes found[RUN_VECTORS];
        for (uint32_t v = 0; v < RUN_VECTORS; v++) {
            Vector x = vector_load_half(halves + first + v * VECTOR_LANES);
            Vector code = vector_multiply(vector_subtract(x, min), factor);
            found[v] = lanes_from_vector(vector_clamp(code, 0.0f, 15.0f));
        }
        run_store_codes(codes + first / 2, 4, true, found);
    }
}

static void encode_int4_vector(const CodecHead *head, const uint16_t *halves, uint8_t *out_bytes) {
    uint64_t group = 0;
    uint8_t *scales = out_bytes + head->token_count * int4_groups(head) * INT4_BYTES;
    for (uint32_t token = 0; token < head->token_count; token++, halves += head->head_dim) {
        fetch_next_head(head, halves, head->head_dim);
        for (uint32_t first = 0; first < head->head_dim; first += INT4_GROUP, group++) {
            uint16_t filled[INT4_GROUP] = {0};
            uint32_t left = head->head_dim - first;
            if (left < INT4_GROUP) memcpy(filled, halves + first, left * sizeof *filled);
            encode_int4_group(left < INT4_GROUP ? filled : halves + first,
                              out_bytes + group * INT4_BYTES, scales + 4 * group);
        }
    }
}

static void decode_int4_vector(const CodecHead *head, const uint8_t *bytes, uint16_t *out_halves) {
    uint64_t group = 0;
    const uint8_t *scales = bytes + head->token_count * int4_groups(head) * INT4_BYTES;
    const CodeTable table = table_load(FORM_HIGH4, NULL);
    const uint64_t token_bytes = int4_groups(head) * INT4_BYTES;
    for (uint32_t token = 0; token < head->token_count; token++, out_halves += head->head_dim) {
        fetch_tokens(head, out_halves, head->head_dim, bytes + token * token_bytes, token_bytes,
                     token_bytes);
        for (uint32_t first = 0; first < head->head_dim; first += INT4_GROUP, group++) {
            Divisor scale = divisor_set(float_of(load_half(scales, 2 * group)));
            Vector min = vector_set(float_of(load_half(scales, 2 * group + 1)));
            for (uint32_t d = first; d < head->head_dim && d < first + INT4_GROUP; d += CHUNK) {
                Vector codes[CHUNK_VECTORS];
                form_chunk(FORM_HIGH4, bytes + group * INT4_BYTES + (d - first) / 2, &table, codes);
                for (uint32_t v = 0; v < CHUNK_VECTORS; v++) {
                    Vector above = vector_half_round_kept(vector_divide_half(codes[v], &scale));
                    vector_store_finite_half(out_halves + d + v * VECTOR_LANES,
                                             vector_add(above, min));
                }
            }
        }
    }
}

/* ---- kivi */

enum { KIVI_GROUP = RUN };

/* Where the parts of a head lie. */
typedef struct KiviHead {
    uint64_t steps, minima; /* bytes from the head's begin */
    uint64_t row_bytes;     /* codes of a channel (keys) or token (values) */
    uint64_t row_groups;
} KiviHead;

INLINE KiviHead kivi_head(uint32_t bits, const CodecHead *head) {
    uint64_t elements = (uint64_t)head->token_count * head->head_dim;
    uint64_t columns = head->part == CODEC_KEYS ? head->token_count : head->head_dim;
    uint64_t steps = elements * bits / 8;
    KiviHead kivi = {steps, steps + elements / KIVI_GROUP * 2, columns * bits / 8,
                     columns / KIVI_GROUP};
    return kivi;
}

/* A step of 0 gives code 0. */
INLINE Lanes kivi_codes(bool wide, Vector x, Vector min, const Divisor *step, float levels) {
    Vector above = vector_subtract(x, min);
    above = wide ? vector_half_round_kept(above) : vector_half_round(above);
    Vector code = vector_half_round(vector_divide_half(above, step)); /* far inside f16 */
    return lanes_from_vector(vector_min(code, vector_set(levels)));   /* x >= min */
}

INLINE void kivi_group_codes(bool wide, uint32_t bits, const uint16_t *halves, float min,
                             float step, float inverse, uint8_t *codes) {
    const Divisor divisor = {vector_set(step), vector_set(inverse)};
    Lanes found[RUN_VECTORS];
    for (uint32_t v = 0; v < RUN_VECTORS; v++)
        found[v] = kivi_codes(wide, vector_load_half(halves + v * VECTOR_LANES), vector_set(min),
                              &divisor, (float)((1u << bits) - 1));
    run_store_codes(codes, bits, false, found);
}

/* VECTOR_LANES groups at a time: first their extents, then all steps, then codes, so that no group waits for its own step.
 * Groups come in multiples of 32, as tokens do. */
INLINE void encode_kivi_values(uint32_t bits, const CodecHead *head, const uint16_t *halves,
                               uint8_t *out_bytes) {
    const Vector levels = vector_set((float)((1u << bits) - 1));
    KiviHead kivi = kivi_head(bits, head);
    uint64_t groups = head->token_count * kivi.row_groups;
    for (uint64_t first = 0; first < groups; first += VECTOR_LANES) {
        uint16_t low[VECTOR_LANES], high[VECTOR_LANES];
        float minima[VECTOR_LANES], steps[VECTOR_LANES], inverses[VECTOR_LANES];
        for (uint32_t g = 0; g < VECTOR_LANES; g++) {
            Extent extent = extent_of(halves + (first + g) * KIVI_GROUP, KIVI_GROUP);
            fetch_next_head(head, halves + (first + g) * KIVI_GROUP, KIVI_GROUP);
            low[g] = extent.min;
            high[g] = extent.max;
        }
        Vector min = vector_add(vector_load_half(low), vector_zero()), step;
        Vector max = vector_add(vector_load_half(high), vector_zero());
        Vector range = vector_half_round_kept(vector_subtract(max, min));
        step = vector_half_round(vector_divide(range, levels));
        Divisor divisor = divisor_of(step);
        bool wide = vector_max_lane(range) > 65504.0f;
        vector_store_half((uint16_t *)(out_bytes + kivi.steps + 2 * first), step);
        vector_store_half((uint16_t *)(out_bytes + kivi.minima + 2 * first), min);
        vector_store(minima, min);
        vector_store(steps, divisor.half);
        vector_store(inverses, divisor.inverse);
        for (uint32_t g = 0; g < VECTOR_LANES; g++) {
            const uint16_t *group = halves + (first + g) * KIVI_GROUP;
            uint8_t *codes = out_bytes + (first + g) * KIVI_GROUP * bits / 8;
            if (wide)
                kivi_group_codes(true, bits, group, minima[g], steps[g], inverses[g], codes);
            else
                kivi_group_codes(false, bits, group, minima[g], steps[g], inverses[g], codes);
        }
    }
}

INLINE void scatter_words(uint8_t *bytes, uint64_t stride, Lanes lanes) {
    uint32_t words[VECTOR_LANES];
    lanes_store(words, lanes);
    for (uint32_t l = 0; l < VECTOR_LANES; l++)
        memcpy(bytes + l * stride, &words[l], sizeof words[l]);
}

INLINE Lanes gather_words(const uint8_t *bytes, uint64_t stride) {
    uint32_t words[VECTOR_LANES];
    for (uint32_t l = 0; l < VECTOR_LANES; l++)
        memcpy(&words[l], bytes + l * stride, sizeof words[l]);
    return lanes_load(words);
}

/* Rounds to halves, stores them `stride` bytes apart, and gives back what they are as floats. */
INLINE Vector scatter_halves(uint8_t *bytes, uint64_t stride, Vector x) {
    uint16_t halves[VECTOR_LANES];
    vector_store_half(halves, x);
    for (uint32_t l = 0; l < VECTOR_LANES; l++)
        memcpy(bytes + l * stride, &halves[l], sizeof halves[l]);
    return vector_load_half(halves);
}

INLINE Vector gather_halves(const uint8_t *bytes, uint64_t stride) {
    uint16_t halves[VECTOR_LANES];
    for (uint32_t l = 0; l < VECTOR_LANES; l++)
        memcpy(&halves[l], bytes + l * stride, sizeof halves[l]);
    return vector_load_half(halves);
}

/* Codes of VECTOR_LANES channels and a group of tokens, a word at a time. */
INLINE void kivi_key_codes(bool wide, uint32_t bits, const uint16_t *halves, uint32_t head_dim,
                           Vector min, const Divisor *step, uint8_t *codes, uint64_t row_bytes) {
    const uint32_t word_codes = 32 / bits;
    for (uint32_t t = 0; t < KIVI_GROUP; t += word_codes) {
        Lanes words = lanes_from_vector(vector_zero());
        for (uint32_t j = 0; j < word_codes; j++) {
            Vector x = vector_load_half(halves + (t + j) * head_dim);
            Lanes found = kivi_codes(wide, x, min, step, (float)((1u << bits) - 1));
            words = lanes_or(words, lanes_shift_left(found, bits * j));
        }
        scatter_words(codes + t * bits / 8, row_bytes, words);
    }
}

/* Lanes are channels: neither extents nor words need numbers to cross them. */
INLINE void encode_kivi_keys(uint32_t bits, const CodecHead *head, const uint16_t *halves,
                             uint8_t *out_bytes) {
    const float levels = (float)((1u << bits) - 1);
    KiviHead kivi = kivi_head(bits, head);
    for (uint64_t group = 0; group < kivi.row_groups; group++)
        for (uint32_t d = 0; d < head->head_dim; d += VECTOR_LANES) {
            const uint16_t *first = halves + group * KIVI_GROUP * head->head_dim + d;
            Vector min = vector_load_half(first), max = min;
            for (uint32_t t = 1; t < KIVI_GROUP; t++) {
                Vector x = vector_load_half(first + t * head->head_dim);
                fetch_next_head(head, first + t * head->head_dim, VECTOR_LANES);
                min = vector_min(min, x);
                max = vector_max(max, x);
            }
            min = vector_add(min, vector_zero());
            max = vector_add(max, vector_zero());
            uint64_t place = d * kivi.row_groups + group, stride = 2 * kivi.row_groups;
            Vector range = vector_half_round_kept(vector_subtract(max, min));
            Vector step = scatter_halves(out_bytes + kivi.steps + 2 * place, stride,
                                         vector_divide(range, vector_set(levels)));
            scatter_halves(out_bytes + kivi.minima + 2 * place, stride, min);
            Divisor divisor = divisor_of(step);
            bool wide = vector_max_lane(range) > 65504.0f;
            uint8_t *codes = out_bytes + d * kivi.row_bytes + group * KIVI_GROUP * bits / 8;
            if (wide)
                kivi_key_codes(true, bits, first, head->head_dim, min, &divisor, codes,
                               kivi.row_bytes);
            else
                kivi_key_codes(false, bits, first, head->head_dim, min, &divisor, codes,
                               kivi.row_bytes);
        }
}

INLINE void decode_kivi_keys(uint32_t bits, const CodecHead *head, const uint8_t *bytes,
                             uint16_t *out_halves) {
    const uint32_t word_codes = 32 / bits;
    KiviHead kivi = kivi_head(bits, head);
    for (uint64_t group = 0; group < kivi.row_groups; group++)
        for (uint32_t d = 0; d < head->head_dim; d += VECTOR_LANES) {
            uint64_t place = d * kivi.row_groups + group, stride = 2 * kivi.row_groups;
            Vector step = gather_halves(bytes + kivi.steps + 2 * place, stride);
            Vector min = gather_halves(bytes + kivi.minima + 2 * place, stride);
            const uint8_t *codes = bytes + d * kivi.row_bytes + group * KIVI_GROUP * bits / 8;
            for (uint32_t t = 0; t < KIVI_GROUP; t += word_codes) {
                Lanes words = gather_words(codes + t * bits / 8, kivi.row_bytes);
                for (uint32_t j = 0; j < word_codes; j++) {
                    Vector code = vector_from_code(words, bits * j, (1u << bits) - 1);
                    Vector x = vector_add(vector_half_round_kept(vector_multiply(code, step)), min);
                    uint64_t token = group * KIVI_GROUP + t + j;
                    fetch_bytes(out_halves + (token + FETCH_TOKENS) * head->head_dim + d, 1);
                    vector_store_finite_half(out_halves + token * head->head_dim + d, x);
                }
            }
        }
}

INLINE void decode_kivi_values(uint32_t bits, const CodecHead *head, const uint8_t *bytes,
                               uint16_t *out_halves) {
    const CodeForm form = bits == 4 ? FORM_LOW4 : FORM_LOW2;
    KiviHead kivi = kivi_head(bits, head);
    const CodeTable table = table_load(form, NULL);
    uint64_t elements = (uint64_t)head->token_count * head->head_dim;
    for (uint64_t i = 0; i < elements; i += CHUNK) {
        Vector step = vector_set(float_of(load_half(bytes + kivi.steps, i / KIVI_GROUP)));
        Vector min = vector_set(float_of(load_half(bytes + kivi.minima, i / KIVI_GROUP)));
        Vector codes[CHUNK_VECTORS];
        fetch_tokens(head, out_halves + i, CHUNK, bytes + i * bits / 8, 1, kivi.row_bytes);
        form_chunk(form, bytes + i * bits / 8, &table, codes);
        for (uint32_t v = 0; v < CHUNK_VECTORS; v++)
            vector_store_finite_half(
                out_halves + i + v * VECTOR_LANES,
                vector_add(vector_half_round_kept(vector_multiply(codes[v], step)), min));
    }
}

#define KIVI_VECTOR(bits)                                                                 \
    static void encode_kivi##bits##_vector(const CodecHead *head, const uint16_t *halves, \
                                           uint8_t *out_bytes) {                          \
        if (head->part == CODEC_KEYS)                                                     \
            encode_kivi_keys(bits, head, halves, out_bytes);                              \
        else                                                                              \
            encode_kivi_values(bits, head, halves, out_bytes);                            \
    }                                                                                     \
    static void decode_kivi##bits##_vector(const CodecHead *head, const uint8_t *bytes,   \
                                           uint16_t *out_halves) {                        \
        if (head->part == CODEC_KEYS)                                                     \
            decode_kivi_keys(bits, head, bytes, out_halves);                              \
        else                                                                              \
            decode_kivi_values(bits, head, bytes, out_halves);                            \
    }
KIVI_VECTOR(4)
KIVI_VECTOR(2)
#undef KIVI_VECTOR

/* ---- blocks */

static const CodecVectorRow codec_vector_rows[] = {
    {"int8", encode_int8_vector, decode_int8_vector},
    {"fp8", encode_fp8_vector, decode_fp8_vector},
    {"int4_group", encode_int4_vector, decode_int4_vector},
    {"kivi4", encode_kivi4_vector, decode_kivi4_vector},
    {"kivi2", encode_kivi2_vector, decode_kivi2_vector},
    {"turboquant2", encode_turbo_vector, decode_turbo_vector},
    {"turboquant2_5", encode_turbo_vector, decode_turbo_vector},
    {"turboquant3", encode_turbo_vector, decode_turbo_vector},
    {"turboquant3_5", encode_turbo_vector, decode_turbo_vector},
    {"turboquant4", encode_turbo_vector, decode_turbo_vector},
};

enum { CODEC_VECTOR_COUNT = sizeof codec_vector_rows / sizeof *codec_vector_rows };

static CodecVectorRow codec_vector_row(const Codec *codec) {
    for (uint32_t i = 0; i < CODEC_VECTOR_COUNT; i++)
        if (!strcmp(codec_vector_rows[i].name, codec->name)) return codec_vector_rows[i];
    CodecVectorRow own = {codec->name, codec->encode, codec->decode};
    return own;
}

static bool halves_finite(const uint16_t *halves, uint64_t count) {
    enum { STRIDE = 2 * VECTOR_LANES };
    Lanes largest = lanes_set(0);
    uint64_t i = 0;
    for (; i + STRIDE <= count; i += STRIDE)
        largest = lanes_max_twice(largest, halves + i);
    bool finite = lanes_words_below(largest, 2 * 0x7c00);
    for (; i < count; i++)
        finite = finite && (halves[i] & 0x7c00) != 0x7c00;
    return finite;
}

static Status encode_block_vector(const Codec *codec, const KvShape *shape, const void *block,
                                  void *out_bytes) {
    CodecVectorRow row = codec_vector_row(codec);
    uint64_t elements = (uint64_t)shape->block_tokens * shape->head_dim;
    const uint16_t *halves = block;
    for (CodecPart part = CODEC_KEYS; part < CODEC_PART_COUNT; part++)
        for (uint32_t kv_head = 0; kv_head < shape->kv_head_count; kv_head++) {
            CodecHead head = codec_head(codec, shape, part);
            if (!halves_finite(halves, elements)) return STATUS_BAD_INPUT;
            row.encode(&head, halves,
                       (uint8_t *)out_bytes + codec_head_offset(codec, shape, part, kv_head));
            halves += elements;
        }
    return STATUS_OK;
}

static void decode_block_vector(const Codec *codec, const KvShape *shape, const void *bytes,
                                void *out_block) {
    CodecVectorRow row = codec_vector_row(codec);
    uint64_t elements = (uint64_t)shape->block_tokens * shape->head_dim;
    uint16_t *halves = out_block;
    for (CodecPart part = CODEC_KEYS; part < CODEC_PART_COUNT; part++)
        for (uint32_t kv_head = 0; kv_head < shape->kv_head_count; kv_head++) {
            CodecHead head = codec_head(codec, shape, part);
            row.decode(&head,
                       (const uint8_t *)bytes + codec_head_offset(codec, shape, part, kv_head),
                       halves);
            halves += elements;
        }
}

#endif

#endif
