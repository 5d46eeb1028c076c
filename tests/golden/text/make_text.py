#!/usr/bin/env python3
"""Makes tests/golden/text: small tokenizers of every kind, and the ids that the originals give.

    python3 make_text.py MODEL.gguf     (needs tokenizers, transformers, sentencepiece and gguf)

Writes `texts.bin` (each text: u32 length, bytes) and per tokenizer a `NAME.ids` (each text: u16 count, u16 ids, u64 FNV-1a
of what the original decodes them to; little-endian). Broken UTF-8 has no original: there the expected ids are those of
the well-formed runs, each encoded by the original, with the bytes between them as the model's own byte tokens.
"""
import pathlib
import struct
import sys

import gguf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

import texts

HERE = pathlib.Path(__file__).parent


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return value


def byte_alphabet():
    """GPT-2's character for each byte."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {**{byte: chr(byte) for byte in visible}, **{byte: chr(0x100 + i) for i, byte in enumerate(hidden)}}


def runs(data):
    """Cuts bytes into [text or bytes]: what is well-formed UTF-8, and what is not."""
    out = []
    while data:
        try:
            return out + [data.decode()]
        except UnicodeDecodeError as error:
            if error.start:
                out.append(data[: error.start].decode())
            broken = data[error.start : error.end]
            if out and isinstance(out[-1], bytes):
                out[-1] += broken
            else:
                out.append(broken)
            data = data[error.end :]
    return out


def byte_level_ids(tokenizer, text):
    """Ids of bytes that may be broken, by a byte-level BPE."""
    alphabet = byte_alphabet()
    ids = []
    for run in runs(text):
        if isinstance(run, str):
            ids += tokenizer.encode(run, add_special_tokens=False).ids
        else:
            ids += [token.id for token in tokenizer.model.tokenize("".join(alphabet[byte] for byte in run))]
    return ids


def write_ids(name, tokenizer, broken_ids):
    with open(HERE / f"{name}.ids", "wb") as file:
        for text in texts.all_texts():
            ids = tokenizer.encode(text, add_special_tokens=False).ids if isinstance(text, str) else broken_ids(tokenizer, text)
            decoded = tokenizer.decode(ids, skip_special_tokens=False).encode()
            file.write(struct.pack(f"<H{len(ids)}HQ", len(ids), *ids, fnv1a(decoded)))


def write_texts():
    with open(HERE / "texts.bin", "wb") as file:
        for text in texts.all_texts():
            data = text.encode() if isinstance(text, str) else text
            file.write(struct.pack("<I", len(data)) + data)


def smollm2(path):
    """The model's own tokenizer, put together from the pieces and merges of its GGUF file."""
    fields = gguf.GGUFReader(path).fields
    pieces = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = [piece for piece, kind in zip(pieces, types) if kind == gguf.TokenType.CONTROL]
    tokenizer.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in control])
    return tokenizer


def main():
    write_texts()
    write_ids("smollm2", smollm2(sys.argv[1]), byte_level_ids)


if __name__ == "__main__":
    main()
