#!/usr/bin/env python3
"""Shapes that run with random weights: test_random_weights.py SPILLWAY [ranks]"""

import json
import math
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
import golden_files

SPILLWAY = sys.argv[1]
SHAPES = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "shapes"
UNAVAILABLE, SKIPPED = 69, 77  # a build without MPI; for meson
TINY = ("tiny-opt", "tiny-llama")
TOKENS = [(7 * i * i + 3 * i) % 515 for i in range(40)]
RANDOM = "--random-weights"
folder = pathlib.Path(tempfile.mkdtemp())


def spillway(*arguments):
    return subprocess.run([SPILLWAY, *map(str, arguments)], capture_output=True, text=True, timeout=120)


def logits(model, *more):
    """(rows, columns, numbers) and what was said on standard error."""
    path = folder / "logits.npy"
    (folder / "tokens.json").write_text(json.dumps(TOKENS))
    answer = spillway("logits", model, "--tokens-file", folder / "tokens.json", "--output", path, "--threads", 1, *more)
    if "--ranks" in more and answer.returncode == UNAVAILABLE:
        sys.exit(SKIPPED)
    assert answer.returncode == 0, answer
    return golden_files.load_npy(path), answer.stderr


def deviation(found):
    mean = math.fsum(found[2]) / len(found[2])
    return math.sqrt(math.fsum((x - mean) ** 2 for x in found[2]) / len(found[2]))


def test_logits():
    """Finite, spread out, the same for the same seed and type, others for others."""
    for model in TINY:
        first, said = logits(model, RANDOM)
        assert "the weights are random numbers" in said, said
        assert all(math.isfinite(x) for x in first[2]) and deviation(first) > 0.01, deviation(first)
        assert logits(model, RANDOM)[0] == first
        for other in (["--weight-seed", 1], ["--weight-type", "q5_1"]):
            assert logits(model, RANDOM, *other)[0] != first, other
        rows = [first[2][i * first[1]:(i + 1) * first[1]] for i in range(first[0])]
        assert len({tuple(row) for row in rows}) == len(rows), "two positions have the same logits"


def test_every_format():
    seen = set()
    refusal = spillway("logits", "tiny-opt", RANDOM, "--weight-type", "none", "--output", folder / "no.npy").stderr
    formats = re.search(r"there are (.*)", refusal)[1].split(", ")
    assert len(formats) >= 11, refusal
    for name in formats:
        found, _ = logits("tiny-opt" if not name.endswith("k") else wide_shape(), RANDOM, "--weight-type", name)
        assert all(math.isfinite(x) for x in found[2]) and deviation(found) > 0.01, name
        seen.add(tuple(found[2]))
    assert len(seen) == len(formats)


def wide_shape():
    """Rows of 256, for formats with such blocks; a config.json that only a path names."""
    config = json.loads((SHAPES / "tiny-opt.json").read_text())
    config.update(hidden_size=256, word_embed_proj_dim=256, ffn_dim=512, num_hidden_layers=2)
    path = folder / "wide.json"
    path.write_text(json.dumps(config))
    return path


def hostile_shape():
    """More than any address space holds."""
    config = json.loads((SHAPES / "tiny-opt.json").read_text())
    config.update(hidden_size=1 << 24, word_embed_proj_dim=1 << 24, ffn_dim=1 << 24, num_attention_heads=1 << 15, vocab_size=1 << 24)
    path = folder / "hostile.json"
    path.write_text(json.dumps(config))
    return path


def test_where_a_shape_comes_from():
    """The name, the JSON file and a folder that holds nothing but config.json are one model."""
    bare = folder / "bare"
    bare.mkdir()
    shutil.copy(SHAPES / "tiny-llama.json", bare / "config.json")
    named, _ = logits("tiny-llama", RANDOM)
    assert logits(bare, RANDOM)[0] == named and logits(SHAPES / "tiny-llama.json", RANDOM)[0] == named
    (bare / "pytorch_model.bin").write_bytes(b"PK")
    answer = spillway("logits", bare, RANDOM, "--tokens-file", folder / "tokens.json", "--output", folder / "no.npy")
    assert answer.returncode == 65 and "E-MODEL-FORMAT" in answer.stderr and "convert it" in answer.stderr, answer


