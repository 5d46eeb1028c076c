/* Products with packed matrices (cuda_kernels.h). A warp walks the records of a tile of 32 outputs; a lane is an output, and
 * reads weights once for up to eight rows of x.
 *
 * The bits of an output are one chain over its records in rising order, whoever computes it: of an encoded matrix each record gives
 * an exact integer sum times its scales, as on the CPU (kernels/cpu/matmul_tiles.h); of a float matrix it gives the chain of
 * its 32 products. So a row's bits do not depend on the rows beside it:
 *
 *   product_split   few rows: the warps of a block share the records, and fold what these gave in order
 *   product_rows    more rows of int16 and floats: each warp has eight of its own and walks every record
 *   product_tensor  more rows of int8 (matmul_tensor.cu): each warp has 32, on the tensor cores
 *
 * From compute capability 8.0 on f16 and bfloat16 weights are matmul_float.cu's. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/integer_dot.cuh"
#include "kernels/cuda/packed_record.cuh"
#include "kernels/cuda/port.cuh"

enum {
    PRODUCT_WARPS = 8,
    PRODUCT_THREADS = PRODUCT_WARPS * WARP_LANES,
    RECORD_WORDS = PACKED_COLUMNS / 4, /* of four codes */
    TERMS_MAX = 2,
    SPLIT_ROWS = 8,
    SPLIT_ROWS_MAX = 2 * SPLIT_ROWS, /* beyond, rows fill the device without sharing records */
};

/* What a record adds to an output: a * b, in one rounding. */
struct Term {
    float a, b;
};

/* One output's weights of a record, unpacked: words of four signed bytes. */
template <uint32_t BITS, bool PRECISE> struct CodedRecord {
    uint32_t words[RECORD_WORDS];
    float scales[2], offset;

    DEVICE CodedRecord load(const PackedForm &form, const uint8_t *record) {
        CodedRecord out;
        Words4 low = load_words4(record + 16 * warp_lane());
        if (BITS == 8) {
            Words4 high = load_words4(record + 16 * (PACKED_OUTPUTS + warp_lane()));
            const uint32_t words[RECORD_WORDS] = {low.x,  low.y,  low.z,  low.w,
                                                  high.x, high.y, high.z, high.w};
            for (uint32_t w = 0; w < RECORD_WORDS; w++)
                out.words[w] = words[w];
        } else {
            const uint32_t words[RECORD_WORDS / 2] = {low.x, low.y, low.z, low.w};
            for (uint32_t w = 0; w < RECORD_WORDS; w++)
                out.words[w] = words[w / 2] >> (w % 2 ? 4 : 0) & 0x0f0f0f0fu;
        }
        const uint32_t *planes = planes_of(record, warp_lane());
        for (uint32_t bit = 4; bit < BITS && BITS < 8; bit++, planes += PACKED_OUTPUTS)
            for (uint32_t w = 0; w < RECORD_WORDS; w++)
                out.words[w] |= plane_bits(*planes, w, bit);
        const uint8_t *scales = record + form.scales_at;
        out.scales[0] = scale_load(form, scales, 0, warp_lane());
        out.scales[1] = form.groups == 2 ? scale_load(form, scales, 1, warp_lane()) : 0.0f;
        out.offset =
            form.offsets ? scale_load(form, record + form.offsets_at, 0, warp_lane()) : 0.0f;
        return out;
    }

    /* Sums of codes times codes, of columns 0-15 and 16-31. */
    DEVICE void products(const CodedRecord &weights, const uint8_t *codes, int32_t *io_sums) {
        for (uint32_t part = 0; part < (PRECISE ? 4u : 2u); part++) {
            Words4 x = load_words4(codes + 16 * part);
            const uint32_t words[4] = {x.x, x.y, x.z, x.w};
            for (uint32_t i = 0; i < 4; i++) {
                if (PRECISE) {
                    uint32_t w = 2 * part + i / 2;
                    io_sums[part / 2] =
                        i % 2 ? dot_upper2(words[i], weights.words[w], io_sums[part / 2])
                              : dot_lower2(words[i], weights.words[w], io_sums[part / 2]);
                } else {
                    io_sums[part] = dot4(words[i], weights.words[4 * part + i], io_sums[part]);
                }
            }
        }
    }

    DEVICE void terms(const PackedForm &form, const CodedRecord &weights, const uint8_t *x,
                      Term *out) {
        Words4 head = load_words4(x);
        float scale = bits_to_float(head.x);
        int32_t first = (int32_t)head.y, second = (int32_t)head.z;
        int32_t sums[2] = {-form.code_bias * first, -form.code_bias * second};
        products(weights, x + ACTIVATION_HEAD_BYTES, sums);
        if (form.groups == 2) {
            out[0] = Term{(float)sums[0], weights.scales[0] * scale};
            out[1] = Term{(float)sums[1], weights.scales[1] * scale};
        } else {
            out[0] = Term{(float)(sums[0] + sums[1]), weights.scales[0] * scale};
            out[1] = Term{weights.offset, scale * (float)(first + second)};
        }
    }

    DEVICE uint32_t term_count(const PackedForm &form) {
        return form.groups == 2 || form.offsets ? 2 : 1;
    }
};

