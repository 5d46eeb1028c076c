#!/usr/bin/env python3
"""FlexGen's 4-bit weights (methods of FlexLLMGen's compression.py), done with numpy alone: what the weight format int4_group is held to.

    python3 make_int4_group.py     (needs numpy and gguf; in this folder; the output is committed)

Writes quant/int4_group.bin (as make_quant.py does for formats of files), quant/int4_group_encoded.bin (rows of numbers, the blocks
they become, and what FlexGen would decode them to) and, for some of the golden models, logits_int4_group.npy: the logits of the
model whose layers hold the numbers of such blocks. The forward pass is one of its own, in float64; with the model's own weights it
must give the logits that transformers gave (make_models.py), or nothing is written. Prints how far FlexGen's own numbers are from those of
blocks, and from themselves in the f16 that it decodes to on a GPU.
"""
import json
import pathlib
import struct

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
GROUP = 64
LEVELS = 15
MODELS = ("llama_gqa", "llama_rope_llama3", "gguf_llama_f16_tied")
EXACT = 1e-4  # of a deviation: what this forward pass and transformers' may differ by; keys and values may fall on other halves


# ---- FlexGen ----


def compress(matrix):
    """As compress with num_bits 4, group_size 64, group_dim 1 on a CPU: halves in, float32 between, halves kept.
    Codes and reciprocal steps and minima of groups: [rows][groups][64], [rows][groups][1] twice."""
    halves = matrix.astype(np.float16).astype(np.float32)
    rows, columns = halves.shape
    groups = -(-columns // GROUP)
    data = np.zeros((rows, groups * GROUP), np.float32)
    data[:, :columns] = halves
    data = data.reshape(rows, groups, GROUP)
    minimum, maximum = data.min(2, keepdims=True), data.max(2, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.float32(LEVELS) / (maximum - minimum)
        codes = np.rint(np.clip((data - minimum) * scale, 0, LEVELS))  # of a constant group: not numbers
    with np.errstate(over="ignore"):
        return codes, scale.astype(np.float16), minimum.astype(np.float16)


def decompress(codes, scale, minimum, columns):
    """As decompress on a CPU; what is not a number there divides by infinity on any machine that has made it an integer."""
    codes = np.where(np.isinf(scale), 0, codes).astype(np.float32)
    numbers = codes / scale.astype(np.float32) + minimum.astype(np.float32)
    return numbers.reshape(len(codes), -1)[:, :columns]


def decompress_in_halves(codes, scale, minimum, columns):
    """As decompress on a GPU: every operation rounds to f16."""
    codes = np.where(np.isinf(scale), 0, codes).astype(np.float16)
    return (codes / scale + minimum).reshape(len(codes), -1)[:, :columns]


# ---- the blocks of int4_group ----


def to_blocks(codes, scale, minimum):
    """f16 step, f16 minimum, 32 bytes of codes i and 32 + i; step 0 and codes 0 where the reciprocal is infinite."""
    lost = np.isinf(scale)
    with np.errstate(divide="ignore"):
        step = (np.float32(1) / scale.astype(np.float32)).astype(np.float16)
    codes = np.where(lost, 0, codes).astype(np.uint8)
    pairs = codes[..., : GROUP // 2] | codes[..., GROUP // 2 :] << 4
    return np.concatenate([step.view(np.uint8), (minimum + np.float16(0)).view(np.uint8), pairs], axis=2)


def from_blocks(blocks):
    step = blocks[..., 0:2].copy().view(np.float16).astype(np.float32)
    minimum = blocks[..., 2:4].copy().view(np.float16).astype(np.float32)
    codes = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1)
    return step * codes.astype(np.float32) + minimum


def write_blocks(path):
    """Random blocks and their numbers, as make_quant.py writes them."""
    random = np.random.default_rng(4)
    blocks = random.integers(0, 256, (8, 4 + GROUP // 2), dtype=np.uint8)
    halves = random.integers(0, 1 << 16, (8, 2), dtype=np.uint16)
    halves = np.where(halves & 0x7C00 == 0x7C00, halves & ~np.uint16(0x4000), halves).astype(np.uint16)
    blocks[:, :4] = halves.view(np.uint8)
    numbers = from_blocks(blocks)
    assert np.isfinite(numbers).all()
    path.write_bytes(np.uint32(len(blocks)).tobytes() + blocks.tobytes() + numbers.astype("<f4").tobytes())


def rows_to_encode():
    random = np.random.default_rng(64)
    normal = lambda count, deviation=0.02: random.normal(0, deviation, count)
    outlier = normal(128)
    outlier[77] = 3.5
    ties = np.arange(64) / 2  # with 0 and 31.5: halfway between codes again and again
    yield from (normal(64), normal(640), normal(100), normal(1), normal(65), outlier, ties, -ties)
    yield from (np.zeros(64), np.full(64, 0.25), np.full(40, -0.25), np.full(64, -0.0))
    yield from (1 + 1e-5 * np.arange(64), 1e-6 * np.arange(64), normal(64, 1e-7), normal(64, 2e-5), normal(64, 5e-4))  # small ranges
    yield from (np.abs(normal(70)), -np.abs(normal(70)), normal(64, 2e4), np.linspace(-65504, 65504, 64))
    yield random.uniform(-1, 1, 192) * 10.0 ** random.integers(-6, 5, 192)
    yield np.float16([-1.25, 0.5, 3.75, -0.300048828125, 0.0999755859375, 2.19921875, -2.0, 1.0])


def write_encoded(path):
    rows = list(rows_to_encode())
    out = [struct.pack("<I", len(rows))]
    worst = 0.0
    for row in rows:
        row = np.asarray(row).astype(np.float32)
        codes, scale, minimum = compress(row[None])
        blocks = to_blocks(codes, scale, minimum)
        wanted = decompress(codes, scale, minimum, len(row))[0]
        out += [struct.pack("<I", len(row)), row.tobytes(), blocks.tobytes(), wanted.astype("<f4").tobytes()]
        step = np.repeat(1 / scale.astype(np.float64)[0, :, 0], GROUP)[: len(row)]
        off = np.abs(from_blocks(blocks)[0].reshape(-1)[: len(row)] - wanted.astype(np.float64))
        worst = max(worst, (off[step > 0] / step[step > 0]).max(initial=0))
        assert (off[step == 0] == 0).all()
    path.write_bytes(b"".join(out))
    print(f"{path.name}: {len(rows)} rows; numbers of blocks are at most {worst:.4f} of a step from FlexGen's")


# ---- a Llama ----


class Folder:
    """config.json and one safetensors file of BF16."""

    def __init__(self, folder):
        self.config = json.loads((folder / "config.json").read_text())
        data = (folder / "model.safetensors").read_bytes()
        begin = 8 + struct.unpack_from("<Q", data)[0]
        self.tensors = {}
        for name, about in json.loads(data[8:begin]).items():
            if name == "__metadata__":
                continue
            assert about["dtype"] == "BF16", about
            bits = np.frombuffer(data[begin + about["data_offsets"][0] : begin + about["data_offsets"][1]], "<u2")
            self.tensors[name] = (bits.astype(np.uint32) << 16).view(np.float32).reshape(about["shape"])
        rope = self.config.get("rope_parameters") or self.config["rope_scaling"]
        self.rope = {"rope_theta": self.config.get("rope_theta"), **rope}
        self.epsilon, self.interleaved = self.config["rms_norm_eps"], False
        heads = self.config["num_attention_heads"]
        self.heads, self.kv_heads = heads, self.config["num_key_value_heads"]
        self.head_dim, self.layers = self.config["head_dim"], self.config["num_hidden_layers"]

    def layer(self, index, name):
        names = {"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "gate": "mlp.gate_proj", "up": "mlp.up_proj",
                 "down": "mlp.down_proj"}
        return self.tensors[f"model.layers.{index}.{names.get(name, f'self_attn.{name}_proj')}.weight"]

    def outer(self, name):
        return self.tensors[{"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}[name] + ".weight"]


class Gguf:
    """One file of F16 with tied embeddings, whose rows of q and k are permuted for neighbouring pairs."""

    def __init__(self, folder):
        reader = gguf.GGUFReader(folder / f"{folder.name}.gguf")
        self.tensors = {t.name: np.array(t.data) for t in reader.tensors}
        key = lambda name: reader.fields[f"llama.{name}"].contents()
        self.rope = {"rope_theta": key("rope.freq_base"), "rope_type": "default"}
        self.epsilon, self.interleaved = key("attention.layer_norm_rms_epsilon"), True
        self.heads, self.kv_heads = key("attention.head_count"), key("attention.head_count_kv")
        self.head_dim, self.layers = key("rope.dimension_count"), key("block_count")

    def layer(self, index, name):
        names = {"o": "attn_output", "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down", "attn_norm": "attn_norm", "ffn_norm": "ffn_norm"}
        return self.tensors[f"blk.{index}.{names.get(name, f'attn_{name}')}.weight"]

    def outer(self, name):
        return self.tensors[{"embedding": "token_embd", "norm": "output_norm", "head": "token_embd"}[name] + ".weight"]


def frequencies(model):
    plain = model.rope["rope_theta"] ** (-np.arange(0, model.head_dim, 2) / model.head_dim)
    if model.rope["rope_type"] == "default":
        return plain
    assert model.rope["rope_type"] == "llama3"
    original, factor = model.rope["original_max_position_embeddings"], model.rope["factor"]
    low, high = model.rope["low_freq_factor"], model.rope["high_freq_factor"]
    lengths = 2 * np.pi / plain
    smooth = (original / lengths - low) / (high - low)
    middle = (1 - smooth) * plain / factor + smooth * plain
    return np.where(lengths < original / high, plain, np.where(lengths > original / low, plain / factor, middle))


def rotate(model, x):
    """x: [tokens][heads][head_dim]"""
    angles = np.arange(len(x))[:, None, None] * frequencies(model)
    half = model.head_dim // 2
    first, second = (x[..., 0::2], x[..., 1::2]) if model.interleaved else (x[..., :half], x[..., half:])
    turned = first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)
    return np.stack(turned, -1).reshape(x.shape) if model.interleaved else np.concatenate(turned, -1)


def normed(model, x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + model.epsilon) * weight.astype(np.float64)


def halved(x):
    return x.astype(np.float32).astype(np.float16).astype(np.float64)


def attend(model, q, k, v):
    """Keys and values as the cache keeps them: halves."""
    group = model.heads // model.kv_heads
    q, k, v = rotate(model, q), halved(rotate(model, k)).repeat(group, 1), halved(v).repeat(group, 1)
    scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(model.head_dim)
    scores = np.where(np.tril(np.ones(scores.shape[1:], bool)), scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("hij,jhd->ihd", shares / shares.sum(-1, keepdims=True), v).reshape(len(q), -1)


def forward(model, tokens, change):
    """change: what a matrix of a layer is computed with."""
    matrix = lambda index, name: change(model.layer(index, name)).astype(np.float64).T
    x = model.outer("embedding").astype(np.float64)[tokens]
    for index in range(model.layers):
        h = normed(model, x, model.layer(index, "attn_norm"))
        q, k, v = ((h @ matrix(index, name)).reshape(len(x), -1, model.head_dim) for name in "qkv")
        x = x + attend(model, q, k, v) @ matrix(index, "o")
        h = normed(model, x, model.layer(index, "ffn_norm"))
        gate, up = h @ matrix(index, "gate"), h @ matrix(index, "up")
        x = x + (gate / (1 + np.exp(-gate)) * up) @ matrix(index, "down")
    return (normed(model, x, model.outer("norm")) @ model.outer("head").astype(np.float64).T).astype(np.float32)


def through(decode):
    return lambda matrix: decode(*compress(matrix), matrix.shape[1])


def decode_blocks(codes, scale, minimum, columns):
    return from_blocks(to_blocks(codes, scale, minimum)).reshape(len(codes), -1)[:, :columns]


def write_logits(name):
    folder, tokens = HERE / "models" / name, json.loads((HERE / "models" / "tokens.json").read_text())
    model = Gguf(folder) if name.startswith("gguf") else Folder(folder)
    golden = np.load(folder / "logits.npy")
    apart = lambda a, b: np.sqrt(((a - b) ** 2).mean()) / golden.std()
    own = forward(model, tokens, lambda matrix: matrix)
    off = np.abs(own - golden).max() / golden.std()
    assert off < EXACT, f"{name}: {off:.2e} of a deviation from transformers"
    logits = forward(model, tokens, through(decode_blocks))
    flexgen = forward(model, tokens, through(decompress))
    in_halves = forward(model, tokens, through(decompress_in_halves))
    moved = apart(logits, golden)
    assert moved > 0.05, f"{name}: 4 bits move the logits by {moved} only"
    np.save(folder / "logits_int4_group.npy", logits)
    print(f"{name}: {off:.1e} of a deviation from transformers; root mean square: 4 bits move the logits by {moved:.3f}, FlexGen's are "
          f"{apart(logits, flexgen):.4f} from those of blocks and {apart(in_halves, flexgen):.4f} from its own in f16")


def main():
    write_blocks(HERE / "quant" / "int4_group.bin")
    write_encoded(HERE / "quant" / "int4_group_encoded.bin")
    for name in MODELS:
        write_logits(name)


if __name__ == "__main__":
    main()
