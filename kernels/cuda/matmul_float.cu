/* Products with matrices of f16 and bfloat16 on the tensor cores, which hold the weights as they are: x is the sum of two numbers of
 * f16 or three of bfloat16 (ActivationKind), which keeps 22 or all 24 of its bits, and each part takes a product of its own. A record
 * of 32 columns is summed from zero by a fixed sequence of tensor products, the smallest part first; these sums, of f16 times what
 * 1 stands for in the row's record, fold in rising order in f32. One arithmetic for every number of rows:
 *
 *   float_split  up to 16 rows: the warps of a block share the records, and fold what these gave in order
 *   float_rows   more rows: a warp has 32 of its own, 32 outputs, and walks every record
 *
 * Rows of x are those of a tensor product, outputs its columns: so sixteen bytes of a packed record, eight columns of an output, are
 * what a lane takes. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/packed_record.cuh"
#include "kernels/cuda/port.cuh"
#include "kernels/cuda/tensor_product.cuh"

enum {
    FLOAT_WARPS = 8,
    FLOAT_THREADS = FLOAT_WARPS * WARP_LANES,
    FLOAT_STEPS = PACKED_COLUMNS / 16,
    FLOAT_OCTETS = PACKED_OUTPUTS / 8, /* of outputs: the columns of a tensor product */
    FLOAT_PARTS_MAX = 3,
    WEIGHTS_BYTES = 2 * PACKED_OUTPUTS * PACKED_COLUMNS, /* of a record */
    /* a block of float_rows, and what its warps have of it */
    ROWS_TILES = 4,
    ROWS_RECORDS = 2, /* of x: 16 rows each */
    ROWS_WARP_ROWS = ROWS_RECORDS * ACTIVATION_PARTS_ROWS,
    ROWS_BLOCK_RECORDS = FLOAT_WARPS / ROWS_TILES * ROWS_RECORDS,
    ROWS_BLOCK_ROWS = ROWS_BLOCK_RECORDS * ACTIVATION_PARTS_ROWS,
    ROWS_STAGES = 4, /* records in shared memory: one is used, the others are on their way */
};

/* A format of weights, and how x meets it. */
struct WeightsF16 {
    enum { PARTS = 2, SCALED = true, X_BYTES = ACTIVATION_F16_BYTES };
    DEVICE void product(float *c, const uint32_t *a, const uint32_t *b) {
        tensor_product_f16(c, a, b);
    }
};
struct WeightsBf16 {
    enum { PARTS = 3, SCALED = false, X_BYTES = ACTIVATION_BF16_BYTES };
    DEVICE void product(float *c, const uint32_t *a, const uint32_t *b) {
        tensor_product_bf16(c, a, b);
    }
};

/* What a lane holds of a record of 32 outputs: eight columns of output g of each octet, two words a step. */
struct FloatWeights {
    uint32_t words[FLOAT_OCTETS][2 * FLOAT_STEPS];
};

/* Of sixteen rows of x. */
struct FloatX {
    uint32_t words[FLOAT_PARTS_MAX][FLOAT_STEPS][4];
};

/* What a record adds to 16 rows and 32 outputs. */
template <class Weights>
DEVICE void float_record(const FloatWeights &weights, const FloatX &x,
                         float (*out_sums)[4] /* [octet] */) {
    for (uint32_t octet = 0; octet < FLOAT_OCTETS; octet++)
        for (uint32_t i = 0; i < 4; i++)
            out_sums[octet][i] = 0.0f;
#pragma unroll
    for (uint32_t part = Weights::PARTS; part-- > 0;)
#pragma unroll
        for (uint32_t step = 0; step < FLOAT_STEPS; step++)
            for (uint32_t octet = 0; octet < FLOAT_OCTETS; octet++)
                Weights::product(out_sums[octet], x.words[part][step],
                                 weights.words[octet] + 2 * step);
}

/* total + a record's sum */
template <class Weights> DEVICE float float_fold(float sum, float scale, float total) {
    return Weights::SCALED ? fused_multiply_add(sum, scale, total) : total + sum;
}

/* ---- few rows */

/* Rows that are not there are zeros. */
template <class Weights>
DEVICE void split_load(const ProductLaunch &launch, const uint8_t *record, const uint8_t *x_record,
                       FloatWeights &out_weights, FloatX &out_x) {
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4;
    for (uint32_t octet = 0; octet < FLOAT_OCTETS; octet++)
        words_put(load_words4(record + 16 * (t * PACKED_OUTPUTS + 8 * octet + g)),
                  out_weights.words[octet]);
    for (uint32_t part = 0; part < Weights::PARTS; part++)
        for (uint32_t step = 0; step < FLOAT_STEPS; step++) {
            Words4 four = {0, 0, 0, 0};
            if (g < launch.row_count)
                four = load_words4(x_record + part * ACTIVATION_PART_BYTES +
                                   16 * (WARP_LANES * step + warp_lane()));
            words_put(four, out_x.words[part][step]);
        }
}

