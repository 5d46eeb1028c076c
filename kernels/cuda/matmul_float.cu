/* Products with matrices of f16 and bfloat16 on the tensor cores, in tf32: the weights are exact in its eleven bits, and x is the sum of
 * two numbers that are, its upper bits and what is left, which keeps 21 of its 24. Each record of 32 columns is summed from zero by
 * the tensor cores, in whatever order these have; records fold in rising order in f32. One arithmetic for every number of rows:
 *
 *   float_split  few rows: the warps of a block share the records, and fold what these gave in order
 *   float_rows   more rows: each warp has 32 of its own and walks every record */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/packed_record.cuh"
#include "kernels/cuda/port.cuh"
#include "kernels/cuda/tensor_product.cuh"

enum {
    FLOAT_SPLIT_WARPS = 8,
    FLOAT_SPLIT_ROWS = 8,
    FLOAT_SPLIT_ROWS_MAX = 2 * FLOAT_SPLIT_ROWS,
    FLOAT_WARPS = 4,
    FLOAT_PARTS = 2, /* of 16 outputs, and of 8 rows that a warp of float_rows has */
    FLOAT_ROWS = 4,
    FLOAT_WARP_ROWS = 8 * FLOAT_ROWS,
    FLOAT_STEPS = PACKED_COLUMNS / 8,
    FLOAT_SPLIT_THREADS = FLOAT_SPLIT_WARPS * WARP_LANES,
    FLOAT_ROWS_THREADS = FLOAT_WARPS * WARP_LANES,
    PART_BYTES = 16 * PACKED_OUTPUTS, /* 8 columns of all outputs */
};

/* The lower or the upper of two 16-bit numbers. */
template <bool BF16> DEVICE uint32_t float_bits(uint32_t word, uint32_t upper) {
    if (BF16) return upper ? word & 0xffff0000u : word << 16;
    return float_to_bits(half_to_float((uint16_t)(upper ? word >> 16 : word)));
}

/* Weights of 16 outputs and a record as a lane holds them: columns 2t and 2t + 1 of each 8 stand at k = t and t + 4. */
struct FloatWeights {
    uint32_t words[FLOAT_STEPS][4];
};

template <bool BF16> DEVICE FloatWeights float_weights_load(const uint8_t *record, uint32_t part) {
    FloatWeights out;
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4;
    for (uint32_t step = 0; step < FLOAT_STEPS; step++) {
        const uint32_t *words = reinterpret_cast<const uint32_t *>(record + step * PART_BYTES);
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t word = words[4 * (16 * part + 8 * half + g) + t];
            out.words[step][half] = float_bits<BF16>(word, 0);
            out.words[step][2 + half] = float_bits<BF16>(word, 1);
        }
    }
    return out;
}

/* What a record adds to 16 outputs of the 8 rows whose record of row g is x. */
DEVICE void float_record(const FloatWeights &weights, const float *x, float *out_sums) {
    for (uint32_t i = 0; i < 4; i++)
        out_sums[i] = 0.0f;
    for (uint32_t step = 0; step < FLOAT_STEPS; step++) {
        uint32_t upper[2], rest[2];
        for (uint32_t i = 0; i < 2; i++) {
            float number = x[8 * step + 2 * (warp_lane() % 4) + i];
            upper[i] = float_to_bits(number) & 0xffffe000u;
            float left = number - bits_to_float(upper[i]); /* exact */
            rest[i] = float_to_bits(left) & 0xffffe000u;
        }
        tensor_product_tf32(out_sums, weights.words[step], rest);
        tensor_product_tf32(out_sums, weights.words[step], upper);
    }
}

/* The record of row `row`, or of the last one there is. */
DEVICE const float *float_x(const ProductLaunch &launch, uint32_t row, uint32_t record) {
    uint64_t last = launch.row_count - 1, at = row < last ? row : last;
    return reinterpret_cast<const float *>(
        launch.records + (at * launch.form.record_count + record) * launch.activation_bytes);
}

/* Sum i of lane `lane` of a part and 8 rows. */
DEVICE void float_store(const ProductLaunch &launch, uint32_t lane, uint32_t i, uint32_t part,
                        uint32_t row_first, float sum) {
    uint32_t row = row_first + lane % 4 * 2 + i % 2;
    uint32_t output = block_index().x * PACKED_OUTPUTS + 16 * part + 8 * (i / 2) + lane / 4;
    product_store(launch, row, output, sum);
}

