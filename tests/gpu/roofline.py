#!/usr/bin/env python3
"""The roofline of the GPU's kernels on paper: bytes, operations and the time that a card cannot beat, by the arithmetic that each kernel
uses: products of integers and of 16-bit floats on the tensor cores, attention in f32 on the ordinary ones.

    roofline.py             prints the tables as they stand in a README
    roofline.py --check FILE   exits 1 unless FILE holds them as they are
    roofline.py --write FILE   puts them into FILE

Nothing of it is measured. Bandwidths and rates are those of the makers' data sheets, without sparsity."""
import argparse
import pathlib
import sys
from dataclasses import dataclass

BEGIN, END = "<!-- roofline.py: begin -->\n", "<!-- roofline.py: end -->\n"


@dataclass
class Card:
    name: str
    bytes_s: float  # memory
    f32: float  # fused multiply-adds on the ordinary cores, operations a second
    int8: float  # tensor cores, dense
    halves: float  # tensor cores, 16-bit floats with sums in f32, dense
    link: float  # host to device, one direction


CARDS = [
    Card("A100 SXM 80 GB", 2.039e12, 19.5e12, 624e12, 312e12, 32e9),
    Card("H100 SXM", 3.35e12, 67e12, 1979e12, 989e12, 64e9),
    Card("RTX 4090", 1.008e12, 82.6e12, 661e12, 165e12, 32e9),
]


@dataclass
class Model:
    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    ffn_matrices: int
    vocabulary: int
    rotary: bool

    def layer_weights(self):
        attention = self.hidden * self.head_dim * (2 * self.heads + 2 * self.kv_heads)
        return attention + self.ffn_matrices * self.hidden * self.ffn

    def layer_launches(self):
        """Two norms, a product a matrix, the activations of four inputs, positions, the KV store, attention's
        begin, tiles and end, the MLP's function, two residuals."""
        products = 4 + self.ffn_matrices
        return 2 + products + 4 + (1 if self.rotary else 0) + 1 + 3 + 1 + 2

    def kv_token_bytes(self):
        return 2 * 2 * self.kv_heads * self.head_dim


MODELS = [
    Model("OPT-30B", 48, 7168, 56, 56, 128, 28672, 2, 50272, False),
    Model("Llama-3-8B", 32, 4096, 32, 8, 128, 14336, 3, 128256, True),
]

# packed bits a weight, whose operations, and products that x is split for
FORMATS = {"Q4_0": (4.5, "int8", 1), "Q8_0": (8.5, "int8", 1), "F16": (16, "halves", 2), "BF16": (16, "halves", 3)}
KV_BITS = {"f16": 16, "int4_group": 4.5}
BATCH, CONTEXT, PROMPT = 128, 1024, 1024


@dataclass
class Work:
    bytes: float
    operations: float
    rate: str = "f32"

    def seconds(self, card):
        return max(self.bytes / card.bytes_s, self.operations / getattr(card, self.rate))


def products(model, rows, form, head_rows):
    """The layers' products; the head's are of head_rows only. Activations are counted on the side of a matrix that is not the hidden
    one: 4 bytes a number as f32, and 4 for what becomes of it."""
    bits, rate, parts = FORMATS[form]
    weights = model.layers * model.layer_weights()
    head = model.vocabulary * model.hidden
    moved = (weights + head) * bits / 8 + 8 * rows * model.layers * model.layer_weights() / model.hidden
    return Work(moved, 2 * parts * (weights * rows + head * head_rows), rate)


def attention(model, rows, seen, kv_tokens, kv_bits):
    """rows query rows that see `seen` tokens each on average; kv_tokens are read."""
    kv = model.layers * kv_tokens * model.kv_token_bytes() * kv_bits / 16
    return Work(kv, 4 * model.layers * rows * seen * model.heads * model.head_dim)


def elementwise(model, rows):
    """Norms, positions, activations, residuals and the KV store: f32 rows of the hidden and the inner size, in and out."""
    return Work(4 * model.layers * rows * (10 * model.hidden + 3 * model.ffn), 0)


def cell(work, card):
    return f"{1e3 * work.seconds(card):.1f}{'' if work.bytes / card.bytes_s >= work.seconds(card) * 0.999 else ' *'}"


def row(name, work):
    figures = [f"{work.bytes / 1e9:.1f}", f"{work.operations / 1e12:.2f}", *(cell(work, card) for card in CARDS)]
    return f"| {name} | {' | '.join(figures)} |"


def table(rows):
    head = "| | GB | 10^12 operations | " + " | ".join(f"{card.name}, ms" for card in CARDS) + " |"
    return "\n".join([head, "|---" * (3 + len(CARDS)) + "|", *rows])


def decode_table(model):
    rows = [row(f"products, {form}", products(model, BATCH, form, BATCH)) for form in FORMATS]
    rows += [row(f"attention, {name} KV", attention(model, BATCH, CONTEXT, BATCH * CONTEXT, bits)) for name, bits in KV_BITS.items()]
    return table([*rows, row("the rest", elementwise(model, BATCH))])


def prefill_table(model):
    rows = [row(f"products, {form}", products(model, PROMPT, form, 1)) for form in FORMATS]
    return table([*rows, row("attention, f16 KV", attention(model, PROMPT, PROMPT / 2, PROMPT, 16)),
                  row("the rest", elementwise(model, PROMPT))])


def stream_lines():
    """What copies must hide: the part of the KV that is not resident crosses the link once a step."""
    for model in MODELS:
        kv = model.layers * BATCH * CONTEXT * model.kv_token_bytes()
        figures = ", ".join(f"{card.name} {kv / card.link:.2f} s ({kv * 4.5 / 16 / card.link:.2f} s)" for card in CARDS)
        yield f"- {model.name}: {kv / 1e9:.1f} GB of f16 KV ({kv * 4.5 / 16 / 1e9:.1f} GB at 4.5 bits); all of it over the link: {figures}."


def text():
    parts = [BEGIN.strip()]
    for model in MODELS:
        parts += [f"{model.name}, a decode step, batch {BATCH}, context {CONTEXT} (* bound by operations, else by memory):",
                  decode_table(model),
                  f"{model.name}, a prompt of {PROMPT} tokens:", prefill_table(model),
                  f"{model.layer_launches()} launches a layer, {model.layers * model.layer_launches()} a step without embedding "
                  "and head: at 3 us each "
                  f"{3e-3 * model.layers * model.layer_launches():.1f} ms of launching, in the shadow of the kernels that run."]
    parts += ["A decode step whose KV is not resident:", "\n".join(stream_lines()), END.strip()]
    return "\n\n".join(parts) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path)
    options = parser.parse_args()
    file = options.check or options.write
    if file is None:
        print(text(), end="")
        return 0
    page = file.read_text()
    begin, end = page.index(BEGIN), page.index(END) + len(END)
    if options.write:
        file.write_text(page[:begin] + text() + page[end:])
    elif page[begin:end] != text():
        print(f"{file}: the tables are old; roofline.py --write {file} makes them anew")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