/* Grid: tiles. Shared: sums [record of the round][octet, i][lane], and scales [record of the round][row]. Warp w folds sums 2w and
 * 2w + 1: two outputs of eight rows. */
template <class Weights> KERNEL(FLOAT_THREADS) void float_split(ProductLaunch launch) {
    enum { SUMS = 4 * FLOAT_OCTETS, WARP_SUMS = SUMS / FLOAT_WARPS };
    const PackedForm &form = launch.form;
    uint32_t lane = warp_lane(), warp = warp_index();
    uint32_t row_half = warp * WARP_SUMS % 4 / 2;
    const uint8_t *tile =
        launch.tiles + block_index().x * (uint64_t)form.record_count * form.record_bytes;
    SharedArray<float> shared = shared_array<float>(0, FLOAT_WARPS * SUMS * WARP_LANES);
    SharedArray<float> scales = shared_array<float>(FLOAT_WARPS * SUMS * WARP_LANES * sizeof(float),
                                                    FLOAT_WARPS * ACTIVATION_PARTS_ROWS);
    uint32_t ahead = records_ahead_begin(form, tile, FLOAT_WARPS);
    float totals[WARP_SUMS] = {};
    for (uint32_t first = 0; first < form.record_count; first += FLOAT_WARPS) {
        uint32_t r = first + warp;
        records_ahead(form, tile, r + ahead);
        if (r < form.record_count) {
            const uint8_t *x_record = launch.records + (uint64_t)r * Weights::X_BYTES;
            FloatWeights weights;
            FloatX x;
            float sums[FLOAT_OCTETS][4];
            split_load<Weights>(launch, tile + (uint64_t)r * form.record_bytes, x_record, weights,
                                x);
            if (Weights::SCALED && lane < ACTIVATION_PARTS_ROWS)
                scales[warp * ACTIVATION_PARTS_ROWS + lane] =
                    reinterpret_cast<const float *>(x_record + ACTIVATION_F16_SCALES)[lane];
            float_record<Weights>(weights, x, sums);
            for (uint32_t i = 0; i < SUMS; i++)
                shared[(warp * SUMS + i) * WARP_LANES + lane] = sums[i / 4][i % 4];
        }
        block_sync();
        uint32_t left = form.record_count - first;
        for (uint32_t slot = 0; slot < FLOAT_WARPS; slot++) {
            if (slot >= left) continue;
            float scale = 1.0f;
            if (Weights::SCALED)
                scale = scales[slot * ACTIVATION_PARTS_ROWS + 2 * (lane / 4) + row_half];
            for (uint32_t i = 0; i < WARP_SUMS; i++) {
                float sum = shared[(slot * SUMS + WARP_SUMS * warp + i) * WARP_LANES + lane];
                totals[i] = float_fold<Weights>(sum, scale, totals[i]);
            }
        }
        block_sync();
    }
    uint32_t output = block_index().x * PACKED_OUTPUTS + WARP_SUMS * warp / 4 * 8 + 2 * (lane % 4);
    for (uint32_t i = 0; i < WARP_SUMS; i++)
        product_store(launch, 8 * row_half + lane / 4, output + i, totals[i]);
}

/* ---- more rows */

/* What a thread copies to shared memory next: its bytes of a record of the block's rows, [ROWS_BLOCK_RECORDS], then of the weights,
 * [ROWS_TILES]. */
struct RowsCopy {
    uint32_t left; /* records after it */
    const uint8_t *x, *weights;
    uint32_t x_bytes, x_step; /* of the block's rows that there are; to the next record */
    uint32_t to[2];           /* bytes: where its weights go in a stage */
};

template <class Weights> HOST_DEVICE uint32_t rows_stage_bytes() {
    return ROWS_BLOCK_RECORDS * Weights::X_BYTES + ROWS_TILES * WEIGHTS_BYTES;
}

/* Where sixteen bytes of a record's weights lie in shared memory, columns 8t … of output `octet_output` of octet 0; those of the next
 * octet follow at 128. What a quarter of a warp reads at a time is in banks of its own. */
DEVICE uint32_t rows_weights_at(uint32_t octet_output, uint32_t t) {
    return 16 * (t * PACKED_OUTPUTS + (octet_output ^ 2 * t));
}

