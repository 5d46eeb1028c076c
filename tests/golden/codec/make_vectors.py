#!/usr/bin/env python3
"""What the authors' own code makes of keys and values: int4_group.bin, kivi4.bin, kivi2.bin beside this file.

    make_vectors.py KIVI/quant/new_pack.py FlexLLMGen/flexllmgen/compression.py

Written with KIVI at 876b4d2d08e3, FlexLLMGen at 004ffef82b46 and torch on the CPU; both run their torch functions, KIVI in
float16, FlexGen's compress in float32 and its decompress in float16. A file: u32 tokens, u32 head_dim, then for keys and for
values f16 numbers [token][head_dim], encoded bytes as kernels/codec lays them out, and decoded f16 numbers."""

import pathlib
import struct
import sys
import types

import torch

HERE = pathlib.Path(__file__).resolve().parent
TOKENS, DIM = 64, 64


def functions_of(path, first, last):
    """The functions of a file between two of its lines; what it imports is not needed for them."""
    text = pathlib.Path(path).read_text()
    names = {"torch": torch, "__name__": "authors"}
    exec(compile(text[text.index(first):text.index(last)], str(path), "exec"), names)
    return types.SimpleNamespace(**names)


def halves(tensor):
    return tensor.to(torch.float16).contiguous().numpy().tobytes()


def draw():
    """Normal numbers, a loud channel, a constant token, a loud token."""
    x = torch.randn(TOKENS, DIM)
    x[:, 5] *= 30
    x[7] = 0.25
    x[9] *= 100
    return x.to(torch.float16)


def int4_group(flexgen, x):
    config = types.SimpleNamespace(enabled=True, group_size=64, num_bits=4, group_dim=1, symmetric=False)
    codes, low, scale, shape = flexgen.compress(x.float(), config)
    constant = torch.isinf(scale)
    codes = torch.where(constant, torch.zeros_like(codes), codes)  # undefined there: 0 by our definition
    decoded = flexgen.decompress((codes.half(), low.half(), scale.half(), shape), config)
    packed = (codes[..., 0::2] << 4 | codes[..., 1::2]).contiguous().numpy().tobytes()
    return packed + halves(torch.stack((scale.flatten(), low.flatten()), dim=1)), decoded


def kivi(authors, x, bits, keys):
    x = x[None, None]
    quantize = authors.quant_and_pack_kcache if keys else authors.quant_and_pack_vcache
    restore = authors.unpack_and_dequant_kcache if keys else authors.unpack_and_dequant_vcache
    codes, step, low = quantize(x.clone(), 32, bits)
    decoded = restore(codes, step, low, 32, bits)[0, 0]
    step, low = (t[0, 0].squeeze(-2 if keys else -1) for t in (step, low))
    codes = codes[0, 0]
    if keys:  # stored by channel
        codes, step, low = codes.T, step.T, low.T
    return codes.contiguous().numpy().tobytes() + halves(step) + halves(low), decoded


def write(name, encode):
    data = struct.pack("<II", TOKENS, DIM)
    for keys in (True, False):
        x = draw()
        encoded, decoded = encode(x, keys)
        data += halves(x) + encoded + halves(decoded)
    (HERE / f"{name}.bin").write_bytes(data)


def main():
    torch.manual_seed(1)
    authors = functions_of(sys.argv[1], "\ndef quant_and_pack_kcache", "@triton")
    flexgen = functions_of(sys.argv[2], "\ndef compress(", "def test_simulated")
    write("int4_group", lambda x, keys: int4_group(flexgen, x))

    def without_constants(x):  # 0 / 0 is undefined in KIVI's code
        x[7] += torch.linspace(0, 1, DIM).half()
        return x

    for bits in (4, 2):
        write(f"kivi{bits}", lambda x, keys: kivi(authors, without_constants(x), bits, keys))


main()
