#!/usr/bin/env python3
"""Writes kernels/codec/turboquant_codebooks.h: the optimal scalar quantizers (Lloyd-Max) of a coordinate of a random unit
vector, by dimension and bits.

    make_codebooks.py > kernels/codec/turboquant_codebooks.h

The density of x = sin(t) is cos(t)^(D-2). Centroids start evenly and are moved to the mean of their cell until none moves by
more than 1e-13; numbers are written in units of 1 / sqrt(D)."""

import math

DIMS = (16, 32, 48, 64, 96, 128, 192, 256)
BITS = (2, 3, 4)
POINTS = 400  # of Simpson's rule in a cell


def mass(dim, low, high):
    """The integral of cos(t)^(dim-2) over x in [low, high]."""
    a, b = math.asin(low), math.asin(high)
    h = (b - a) / POINTS
    total = 0.0
    for i in range(POINTS + 1):
        weight = 1 if i in (0, POINTS) else 4 if i % 2 else 2
        total += weight * max(math.cos(a + i * h), 0.0) ** (dim - 2)
    return total * h / 3


def moment(dim, low, high):
    """The integral of x (1 - x^2)^((dim-3)/2), in closed form."""
    power = (dim - 1) / 2
    return ((1 - low * low) ** power - (1 - high * high) ** power) / (dim - 1)


def codebook(dim, bits):
    """The positive half."""
    half = 1 << (bits - 1)
    reach = min(12 / math.sqrt(dim), 1.0)  # nothing beyond in double
    centroids = [(i + 0.5) * 3 / half / math.sqrt(dim) for i in range(half)]
    while True:
        edges = [0.0] + [(a + b) / 2 for a, b in zip(centroids, centroids[1:])] + [reach]
        moved = [moment(dim, a, b) / mass(dim, a, b) for a, b in zip(edges, edges[1:])]
        change = max(abs(a - b) for a, b in zip(moved, centroids))
        centroids = moved
        if change < 1e-13:
            return [c * math.sqrt(dim) for c in centroids]


def main():
    print("""#ifndef KERNELS_CODEC_TURBOQUANT_CODEBOOKS_H
#define KERNELS_CODEC_TURBOQUANT_CODEBOOKS_H

/* Written by tests/golden/codec/make_codebooks.py: the positive centroids of the optimal scalar quantizer of a coordinate
 * of a random unit vector, times sqrt(dim). */

#include <stdint.h>

typedef struct TurboCentroids {
    uint32_t dim, bits;
    float positive[8];
} TurboCentroids;

static const TurboCentroids turbo_centroids[] = {""")
    for dim in DIMS:
        for bits in BITS:
            numbers = ", ".join(f"{c:.10f}f" for c in codebook(dim, bits))
            print(f"    {{{dim}, {bits}, {{{numbers}}}}},")
    print("""};

#endif""")


main()
