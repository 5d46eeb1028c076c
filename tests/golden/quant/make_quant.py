#!/usr/bin/env python3
"""Freezes what the PyPI package gguf (0.19.0) decodes random blocks to: one <format>.bin a format, holding
u32 block count, the blocks, and the f32 numbers, all little-endian. Run in this folder; the output is committed."""

import gguf
import numpy as np

# f16 fields of a block (byte offsets): drawn finite, so that every decoded number is
FORMATS = {
    "bf16": (gguf.GGMLQuantizationType.BF16, 64, []),
    "q4_0": (gguf.GGMLQuantizationType.Q4_0, 8, [0]),
    "q4_1": (gguf.GGMLQuantizationType.Q4_1, 8, [0, 2]),
    "q5_0": (gguf.GGMLQuantizationType.Q5_0, 8, [0]),
    "q5_1": (gguf.GGMLQuantizationType.Q5_1, 8, [0, 2]),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, 8, [0]),
    "q4_k": (gguf.GGMLQuantizationType.Q4_K, 2, [0, 2]),
    "q5_k": (gguf.GGMLQuantizationType.Q5_K, 2, [0, 2]),
    "q6_k": (gguf.GGMLQuantizationType.Q6_K, 2, [208]),
}


def finite_halves(random, count):
    halves = random.integers(0, 1 << 16, count, dtype=np.uint16)
    return np.where(halves & 0x7C00 == 0x7C00, halves & ~np.uint16(0x4000), halves)


def main():
    for name, (kind, count, fields) in FORMATS.items():
        random = np.random.default_rng(sum(name.encode()))
        elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        blocks = random.integers(0, 256, (count, block_bytes), dtype=np.uint8)
        for offset in fields:
            blocks[:, offset : offset + 2] = finite_halves(random, count).view(np.uint8).reshape(count, 2)
        if name == "bf16":  # no NaN
            halves = blocks.view(np.uint16)
            halves[halves & 0x7F80 == 0x7F80] &= 0xBFFF
        numbers = gguf.quants.dequantize(blocks.reshape(1, -1), kind).astype("<f4")
        assert np.isfinite(numbers).all() and numbers.size == count * elements
        with open(f"{name}.bin", "wb") as file:
            file.write(np.uint32(count).tobytes() + blocks.tobytes() + numbers.tobytes())


if __name__ == "__main__":
    main()