struct NumberF32 {
    static const uint32_t per_word = 1;
    DEVICE float of(uint32_t word, uint32_t) { return bits_to_float(word); }
};
struct NumberF16 {
    static const uint32_t per_word = 2;
    DEVICE float of(uint32_t word, uint32_t i) { return half_to_float((uint16_t)(word >> 16 * i)); }
};
struct NumberBf16 {
    static const uint32_t per_word = 2;
    DEVICE float of(uint32_t word, uint32_t i) {
        return bits_to_float(i ? word & 0xffff0000u : word << 16);
    }
};

template <class Number> struct FloatRecord {
    float numbers[PACKED_COLUMNS];

    DEVICE FloatRecord load(const PackedForm &, const uint8_t *record) {
        FloatRecord out;
        enum { PER_PART = 4 * Number::per_word };
        for (uint32_t part = 0; part < PACKED_COLUMNS / PER_PART; part++) {
            Words4 four = load_words4(record + 16 * (part * PACKED_OUTPUTS + warp_lane()));
            const uint32_t words[4] = {four.x, four.y, four.z, four.w};
            for (uint32_t i = 0; i < PER_PART; i++)
                out.numbers[part * PER_PART + i] =
                    Number::of(words[i / Number::per_word], i % Number::per_word);
        }
        return out;
    }

    DEVICE void terms(const PackedForm &, const FloatRecord &weights, const uint8_t *x, Term *out) {
        const float *numbers = reinterpret_cast<const float *>(x);
        float sum = 0.0f;
        for (uint32_t i = 0; i < PACKED_COLUMNS; i += 4) {
            Float4 four = load4(numbers + i);
            sum = fused_multiply_add(weights.numbers[i], four.x, sum);
            sum = fused_multiply_add(weights.numbers[i + 1], four.y, sum);
            sum = fused_multiply_add(weights.numbers[i + 2], four.z, sum);
            sum = fused_multiply_add(weights.numbers[i + 3], four.w, sum);
        }
        out[0] = Term{sum, 1.0f};
        out[1] = Term{0.0f, 0.0f};
    }

    DEVICE uint32_t term_count(const PackedForm &) { return 1; }
};

/* Grid: tiles, rows in steps of 64. */
template <class Record> KERNEL(PRODUCT_THREADS) void product_rows(ProductLaunch launch) {
    enum { ROWS = 8 };
    const PackedForm &form = launch.form;
    uint32_t row_first = (block_index().y * PRODUCT_WARPS + warp_index()) * ROWS;
    if (row_first >= launch.row_count) return;
    uint32_t rows = launch.row_count - row_first, term_count = Record::term_count(form);
    uint32_t x_bytes = launch.activation_bytes;
    const uint8_t *record =
        launch.tiles + (uint64_t)block_index().x * form.record_count * form.record_bytes;
    const uint8_t *x = launch.records + (uint64_t)row_first * form.record_count * x_bytes;
    float sums[ROWS] = {};
    for (uint32_t r = 0; r < form.record_count; r++) {
        Record weights = Record::load(form, record);
        for (uint32_t row = 0; row < ROWS; row++) {
            if (row >= rows) continue;
            Term terms[TERMS_MAX];
            Record::terms(form, weights, x + (uint64_t)row * form.record_count * x_bytes, terms);
            sums[row] = fused_multiply_add(terms[0].a, terms[0].b, sums[row]);
            if (term_count == 2) sums[row] = fused_multiply_add(terms[1].a, terms[1].b, sums[row]);
        }
        record += form.record_bytes;
        x += x_bytes;
    }
    for (uint32_t row = 0; row < ROWS; row++)
        product_store(launch, row_first + row, block_index().x * PACKED_OUTPUTS + warp_lane(),
                      sums[row]);
}

