#!/usr/bin/env python3
"""`spillway codecs`, `codecs roundtrip`, `codecs error` and --kv-codec: test_codecs.py SPILLWAY GOLDEN [model]

model: on the real model that SPILLWAY_TEST_MODEL names.

FlexGen's and KIVI's arithmetic is written down here once more, one rounding a step, and must give the same halves."""

import json
import math
import os
import pathlib
import random
import struct
import subprocess
import sys
import tempfile

SPILLWAY, GOLDEN = sys.argv[1], pathlib.Path(sys.argv[2])
SKIPPED = 77  # for meson
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}
BITS = {"f16": 16, "int8": 8.5, "fp8": 8.25, "int4_group": 4.5, "kivi4": 5, "kivi2": 3, "turboquant2": 2.25,
        "turboquant3": 3.25, "turboquant4": 4.25}
ERROR = {"f16": 0, "int8": 0.007, "fp8": 0.03, "int4_group": 0.1, "kivi4": 0.09, "kivi2": 0.45, "turboquant2": 0.35,
         "turboquant2_5": 0.32, "turboquant3": 0.19, "turboquant3_5": 0.17, "turboquant4": 0.1}


def half(x):
    return struct.unpack("<e", struct.pack("<e", x))[0]


def single(x):
    return struct.unpack("<f", struct.pack("<f", x))[0]


def run(*arguments, rc=0):
    done = subprocess.run([SPILLWAY, *map(str, arguments)], capture_output=True, text=True, env=ENVIRONMENT, timeout=120)
    assert done.returncode == rc, f"{arguments}: exit {done.returncode}, expected {rc}\n{done.stderr}"
    return done.stdout, done.stderr


def write_npy(path, shape, numbers, descr="<f4", form="f", order="False", version=1):
    header = f"{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}"
    length = "<H" if version == 1 else "<I"
    before = 8 + struct.calcsize(length)
    header += " " * (-(before + len(header) + 1) % 64) + "\n"
    path.write_bytes(b"\x93NUMPY" + bytes((version, 0)) + struct.pack(length, len(header)) + header.encode("latin1") +
                     struct.pack(f"<{len(numbers)}{form}", *numbers))


def read_npy(path, shape):
    data = path.read_bytes()
    (length,) = struct.unpack("<H", data[8:10])
    header = eval(data[10:10 + length])
    assert data[:8] == b"\x93NUMPY\x01\x00" and header == {"descr": "<f4", "fortran_order": False, "shape": shape}, header
    return struct.unpack(f"<{math.prod(shape)}f", data[10 + length:])


class Door:
    """A folder with keys and values, and what comes back."""

    def __init__(self, folder, shape, draw):
        self.folder, self.shape = folder, shape
        self.arrays = {name: [half(draw()) for _ in range(math.prod(shape))] for name in ("k", "v")}
        for name, numbers in self.arrays.items():
            write_npy(folder / f"{name}.npy", shape, numbers)

    def arguments(self, codec):
        return ("codecs", "roundtrip", codec, "--keys", self.folder / "k.npy", "--values", self.folder / "v.npy",
                "--output-keys", self.folder / "k2.npy", "--output-values", self.folder / "v2.npy", "--json")

    def through(self, codec, *more):
        answer = json.loads(run(*self.arguments(codec), *more)[0])
        return answer, {name: read_npy(self.folder / f"{name}2.npy", self.shape) for name in ("k", "v")}

    def refuse(self, codec, code, rc, *words):
        for name in ("k2.npy", "v2.npy"):
            (self.folder / name).unlink(missing_ok=True)
        err = run(*self.arguments(codec), rc=rc)[1]
        lines = [line for line in err.splitlines() if "error[" in line]
        assert len(lines) == 1 and f"error[{code}]" in lines[0] and all(word in lines[0] for word in words), err
        assert not (self.folder / "k2.npy").exists()


def gauss(seed):
    source = random.Random(seed)
    return lambda: source.gauss(0, 1)


def test_list(folder):
    out, _ = run("codecs", "--json")
    answer = json.loads(out)
    rows = {row["name"]: row for row in answer["codecs"]}
    assert answer["memcpy_bytes_per_second"] > 0 and set(rows) == set(ERROR), rows.keys()
    for name, row in rows.items():
        assert row["gaussian_error"] <= ERROR[name] and (name == "f16") == (row["gaussian_error"] == 0), row
        assert abs(row["bits_per_value"] - BITS.get(name, row["bits_per_value"])) < 1e-9, row
        assert min(row[key] for key in row if key.endswith("per_second")) > 0, row


