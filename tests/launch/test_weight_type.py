#!/usr/bin/env python3
"""Layers that are encoded as they are loaded, end to end: test_weight_type.py SPILLWAY [ranks]"""

import json
import math
import pathlib
import random
import shutil
import struct
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
import golden_files
import llama_folder
from run_command import one_error, spillway

SPILLWAY = sys.argv[1]
SKIPPED, UNAVAILABLE = 77, 69  # for meson; a build without MPI
TYPE = ["--weight-type", "int4_group"]
HIDDEN, INTERMEDIATE, VOCAB = 128, 352, 131  # rows of two groups, and of five and a half
SIZES = (HIDDEN, INTERMEDIATE, 4, 2, 2, VOCAB)
MATRICES = llama_folder.matrix_elements(llama_folder.tensors(*SIZES))  # numbers of them
MACHINES = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "machines"
folder = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp"))  # direct I/O where /tmp may lie in memory
(folder / "tokens.json").write_text(json.dumps([(7 * i * i + 3 * i) % VOCAB for i in range(40)]))


def words_of(model, *more):
    return ["logits", model, "--tokens-file", folder / "tokens.json", "--output", folder / "logits.npy", "--quiet", *more]


def logits(model, *more):
    """The numbers, and the summary."""
    summary = folder / "summary.json"
    answer = spillway(*words_of(model, "--summary-json", summary, *more))
    if "--ranks" in more and answer.returncode == UNAVAILABLE:
        sys.exit(SKIPPED)
    assert answer.returncode == 0, answer
    return golden_files.load_npy(folder / "logits.npy"), json.loads(summary.read_text())


def make_model(name, dtype="F16", wrong=None):
    """wrong: (tensor, index, number) that replaces one."""
    draw, code = random.Random(7), {"F16": "e", "F32": "f"}[dtype]

    def data_of(tensor, count):
        numbers = [1.0] * count if "norm" in tensor else [draw.gauss(0, 1 / math.sqrt(HIDDEN)) for _ in range(count)]
        if wrong and wrong[0] == tensor:
            numbers[wrong[1]] = wrong[2]
        return struct.pack(f"<{count}{code}", *numbers)

    return llama_folder.write(folder / name, *SIZES, dtype, data_of)


def test_same_bits():
    """Threads, places, and a file of packed weights change no bit; the type does, and its bytes are those of Q4_1."""
    raw, plain = logits(MODEL, "--threads", 1)
    found, summary = logits(MODEL, "--threads", 1, *TYPE)
    assert found != raw and golden_files.differences(found, raw)[1] < 0.4
    weights = summary["weights"]["device_bytes"]
    wanted = MATRICES * 5 / 8  # codes, and two halves to 32
    assert 0.999 < weights / wanted < 1.03 and weights < plain["weights"]["device_bytes"] / 3, (weights, wanted)
    packed = folder / "packed"
    answer = spillway("convert", MODEL, "-o", packed, *TYPE)
    assert answer.returncode == 0, answer
    least = ["--weights-device-size", "min"]
    for more in (["--threads", 2], [*least, "--weights-nvme-dir", folder], ["--packed-weights", packed], ["--packed-weights", packed, *least],
                 ["--threads", 2, "--memory-limit", "1GiB"]):
        assert logits(MODEL, *TYPE, *more)[0] == found, more


def check_near(found, wanted):
    """What int8 activations are off by: 0.10 of a deviation, 0.021 in the mean."""
    largest, mean = golden_files.differences(found, wanted)
    assert largest < 0.2 and mean < 0.03, (largest, mean)


def test_kernels_agree():
    """Exact kernels and int8 activations on the same codes; the emulated device where there is one."""
    exact, _ = logits(MODEL, *TYPE, "--cpu-isa", "reference")
    check_near(logits(MODEL, *TYPE)[0], exact)
    answer = spillway(*words_of(MODEL, *TYPE, "--backend", "emulated"))
    assert answer.returncode in (0, UNAVAILABLE), answer
    if answer.returncode == 0:
        check_near(golden_files.load_npy(folder / "logits.npy"), exact)


def test_floats_of_any_width():
    """The numbers as f16 count, however the file holds them."""
    assert logits(make_model("wide", "F32"), *TYPE, "--cpu-isa", "reference")[0] != logits(folder / "wide", "--cpu-isa", "reference")[0]
    half = logits(MODEL, *TYPE)[1]["weights"]
    assert logits(folder / "wide", *TYPE)[1]["weights"]["device_bytes"] == half["device_bytes"]