template <class Weights> DEVICE RowsCopy rows_copy_begin(const ProductLaunch &launch) {
    const PackedForm &form = launch.form;
    uint32_t warp = warp_index(), tile = block_index().y * ROWS_TILES + warp / 2;
    uint32_t tile_last = (launch.output_count - 1) / PACKED_OUTPUTS;
    if (tile > tile_last) tile = tile_last; /* whose outputs nobody stores a second time */
    uint32_t x_first = block_index().x * ROWS_BLOCK_RECORDS;
    uint32_t x_count = (launch.row_count + ROWS_WARP_ROWS - 1) / ROWS_WARP_ROWS * ROWS_RECORDS;
    uint32_t x_here = x_count - x_first;
    if (x_here > ROWS_BLOCK_RECORDS) x_here = ROWS_BLOCK_RECORDS;
    RowsCopy copy;
    copy.left = form.record_count - 1;
    copy.x = launch.records + (uint64_t)x_first * Weights::X_BYTES + 16 * flat_thread_index();
    copy.x_bytes = x_here * Weights::X_BYTES;
    copy.x_step = x_count * Weights::X_BYTES;
    copy.weights = launch.tiles + (uint64_t)tile * form.record_count * WEIGHTS_BYTES +
                   WEIGHTS_BYTES / 2 * (warp % 2) + 16 * warp_lane();
    for (uint32_t i = 0; i < 2; i++)
        copy.to[i] = ROWS_BLOCK_RECORDS * Weights::X_BYTES + warp / 2 * WEIGHTS_BYTES +
                     rows_weights_at(warp_lane() % 8, warp % 2 * 2 + i) + 128 * (warp_lane() / 8);
    return copy;
}

/* Sends the next record on its way; after the last one this again, to where nobody reads: a branch would cost more. */
template <class Weights> DEVICE void rows_copy(RowsCopy &io_copy, SharedArray<uint32_t> stage) {
    enum {
        X_BYTES = ROWS_BLOCK_RECORDS * Weights::X_BYTES,
        ROUND_BYTES = 16 * FLOAT_THREADS,
        PART_BYTES = 16 * PACKED_OUTPUTS, /* eight columns of a tile */
    };
    for (uint32_t round = 0; round < X_BYTES; round += ROUND_BYTES) {
        uint32_t at = round + 16 * flat_thread_index();
        if (at < io_copy.x_bytes) copy_async16(stage, at / 4, io_copy.x + round);
    }
    for (uint32_t i = 0; i < 2; i++)
        copy_async16(stage, io_copy.to[i] / 4, io_copy.weights + i * PART_BYTES);
    copy_async_commit();
    if (io_copy.left == 0) return;
    io_copy.left--;
    io_copy.x += io_copy.x_step;
    io_copy.weights += WEIGHTS_BYTES;
}

/* Of a record in shared memory: weights of a tile, and sixteen rows of x. */
DEVICE void rows_weights_load(SharedArray<uint32_t> tile, FloatWeights &out) {
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4;
    for (uint32_t octet = 0; octet < FLOAT_OCTETS; octet++)
        words_put(load_words4_shared(tile, rows_weights_at(g, t) / 4 + 32 * octet),
                  out.words[octet]);
}

template <class Weights> DEVICE void rows_x_load(SharedArray<uint32_t> record, FloatX &out) {
    for (uint32_t part = 0; part < Weights::PARTS; part++)
        for (uint32_t step = 0; step < FLOAT_STEPS; step++)
            words_put(load_words4_shared(record, part * (ACTIVATION_PART_BYTES / 4) +
                                                     4 * (WARP_LANES * step + warp_lane())),
                      out.words[part][step]);
}

/* Adds a record's terms to what a warp has. */
template <class Weights>
DEVICE void rows_record(SharedArray<uint32_t> x_records, SharedArray<uint32_t> tile,
                        float (*io_totals)[FLOAT_OCTETS][4] /* [16 rows] */) {
    FloatWeights weights;
    rows_weights_load(tile, weights);
#pragma unroll /* totals stay in registers */
    for (uint32_t i = 0; i < ROWS_RECORDS; i++) {
        SharedArray<uint32_t> x_record = x_records + i * (Weights::X_BYTES / 4);
        FloatX x;
        rows_x_load<Weights>(x_record, x);
        float sums[FLOAT_OCTETS][4];
        float_record<Weights>(weights, x, sums);
        Words2 scales = {0, 0};
        if (Weights::SCALED)
            scales =
                load_words2_shared(x_record, ACTIVATION_F16_SCALES / 4 + 2 * (warp_lane() / 4));
#pragma unroll
        for (uint32_t octet = 0; octet < FLOAT_OCTETS; octet++)
            for (uint32_t n = 0; n < 4; n++) {
                float scale = bits_to_float(n < 2 ? scales.x : scales.y);
                io_totals[i][octet][n] =
                    float_fold<Weights>(sums[octet][n], scale, io_totals[i][octet][n]);
            }
    }
}