def test_roundtrip(folder):
    door = Door(folder, (96, 2, 64), gauss(1))
    for codec, limit in ERROR.items():
        answer, decoded = door.through(codec)
        numbers = 2 * math.prod(door.shape)
        if codec in BITS:
            assert answer["stored_bytes"] == BITS[codec] * numbers / 8, answer
        for name, original in door.arrays.items():
            off = sum((a - b) ** 2 for a, b in zip(original, decoded[name]))
            error = math.sqrt(off / sum(a * a for a in original))
            assert error <= limit and (limit == 0 or error > limit / 4), (codec, name, error)
        assert door.through(codec, "--cpu-isa", "reference") == (answer, decoded), codec


def test_any_token_count(folder):
    for tokens in (1, 33):
        door = Door(folder, (tokens, 1, 64), gauss(tokens))
        for codec in ERROR:
            if codec.startswith("kivi"):
                door.refuse(codec, "E-USAGE", 64, "32", str(tokens))
            else:
                door.through(codec)


def flexgen(group):
    low, high = min(group), max(group)
    if low == high:
        return [low] * len(group)
    exact = single(15 / single(high - low))
    try:
        scale = half(exact)
    except OverflowError:
        return [low] * len(group)
    codes = [round(min(max(single(single(x - low) * exact), 0), 15)) for x in group]
    return [half(half(code / scale) + low) for code in codes]


def kivi(group, bits):
    low, high = min(group), max(group)
    step = half(half(high - low) / (2 ** bits - 1))
    if step == 0:
        return [low] * len(group)
    codes = [round(min(max(half(half(x - low) / step), 0), 2 ** bits - 1)) for x in group]
    return [half(half(code * step) + low) for code in codes]


def groups_of(shape, size, along_tokens):
    tokens, heads, dims = shape
    if along_tokens:
        for start in range(0, tokens, size):
            for column in range(heads * dims):
                yield [(start + t) * heads * dims + column for t in range(size)]
    else:
        for start in range(0, tokens * heads * dims, size):
            yield list(range(start, start + size))


def expected(numbers, shape, size, along_tokens, decode):
    out = [0.0] * len(numbers)
    for group in groups_of(shape, size, along_tokens):
        for index, number in zip(group, decode([numbers[i] for i in group])):
            out[index] = number
    return tuple(out)


def test_published_arithmetic(folder):
    source = random.Random(5)

    def draw():
        kind = source.random()
        return source.gauss(0, 100) if kind < 0.05 else 0.25 if kind < 0.1 else source.gauss(0, 1)

    door = Door(folder, (64, 2, 128), draw)
    _, decoded = door.through("int4_group")
    for name in "kv":
        assert decoded[name] == expected(door.arrays[name], door.shape, 64, False, flexgen), name
    for bits in (4, 2):
        _, decoded = door.through(f"kivi{bits}")
        for name in "kv":
            assert decoded[name] == expected(door.arrays[name], door.shape, 32, name == "k", lambda g: kivi(g, bits)), name


def test_refusals(folder):
    door = Door(folder, (32, 1, 64), gauss(2))
    door.refuse("int3", "E-USAGE", 64, "int3", "kivi4")
    good = door.arrays["k"]
    for bad in (math.nan, math.inf, -1e6):
        write_npy(folder / "k.npy", door.shape, good[:65] + [bad] + good[66:])
        door.refuse("kivi4", "E-NPY", 65, "k.npy", "token 1, head 0, number 1")
    write_npy(folder / "k.npy", door.shape, good, version=2)
    door.through("kivi4")
    for problem in ({"descr": "<f8", "form": "d"}, {"order": "True"}):
        write_npy(folder / "k.npy", door.shape, good, **problem)
        door.refuse("kivi4", "E-NPY", 65, "k.npy")
    for shape in ((32, 64), (32, 1, 64, 1), (64, 1, 32), (32, 1, 65), (0, 1, 64), (2 ** 62, 4, 64)):
        write_npy(folder / "k.npy", shape, good)
        door.refuse("kivi4", "E-NPY", 65)
    whole = (folder / "v.npy").read_bytes()
    for cut in (0, 5, 9, 60, len(whole) - 1):
        (folder / "k.npy").write_bytes(whole[:cut])
        door.refuse("kivi4", "E-NPY", 65, "k.npy")
    (folder / "k.npy").unlink()
    door.refuse("kivi4", "E-FILE-MISSING", 66, "k.npy")
    odd = Door(folder, (32, 1, 17), gauss(3))
    for codec in ERROR:
        if codec != "f16":
            odd.refuse(codec, "E-USAGE", 64, codec, "17")


