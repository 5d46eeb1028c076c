#!/usr/bin/env python3
"""`spillway eval` against transformers (golden/perplexity.json) and against itself: test_eval.py SPILLWAY GOLDEN [ranks | model]

model: the real SmolLM2, whose file SPILLWAY_TEST_MODEL names; skipped (77) without."""

import hashlib
import json
import math
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile

SPILLWAY, GOLDEN = sys.argv[1], pathlib.Path(sys.argv[2])
WHICH = sys.argv[3] if len(sys.argv) > 3 else "alone"
sys.path.insert(0, str(GOLDEN.parent / "runtime"))
from golden_files import load_npy  # noqa: E402

MODEL, TEXT = GOLDEN / "models/llama_text", GOLDEN / "perplexity_text.txt"
CASES = json.loads((GOLDEN / "perplexity.json").read_text())
SMOLLM2 = os.environ.get("SPILLWAY_TEST_MODEL", "")
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# Largest difference of the mean loss, in nats a token. Float weights: measured 6.0e-6. The real model has int8 activations where
# its kernels are not the reference (measured over a thousand tokens: 8e-4 on AVX-512, 7.4e-3 on AVX2); what the reference is off
# by (1.6e-4 over 48 tokens) are keys and values on the other side of their float16 rounding.
TOLERANCE = {"float": 3e-5, "encoded": 1.5e-2, "encoded reference": 5e-4}
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}


