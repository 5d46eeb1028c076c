#!/usr/bin/env python3
"""Writes the files beside it: small models in every weight format, made by the packages gguf and safetensors, each with
a listing (.listing) that does not come from our own readers. Deterministic; needs gguf, safetensors, numpy, torch.

A listing has one line a key and a tensor, in file order:
    key NAME bool|integer|real|string|null VALUE        (strings in hex)
    key NAME array ELEMENT_TYPE COUNT VALUE …
    tensor NAME TYPE SHAPE FILE OFFSET BYTES FNV1A64
"""

import json
import pathlib
import struct

import gguf
import numpy
import safetensors.torch
import torch

HERE = pathlib.Path(__file__).resolve().parent
QUANTS = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q4_K", "Q5_K", "Q6_K"]


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def value_text(value):
    if isinstance(value, bool):
        return "bool", str(int(value))
    if isinstance(value, int):
        return "integer", str(value)
    if isinstance(value, float):
        return "real", "%.17g" % value
    if isinstance(value, str):
        return "string", value.encode().hex()
    return "null", "-"


def key_line(name, value):
    if not isinstance(value, list):
        return "key %s %s %s" % ((name,) + value_text(value))
    types = {value_text(item)[0] for item in value}
    if types == {"integer", "real"}:
        value, types = [float(item) for item in value], {"real"}
    kind = types.pop() if len(types) == 1 else "null"
    items = [] if kind == "null" else [value_text(item)[1] for item in value]
    return " ".join(["key", name, "array", kind, str(len(value))] + items)


def tensor_line(name, kind, shape, file, offset, data):
    return "tensor %s %s %s %s %d %d %016x" % (
        name, kind.lower(), "x".join(map(str, shape)) or "-", file, offset, len(data), fnv1a(data))


def write_listing(path, lines):
    path.write_text("\n".join(lines) + "\n")


# ---- GGUF ----

KEYS = [
    ("test.u8", "uint8", 200), ("test.i8", "int8", -100), ("test.u16", "uint16", 60000),
    ("test.i16", "int16", -30000), ("test.u32", "uint32", 4000000000), ("test.i32", "int32", -2000000000),
    ("test.u64", "uint64", 9000000000000000000), ("test.i64", "int64", -9000000000000000000),
    ("test.f32", "float32", 0.5), ("test.f64", "float64", 0.1), ("test.bool", "bool", True),
    ("test.text", "string", "gr\u00fc\u00df Gott, \u4f60\u597d"),
]
ARRAYS = [
    ("test.tokens", ["t%d" % i * (i % 5) for i in range(50)]), ("test.scores", [i / 8 for i in range(17)]),
    ("test.types", list(range(-8, 9))), ("test.flags", [True, False, True]),
]


def add_keys(writer):
    for name, kind, value in KEYS:
        getattr(writer, "add_" + kind)(name, value)
    for name, value in ARRAYS:
        writer.add_array(name, value)


def tensor_data(generator, quant, shape):
    values = generator.standard_normal(shape).astype(numpy.float32)
    kind = gguf.GGMLQuantizationType[quant]
    try:
        return gguf.quants.quantize(values, kind)
    except NotImplementedError:  # K formats: any block with finite scales will do for a reader
        block_elements, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        count = values.size // block_elements
        blocks = generator.integers(0, 256, (count, block_bytes), dtype=numpy.uint8)
        return blocks.reshape(*shape[:-1], -1)


def list_gguf(paths):
    """Independent of our reader: the package's own."""
    lines = []
    for index, path in enumerate(paths):
        reader = gguf.GGUFReader(path)
        for field in reader.fields.values():
            if not field.name.startswith("GGUF.") and index == 0:
                value = field.contents()
                lines.append(key_line(field.name, value))
    for path in paths:
        for tensor in gguf.GGUFReader(path).tensors:
            shape = [int(size) for size in reversed(tensor.shape)]
            lines.append(tensor_line(tensor.name, tensor.tensor_type.name, shape, path.name,
                                     int(tensor.data_offset), bytes(tensor.data.tobytes())))
    return lines