def errors_of(model, text, *options):
    out, _ = run("codecs", "error", model, "--file", text, "--json", *options)
    answer = json.loads(out)
    assert answer["blocks"] > 0, answer
    return {row["name"]: row for row in answer["codecs"]}


def test_error_on_a_model(folder):
    model, text = GOLDEN / "models" / "llama_text", GOLDEN / "perplexity_text.txt"
    rows = errors_of(model, text)
    assert rows["f16"]["key_error"] == rows["f16"]["value_error"] == 0, rows
    assert set(rows) == {"f16"}, rows  # heads of 8 numbers fit no other
    (folder / "short").write_text("x")
    _, talk = run("codecs", "error", model, "--file", folder / "short", rc=65)
    assert "E-TEXT" in talk and "fill no block" in talk, talk


def test_kv_codec(folder):
    model, summary = GOLDEN / "models" / "llama_rope_llama3", folder / "summary.json"
    load = ["--num-prompts", 3, "--random-input-len", 90, "--random-output-len", 30, "--temperature", 0]

    def bench(*more):
        out, _ = run("bench", "throughput", model, *load, "--block-size", 8, "--summary-json", summary, *more)
        answer = json.loads(summary.read_text())
        assert f"{answer['kv']['compression_ratio']:.2f} to one" in out, out
        return answer["determinism_digest"], answer["kv"]

    int8 = ["--kv-codec", "int8", "--kv-residual", 0]
    digest, stored = bench(*int8)
    for more in (["-b", 7], ["--kv-device-size", "min", "--kv-host-size", "8MiB"],
                 ["--kv-device-size", "min", "--kv-nvme-dir", folder, "--kv-nvme-size", "8MiB"]):
        assert bench(*int8, *more)[0] == digest, more
    assert stored["compression_ratio"] > 1.3 * bench()[1]["compression_ratio"], stored
    for tier, where in (("host", ["--kv-host-size", "8MiB"]), ("nvme", ["--kv-nvme-dir", folder, "--kv-nvme-size", "8MiB"])):
        assert bench(*where, f"--kv-{tier}-codec", "int8")[0] == bench()[0], tier  # nothing goes down, nothing is lost
    for options, words in ((["--kv-nvme-codec", "int8"], "there is no such tier; see --kv-nvme-size"),
                           (["--kv-host-codec", "int3"], "there are f16, int8"),
                           (["--kv-host-codec", "int8", "--kv-codec", "fp8"], "give either that or these")):
        _, talk = run("bench", "throughput", model, *load, "--block-size", 8, *options, rc=64)
        assert "E-USAGE" in talk and words in talk, talk
    for codec, words in (("int3", "there are f16, int8"), ("kivi4", "--kv-codec kivi4 does not fit: ")):
        _, talk = run("bench", "throughput", model, *load, "--block-size", 8, "--kv-codec", codec, rc=64)
        assert "E-USAGE" in talk and words in talk, talk


def model_test(_):
    model = os.environ.get("SPILLWAY_TEST_MODEL")
    if not model:
        print("SPILLWAY_TEST_MODEL names no model: its file is needed")
        sys.exit(SKIPPED)
    out, _ = run("codecs", "--cpu-isa", "auto")
    assert all(name in out for name in ERROR)
    rows = errors_of(model, GOLDEN / "perplexity_text.txt", "--block-size", 32)
    assert set(rows) == set(ERROR), rows
    for name, limit in (("int8", 0.015), ("fp8", 0.04), ("kivi4", 0.1), ("int4_group", 0.15), ("turboquant4", 0.11),
                        ("turboquant3", 0.2), ("turboquant2", 0.36), ("kivi2", 0.45)):
        assert 0 < rows[name]["key_error"] < limit and 0 < rows[name]["value_error"] < limit, (name, rows[name])
    # per-channel keys are KIVI's point
    assert rows["kivi4"]["key_error"] < rows["int4_group"]["key_error"] / 2, rows


def main():
    failed, tests = [], {name: test for name, test in globals().items() if name.startswith("test_")}
    if sys.argv[3:] == ["model"]:
        tests = {"model": model_test}
    for name, test in tests.items():
        with tempfile.TemporaryDirectory(prefix="spillway_codecs_") as folder:
            try:
                test(pathlib.Path(folder))
            except Exception as problem:  # an assertion, an answer that is no JSON
                failed.append(name)
                print(f"{name}: {type(problem).__name__}: {problem}")
    print(f"{len(tests) - len(failed)} passed, {len(failed)} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