def start(word, *arguments, model=MODEL, text=TEXT, **options):
    return subprocess.Popen([SPILLWAY, "eval", word, str(model), "--file", str(text), *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT, **options)


def evaluate(word, *arguments, rc=0, **options):
    process = start(word, *arguments, "--quiet", **options)
    out, err = process.communicate(timeout=300)
    assert process.returncode == rc, f"{arguments}: exit {process.returncode}, expected {rc}\n{err}"
    return out, err


def result(word, *arguments, **options):
    return json.loads(evaluate(word, *arguments, "--json", **options)[0])


def refused(code, words, *arguments, word="perplexity", rc=65, **options):
    out, err = evaluate(word, *arguments, rc=rc, **options)
    lines = [line for line in err.splitlines() if "error[" in line]
    assert out == "" and len(lines) == 1 and f"error[{code}]" in lines[0] and words in lines[0], (arguments, out, err)


def flags(case):
    sliding = ["--mode", "sliding", "--stride", case["stride"]] if case["stride"] else []
    return ["--context", case["context"], "--prefix", case["prefix"], "--windows", case["limit"], *sliding]


def check_case(case, tolerance, *more, **options):
    found = result("perplexity", *flags(case), *more, **options)
    for key in ("tokens", "text_tokens", "windows"):
        assert found[key] == case[key], (key, found, case)
    off = abs(found["loss"] - case["loss"])
    print(f"{case['model']} {' '.join(map(str, flags(case)))} {' '.join(more)}: loss {found['loss']:.6f}, off by {off:.1e}")
    assert off <= tolerance, (found, case)
    assert math.isclose(found["perplexity"], math.exp(found["loss"]), rel_tol=1e-9)
    assert abs(found["bits_per_byte"] / case["bits_per_byte"] - found["loss"] / case["loss"]) < 1e-9
    assert 0 < found["loss_error"] < found["loss"]


def model_with_bos(folder):
    """The same model, whose tokenizer begins a text with BOS."""
    shutil.copytree(MODEL, folder / "begins")
    config = json.loads((MODEL / "tokenizer_config.json").read_text())
    (folder / "begins/tokenizer_config.json").write_text(json.dumps({**config, "add_bos_token": True}))
    return folder / "begins"


def alone_golden_perplexity(folder):
    begins = model_with_bos(folder)
    for case in CASES:
        if case["model"] != "llama_text":
            continue
        model = begins if case["bos"] else MODEL
        for isa in ("auto", "reference"):
            check_case(case, TOLERANCE["float"], "--cpu-isa", isa, model=model)
    plain = next(case for case in CASES if not case["bos"])
    check_case(plain, TOLERANCE["float"], "--no-bos", model=begins)


SCHEDULES = (
    ["--max-num-seqs", "1", "--threads", "1"],
    ["--max-num-seqs", "5", "--max-num-batched-tokens", "7", "--threads", "3"],
    ["--kv-device-size", "min", "--kv-host-size", "64MiB", "--max-num-seqs", "3"],
)


def alone_same_bits_whatever_the_schedule(folder):
    expected = result("perplexity", "--context", 100, "--block-size", 16)
    for schedule in SCHEDULES:
        assert result("perplexity", "--context", 100, "--block-size", 16, *schedule) == expected, schedule


def alone_blocks_below_are_read(folder):
    """Perplexity is decoded: what was spilled is read again for each token, and the reference run does not spill."""
    summary = folder / "summary.json"
    tiers = ["--kv-device-size", "min", "--kv-nvme-dir", folder, "--kv-nvme-size", "64MiB", "--max-num-seqs", "4"]
    found = result("kl", "--context", 400, "--block-size", 16, "--windows", 4, "--max-num-batched-tokens", 16, *tiers,
                   "--summary-json", summary, "--dir", folder)
    assert found["kl_max"] == 0 and found["perplexity_ratio"] == 1, found
    nvme = json.loads(summary.read_text())["tiers"]["nvme"]
    assert nvme["read_bytes"] > 20 * nvme["written_bytes"] > 0, nvme
    broken = [*tiers, "--fault", "io.read:flip:odds=0.02,seed=6,count=6"]
    assert result("kl", "--context", 400, "--block-size", 16, "--windows", 4, "--max-num-batched-tokens", 16, *broken,
                  "--summary-json", summary, "--dir", folder) == found  # a lost block costs time, and no token is scored twice
    assert json.loads(summary.read_text())["tokens"]["recomputed"] > 0


def log_softmax(row):
    top = max(row)
    shift = top + math.log(math.fsum(math.exp(x - top) for x in row))
    return [x - shift for x in row]


def prefilled_logprobs(folder, ids, isa):
    """Per position, by `spillway logits`."""
    (folder / "ids.json").write_text(json.dumps(ids))
    subprocess.run([SPILLWAY, "logits", str(MODEL), "--tokens-file", str(folder / "ids.json"), "--output", str(folder / "x.npy"),
                    "--cpu-isa", isa, "--quiet"], check=True, env=ENVIRONMENT)
    rows, vocab, values = load_npy(folder / "x.npy")
    return [log_softmax(values[row * vocab : (row + 1) * vocab]) for row in range(rows)]


def alone_divergence(folder):
    """Between two instruction sets, against the same computed from the logits of each; nothing between equal ones."""
    window = ["--context", 60, "--prefix", 20, "--windows", 1]
    for isa in ("auto", "reference"):
        same = result("kl", *window, "--cpu-isa", isa)
        assert (same["kl_mean"], same["kl_p99"], same["kl_max"], same["same_top_token"]) == (0, 0, 0, 1), same
    found = result("kl", *window, "--cpu-isa", "auto", "--reference-isa", "reference")
    ids = json.loads(subprocess.run([SPILLWAY, "tokenize", str(MODEL), "--file", str(TEXT)], capture_output=True, check=True,
                                    env=ENVIRONMENT).stdout)[:60]
    ours, theirs = (prefilled_logprobs(folder, ids, isa) for isa in ("auto", "reference"))
    scored = range(19, 59)
    divergences = [math.fsum(math.exp(p) * (p - q) for p, q in zip(theirs[i], ours[i])) for i in scored]
    assert found["tokens"] == len(divergences) == 40
    assert 0 < found["kl_mean"] < 1e-5, found
    assert math.isclose(found["kl_mean"], math.fsum(divergences) / 40, rel_tol=1e-4), (found, divergences)
    assert math.isclose(found["kl_max"], max(divergences), rel_tol=1e-4), (found, divergences)
    loss = -math.fsum(ours[i][ids[i + 1]] for i in scored) / 40
    reference = -math.fsum(theirs[i][ids[i + 1]] for i in scored) / 40
    assert abs(found["loss"] - loss) < 1e-6 and math.isclose(found["reference_perplexity"], math.exp(reference), rel_tol=1e-6)
    assert found["kernels"] != found["reference_kernels"] == "reference"


def alone_text_output(folder):
    out, _ = evaluate("perplexity", "--windows", 2)
    assert out.startswith("perplexity   ") and " ± " in out and "768 scored of 6987" in out and "behind --windows" in out, out
    out, _ = evaluate("kl", "--context", 128, "--windows", 2, "--dir", folder)
    assert "mean 0.000e+00" in out and "100.00 %" in out and os.listdir(folder) == [], out
    out, _ = evaluate("perplexity")
    assert "no longer than a prompt" not in out, out  # the tail of this text is a window of its own
    out, _ = evaluate("perplexity", "--context", 498, "--prefix", 50)
    assert "left out                    15 tokens at the end: no longer than a prompt" in out, out


def alone_odd_texts(folder):
    short, noise, empty = folder / "short", folder / "noise", folder / "empty"
    short.write_text("Everyone is permitted to copy and distribute verbatim copies of this license document. " * 3)
    found = result("perplexity", "--context", 512, "--prefix", 4, text=short)  # one window, not full
    assert found["windows"] == 1 and found["tokens"] == found["text_tokens"] - 4, found
    found = result("perplexity", "--context", 512, "--prefix", 4, "--mode", "sliding", text=short)
    assert found["windows"] == 1 and found["left_out_tokens"] == 0, found
    noise.write_bytes(random.Random(1).randbytes(1500))
    found = result("perplexity", text=noise)
    assert found["tokens"] > 0 and found["text_bytes"] == 1500 and found["bits_per_byte"] > 8, found
    empty.write_bytes(b"")
    refused("E-TEXT", "is empty", text=empty)
    noise.write_bytes(b"\0\xff\x80")
    refused("E-TEXT", "tokens; scoring one needs at least 129", text=noise)
    refused("E-FILE-MISSING", "No such file", text=folder / "none", rc=66)


def alone_refusals(folder):
    refused("E-CONTEXT-LENGTH", "works on 512 tokens at most", "--context", 513)
    refused("E-CONTEXT-LENGTH", "works on 64 tokens at most", "--context", 65, "--max-model-len", 64)
    assert result("perplexity", "--max-model-len", 64, "--windows", 1)["context"] == 64  # the default gives way
    refused("E-USAGE", "--prefix", "--context", 64, "--prefix", 64, rc=64)
    refused("E-USAGE", "--stride goes with", "--stride", 4, rc=64)
    refused("E-USAGE", "--stride 49", "--context", 64, "--prefix", 16, "--stride", 49, "--mode", "sliding", rc=64)
    refused("E-USAGE", "--no-bos", "--context", 64, "--prefix", 1, model=model_with_bos(folder), rc=64)
    refused("E-OUTPUT-CREATE", "see --dir", "--dir", folder / "none", word="kl", rc=73)
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    refused("E-OUTPUT-WRITE", "see --dir and --windows", "--dir", folder, word="kl", rc=74, preexec_fn=small)
    assert sorted(os.listdir(folder)) == ["begins"]


def alone_stops_when_asked(folder):
    long = folder / "long"
    long.write_text(TEXT.read_text() * 40)
    process = start("kl", "--cpu-isa", "reference", "--dir", folder, text=long)
    process.stderr.readline()  # the engine is open
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75 and "E-STOPPED" in err and out == "", (process.returncode, out, err)


def ranks_golden_perplexity(folder):
    for case in CASES[:3]:
        check_case(case, TOLERANCE["float"], "--ranks", "2")


def ranks_divergence(folder):
    """A second engine on every rank, and what only rank 0 meets ends all."""
    same = result("kl", "--windows", 2, "--ranks", 3, "--dir", folder)
    assert same["kl_max"] == 0 and same["ranks"] == 3, same
    other = result("kl", "--windows", 2, "--ranks", 2, "--reference-isa", "reference", "--dir", folder)
    assert 0 < other["kl_mean"] < 1e-5, other
    out, err = evaluate("kl", "--ranks", 2, "--dir", folder / "none", rc=73)
    assert out == "" and "E-OUTPUT-CREATE" in err, err


def model_golden_perplexity(folder):
    for case in CASES:
        if case["model"] != "smollm2":
            continue
        small = case["tokens"] < 100  # the reference is slow
        check_case(case, TOLERANCE["encoded reference" if small else "encoded"], "--cpu-isa", "reference" if small else "auto",
                   model=SMOLLM2)


def model_divergence(folder):
    found = result("kl", "--context", 64, "--prefix", 48, "--windows", 3, "--reference-isa", "reference", model=SMOLLM2)
    print(f"int8 activations: mean KL {found['kl_mean']:.2e}, same top token {found['same_top_token']:.1%}")
    assert 0 < found["kl_mean"] < 0.02 and found["same_top_token"] > 0.85, found


def main():
    if WHICH == "ranks" and shutil.which("mpirun") is None:
        print("mpirun is not installed")
        return 77
    if WHICH == "model":
        if not os.path.exists(SMOLLM2):
            print("SPILLWAY_TEST_MODEL names no file: tests/run.sh fetches the model")
            return 77
        if hashlib.sha256(pathlib.Path(SMOLLM2).read_bytes()).hexdigest() != SMOLLM2_SHA256:
            print(f"{SMOLLM2} is another file than the one that the golden values were made of")
            return 77
    tests = [test for name, test in globals().items() if name.startswith(WHICH + "_")]
    for test in tests:
        with tempfile.TemporaryDirectory() as folder:
            test(pathlib.Path(folder))
    print(f"{len(tests)} passed, 0 failed, 0 skipped")
    return 0


sys.exit(main())
