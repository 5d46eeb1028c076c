#ifndef CUDA_PACKED_RECORD_CUH
#define CUDA_PACKED_RECORD_CUH

/* What the kernels of products share: reading a record of a packed matrix (PackedForm in cuda_kernels.h), the codes of one of its 32
 * outputs as words of four signed bytes, and its scales; and storing an output. */

#include "kernels/cuda/cuda_kernels.h"
#include "kernels/cuda/port.cuh"

/* Scale or offset `group` of an output. */
DEVICE float scale_load(const PackedForm &form, const uint8_t *scales, uint32_t group,
                        uint32_t output) {
    uint32_t index = group * PACKED_OUTPUTS + output;
    return form.scales_f16 ? half_to_float(reinterpret_cast<const uint16_t *>(scales)[index])
                           : reinterpret_cast<const float *>(scales)[index];
}

/* Bit s of each byte of a plane is the upper bit of the four codes of word s. */
DEVICE uint32_t plane_bits(uint32_t plane, uint32_t word, uint32_t bit) {
    return (plane >> word & 0x01010101u) << bit;
}

/* The planes of an output, PACKED_OUTPUTS words apart. */
DEVICE const uint32_t *planes_of(const uint8_t *record, uint32_t output) {
    return reinterpret_cast<const uint32_t *>(record + 16 * PACKED_OUTPUTS) + output;
}

/* Of a record in shared memory: codes 4 * word … of an output. */
template <uint32_t BITS>
DEVICE uint32_t shared_code_word(SharedArray<uint32_t> record, uint32_t output, uint32_t word) {
    if (BITS == 8) return record[4 * (word / 4 * PACKED_OUTPUTS + output) + word % 4];
    uint32_t nibbles = record[4 * output + word / 2];
    uint32_t codes = nibbles >> word % 2 * 4 & 0x0f0f0f0fu;
    for (uint32_t bit = 4; bit < BITS; bit++) {
        uint32_t plane = record[bit * PACKED_OUTPUTS + output];
        codes |= plane_bits(plane, word, bit);
    }
    return codes;
}

/* Each byte less bias, signed; bytes and bias are below 128. */
DEVICE uint32_t bytes_less(uint32_t bytes, uint32_t bias) {
    const uint32_t upper = 0x80808080u; /* nothing is borrowed from the byte above */
    return ((bytes | upper) - bias * 0x01010101u) ^ upper;
}

/* Scale or offset `index` of those that begin at word `at`; halves or f32. */
DEVICE float shared_scale(bool halves, SharedArray<uint32_t> record, uint32_t at, uint32_t index) {
    if (!halves) return bits_to_float(record[at + index]);
    uint32_t pair = record[at + index / 2];
    return half_to_float((uint16_t)(pair >> 16 * (index % 2)));
}

/* Where the warps of a block share the records of a tile, a round of them at a time: what is so many rounds ahead begins its way from memory,
 * since the loads of a round would come only when the one before is summed. The warp's record of a round; PREFETCH_LINE bytes a lane. */
enum { AHEAD_BYTES = 32 * 1024 }; /* of a block's records on their way */

DEVICE void records_ahead(const PackedForm &form, const uint8_t *tile, uint32_t record) {
    uint32_t at = PREFETCH_LINE * warp_lane();
    if (record < form.record_count && at < form.record_bytes)
        prefetch_line(tile + (uint64_t)record * form.record_bytes + at);
}

/* How many records ahead, in rounds of `round`; those before are asked for here. */
DEVICE uint32_t records_ahead_begin(const PackedForm &form, const uint8_t *tile, uint32_t round) {
    uint32_t rounds = AHEAD_BYTES / (round * form.record_bytes);
    for (uint32_t i = 1; i < rounds; i++)
        records_ahead(form, tile, i * round + warp_index());
    return (rounds > 0 ? rounds : 1) * round;
}

/* A finished sum; a row or an output beyond the last is nobody's. */
DEVICE void product_store(const ProductLaunch &launch, uint32_t row, uint32_t output, float sum) {
    if (row >= launch.row_count || output >= launch.output_count) return;
    launch.out[row * launch.out_stride + output] = launch.bias ? sum + launch.bias[output] : sum;
}

#endif