/* Grid: tiles, rows in steps of ROWS. Terms of a round, a record a warp, lie in shared memory: [record][row][term][a, b][output]. */
template <class Record, uint32_t ROWS>
KERNEL(PRODUCT_THREADS)
void product_split(ProductLaunch launch) {
    const PackedForm &form = launch.form;
    uint32_t term_count = Record::term_count(form), lane = warp_lane(), warp = warp_index();
    uint32_t x_bytes = launch.activation_bytes;
    uint64_t x_row_bytes = (uint64_t)form.record_count * x_bytes;
    uint32_t row_first = block_index().y * ROWS, rows = launch.row_count - row_first;
    const uint8_t *tile =
        launch.tiles + block_index().x * (uint64_t)form.record_count * form.record_bytes;
    SharedArray<float> shared =
        shared_array<float>(0, PRODUCT_WARPS * ROWS * TERMS_MAX * 2 * WARP_LANES);
    uint32_t ahead = records_ahead_begin(form, tile, PRODUCT_WARPS);
    float sum = 0.0f;
    for (uint32_t first = 0; first < form.record_count; first += PRODUCT_WARPS) {
        uint32_t r = first + warp;
        records_ahead(form, tile, r + ahead);
        if (r < form.record_count) {
            Record weights = Record::load(form, tile + (uint64_t)r * form.record_bytes);
            const uint8_t *x = launch.records + row_first * x_row_bytes + (uint64_t)r * x_bytes;
            for (uint32_t row = 0; row < ROWS; row++) {
                if (row >= rows) continue;
                Term terms[TERMS_MAX];
                Record::terms(form, weights, x + row * x_row_bytes, terms);
                for (uint32_t t = 0; t < TERMS_MAX; t++) {
                    if (t >= term_count) continue;
                    uint32_t at = ((warp * ROWS + row) * TERMS_MAX + t) * 2 * WARP_LANES + lane;
                    shared[at] = terms[t].a;
                    shared[at + WARP_LANES] = terms[t].b;
                }
            }
        }
        block_sync();
        uint32_t left = form.record_count - first;
        for (uint32_t slot = 0; slot < PRODUCT_WARPS && warp < ROWS; slot++) {
            if (slot >= left || warp >= rows) continue;
            for (uint32_t t = 0; t < term_count; t++) {
                uint32_t at = ((slot * ROWS + warp) * TERMS_MAX + t) * 2 * WARP_LANES + lane;
                sum = fused_multiply_add(shared[at], shared[at + WARP_LANES], sum);
            }
        }
        block_sync();
    }
    if (warp < ROWS)
        product_store(launch, row_first + warp, block_index().x * PACKED_OUTPUTS + lane, sum);
}

/* ---- activations */

/* The largest magnitude; a NaN, whose bits are above infinity's, wins. */
DEVICE float warp_magnitude(float value) {
    uint32_t bits = float_to_bits(value) & 0x7fffffffu;
    for (uint32_t mask = WARP_LANES / 2; mask > 0; mask /= 2) {
        uint32_t other = warp_shuffle_xor(bits, mask);
        bits = other > bits ? other : bits;
    }
    return bits_to_float(bits);
}

/* Sums over the lower and the upper half of the warp, each in all lanes of its half. */
DEVICE int32_t half_warp_sum(int32_t value) {
    for (uint32_t mask = WARP_LANES / 4; mask > 0; mask /= 2)
        value += warp_shuffle_xor(value, mask);
    return value;
}

/* A record of a row, rounded: the lane has the code of a column. */
struct RoundedRecord {
    float scale;
    int32_t code, sums[2]; /* of columns 0-15 and 16-31, in lane 0 */
};

/* A row and record that is not finite has codes 0 and a scale that is not finite either, which spoils every output of the row. */
DEVICE RoundedRecord record_round(float x, float code_max) {
    float most = warp_magnitude(x);
    bool usable = most >= 0x1p-100f && most < INFINITY;
    int32_t code = usable ? (int32_t)rintf(x * (code_max / most)) : 0;
    int32_t sum = half_warp_sum(code), upper_sum = warp_shuffle(sum, WARP_LANES / 2);
    return RoundedRecord{most / code_max, code, {sum, upper_sum}};
}