def test_packed_mismatch():
    for made, wanted in ((TYPE, []), ([], TYPE)):
        assert spillway("convert", MODEL, "-o", folder / "other", *made).returncode == 0
        assert "--weight-type" in one_error("E-PACKED-WEIGHTS", 65, *words_of(MODEL, "--packed-weights", folder / "other", *wanted))


def test_refusals():
    name = "model.layers.1.mlp.down_proj.weight"
    for case, (dtype, number) in enumerate((("F16", math.nan), ("F16", -math.inf), ("F32", 65520.0))):
        model = make_model(f"wrong{case}", dtype, (name, 3 * INTERMEDIATE + 351, number))
        for words in (words_of(model, *TYPE), ["convert", model, "-o", folder / "none", *TYPE]):
            line = one_error("E-TENSOR", 65, *words)
            assert f"row 3 of tensor {name}" in line and "not finite or too large" in line, line
    assert not (folder / "none").exists()
    encoded = golden_files.model_path("gguf_llama_q4_0")
    for words in (words_of(encoded, *TYPE), ["plan", encoded, "--machine", MACHINES / "laptop.json", "--prompt", 40, *TYPE]):
        line = one_error("E-TENSOR", 65, *words)
        assert "blk.0." in line and "is q4_0" in line and "leave it out" in line, line
    line = one_error("E-USAGE", 64, *words_of(MODEL, "--weight-type", "q8_0"))
    assert "int4_group" in line and "numbers of its own" in line, line
    assert "there are f32" in one_error("E-USAGE", 64, *words_of(MODEL, "--weight-type", "int3"))


def planned_bytes(*words):
    answer = spillway("plan", *words, "--json")
    assert answer.returncode == 0, answer
    return sum(tier["weight_bytes"] for tier in json.loads(answer.stdout)["tiers"].values())


def test_plan():
    """What is planned for this kind of machine is what is packed; on a GPU, and for a shape, 4.5 bits a number."""
    machine = ["--machine", MACHINES / "laptop.json", "--prompt", 40, "--output", 8]
    _, summary = logits(MODEL, *TYPE)
    assert planned_bytes(MODEL, *machine, *TYPE) == summary["weights"]["device_bytes"]
    gpu = planned_bytes(MODEL, "--machine", MACHINES / "t4-flexgen.json", "--prompt", 40, "--output", 8, *TYPE)
    assert gpu == (MATRICES + 2 * HIDDEN * 32) * 4.5 / 8, gpu  # rows of 352 are filled up to 384
    shape = planned_bytes("opt-30b", "--machine", MACHINES / "t4-flexgen.json", *TYPE)
    assert abs(shape / (48 * 12 * 7168 ** 2 * 4.5 / 8) - 1) < 1e-6, shape


def test_commands():
    """A prompt, a batch and a benchmark say what they ran with."""
    model = golden_files.MODELS / "llama_text"
    answer = spillway("run", model, "-p", "the bees", "--max-tokens", 4, *TYPE)
    assert answer.returncode == 0 and "layers are encoded as int4_group" in answer.stderr, answer
    (folder / "in.jsonl").write_text('{"custom_id": "a", "prompt": "the bees", "max_tokens": 4}\n')
    batch = ["batch", model, "-i", folder / "in.jsonl", "-o", folder / "out.jsonl"]
    assert spillway(*batch, *TYPE).returncode == 0 and len((folder / "out.jsonl").read_text().splitlines()) == 1
    other = spillway(*batch)
    assert other.returncode != 0 and "error[" in other.stderr, "results of other weights are never added to"
    answer = spillway("bench", "decode", MODEL, "--random-input-len", 20, "--num-steps", 2, "--batch-size", 2, "--synthetic-kv", *TYPE)
    assert answer.returncode == 0 and "of layers encoded as int4_group" in answer.stdout, answer


def ranks_test():
    """Cuts between ranks keep codes: two and three ranks agree with one, and two take packed weights."""
    if not shutil.which("mpirun"):
        sys.exit(SKIPPED)
    one, _ = logits(MODEL, *TYPE)
    for ranks in (2, 3):
        check_near(logits(MODEL, *TYPE, "--ranks", ranks)[0], one)
    two, _ = logits(MODEL, *TYPE, "--ranks", 2)
    assert spillway("convert", MODEL, "-o", folder / "two", "--ranks", 2, *TYPE).returncode == 0
    assert logits(MODEL, *TYPE, "--ranks", 2, "--packed-weights", folder / "two")[0] == two


tests = [ranks_test] if sys.argv[2:] == ["ranks"] else [test for name, test in list(globals().items()) if name.startswith("test_")]
try:
    MODEL = make_model("model")
    for test in tests:
        test()
finally:
    shutil.rmtree(folder)
print(f"{len(tests)} passed, 0 failed, 0 skipped")
