#include "kernels/cpu/codec_vector.h"
#include "kernels/cpu/cpu_kernels.h"

void codec_fill_avx2(Kernels *kernels) {
    kernels->kv_encode = encode_block_vector;
    kernels->kv_decode = decode_block_vector;
}