/* Grid: tiles, rows in steps of 8. Shared: [record of the round][part, sum i][lane]; warp (part, i) folds these. */
template <bool BF16> KERNEL(FLOAT_SPLIT_THREADS) void float_split(ProductLaunch launch) {
    const PackedForm &form = launch.form;
    uint32_t row_first = block_index().y * FLOAT_SPLIT_ROWS;
    const uint8_t *tile =
        launch.tiles + block_index().x * (uint64_t)form.record_count * form.record_bytes;
    SharedArray<float> shared =
        shared_array<float>(0, FLOAT_SPLIT_WARPS * FLOAT_PARTS * 4 * WARP_LANES);
    float sum = 0.0f;
    for (uint32_t first = 0; first < form.record_count; first += FLOAT_SPLIT_WARPS) {
        uint32_t r = first + warp_index();
        for (uint32_t part = 0; part < FLOAT_PARTS && r < form.record_count; part++) {
            float sums[4];
            FloatWeights weights =
                float_weights_load<BF16>(tile + (uint64_t)r * form.record_bytes, part);
            float_record(weights, float_x(launch, row_first + warp_lane() / 4, r), sums);
            for (uint32_t i = 0; i < 4; i++)
                shared[((warp_index() * FLOAT_PARTS + part) * 4 + i) * WARP_LANES + warp_lane()] =
                    sums[i];
        }
        block_sync();
        uint32_t left = form.record_count - first;
        for (uint32_t slot = 0; slot < FLOAT_SPLIT_WARPS; slot++)
            if (slot < left)
                sum += (float)
                    shared[(slot * FLOAT_PARTS * 4 + warp_index()) * WARP_LANES + warp_lane()];
        block_sync();
    }
    float_store(launch, warp_lane(), warp_index() % 4, warp_index() / 4, row_first, sum);
}

/* Grid: tiles, rows in steps of 128. */
template <bool BF16> KERNEL(FLOAT_ROWS_THREADS) void float_rows(ProductLaunch launch) {
    const PackedForm &form = launch.form;
    uint32_t row_first = (block_index().y * FLOAT_WARPS + warp_index()) * FLOAT_WARP_ROWS;
    if (row_first >= launch.row_count) return;
    const uint8_t *record =
        launch.tiles + block_index().x * (uint64_t)form.record_count * form.record_bytes;
    float totals[FLOAT_PARTS][FLOAT_ROWS][4] = {};
    for (uint32_t r = 0; r < form.record_count; r++, record += form.record_bytes)
#pragma unroll /* totals stay in registers */
        for (uint32_t part = 0; part < FLOAT_PARTS; part++) {
            FloatWeights weights = float_weights_load<BF16>(record, part);
#pragma unroll
            for (uint32_t rows = 0; rows < FLOAT_ROWS; rows++) {
                float sums[4];
                float_record(weights, float_x(launch, row_first + 8 * rows + warp_lane() / 4, r),
                             sums);
                for (uint32_t i = 0; i < 4; i++)
                    totals[part][rows][i] += sums[i];
            }
        }
#pragma unroll
    for (uint32_t part = 0; part < FLOAT_PARTS; part++)
#pragma unroll
        for (uint32_t rows = 0; rows < FLOAT_ROWS; rows++)
            for (uint32_t i = 0; i < 4; i++)
                float_store(launch, warp_lane(), i, part, row_first + 8 * rows,
                            totals[part][rows][i]);
}

template <bool BF16> static void bits_launch(DeviceStream *stream, const ProductLaunch *launch) {
    uint32_t tiles = (launch->output_count + PACKED_OUTPUTS - 1) / PACKED_OUTPUTS;
    bool few = launch->row_count <= FLOAT_SPLIT_ROWS_MAX;
    uint32_t step = few ? FLOAT_SPLIT_ROWS : FLOAT_WARPS * FLOAT_WARP_ROWS;
    Extent3 grid = extent(tiles, (launch->row_count + step - 1) / step);
    uint32_t shared_floats = FLOAT_SPLIT_WARPS * FLOAT_PARTS * 4 * WARP_LANES;
    if (few)
        LAUNCH(float_split<BF16>, grid, extent(FLOAT_SPLIT_THREADS), shared_floats * sizeof(float),
               stream, *launch);
    else
        LAUNCH(float_rows<BF16>, grid, extent(FLOAT_ROWS_THREADS), 0, stream, *launch);
}

static void product_float_launch(DeviceStream *stream, const ProductLaunch *launch) {
    (launch->form.bf16 ? bits_launch<true> : bits_launch<false>)(stream, launch);
}

/* Where tf32 is more than twice as fast as fused multiply-adds: compute capability 8.0, 9.0 and 10, not 8.6, 8.9 or 12. */
static bool tensor_floats(void) {
#ifdef __CUDACC__
    int device = 0, major = 0, minor = 0;
    bool known =
        cudaGetDevice(&device) == cudaSuccess &&
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess;
    return known && ((major == 8 && minor == 0) || major == 9 || major == 10);
#else
    return true;
#endif
}

extern "C" void PORT_NAME(matmul_float_fill)(CudaLaunchers *launchers) {
    launchers->product_float = product_float_launch;
    launchers->tensor_floats = tensor_floats;
}
