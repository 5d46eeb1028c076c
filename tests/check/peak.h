#ifndef CHECK_PEAK_H
#define CHECK_PEAK_H

/* The machine's limits, measured on the spot by loops in registers and by reading memory, so that a benchmark
 * can say which share it reaches. Measured once a process for each question; main thread only. */

#include <stdint.h>

#include "kernels/team.h"

SPILLWAY_EXTERN_C_BEGIN

typedef enum PeakKind {
    PEAK_NONE,
    PEAK_F32,   /* fused multiply-add: 2 operations a lane */
    PEAK_INT8,  /* u8 × s8: vpdpbusd, or vpmaddubsw + vpaddw where that is all there is */
    PEAK_INT16, /* s16 × s16: vpdpwssd, or vpmaddwd + vpaddd */
    PEAK_KIND_COUNT,
} PeakKind;

const char *peak_name(PeakKind kind);

/* Operations a second of all threads of the team together with the instructions of a variant ("avx2", "avx512"); 0 when
 * there is no loop for it. The CPU must have the variant's flags. */
double peak_operations(PeakKind kind, const char *variant, Team *team);

/* Bytes a second read from memory, far beyond the caches. */
double peak_read_bytes(Team *team);

SPILLWAY_EXTERN_C_END

#endif
