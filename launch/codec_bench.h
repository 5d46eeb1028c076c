#ifndef LAUNCH_CODEC_BENCH_H
#define LAUNCH_CODEC_BENCH_H

/* How good and how fast a KV codec is here: N(0, 1) numbers in blocks of a usual shape, more of them than caches hold, one
 * thread. Rates of encode, decode and copy are of f16 bytes; all are medians over pieces of a fraction of a millisecond. */

#include "kernels/kernels.h"

SPILLWAY_EXTERN_C_BEGIN

enum { CODEC_BENCH_HEADS = 9 }; /* query heads of the attention that is timed */

typedef struct CodecBench CodecBench;

typedef struct CodecFigures {
    double bits;  /* a number, all overheads */
    double error; /* root mean square of what decoding is off, as a share of that of the numbers */
    double encode_bytes_per_second, decode_bytes_per_second;
    double attend_tokens_per_second; /* of one layer, for one new token */
} CodecFigures;

/* How far decoding is off: sums of squares, zero at first. */
typedef struct CodecErrorSums {
    double numbers, offs;
} CodecErrorSums;

/* f16 arrays of `count` */
void codec_error_add(CodecErrorSums *sums, const uint16_t *numbers, const uint16_t *decoded,
                     uint64_t count);
double codec_error_relative(const CodecErrorSums *sums); /* as in CodecFigures; 0 of zeros */

/* The kernels must outlive it. */
Status codec_bench_create(CodecBench **out, const Kernels *kernels);
void codec_bench_destroy(CodecBench *bench); /* NULL is fine */

const KvShape *codec_bench_shape(const CodecBench *bench);
double codec_bench_copy_bytes_per_second(CodecBench *bench); /* of memcpy, each byte counted once */
Status codec_bench_measure(CodecBench *bench, const Codec *codec, CodecFigures *out);

SPILLWAY_EXTERN_C_END

#endif