def make_gguf():
    generator = numpy.random.default_rng(1)
    path = HERE / "all_types.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    add_keys(writer)
    for index, quant in enumerate(QUANTS):
        shape = (3, 256 * (1 + index % 2)) if index % 3 else (2, 2, 256)
        writer.add_tensor("blk.%d.%s.weight" % (index, quant.lower()), tensor_data(generator, quant, shape),
                          raw_dtype=gguf.GGMLQuantizationType[quant])
    writer.add_tensor("positions", numpy.arange(5, dtype=numpy.int32))
    writer.add_tensor("vector", generator.standard_normal(7).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    write_listing(HERE / "all_types.listing", list_gguf([path]))


def make_split_gguf():
    generator = numpy.random.default_rng(2)
    writer = gguf.GGUFWriter(HERE / "split.gguf", "llama", split_max_tensors=2)
    writer.add_uint32("llama.block_count", 5)
    for index in range(5):
        writer.add_tensor("blk.%d.weight" % index, generator.standard_normal((2, 32)).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    paths = sorted(HERE.glob("split-*.gguf"))
    write_listing(HERE / "split.listing", list_gguf(paths))


# ---- safetensors ----

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
    "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "nested": {"deep": [1, 2]}}, "sliding_window": None,
    "tie_word_embeddings": True, "eos_token_id": [128001, 128008], "mixed": [1, "a"], "factors": [1, 1.5],
    "empty_list": [], "empty_object": {}, "flags": [True, False], "negative": -7, "name": "gr\u00fc\u00df",
}


def flatten(value, prefix=""):
    for key, item in value.items():
        if isinstance(item, dict) and item:
            yield from flatten(item, prefix + key + ".")
        else:
            yield prefix + key, None if item == {} else item


def list_shard(path):
    """Offsets by Python's own JSON reader."""
    content = path.read_bytes()
    header_bytes, = struct.unpack("<Q", content[:8])
    header = json.loads(content[8:8 + header_bytes])
    for name, row in header.items():
        if name != "__metadata__":
            begin, end = (8 + header_bytes + offset for offset in row["data_offsets"])
            yield tensor_line(name, row["dtype"], row["shape"], path.name, begin, content[begin:end])


def make_tensors(seed, count):
    generator = torch.Generator().manual_seed(seed)
    types = [torch.float32, torch.float16, torch.bfloat16]
    return {"model.layers.%d.weight" % index: torch.randn(4, 6 + index, generator=generator).to(types[index % 3])
            for index in range(count)}


def make_safetensors():
    folder = HERE / "one_shard"
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=2))
    path = folder / "model.safetensors"
    made = make_tensors(3, 3)
    made["model.ids"] = torch.arange(6).reshape(2, 3)
    made["model.scalar"] = torch.tensor(2.5)
    safetensors.torch.save_file(made, path, metadata={"format": "pt"})
    listing = [key_line(*item) for item in flatten(CONFIG)] + list(list_shard(path))
    write_listing(HERE / "one_shard.listing", listing)


def make_sharded_safetensors():
    folder = HERE / "three_shards"
    folder.mkdir(exist_ok=True)
    config = {"architectures": ["OPTForCausalLM"], "hidden_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    made = make_tensors(4, 6)
    names, lines, weight_map = sorted(made), [], {}
    for index in range(3):
        file = "model-%05d-of-00003.safetensors" % (index + 1)
        part = names[2 * index:2 * index + 2]
        safetensors.torch.save_file({name: made[name] for name in part}, folder / file)
        weight_map.update({name: file for name in part})
        lines += list(list_shard(folder / file))
    index = {"metadata": {"total_size": sum(item.nbytes for item in made.values())}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True))
    write_listing(HERE / "three_shards.listing", [key_line(*item) for item in flatten(config)] + lines)


make_gguf()
make_split_gguf()
make_safetensors()
make_sharded_safetensors()
