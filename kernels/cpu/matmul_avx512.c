/* The matrix product for AVX-512 with VNNI: 16 columns a tile, `vpdpbusd` (int8) and `vpdpwssd` (int16). */

#include "kernels/cpu/cpu_kernels.h"
#include "kernels/cpu/matmul_kernels.h"

void matmul_fill_avx512(Kernels *kernels) {
    tile_slots_fill(kernels);
}
