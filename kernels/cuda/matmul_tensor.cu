/* Products of an encoded matrix with many rows of x, on the tensor cores: integer sums of 32 columns are exact, so these are the
 * bits of matmul.cu, whose terms fold here in the same order. A warp has 16 outputs and 32 rows; each lane folds four outputs of each
 * of its small products. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/packed_record.cuh"
#include "kernels/cuda/port.cuh"
#include "kernels/cuda/tensor_product.cuh"

enum {
    TENSOR_WARPS = 8, /* of a block: four steps of rows times two parts of the outputs */
    TENSOR_THREADS = TENSOR_WARPS * WARP_LANES,
    TENSOR_OUTPUTS = 16, /* of a warp */
    TENSOR_PARTS = PACKED_OUTPUTS / TENSOR_OUTPUTS,
    TENSOR_ROWS = 4, /* steps of eight rows that a warp has */
    TENSOR_WARP_ROWS = 8 * TENSOR_ROWS,
    TENSOR_BLOCK_ROWS = TENSOR_WARPS / TENSOR_PARTS * TENSOR_WARP_ROWS,
    TENSOR_STAGES =
        4, /* of records of weights in shared memory: one is used, the others are on their way */
    TENSOR_STAGE_RECORDS = 4,
};

/* What a lane holds of a record: see tensor_product.cuh; two outputs, eight apart. */
struct TensorWeights {
    uint32_t words[4];
    float scales[2][2], offsets[2]; /* [output][group] */
};

/* Codes of a row, and scale and sums of codes of the two rows whose outputs a lane has. */
struct TensorRow {
    uint32_t words[2];
    float scales[2];
    int32_t firsts[2], seconds[2];
};

/* Where a lane reads its rows, and those of its outputs. */
struct TensorPlace {
    const uint8_t *codes[TENSOR_ROWS], *heads[TENSOR_ROWS][2];
};

template <uint32_t BITS>
DEVICE void tensor_weights_load(const PackedForm &form, SharedArray<uint32_t> record, uint32_t part,
                                TensorWeights &out) {
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4;
    uint32_t scales_at = form.scales_at / 4, offsets_at = form.offsets_at / 4;
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t output = TENSOR_OUTPUTS * part + 8 * half + g;
        out.words[half] = shared_code_word<BITS>(record, output, t);
        out.words[2 + half] = shared_code_word<BITS>(record, output, 4 + t);
        out.scales[half][0] = shared_scale(form, record, scales_at, output);
        out.scales[half][1] = form.groups == 2
                                  ? shared_scale(form, record, scales_at, PACKED_OUTPUTS + output)
                                  : 0.0f;
        out.offsets[half] = form.offsets ? shared_scale(form, record, offsets_at, output) : 0.0f;
    }
}

DEVICE void tensor_row_load(const TensorPlace &place, uint32_t step, uint32_t offset,
                            TensorRow &out) {
    uint32_t t = warp_lane() % 4;
    const uint32_t *codes = reinterpret_cast<const uint32_t *>(place.codes[step] + offset);
    out.words[0] = codes[t];
    out.words[1] = codes[4 + t];
    for (uint32_t i = 0; i < 2; i++) {
        Words4 head = load_words4(place.heads[step][i] + offset);
        out.scales[i] = bits_to_float(head.x);
        out.firsts[i] = (int32_t)head.y;
        out.seconds[i] = (int32_t)head.z;
    }
}

DEVICE void tensor_rows_load(const TensorPlace &place, uint32_t offset, TensorRow *out) {
    for (uint32_t step = 0; step < TENSOR_ROWS; step++)
        tensor_row_load(place, step, offset, out[step]);
}

/* The block's threads send a stage of the tile's records on its way; behind the last one nothing, which is a group all the same. */
DEVICE void tensor_stage_copy(const PackedForm &form, const uint8_t *tile, uint32_t stage,
                              SharedArray<uint32_t> ring) {
    uint32_t first = stage * TENSOR_STAGE_RECORDS;
    uint32_t left = first < form.record_count ? form.record_count - first : 0;
    uint32_t records = left < TENSOR_STAGE_RECORDS ? left : (uint32_t)TENSOR_STAGE_RECORDS;
    uint32_t bytes = records * form.record_bytes;
    const uint8_t *from = tile + (uint64_t)first * form.record_bytes;
    uint32_t to = stage % TENSOR_STAGES * TENSOR_STAGE_RECORDS * (form.record_bytes / 4);
    for (uint32_t at = 16 * flat_thread_index(); at < bytes; at += 16 * TENSOR_THREADS)
        copy_async16(ring, to + at / 4, from + at);
    copy_async_commit();
}