/* Grid: rows in steps of 64, four tiles: blocks that read the same weights run at about the same time. Both sides of the product come
 * through shared memory, three records ahead. */
template <class Weights> KERNEL(FLOAT_THREADS) void float_rows(ProductLaunch launch) {
    const uint32_t stage_words = rows_stage_bytes<Weights>() / 4;
    uint32_t tile = warp_index() % ROWS_TILES, group = warp_index() / ROWS_TILES;
    uint32_t row_first = block_index().x * ROWS_BLOCK_ROWS + group * ROWS_WARP_ROWS;
    uint32_t output_first = (block_index().y * ROWS_TILES + tile) * PACKED_OUTPUTS;
    uint32_t x_at = group * ROWS_RECORDS * (Weights::X_BYTES / 4);
    uint32_t weights_at = ROWS_BLOCK_RECORDS * (Weights::X_BYTES / 4) + tile * (WEIGHTS_BYTES / 4);
    /* the others only copy */
    bool works = row_first < launch.row_count && output_first < launch.output_count;
    SharedArray<uint32_t> ring = shared_array<uint32_t>(0, ROWS_STAGES * stage_words);
    RowsCopy copy = rows_copy_begin<Weights>(launch);
    for (uint32_t stage = 0; stage + 1 < ROWS_STAGES; stage++)
        rows_copy<Weights>(copy, ring + stage * stage_words);
    float totals[ROWS_RECORDS][FLOAT_OCTETS][4] = {};
    for (uint32_t first = 0; first < launch.form.record_count; first += ROWS_STAGES)
#pragma unroll /* places in the ring are constants */
        for (uint32_t stage = 0; stage < ROWS_STAGES; stage++) {
            if (first + stage >= launch.form.record_count) break;
            copy_async_wait<ROWS_STAGES - 2>();
            block_sync(); /* this record has come for all, and all are done with the one before */
            uint32_t next = (stage + ROWS_STAGES - 1) % ROWS_STAGES;
            rows_copy<Weights>(copy, ring + next * stage_words);
            if (works)
                rows_record<Weights>(ring + stage * stage_words + x_at,
                                     ring + stage * stage_words + weights_at, totals);
        }
    copy_async_wait<0>(); /* for those that nobody reads */
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4;
#pragma unroll
    for (uint32_t i = 0; i < ROWS_RECORDS; i++)
#pragma unroll
        for (uint32_t octet = 0; octet < FLOAT_OCTETS; octet++)
            for (uint32_t n = 0; n < 4 && works; n++)
                product_store(launch, row_first + 16 * i + 8 * (n / 2) + g,
                              output_first + 8 * octet + 2 * t + n % 2, totals[i][octet][n]);
}

template <class Weights>
static void weights_launch(DeviceStream *stream, const ProductLaunch *launch) {
    uint32_t tiles = (launch->output_count + PACKED_OUTPUTS - 1) / PACKED_OUTPUTS;
    uint32_t split_floats = FLOAT_WARPS * (4 * FLOAT_OCTETS * WARP_LANES + ACTIVATION_PARTS_ROWS);
    if (launch->row_count <= ACTIVATION_PARTS_ROWS)
        LAUNCH(float_split<Weights>, extent(tiles), extent(FLOAT_THREADS),
               split_floats * sizeof(float), stream, *launch);
    else
        LAUNCH(float_rows<Weights>,
               extent((launch->row_count + ROWS_BLOCK_ROWS - 1) / ROWS_BLOCK_ROWS,
                      (tiles + ROWS_TILES - 1) / ROWS_TILES),
               extent(FLOAT_THREADS), ROWS_STAGES * rows_stage_bytes<Weights>(), stream, *launch);
}

static void product_float_launch(DeviceStream *stream, const ProductLaunch *launch) {
    (launch->form.bf16 ? weights_launch<WeightsBf16> : weights_launch<WeightsF16>)(stream, launch);
}

/* From compute capability 8.0 on, that of the code that runs here, be it made from older code when it is loaded: below it these kernels
 * are traps. Even 8.6 and 8.9, whose tensor cores do no more than twice the operations of fused multiply-adds, gain: of the instructions of
 * matmul.cu's chains half are not multiply-adds, and two or three products need a thirteenth of them. */
static bool tensor_floats(void) {
#ifdef __CUDACC__
    cudaFuncAttributes code;
    return cudaFuncGetAttributes(&code, float_rows<WeightsF16>) == cudaSuccess &&
           code.ptxVersion >= 80;
#else
    return true;
#endif
}

extern "C" void PORT_NAME(matmul_float_fill)(CudaLaunchers *launchers) {
    launchers->product_float = product_float_launch;
    launchers->tensor_floats = tensor_floats();
}