DEVICE void record_store(ActivationKind kind, float x, uint8_t *record) {
    bool wide = kind == ACTIVATION_INT16;
    RoundedRecord rounded = record_round(x, wide ? 32767.0f : 127.0f);
    if (warp_lane() == 0) {
        *reinterpret_cast<float *>(record) = rounded.scale;
        reinterpret_cast<int32_t *>(record)[1] = rounded.sums[0];
        reinterpret_cast<int32_t *>(record)[2] = rounded.sums[1];
    }
    uint8_t *codes = record + ACTIVATION_HEAD_BYTES;
    if (wide)
        reinterpret_cast<int16_t *>(codes)[warp_lane()] = (int16_t)rounded.code;
    else
        codes[warp_lane()] = (uint8_t)rounded.code;
}

/* tile: the record of eight rows, of which this one is row_in_tile */
DEVICE void tile_store(float x, uint8_t *tile, uint32_t row_in_tile) {
    RoundedRecord rounded = record_round(x, 127.0f);
    uint32_t word = warp_lane() / 4, reader = 4 * row_in_tile + word % 4;
    tile[8 * reader + 4 * (word / 4) + warp_lane() % 4] = (uint8_t)rounded.code;
    if (warp_lane() == 0) {
        float *scales = reinterpret_cast<float *>(tile + ACTIVATION_TILE_SCALES);
        float *sums = reinterpret_cast<float *>(tile + ACTIVATION_TILE_SUMS);
        scales[row_in_tile] = rounded.scale;
        sums[row_in_tile] = rounded.scale * (float)(rounded.sums[0] + rounded.sums[1]);
    }
}

/* x as the sum of numbers of 16 bits, the largest part first. */
DEVICE void parts_store(const uint16_t *parts, uint32_t part_count, uint8_t *record,
                        uint32_t row_in_record) {
    uint32_t column = warp_lane(), t = column / 8, step = column % 8 / 4;
    uint32_t reader = 4 * (row_in_record % 8) + t;
    uint32_t word = column % 4 / 2 * 2 + row_in_record / 8;
    uint32_t at = 2 * (4 * (WARP_LANES * step + reader) + word) + column % 2;
    for (uint32_t part = 0; part < part_count; part++)
        reinterpret_cast<uint16_t *>(record + part * ACTIVATION_PART_BYTES)[at] = parts[part];
}

/* Two of f16. A power of two first brings the record's largest magnitude, or 2^-112 if that is larger, to [2^14, 2^15): short of where
 * rounding up gives infinity, and 32 products with the largest weights stay far below f32's end. The two keep 22 bits of x and all
 * down to 2^-39 of the largest. What is not finite is its upper part alone. */
DEVICE void f16_parts_store(float x, uint8_t *record, uint32_t row_in_record) {
    uint32_t exponent = float_to_bits(warp_magnitude(x)) >> 23;
    if (exponent < 15) exponent = 15;
    float scaled = x * bits_to_float((268 - exponent) << 23);
    uint16_t parts[2] = {float_to_half(scaled), 0};
    if (fabsf(scaled) < INFINITY) parts[1] = float_to_half(scaled - half_to_float(parts[0]));
    parts_store(parts, 2, record, row_in_record);
    if (warp_lane() == 0)
        reinterpret_cast<float *>(
            record + ACTIVATION_F16_SCALES)[2 * (row_in_record % 8) + row_in_record / 8] =
            bits_to_float((exponent - 14) << 23);
}

/* Three of bfloat16, cut off and not rounded: all 24 bits, and no magnitude becomes infinity. Whether parts below 2^-126, which are
 * subnormal, count is the card's to say. */
DEVICE void bf16_parts_store(float x, uint8_t *record, uint32_t row_in_record) {
    const uint32_t kept = 0xffff0000u, quiet = 0x00400000u; /* NaN stays NaN */
    uint32_t upper = float_to_bits(x) | (x != x ? quiet : 0u);
    float left = fabsf(x) < INFINITY ? x - bits_to_float(upper & kept) : 0.0f;
    uint32_t middle = float_to_bits(left);
    uint32_t lower = float_to_bits(left - bits_to_float(middle & kept));
    const uint16_t parts[3] = {(uint16_t)(upper >> 16), (uint16_t)(middle >> 16),
                               (uint16_t)(lower >> 16)};
    parts_store(parts, 3, record, row_in_record);
}

