#!/usr/bin/env python3
"""Makes tests/golden/text: small tokenizers of every kind, and the ids that the originals give.

    python3 make_text.py MODEL.gguf     (needs tokenizers, transformers, sentencepiece and gguf)

Writes `classes.json` (which characters Oniguruma counts to a class), `texts.bin` (each text: u32 length, bytes) and per tokenizer a `NAME.ids` (each text: u16 count, u16 ids, u32 FNV-1a
of what the original decodes them to; little-endian). Broken UTF-8 has no original: there the expected ids are those of
the well-formed runs, each encoded by the original, with the bytes between them as the model's own byte tokens.
"""
import io
import json
import pathlib
import re
import struct
import sys

import gguf
import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

import texts

HERE = pathlib.Path(__file__).parent


def fnv1a(data):
    value = 0x811C9DC5
    for byte in data:
        value = (value ^ byte) * 0x01000193 & 0xFFFFFFFF
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


def joined_ids(text, whole, continuing, byte_ids):
    """Ids of bytes that may be broken: `whole` encodes what starts a text, `continuing` what follows broken bytes."""
    ids = []
    for i, run in enumerate(runs(text)):
        if isinstance(run, bytes):
            ids += byte_ids(run)
        else:
            ids += (continuing if i else whole).encode(run, add_special_tokens=False).ids
    return ids


def through_alphabet(tokenizer):
    """Ids of broken bytes for a model on bytes: one word, of the bytes where all have tokens, else of U+FFFD."""
    alphabet = byte_alphabet()

    def byte_ids(run):
        if any(tokenizer.token_to_id(alphabet[byte]) is None for byte in run):
            run = run.decode(errors="replace").encode()
        return [token.id for token in tokenizer.model.tokenize("".join(alphabet[byte] for byte in run))]

    return byte_ids


def through_fallback(tokenizer):
    return lambda run: [tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in run]


# Characters of Unicode 12.1 and later that have compatibility forms or lower case: the original's tables and utf8proc's
# are of different ages, so they differ here.
YOUNG = re.compile("[\u32ff\ua7f2-\ua7f4\uab69\U00010780-\U000107ba\U00010d50-\U00010d65\U0001e030-\U0001e06d]")
NO_ORIGINAL = 0xFFFF


def write_ids(name, ids_of, text_of, skip=None):
    """ids_of: a text, str or broken bytes, to ids; text_of: ids to what they decode to; skip: texts without an original."""
    with open(HERE / f"{name}.ids", "wb") as file:
        for text in texts.all_texts():
            if skip and isinstance(text, str) and skip.search(text):
                file.write(struct.pack("<H", NO_ORIGINAL))
                continue
            ids = ids_of(text)
            file.write(struct.pack(f"<H{len(ids)}HI", len(ids), *ids, fnv1a(text_of(ids).encode())))


def write_tokenizer_ids(name, tokenizer, continuing=None, byte_ids=None, skip=None, text_of=None):
    def ids_of(text):
        if isinstance(text, str):
            return tokenizer.encode(text, add_special_tokens=False).ids
        if byte_ids:
            return joined_ids(text, tokenizer, continuing or tokenizer, byte_ids)
        return tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False).ids

    text_of = text_of or (lambda ids: tokenizer.decode(ids, skip_special_tokens=False))
    write_ids(name, ids_of, text_of, skip)


def write_texts():
    with open(HERE / "texts.bin", "wb") as file:
        for text in texts.all_texts():
            data = text.encode() if isinstance(text, str) else text
            file.write(struct.pack("<I", len(data)) + data)


# ---- the real model ----


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



