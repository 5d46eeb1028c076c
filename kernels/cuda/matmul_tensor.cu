/* Products of an encoded matrix with many rows of x, on the tensor cores: integer sums of 32 columns are exact, so these are the
 * bits of matmul.cu, whose terms fold here in the same order. A warp has 32 outputs and 32 rows; each lane folds four outputs of each
 * of its small products. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/packed_record.cuh"
#include "kernels/cuda/port.cuh"
#include "kernels/cuda/tensor_product.cuh"

enum {
    TENSOR_WARPS = 4,
    TENSOR_THREADS = TENSOR_WARPS * WARP_LANES,
    TENSOR_OUTPUTS = 2, /* parts of 16 outputs and of 8 rows that a warp has */
    TENSOR_ROWS = 4,
    TENSOR_WARP_ROWS = 8 * TENSOR_ROWS,
    TENSOR_BLOCK_ROWS = TENSOR_WARPS * TENSOR_WARP_ROWS,
};

/* What a lane holds of a record: see tensor_product.cuh; two outputs, eight apart, of each part. */
struct TensorWeights {
    uint32_t words[TENSOR_OUTPUTS][4];
    float scales[TENSOR_OUTPUTS][2][2], offsets[TENSOR_OUTPUTS][2]; /* [part][output][group] */
};

template <uint32_t BITS>
DEVICE void tensor_weights_load(const PackedForm &form, const uint8_t *record, TensorWeights &out) {
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4;
    for (uint32_t part = 0; part < TENSOR_OUTPUTS; part++)
        for (uint32_t half = 0; half < 2; half++) {
            uint32_t output = 16 * part + 8 * half + g;
            const uint8_t *scales = record + form.scales_at;
            out.words[part][half] = code_word<BITS>(record, output, t);
            out.words[part][2 + half] = code_word<BITS>(record, output, 4 + t);
            out.scales[part][half][0] = scale_load(form, scales, 0, output);
            out.scales[part][half][1] =
                form.groups == 2 ? scale_load(form, scales, 1, output) : 0.0f;
            out.offsets[part][half] =
                form.offsets ? scale_load(form, record + form.offsets_at, 0, output) : 0.0f;
        }
}

/* Scale and sums of codes of the two rows whose outputs a lane has. */
struct TensorHeads {
    float scales[2];
    int32_t firsts[2], seconds[2];
};

/* Adds a record's terms to the four outputs of a part, in the order of CodedRecord::terms in matmul.cu. */
DEVICE void tensor_fold(const PackedForm &form, const TensorWeights &weights, uint32_t part,
                        const uint32_t *x, const TensorHeads &heads, float *io_sums) {
    int32_t first[4], second[4];
    for (uint32_t i = 0; i < 4; i++) {
        first[i] = -form.code_bias * heads.firsts[i % 2];
        second[i] = -form.code_bias * heads.seconds[i % 2];
    }
    if (form.groups == 2) {
        tensor_product_16(first, weights.words[part][0], weights.words[part][1], x[0]);
        tensor_product_16(second, weights.words[part][2], weights.words[part][3], x[1]);
    } else {
        for (uint32_t i = 0; i < 4; i++)
            first[i] += second[i];
        tensor_product_32(first, weights.words[part], x);
    }
    for (uint32_t i = 0; i < 4; i++) {
        float scale = heads.scales[i % 2];
        const float *scales = weights.scales[part][i / 2];
        io_sums[i] = fused_multiply_add((float)first[i], scales[0] * scale, io_sums[i]);
        if (form.groups == 2)
            io_sums[i] = fused_multiply_add((float)second[i], scales[1] * scale, io_sums[i]);
        else if (form.offsets)
            io_sums[i] = fused_multiply_add(
                weights.offsets[part][i / 2],
                scale * (float)(heads.firsts[i % 2] + heads.seconds[i % 2]), io_sums[i]);
    }
}

/* Grid: tiles, rows in steps of 128. Rows beyond the last are read as the last and not stored. */
template <uint32_t BITS> KERNEL(TENSOR_THREADS) void product_tensor(ProductLaunch launch) {
    const PackedForm &form = launch.form;
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4, last = launch.row_count - 1;
    uint32_t row_first = (block_index().y * TENSOR_WARPS + warp_index()) * TENSOR_WARP_ROWS;
    if (row_first > last) return;
    uint64_t x_row_bytes = (uint64_t)form.record_count * launch.activation_bytes;
    const uint8_t *record =
        launch.tiles + (uint64_t)block_index().x * form.record_count * form.record_bytes;
    const uint8_t *x = launch.records;
    float sums[TENSOR_OUTPUTS][TENSOR_ROWS][4] = {};
    for (uint32_t r = 0; r < form.record_count; r++) {
        TensorWeights weights;
        tensor_weights_load<BITS>(form, record, weights);
        for (uint32_t rows = 0; rows < TENSOR_ROWS; rows++) {
            uint32_t row = row_first + 8 * rows + g;
            const uint32_t *codes = reinterpret_cast<const uint32_t *>(
                x + (row < last ? row : last) * x_row_bytes + ACTIVATION_HEAD_BYTES);
            const uint32_t words[2] = {codes[t], codes[4 + t]};
            TensorHeads heads;
            for (uint32_t i = 0; i < 2; i++) {
                row = row_first + 8 * rows + 2 * t + i;
                Words4 head = load_words4(x + (row < last ? row : last) * x_row_bytes);
                heads.scales[i] = bits_to_float(head.x);
                heads.firsts[i] = (int32_t)head.y;
                heads.seconds[i] = (int32_t)head.z;
            }
            for (uint32_t part = 0; part < TENSOR_OUTPUTS; part++)
                tensor_fold(form, weights, part, words, heads, sums[part][rows]);
        }
        record += form.record_bytes;
        x += launch.activation_bytes;
    }
    for (uint32_t part = 0; part < TENSOR_OUTPUTS; part++)
        for (uint32_t rows = 0; rows < TENSOR_ROWS; rows++)
            for (uint32_t i = 0; i < 4; i++)
                product_store(launch, row_first + 8 * rows + 2 * t + i % 2,
                              block_index().x * PACKED_OUTPUTS + 16 * part + 8 * (i / 2) + g,
                              sums[part][rows][i]);
}

template <uint32_t BITS>
static void tensor_launch(DeviceStream *stream, const ProductLaunch *launch) {
    Extent3 grid = extent((launch->output_count + PACKED_OUTPUTS - 1) / PACKED_OUTPUTS,
                          (launch->row_count + TENSOR_BLOCK_ROWS - 1) / TENSOR_BLOCK_ROWS);
    LAUNCH(product_tensor<BITS>, grid, extent(TENSOR_THREADS), 0, stream, *launch);
}

static void product_tensor_launch(DeviceStream *stream, const ProductLaunch *launch) {
    switch (launch->form.code_bits) {
    case 4: tensor_launch<4>(stream, launch); break;
    case 5: tensor_launch<5>(stream, launch); break;
    case 6: tensor_launch<6>(stream, launch); break;
    case 8: tensor_launch<8>(stream, launch); break;
    }
}

extern "C" void PORT_NAME(matmul_tensor_fill)(CudaLaunchers *launchers) {
    launchers->product_tensor = product_tensor_launch;
#ifdef __CUDACC__
    launchers->tensor_rows_least = 33;
#else
    launchers->tensor_rows_least = 9; /* tests meet it in small cases */
#endif
}