def test_inspect():
    """Every shape can be looked at without the flag, and has about the parameters of its name."""
    for path in sorted(SHAPES.glob("*.json")):
        answer = spillway("inspect", path.stem, "--json")
        assert answer.returncode == 0, answer
        report = json.loads(answer.stdout)
        assert report["format"] == "random", report["format"]
        if path.stem.startswith("tiny"):
            continue
        billions = float(path.stem.rsplit("-", 1)[1].rstrip("b"))
        elements = report["totals"]["elements"]
        assert 0.95 * billions < elements / 1e9 < 1.08 * billions, (path.stem, elements)
    types = {t["name"]: t["type"] for t in json.loads(spillway("inspect", "tiny-llama", "--json").stdout)["tensors"]}
    assert types["model.layers.0.mlp.up_proj.weight"] == "q4_0"
    assert types["model.layers.0.mlp.down_proj.weight"] == "f16", "400 is no whole number of blocks of 32"
    assert types["model.norm.weight"] == "f32"


def test_bench_says_so():
    path = folder / "result.json"
    summary = folder / "summary.json"
    common = ["--batch-size", 3, "--threads", 1, "--save-result", "--result-filename", path, "--summary-json", summary]
    decode = ["decode", "--random-input-len", 20, "--num-steps", 2, "--synthetic-kv"]
    latency = ["latency", "--random-input-len", 8, "--random-output-len", 2, "--num-iters", 1, "--num-iters-warmup", 0]
    for words in (decode, latency):
        answer = spillway("bench", words[0], "tiny-opt", RANDOM, *words[1:], *common)
        assert answer.returncode == 0, answer
        assert "random numbers, q4_0, seed 0" in answer.stdout, answer.stdout
        assert json.loads(path.read_text())["random_weights"] is True
        assert json.loads(summary.read_text())["random_weights"] is True


def test_named_config():
    answer = spillway("bench", "decode", RANDOM, "--config", "opt-30b", "--print-config")
    assert answer.returncode == 0 and "model: \"opt-30b\"" in answer.stdout and "configs/opt-30b.yaml:" in answer.stdout, answer
    answer = spillway("bench", "decode", "--config", "opt-30b", "tiny-opt", "--print-config")
    assert "model: \"tiny-opt\"" in answer.stdout and "random-weights: true" in answer.stdout, answer
    answer = spillway("bench", "decode", "--config", "opt-3b")
    assert answer.returncode == 66 and "E-FILE-MISSING" in answer.stderr and "built in are only: opt-30b" in answer.stderr, answer


def test_refusals():
    real = golden_files.model_path("gguf_llama_f32")
    tokens = ["--tokens-file", folder / "tokens.json", "--output", folder / "no.npy"]
    for arguments, code, words in (
        (["logits", "tiny-opt", *tokens], 66, ["E-FILE-MISSING", "tiny-opt", "--random-weights"]),
        (["logits", "tiny-opd", RANDOM, *tokens], 66, ["E-FILE-MISSING", "opt-6.7b", "qwen2.5-32b", "tiny-llama"]),
        (["logits", real, RANDOM, *tokens], 64, ["E-USAGE", "weights of its own"]),
        (["logits", "tiny-opt", RANDOM, "--weight-type", "q3", *tokens], 64, ["E-USAGE", "q4_0", "q6_k"]),
        (["logits", hostile_shape(), RANDOM, *tokens], 71, ["E-MEMORY", "hostile.json"]),
        (["run", "tiny-opt", RANDOM, "-p", "x"], 65, ["E-TOKENIZER"]),
    ):
        answer = spillway(*arguments)
        assert answer.returncode == code and all(word in answer.stderr for word in words), answer


def ranks_test():
    """Two ranks, uneven for 3 KV heads, agree with one within the tolerance of encoded weights (tests/README.md)."""
    if not shutil.which("mpirun"):
        sys.exit(SKIPPED)
    for model in TINY:
        one, _ = logits(model, RANDOM)
        two, _ = logits(model, RANDOM, "--ranks", 2)
        largest, square = golden_files.differences(two, one)
        assert largest < 0.2 and square < 0.02, (model, largest, square)


tests = [ranks_test] if sys.argv[2:] == ["ranks"] else [test for name, test in list(globals().items()) if name.startswith("test_")]
try:
    for test in tests:
        test()
finally:
    shutil.rmtree(folder)
print(f"{len(tests)} passed, 0 failed, 0 skipped")