# ---- byte-level BPE ----

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
DEFAULT = [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def corpus():
    license_text = (HERE.parents[2] / "LICENSE").read_text()
    return [*license_text.splitlines(), *texts.WRITTEN * 4, *texts.drawn(1500, 2)]


def isolated(expression):
    return pre_tokenizers.Split(Regex(expression), "isolated")


def on_bytes(*steps):
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train_byte_level(pre, vocab=700, normalizer=None, whole_words=False):
    """Merges are learnt across the cuts of `pre`, so that a cut in the wrong place gives other ids."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=whole_words))
    tokenizer.pre_tokenizer = on_bytes(isolated(r"\S+\s*|\s+"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocab, special_tokens=CONTROL, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre:
        tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save(name, tokenizer):
    (HERE / f"{name}.json").write_text(tokenizer.to_str(pretty=False) + "\n")


def byte_level_files():
    """tokenizer.json with the pre-tokenizers that models use, and the corners of added tokens."""
    llama3 = train_byte_level(on_bytes(isolated(LLAMA3)), whole_words=True)
    llama3.post_processor = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|> $B", special_tokens=[("<|endoftext|>", 0)]
    )
    qwen2 = train_byte_level(on_bytes(isolated(QWEN2)), normalizer=normalizers.NFC())
    plain = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False))
    prefixed = train_byte_level(pre_tokenizers.ByteLevel(add_prefix_space=True))
    prefixed.add_tokens(
        [
            AddedToken("added token", normalized=True),
            AddedToken("<mask>", lstrip=True, special=True),
            AddedToken("<sep>", rstrip=True),
            AddedToken("<word>", single_word=True),
            AddedToken("Normal", normalized=False),
        ]
    )
    prefixed.post_processor = processors.RobertaProcessing(("<|im_end|>", 2), ("<|im_start|>", 1))
    unprefixed = Tokenizer.from_str(prefixed.to_str())
    unprefixed.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    mixed = train_byte_level(
        on_bytes(
            pre_tokenizers.Split("-", "merged_with_previous"),
            pre_tokenizers.Split(Regex(r"[/\\]"), "merged_with_next"),
            pre_tokenizers.Split(Regex(r"\s"), "contiguous"),
            pre_tokenizers.Punctuation("contiguous"),
            pre_tokenizers.Digits(),
        ),
        normalizer=normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace("ß", "ss")]),
    )
    for name, tokenizer, continuing in [
        ("llama3", llama3, None), ("qwen2", qwen2, None), ("gpt2", plain, None), ("prefixed", prefixed, unprefixed), ("mixed", mixed, None)
    ]:
        save(name, tokenizer)
        write_tokenizer_ids(name, tokenizer, continuing, through_alphabet(tokenizer), YOUNG if name == "mixed" else None)


def write_gguf(name, model, pieces, types, merges=None, scores=None, pre=None, **settings):
    writer = gguf.GGUFWriter(str(HERE / f"{name}.gguf"), "llama")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(pieces)
    writer.add_token_types(types)
    if scores:
        writer.add_token_scores(scores)
    if merges:
        writer.add_token_merges(merges)
    for key, value in settings.items():
        getattr(writer, f"add_{key}")(value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def byte_level_gguf():
    """One vocabulary under every pre-tokenizer name that GGUF files use."""
    base = train_byte_level(None, vocab=800)
    model = json.loads(base.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    types = [gguf.TokenType.CONTROL if piece in CONTROL else gguf.TokenType.NORMAL for piece in pieces]
    cuts = {
        "gpt-2": [GPT2], "smollm": [r"\p{N}", GPT2], "llama-bpe": [LLAMA3], "qwen2": [QWEN2], "tekken": [TEKKEN], "default": DEFAULT
    }
    for pre, expressions in cuts.items():
        name = f"gguf_{pre.replace('-', '_')}"
        write_gguf(
            name, "gpt2", pieces, types, [" ".join(merge) for merge in model["merges"]], pre=pre,
            bos_token_id=1, eos_token_id=0, add_bos_token=pre == "qwen2",
        )
        tokenizer = Tokenizer.from_str(base.to_str())
        tokenizer.pre_tokenizer = on_bytes(*map(isolated, expressions))
        write_tokenizer_ids(name, tokenizer, None, through_alphabet(tokenizer))


# ---- SentencePiece ----


def train_sentencepiece(kind, vocab, **settings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(line for line in corpus() if line.strip() and all("\0" < c < "\u0500" for c in line)), model_writer=model, vocab_size=vocab,
        model_type=kind, normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98, num_threads=1,
        minloglevel=2, **settings,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def pieces_of(processor):
    return [processor.id_to_piece(i) for i in range(processor.vocab_size())]


def types_of(processor):
    kinds = [
        (processor.is_unknown, gguf.TokenType.UNKNOWN), (processor.is_control, gguf.TokenType.CONTROL), (processor.is_byte, gguf.TokenType.BYTE)
    ]
    return [next((kind for test, kind in kinds if test(i)), gguf.TokenType.NORMAL) for i in range(processor.vocab_size())]


def merges_of(processor):
    """Every way to make a piece of two, the best score first, as converters to tokenizer.json write them."""
    pieces = pieces_of(processor)
    normal = {piece: i for i, (piece, kind) in enumerate(zip(pieces, types_of(processor))) if kind == gguf.TokenType.NORMAL}
    merges = [
        (-processor.get_score(i), normal[piece[:at]], normal[piece[at:]], piece[:at], piece[at:])
        for piece, i in normal.items()
        for at in range(1, len(piece))
        if piece[:at] in normal and piece[at:] in normal
    ]
    return [(left, right) for *_, left, right in sorted(merges)]


def original_ids(processor):
    """What SentencePiece itself gives; control pieces in texts are letters to it, so such texts are cut around them."""
    control = re.compile("(" + "|".join(re.escape(p) for p, k in zip(pieces_of(processor), types_of(processor)) if k != gguf.TokenType.NORMAL and k != gguf.TokenType.BYTE) + ")")

    def ids_of(text):
        if isinstance(text, bytes):
            ids = []
            for i, run in enumerate(runs(text)):
                if isinstance(run, bytes):
                    ids += [processor.piece_to_id(f"<0x{byte:02X}>") for byte in run]
                else:
                    ids += encode_run(run, i > 0)
            return ids
        return encode_run(text, False)

    def encode_run(text, continues):
        ids = []
        for i, part in enumerate(control.split(text)):
            if i % 2:
                ids.append(processor.piece_to_id(part))
            elif part and continues and i == 0:
                ids += without_prefix(part)
            elif part:
                ids += processor.encode(part)
        return ids

    def without_prefix(part):
        marked = processor.encode("\n" + part)  # a line end merges with nothing
        line_end = processor.encode("\n")
        assert marked[: len(line_end)] == line_end
        return marked[len(line_end) :]

    return ids_of


def decode_pieces(id_to_piece):
    """As tokenizer.json files of such models decode; bytes that are no characters become U+FFFD as Unicode recommends."""

    def text_of(ids):
        out = b""
        for piece in map(id_to_piece, ids):
            byte = re.fullmatch("<0x([0-9A-F]{2})>", piece)
            out += bytes([int(byte[1], 16)]) if byte else piece.replace("▁", " ").encode()
        return out.decode(errors="replace").removeprefix(" ")

    return text_of


def decode_fallback(tokenizer):
    """The ByteFallback decoder writes one U+FFFD for every byte of a run of byte tokens as soon as one byte in it is wrong, which
    cannot be streamed; where all is right it must agree."""
    ours = decode_pieces(tokenizer.id_to_token)

    def text_of(ids):
        text = ours(ids)
        assert "\ufffd" in text or text == tokenizer.decode(ids, skip_special_tokens=False)
        return text

    return text_of


def sentencepiece_files():
    bpe = train_sentencepiece("bpe", 800, byte_fallback=True)
    unigram = train_sentencepiece("unigram", 800, byte_fallback=True)
    unknowing = train_sentencepiece("unigram", 700)
    for name, kind, processor in [("gguf_llama", "llama", bpe), ("gguf_t5", "t5", unigram)]:
        scores = [processor.get_score(i) for i in range(processor.vocab_size())]
        write_gguf(
            name, kind, pieces_of(processor), types_of(processor), scores=scores, bos_token_id=1, eos_token_id=2, unk_token_id=0,
            add_space_prefix=True,
        )
        write_ids(name, original_ids(processor), decode_pieces(processor.id_to_piece))

    vocab = {piece: i for i, piece in enumerate(pieces_of(bpe))}
    legacy = Tokenizer(models.BPE(vocab=vocab, merges=merges_of(bpe), byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
    legacy.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    legacy.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in ("<unk>", "<s>", "</s>")])
    legacy.normalizer = normalizers.Replace(" ", "▁")
    continuing = Tokenizer.from_str(legacy.to_str())
    legacy.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    legacy.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)])
    first = Tokenizer.from_str(continuing.to_str())
    first.normalizer = None
    first.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    save("legacy", legacy)
    write_tokenizer_ids("legacy", legacy, continuing, through_fallback(legacy), text_of=decode_fallback(legacy))
    save("metaspace", first)
    write_tokenizer_ids("metaspace", first, continuing, through_fallback(first), text_of=decode_fallback(first))

    scored = [(piece, unknowing.get_score(i)) for i, piece in enumerate(pieces_of(unknowing))]
    viterbi = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=False))
    viterbi.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    viterbi.decoder = decoders.Metaspace()
    viterbi.add_special_tokens([AddedToken(piece, special=True) for piece in ("<unk>", "<s>", "</s>")])
    save("unigram", viterbi)
    write_tokenizer_ids("unigram", viterbi)


CLASSES = [
    r"\s", r"\S", r"\w", r"\W", r"\d", r"\h", r"\p{L}", r"\P{L}", r"\p{Lu}", r"\p{Ll}", r"\p{Lt}", r"\p{Lm}", r"\p{Lo}", r"\p{M}", r"\p{N}",
    r"\p{Nd}", r"\p{P}", r"\p{Pc}", r"\p{S}", r"\p{Z}", r"\p{Zs}", r"\p{Cc}", r"\p{Han}", r"\p{^Lu}", r"[^\s\p{L}\p{N}]", r"[^\r\n\p{L}\p{N}]",
    r"[\w.]", r"\x41", r"\x{1F600}", r"\u00e9", "(?i:s)", ".",
]


def write_classes():
    """Per expression how many code points it matches alone, and FNV-1a over them as UTF-8, in order."""
    rows = []
    for expression in CLASSES:
        removed = pre_tokenizers.Split(Regex(expression), "removed")
        matched = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000 and not removed.pre_tokenize_str(chr(c))]
        rows.append([expression, len(matched), fnv1a("".join(matched).encode())])
    (HERE / "classes.json").write_text("[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n")


def main():
    write_texts()
    write_classes()
    tokenizer = smollm2(sys.argv[1])
    write_tokenizer_ids("smollm2", tokenizer, None, through_alphabet(tokenizer))
    byte_level_files()
    byte_level_gguf()
    sentencepiece_files()


if __name__ == "__main__":
    main()