/* Adds a record's terms to the four outputs of eight rows, in the order of CodedRecord::terms in matmul.cu. */
DEVICE void tensor_fold(const PackedForm &form, const TensorWeights &weights, const TensorRow &row,
                        float *io_sums) {
    int32_t first[4], second[4];
    for (uint32_t i = 0; i < 4; i++) {
        first[i] = -form.code_bias * row.firsts[i % 2];
        second[i] = -form.code_bias * row.seconds[i % 2];
    }
    if (form.groups == 2) {
        tensor_product_16(first, weights.words[0], weights.words[1], row.words[0]);
        tensor_product_16(second, weights.words[2], weights.words[3], row.words[1]);
    } else {
        for (uint32_t i = 0; i < 4; i++)
            first[i] += second[i];
        tensor_product_32(first, weights.words, row.words);
    }
    for (uint32_t i = 0; i < 4; i++) {
        float scale = row.scales[i % 2];
        const float *scales = weights.scales[i / 2];
        io_sums[i] = fused_multiply_add((float)first[i], scales[0] * scale, io_sums[i]);
        if (form.groups == 2)
            io_sums[i] = fused_multiply_add((float)second[i], scales[1] * scale, io_sums[i]);
        else if (form.offsets)
            io_sums[i] = fused_multiply_add(weights.offsets[i / 2],
                                            scale * (float)(row.firsts[i % 2] + row.seconds[i % 2]),
                                            io_sums[i]);
    }
}

/* Grid: tiles, rows in steps of 128. Rows beyond the last are read as the last and not stored. Weights come through shared memory,
 * three stages ahead, codes of the rows a record ahead: a block's warps are too few to hide their way otherwise. */
template <uint32_t BITS> KERNEL(TENSOR_THREADS) void product_tensor(ProductLaunch launch) {
    const PackedForm &form = launch.form;
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4, last = launch.row_count - 1;
    uint32_t part = warp_index() % TENSOR_PARTS, group = warp_index() / TENSOR_PARTS;
    uint32_t row_first = block_index().y * TENSOR_BLOCK_ROWS + group * TENSOR_WARP_ROWS;
    uint32_t record_words = form.record_bytes / 4, x_bytes = launch.activation_bytes;
    uint64_t x_row_bytes = (uint64_t)form.record_count * x_bytes;
    const uint8_t *tile =
        launch.tiles + (uint64_t)block_index().x * form.record_count * form.record_bytes;
    SharedArray<uint32_t> ring =
        shared_array<uint32_t>(0, TENSOR_STAGES * TENSOR_STAGE_RECORDS * record_words);
    bool works = row_first <= last; /* the others only copy */
    TensorPlace place;
    for (uint32_t step = 0; step < TENSOR_ROWS; step++) {
        uint32_t row = row_first + 8 * step + g;
        place.codes[step] =
            launch.records + (row < last ? row : last) * x_row_bytes + ACTIVATION_HEAD_BYTES;
        for (uint32_t i = 0; i < 2; i++) {
            row = row_first + 8 * step + 2 * t + i;
            place.heads[step][i] = launch.records + (row < last ? row : last) * x_row_bytes;
        }
    }
    for (uint32_t stage = 0; stage + 1 < TENSOR_STAGES; stage++)
        tensor_stage_copy(form, tile, stage, ring);
    float sums[TENSOR_ROWS][4] = {};
    TensorRow next[TENSOR_ROWS] = {};
    if (works) tensor_rows_load(place, 0, next);
    for (uint32_t r = 0; r < form.record_count; r++) {
        if (r % TENSOR_STAGE_RECORDS == 0) {
            copy_async_wait<TENSOR_STAGES - 2>();
            block_sync(); /* this stage has come for all, and all are done with the one before */
            tensor_stage_copy(form, tile, r / TENSOR_STAGE_RECORDS + TENSOR_STAGES - 1, ring);
        }
        if (!works) continue;
        TensorRow rows[TENSOR_ROWS];
        for (uint32_t step = 0; step < TENSOR_ROWS; step++)
            rows[step] = next[step];
        if (r + 1 < form.record_count) tensor_rows_load(place, (r + 1) * x_bytes, next);
        TensorWeights weights;
        tensor_weights_load<BITS>(
            form, ring + r % (TENSOR_STAGES * TENSOR_STAGE_RECORDS) * record_words, part, weights);
        for (uint32_t step = 0; step < TENSOR_ROWS; step++)
            tensor_fold(form, weights, rows[step], sums[step]);
    }
    for (uint32_t step = 0; step < TENSOR_ROWS && works; step++)
        for (uint32_t i = 0; i < 4; i++)
            product_store(launch, row_first + 8 * step + 2 * t + i % 2,
                          block_index().x * PACKED_OUTPUTS + TENSOR_OUTPUTS * part + 8 * (i / 2) +
                              g,
                          sums[step][i]);
}

template <uint32_t BITS>
static void tensor_launch(DeviceStream *stream, const ProductLaunch *launch) {
    Extent3 grid = extent((launch->output_count + PACKED_OUTPUTS - 1) / PACKED_OUTPUTS,
                          (launch->row_count + TENSOR_BLOCK_ROWS - 1) / TENSOR_BLOCK_ROWS);
    uint32_t shared_bytes = TENSOR_STAGES * TENSOR_STAGE_RECORDS * launch->form.record_bytes;
    LAUNCH(product_tensor<BITS>, grid, extent(TENSOR_THREADS), shared_bytes, stream, *launch);
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
    launchers->tensor_rows_least = 17;
#else
    launchers->tensor_rows_least = 9; /* tests meet it in small cases */
#endif
}
