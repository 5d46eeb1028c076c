#!/usr/bin/env python3
"""Packed weights as a file, end to end: test_convert.py SPILLWAY [ranks]"""

import json
import os
import pathlib
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
import golden_files
from run_command import one_error, spillway

SPILLWAY = sys.argv[1]
SKIPPED, UNAVAILABLE = 77, 69  # for meson; a build without MPI
PAGE, ENTRY_BYTES = 4096, 32
FILE_BYTES_AT, ENTRIES_AT, ENTRY_COUNT_AT = 56, 64, 80  # in the header
SHAPE = ["tiny-llama", "--random-weights"]
PLACES = ([], ["--weights-device-size", "min"], ["--weights-device-size", "30%", "--weights-host-size", "20%"],
          ["--weights-device-size", "min", "--weights-host-size", "100%"], ["--weights-device-size", "min", "--io", "threads"])
folder = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp"))  # direct I/O where /tmp may lie in memory
(folder / "tokens.json").write_text(json.dumps([(7 * i * i + 3 * i) % 131 for i in range(60)]))


def words_of(model, *more):
    return ["logits", *model, "--tokens-file", folder / "tokens.json", "--output", folder / "logits.npy", "--threads", 1, "--quiet", *more]


def logits(model, *more):
    summary = folder / "summary.json"
    answer = spillway(*words_of(model, "--summary-json", summary, *more))
    if "--ranks" in more and answer.returncode == UNAVAILABLE:
        sys.exit(SKIPPED)
    assert answer.returncode == 0, answer
    return (folder / "logits.npy").read_bytes(), json.loads(summary.read_text())["weights"]


def convert(model, *more, name="packed"):
    path = folder / name
    answer = spillway("convert", *model, "-o", path, *more)
    assert answer.returncode == 0 and path.name in answer.stderr, answer
    assert path.stat().st_size % PAGE == 0 and not (folder / f"{name}.partial").exists()
    return path


def header_numbers(data):
    return (struct.unpack_from("<Q", data, FILE_BYTES_AT)[0], struct.unpack_from("<Q", data, ENTRIES_AT)[0],
            struct.unpack_from("<I", data, ENTRY_COUNT_AT)[0])


def check_same(model, *more, places=PLACES[1:3]):
    """The bits of a run that packs, wherever layers lie, and nothing is written for those that stream."""
    packed = convert(model, *more)
    expected, _ = logits(model, *more)
    for place in places:
        found, weights = logits(model, *more, "--packed-weights", packed, *place)
        assert found == expected, place
        assert (weights["nvme_bytes"] > 0) == (place[:2] == PLACES[1] and "100%" not in place or "30%" in place), weights
        assert weights["read_bytes"] >= weights["nvme_bytes"], weights
    return packed


def test_same():
    check_same(["tiny-opt", "--random-weights"])
    check_same([golden_files.model_path("gguf_llama_q4_0")])
    check_same([golden_files.MODELS / "llama_text"])
    check_same(SHAPE, "--cpu-isa", "reference")
    device = check_same(SHAPE, "--backend", "emulated", places=PLACES)
    assert device.read_bytes() == convert(SHAPE, "--backend", "emulated", name="again").read_bytes()
    packed = check_same(SHAPE, places=PLACES)
    assert packed.read_bytes() == convert(SHAPE, name="again").read_bytes()


def test_disk_is_only_read():
    """With a disk that fails every write, layers stream: they lie in the file already."""
    packed = convert(SHAPE)
    same, _ = logits(SHAPE, "--packed-weights", packed, "--weights-device-size", "min", "--fault", "weights.io.write:eio")
    assert same == logits(SHAPE)[0]


def test_mismatch():
    packed = convert(SHAPE)
    for words, text in ((["--cpu-isa", "reference"], "--cpu-isa"), (["--weight-seed", 1], "another model"),
                        (["--weight-type", "q8_0"], "another model")):
        assert text in one_error("E-PACKED-WEIGHTS", 65, *words_of(SHAPE, "--packed-weights", packed, *words))
    two = convert(SHAPE, "--ranks", 2, name="two")
    assert "2 ranks" in one_error("E-PACKED-WEIGHTS", 65, *words_of(SHAPE, "--packed-weights", two))
    line = one_error("E-USAGE", 64, *words_of(SHAPE, "--packed-weights", packed, "--weights-nvme-dir", folder))
    assert "--packed-weights" in line, line
    line = one_error("E-PACKED-WEIGHTS", 65, *words_of(SHAPE, "--packed-weights", packed, "--backend", "emulated"))
    assert "has cuda" in line and "--backend" in line, line
    line = one_error("E-FILE-MISSING", 66, *words_of(SHAPE, "--packed-weights", folder / "none"))
    assert "none" in line, line


