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

/* What an encoded matrix adds to an output for a record, by its form: constants of a kernel. */
enum TensorTerms {
    TERMS_SCALE,  /* scale * sum */
    TERMS_OFFSET, /* and an offset * the sum of x */
    TERMS_GROUPS, /* a scale for columns 0-15 and one for 16-31 */
};

/* What a lane holds of a record: see tensor_product.cuh; two outputs, eight apart. */
struct TensorWeights {
    uint32_t words[4];              /* of signed codes */
    float scales[2][2], offsets[2]; /* [output][group] */
};

/* Codes of a row, and scales and scaled sums of codes of the two rows whose outputs a lane has. */
struct TensorRow {
    uint32_t words[2];
    float scales[2], sums[2];
};

template <uint32_t BITS, TensorTerms TERMS, bool HALVES>
DEVICE void tensor_weights_load(const PackedForm &form, SharedArray<uint32_t> record, uint32_t part,
                                TensorWeights &out) {
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4;
    uint32_t scales_at = form.scales_at / 4, offsets_at = form.offsets_at / 4;
    for (uint32_t half = 0; half < 2; half++) {
        uint32_t output = TENSOR_OUTPUTS * part + 8 * half + g;
        for (uint32_t upper = 0; upper < 2; upper++) {
            uint32_t word = shared_code_word<BITS>(record, output, 4 * upper + t);
            if (BITS < 8 && TERMS != TERMS_OFFSET)
                word = bytes_less(word, (uint32_t)form.code_bias);
            out.words[2 * upper + half] = word;
        }
        out.scales[half][0] = shared_scale(HALVES, record, scales_at, output);
        if (TERMS == TERMS_GROUPS)
            out.scales[half][1] = shared_scale(HALVES, record, scales_at, PACKED_OUTPUTS + output);
        if (TERMS == TERMS_OFFSET)
            out.offsets[half] = shared_scale(HALVES, record, offsets_at, output);
    }
}