/* A warp a record and row. Grid: records in steps of eight, rows. */
KERNEL(PRODUCT_THREADS) void activation_records(ActivationLaunch launch) {
    uint32_t r = block_index().x * PRODUCT_WARPS + warp_index();
    uint64_t row = block_index().y;
    if (r >= launch.record_count) return;
    uint32_t column = r * PACKED_COLUMNS + warp_lane();
    bool inside = column < launch.column_count && row < launch.row_count;
    float x = inside ? launch.x[row * launch.x_stride + column] : 0.0f;
    uint32_t shared_by = launch.record_rows;
    uint64_t index = row * launch.record_count + r;
    if (shared_by > 1) index = r * (uint64_t)(grid_extent().y / shared_by) + row / shared_by;
    uint8_t *record = launch.records + index * launch.record_bytes;
    uint32_t row_in_record = (uint32_t)row % shared_by;
    switch (launch.kind) {
    case ACTIVATION_F32: reinterpret_cast<float *>(record)[warp_lane()] = x; break;
    case ACTIVATION_INT8_TILES: tile_store(x, record, row_in_record); break;
    case ACTIVATION_F16_PARTS: f16_parts_store(x, record, row_in_record); break;
    case ACTIVATION_BF16_PARTS: bf16_parts_store(x, record, row_in_record); break;
    default: record_store(launch.kind, x, record);
    }
}

/* ---- launchers */

static void activations_launch(DeviceStream *stream, const ActivationLaunch *launch) {
    Extent3 grid = extent((launch->record_count + PRODUCT_WARPS - 1) / PRODUCT_WARPS,
                          activation_rows(launch->kind, launch->row_count));
    LAUNCH(activation_records, grid, extent(PRODUCT_THREADS), 0, stream, *launch);
}

static uint32_t split_shared_bytes(uint32_t rows) {
    return PRODUCT_WARPS * rows * TERMS_MAX * 2 * WARP_LANES * (uint32_t)sizeof(float);
}

static uint32_t divided_up(uint32_t count, uint32_t step) {
    return (count + step - 1) / step;
}

/* Up to SPLIT_ROWS_MAX rows. */
template <class Record>
static void split_launch(DeviceStream *stream, const ProductLaunch *launch) {
    uint32_t tiles = divided_up(launch->output_count, PACKED_OUTPUTS);
    if (launch->row_count == 1)
        LAUNCH((product_split<Record, 1>), extent(tiles), extent(PRODUCT_THREADS),
               split_shared_bytes(1), stream, *launch);
    else
        LAUNCH((product_split<Record, SPLIT_ROWS>),
               extent(tiles, divided_up(launch->row_count, SPLIT_ROWS)), extent(PRODUCT_THREADS),
               split_shared_bytes(SPLIT_ROWS), stream, *launch);
}

template <class Record>
static void record_launch(DeviceStream *stream, const ProductLaunch *launch) {
    if (launch->row_count <= SPLIT_ROWS_MAX)
        split_launch<Record>(stream, launch);
    else
        LAUNCH(product_rows<Record>,
               extent(divided_up(launch->output_count, PACKED_OUTPUTS),
                      divided_up(launch->row_count, 8 * PRODUCT_WARPS)),
               extent(PRODUCT_THREADS), 0, stream, *launch);
}

static void product_launch(DeviceStream *stream, const ProductLaunch *launch) {
    static const struct {
        uint32_t code_bits;
        bool bf16;
        ActivationKind kind;
        void (*launch)(DeviceStream *stream, const ProductLaunch *launch);
    } rows[] = {
        /* more rows of these run on the tensor cores: CudaLaunchers.tensor_rows_least */
        {4, false, ACTIVATION_INT8, split_launch<CodedRecord<4, false>>},
        {5, false, ACTIVATION_INT8, split_launch<CodedRecord<5, false>>},
        {6, false, ACTIVATION_INT8, split_launch<CodedRecord<6, false>>},
        {8, false, ACTIVATION_INT8, split_launch<CodedRecord<8, false>>},
        {4, false, ACTIVATION_INT16, record_launch<CodedRecord<4, true>>},
        {5, false, ACTIVATION_INT16, record_launch<CodedRecord<5, true>>},
        {6, false, ACTIVATION_INT16, record_launch<CodedRecord<6, true>>},
        {8, false, ACTIVATION_INT16, record_launch<CodedRecord<8, true>>},
        {16, false, ACTIVATION_F32, record_launch<FloatRecord<NumberF16>>},
        {16, true, ACTIVATION_F32, record_launch<FloatRecord<NumberBf16>>},
        {32, false, ACTIVATION_F32, record_launch<FloatRecord<NumberF32>>},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].code_bits == launch->form.code_bits && rows[i].bf16 == launch->form.bf16 &&
            rows[i].kind == launch->kind)
            rows[i].launch(stream, launch);
}

extern "C" void PORT_NAME(matmul_fill)(CudaLaunchers *launchers) {
    launchers->activations = activations_launch;
    launchers->product = product_launch;
}