def test_other_numbers():
    """Another model with the same names and shapes has the same fingerprint, and is told apart all the same."""
    source = golden_files.model_path("gguf_llama_q4_0")
    changed = folder / "changed.gguf"
    data = bytearray(source.read_bytes())
    tensors = json.loads(spillway("inspect", source, "--json").stdout)["tensors"]
    tensor = next(t for t in tensors if t["name"] == "blk.1.ffn_up.weight")
    data[tensor["offset"] + 100] ^= 1
    changed.write_bytes(data)
    packed = convert([source])
    line = one_error("E-PACKED-WEIGHTS", 65, *words_of([changed], "--packed-weights", packed))
    assert "blk.1.ffn_up.weight" in line and "other numbers" in line, line


def test_wrong_bytes():
    """One bit of a matrix, resident or streamed, in the file or in flight."""
    packed = convert(SHAPE)
    data = bytearray(packed.read_bytes())
    data[PAGE + 100] ^= 4
    bad = folder / "bad"
    bad.write_bytes(data)
    for place in PLACES:
        line = one_error("E-WEIGHTS-IO", 74, *words_of(SHAPE, "--packed-weights", bad, *place))
        assert "model.layers." in line and "--packed-weights" in line and "not the bytes" in line, line
    streamed = words_of(SHAPE, "--packed-weights", packed, "--weights-device-size", "min")
    for fault, text in (("read:eio:after=2", "Input/output error"), ("read:flip:after=2", "not the bytes"), ("read:torn:after=1", "not the bytes")):
        line = one_error("E-WEIGHTS-IO", 74, *streamed, "--fault", f"weights.io.{fault}")
        assert text in line and "model.layers." in line and packed.name in line, line


def test_damaged():
    packed = convert(SHAPE)
    whole = packed.read_bytes()
    file_bytes, entries, count = header_numbers(whole)
    assert file_bytes == len(whole) and entries + count * ENTRY_BYTES < file_bytes
    cases = [(whole[:size], "cut off") for size in (PAGE, entries, file_bytes - 1)]
    cases += [(whole + bytes(1), "has grown"), (whole[:50], "no file of packed weights"), (b"GGUF" + whole[4:], "no file of packed weights"),
              (whole[:8] + b"\x63" + whole[9:], "another version"), (whole[:20] + b"x" + whole[21:], "header is damaged"),
              (whole[:entries] + b"\x01" + whole[entries + 1:], "directory is damaged")]
    bad = folder / "bad"
    for data, text in cases:
        bad.write_bytes(data)
        assert text in one_error("E-PACKED-WEIGHTS", 65, *words_of(SHAPE, "--packed-weights", bad))


def test_nothing_half_written():
    """A full disk, and a kill, leave nothing under the name."""
    path = folder / "half"
    small = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4 * PAGE, 4 * PAGE))
    line = one_error("E-OUTPUT-WRITE", 74, "convert", golden_files.model_path("gguf_llama_q4_0"), "-o", path, preexec_fn=small)
    assert "half" in line and not path.exists() and not (folder / "half.partial").exists(), line
    assert "--output" in one_error("E-OUTPUT-CREATE", 73, "convert", *SHAPE, "-o", folder / "no" / "half")
    partial = folder / "half.partial"
    for sent, code in ((signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)):
        process = subprocess.Popen([SPILLWAY, "convert", "opt-6.7b", "--random-weights", "-o", path], stderr=subprocess.PIPE, text=True)
        while not partial.exists() or partial.stat().st_size == 0:
            time.sleep(0.005)
            assert process.poll() is None, process.communicate()
        process.send_signal(sent)
        text = process.communicate(timeout=120)[1]
        assert process.returncode == code and not path.exists(), text
        assert ("E-STOPPED" in text) == (sent == signal.SIGTERM) == (not partial.exists()), text
    partial.unlink()


def ranks_test():
    """The bits of two ranks that pack for themselves."""
    if not shutil.which("mpirun"):
        sys.exit(SKIPPED)
    expected, _ = logits(SHAPE, "--ranks", 2)
    packed = convert(SHAPE, "--ranks", 2)
    for place in PLACES[:3]:
        found, _ = logits(SHAPE, "--ranks", 2, "--packed-weights", packed, *place)
        assert found == expected, place
    answer = spillway(*words_of(SHAPE, "--ranks", 2, "--packed-weights", convert(SHAPE)))
    assert answer.returncode == 65 and answer.stderr.count("error[E-PACKED-WEIGHTS]") == 1, answer


try:
    if sys.argv[2:] == ["ranks"]:
        ranks_test()
    else:
        for test in (test_same, test_disk_is_only_read, test_mismatch, test_other_numbers, test_wrong_bytes, test_damaged,
                     test_nothing_half_written):
            start = time.monotonic()
            test()
            print(f"{test.__name__} {time.monotonic() - start:.1f} s")
finally:
    shutil.rmtree(folder)