/* records: of x, those of the warp's first eight rows; the others follow. */
template <TensorTerms TERMS> DEVICE void tensor_rows_load(const uint8_t *records, TensorRow *out) {
    uint32_t lane = warp_lane(), t = lane % 4;
    for (uint32_t step = 0; step < TENSOR_ROWS; step++) {
        const uint8_t *record = records + step * ACTIVATION_TILE_BYTES;
        Words2 codes = load_words2(record + 8 * lane);
        Words2 scales = load_words2(record + ACTIVATION_TILE_SCALES + 8 * t);
        out[step].words[0] = codes.x;
        out[step].words[1] = codes.y;
        out[step].scales[0] = bits_to_float(scales.x);
        out[step].scales[1] = bits_to_float(scales.y);
        if (TERMS != TERMS_OFFSET) continue;
        Words2 sums = load_words2(record + ACTIVATION_TILE_SUMS + 8 * t);
        out[step].sums[0] = bits_to_float(sums.x);
        out[step].sums[1] = bits_to_float(sums.y);
    }
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
template <TensorTerms TERMS>
DEVICE void tensor_fold(const TensorWeights &weights, const TensorRow &row, float *io_sums) {
    int32_t first[4] = {}, second[4] = {};
    if (TERMS == TERMS_GROUPS) {
        tensor_product_16(first, weights.words[0], weights.words[1], row.words[0]);
        tensor_product_16(second, weights.words[2], weights.words[3], row.words[1]);
    } else {
        tensor_product_32(first, weights.words, row.words);
    }
    for (uint32_t i = 0; i < 4; i++) {
        float scale = row.scales[i % 2];
        const float *scales = weights.scales[i / 2];
        io_sums[i] = fused_multiply_add((float)first[i], scales[0] * scale, io_sums[i]);
        if (TERMS == TERMS_GROUPS)
            io_sums[i] = fused_multiply_add((float)second[i], scales[1] * scale, io_sums[i]);
        if (TERMS == TERMS_OFFSET)
            io_sums[i] = fused_multiply_add(weights.offsets[i / 2], row.sums[i % 2], io_sums[i]);
    }
}

/* Grid: tiles, rows in steps of 128. Rows beyond the last are not stored. Weights come through shared memory, three stages ahead,
 * codes of the rows a record ahead: a block's warps are too few to hide their way otherwise. */
template <uint32_t BITS, TensorTerms TERMS, bool HALVES>
KERNEL(TENSOR_THREADS)
void product_tensor(ProductLaunch launch) {
    const PackedForm &form = launch.form;
    uint32_t part = warp_index() % TENSOR_PARTS, group = warp_index() / TENSOR_PARTS;
    uint32_t row_first = block_index().y * TENSOR_BLOCK_ROWS + group * TENSOR_WARP_ROWS;
    uint32_t record_words = form.record_bytes / 4;
    uint32_t stage_words = TENSOR_STAGE_RECORDS * record_words;
    uint32_t x_bytes = (launch.row_count + ACTIVATION_TILES_ROWS - 1) / ACTIVATION_TILES_ROWS *
                       (ACTIVATION_TILES_ROWS / ACTIVATION_TILE_ROWS) * ACTIVATION_TILE_BYTES;
    const uint8_t *tile =
        launch.tiles + (uint64_t)block_index().x * form.record_count * form.record_bytes;
    const uint8_t *x = launch.records + row_first / ACTIVATION_TILE_ROWS * ACTIVATION_TILE_BYTES;
    SharedArray<uint32_t> ring = shared_array<uint32_t>(0, TENSOR_STAGES * stage_words);
    bool works = row_first < launch.row_count; /* the others only copy */
    for (uint32_t stage = 0; stage + 1 < TENSOR_STAGES; stage++)
        tensor_stage_copy(form, tile, stage, ring);
    float sums[TENSOR_ROWS][4] = {};
    TensorRow rows[2][TENSOR_ROWS] = {}; /* of this record and the next, in turn */
    if (works) tensor_rows_load<TERMS>(x, rows[0]);
    for (uint32_t stage = 0; stage * TENSOR_STAGE_RECORDS < form.record_count; stage++) {
        copy_async_wait<TENSOR_STAGES - 2>();
        block_sync(); /* this stage has come for all, and all are done with the one before */
        tensor_stage_copy(form, tile, stage + TENSOR_STAGES - 1, ring);
        if (!works) continue;
        SharedArray<uint32_t> records = ring + stage % TENSOR_STAGES * stage_words;
#pragma unroll
        for (uint32_t i = 0; i < TENSOR_STAGE_RECORDS; i++) {
            uint32_t r = stage * TENSOR_STAGE_RECORDS + i;
            if (r >= form.record_count) break;
            x += x_bytes;
            if (r + 1 < form.record_count) tensor_rows_load<TERMS>(x, rows[(i + 1) % 2]);
            TensorWeights weights;
            tensor_weights_load<BITS, TERMS, HALVES>(form, records + i * record_words, part,
                                                     weights);
            for (uint32_t step = 0; step < TENSOR_ROWS; step++)
                tensor_fold<TERMS>(weights, rows[i % 2][step], sums[step]);
        }
    }
    uint32_t g = warp_lane() / 4, t = warp_lane() % 4;
    for (uint32_t step = 0; step < TENSOR_ROWS && works; step++)
        for (uint32_t i = 0; i < 4; i++)
            product_store(launch, row_first + 8 * step + 2 * t + i % 2,
                          block_index().x * PACKED_OUTPUTS + TENSOR_OUTPUTS * part + 8 * (i / 2) +
                              g,
                          sums[step][i]);
}

template <uint32_t BITS, TensorTerms TERMS, bool HALVES>
static void tensor_launch(DeviceStream *stream, const ProductLaunch *launch) {
    Extent3 grid = extent((launch->output_count + PACKED_OUTPUTS - 1) / PACKED_OUTPUTS,
                          (launch->row_count + TENSOR_BLOCK_ROWS - 1) / TENSOR_BLOCK_ROWS);
    uint32_t shared_bytes = TENSOR_STAGES * TENSOR_STAGE_RECORDS * launch->form.record_bytes;
    LAUNCH((product_tensor<BITS, TERMS, HALVES>), grid, extent(TENSOR_THREADS), shared_bytes,
           stream, *launch);
}

static TensorTerms tensor_terms(const PackedForm &form) {
    return form.groups == 2 ? TERMS_GROUPS : form.offsets ? TERMS_OFFSET : TERMS_SCALE;
}

/* A row each form that a quant packs to. */
static void product_tensor_launch(DeviceStream *stream, const ProductLaunch *launch) {
    static const struct {
        uint32_t code_bits;
        TensorTerms terms;
        bool halves;
        void (*launch)(DeviceStream *stream, const ProductLaunch *launch);
    } rows[] = {
#define TENSOR_ROW(bits, terms, halves) {bits, terms, halves, tensor_launch<bits, terms, halves>}
        TENSOR_ROW(4, TERMS_SCALE, true),   TENSOR_ROW(4, TERMS_OFFSET, true),
        TENSOR_ROW(4, TERMS_OFFSET, false), TENSOR_ROW(5, TERMS_SCALE, true),
        TENSOR_ROW(5, TERMS_OFFSET, true),  TENSOR_ROW(5, TERMS_OFFSET, false),
        TENSOR_ROW(6, TERMS_GROUPS, false), TENSOR_ROW(8, TERMS_SCALE, true),
#undef TENSOR_ROW
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (rows[i].code_bits == launch->form.code_bits &&
            rows[i].terms == tensor_terms(launch->form) &&
            rows[i].halves == launch->form.scales_f16)
            rows[i].launch(stream, launch);
}

extern "C" void PORT_NAME(matmul_tensor_fill)(CudaLaunchers *launchers) {
    launchers->product_tensor = product_tensor_launch;
#ifdef __CUDACC__
    launchers->tensor_rows_least = 17;
#else
    launchers->tensor_rows_least = 10; /* tests meet it in small cases */
#endif
}
