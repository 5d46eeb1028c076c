#ifndef KERNELS_QUANT_H
#define KERNELS_QUANT_H

/* Number formats of weights, as they lie in files, or as they are made of floats when a model is loaded (encode). One file
 * under quant/ and one word in quant/meson.build a format; a file exports `const Quant quant_<name>`.
 *
 * A row of a matrix is a whole number of blocks. Block formats (group_elements > 0) hold unsigned codes in
 * groups that share a scale and an offset, so that every one of them reads
 *     w[i] = scales[i / group_elements] * codes[i] + offsets[i / group_elements]
 * in f32, one multiply and one add, each rounded (the specification of the format's value). That single form
 * is all that the packers of kernels/cpu need to know. Float formats have group_elements 0.
 *
 * Sources: ggml's block layouts (Q4_0 … Q6_K, little-endian); IEEE f16, bfloat16; FlexGen. Pure functions, any thread. */

#include <stdint.h>

#include "runtime/base/random.h"
#include "runtime/base/status.h"

SPILLWAY_EXTERN_C_BEGIN

#define QUANT_NOT_IN_GGUF UINT32_MAX /* for gguf_type */

/* How a block of random bytes becomes one of weights: which of them are the f16 scale and, where the format has one, the f16
 * offset that takes the mean off. */
typedef struct QuantRandom {
    uint32_t scale_at, offset_at; /* offset_at 0: none */
    float offset_per_scale;
    float deviation; /* of the block's weights at scale 1 */
} QuantRandom;

typedef struct Quant {
    const char *name;             /* "q4_1": in reports and tests */
    uint32_t gguf_type;           /* type number in GGUF files, or QUANT_NOT_IN_GGUF */
    const char *safetensors_name; /* "BF16"; NULL: not found in safetensors */
    uint32_t block_elements;      /* 1 for floats, 32, 64 or 256 */
    uint32_t block_bytes;
    uint32_t group_elements; /* elements that share scale and offset; 0 for floats */
    uint32_t code_bits;      /* codes lie below 2^code_bits; 0 for floats */
    /* The scale and offset of group g relate as offset == -code_bias * scale exactly (Q4_0: 8, Q8_0: 128,
     * Q6_K: 32); 0 where each group has an offset of its own. */
    uint32_t code_bias;
    /* Scales and offsets are f16 values, or the product of an f16 and a small integer (then f32). */
    bool scales_f16;
    /* count elements, a multiple of block_elements, from blocks at any alignment */
    void (*dequantise)(const void *blocks, uint64_t count, float *out);
    /* codes[count], scales[count / group_elements], offsets[...]; NULL for floats */
    void (*expand)(const void *blocks, uint64_t count, uint8_t *codes, float *scales,
                   float *offsets);
    /* One number, finite, rounded to nearest even; NULL for blocks */
    void (*store)(float value, void *element);
    /* count numbers of a row from its beginning or from the beginning of a block; the last block is filled up with zeros. False:
     * a number is not finite, or too large for the format. NULL: blocks of this format only come from files. */
    bool (*encode)(const float *numbers, uint64_t count, void *out_blocks);
    QuantRandom random; /* blocks only */
} Quant;

/* All formats, ended by NULL. */
extern const Quant *const quants[];

/* The floats, for code that keeps them as they are. */
extern const Quant quant_f32, quant_f16, quant_bf16;

const Quant *quant_find(const char *name);              /* NULL when unknown */
const Quant *quant_find_gguf(uint32_t gguf_type);       /* NULL when unknown, or none of GGUF */
const Quant *quant_find_safetensors(const char *dtype); /* NULL when unknown */

/* Bytes of a row of `count` elements; false when count is no multiple of block_elements or it overflows. */
bool quant_row_bytes(const Quant *quant, uint64_t count, uint64_t *out_bytes);

/* A block of weights with mean 0 and about this deviation. */
void quant_draw_block(const Quant *quant, Random *random, float deviation, void *out_block);

float f16_to_f32(uint16_t half);
uint16_t f32_to_f16(float value); /* round to nearest even; overflow gives infinity */
float bf16_to_f32(uint16_t value);

SPILLWAY_EXTERN_C_END

#endif
