#!/usr/bin/env python3
"""Weights that stream, end to end: test_weight_tiers.py SPILLWAY [emulated | ranks | root | model | cache]"""

import ctypes
import json
import mmap
import os
import pathlib
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "runtime"))
import golden_files
import llama_folder
from run_command import one_error, spillway

SPILLWAY = sys.argv[1]
SKIPPED, UNAVAILABLE = 77, 69  # for meson; a build without MPI
MIB = 1 << 20
TOKENS = [(7 * i * i + 3 * i) % 131 for i in range(60)]
SHAPE = ["tiny-llama", "--random-weights"]
folder = pathlib.Path(tempfile.mkdtemp(dir="/var/tmp"))  # direct I/O where /tmp may lie in memory
DISK = ["--weights-nvme-dir", folder]
(folder / "tokens.json").write_text(json.dumps(TOKENS))


def logits(model, *more):
    """The bytes of the logits, and the summary."""
    path, summary = folder / "logits.npy", folder / "summary.json"
    answer = spillway("logits", *model, "--tokens-file", folder / "tokens.json", "--output", path, "--threads", 1,
                      "--summary-json", summary, *more)
    if "--ranks" in more and answer.returncode == UNAVAILABLE:
        sys.exit(SKIPPED)
    assert answer.returncode == 0, answer
    return path.read_bytes(), json.loads(summary.read_text())


def check_shares(model, *more):
    resident, summary = logits(model, *more)
    all_bytes = summary["weights"]["device_bytes"]
    assert all_bytes > 0 and summary["weights"]["nvme_bytes"] == summary["weights"]["read_bytes"] == 0, summary
    for share, host in (("60%", 0), ("min", 0), ("20%", "40%")):
        streamed, summary = logits(model, *more, *DISK, "--weights-device-size", share, "--weights-host-size", host,
                                   "--max-num-batched-tokens", 16)
        assert streamed == resident, (share, host)
        weights = summary["weights"]
        assert weights["device_bytes"] + weights["host_bytes"] + weights["nvme_bytes"] == all_bytes, weights
        assert weights["nvme_bytes"] > 0 and weights["read_bytes"] >= weights["nvme_bytes"], weights
        assert (weights["host_bytes"] > 0) == bool(host) and summary["seconds"]["stall"]["weights"] >= 0, weights


def test_shares():
    check_shares(SHAPE)
    check_shares(["tiny-opt", "--random-weights"])
    check_shares([golden_files.model_path("gguf_llama_q4_0")])


def test_host_alone():
    """All of it in host memory needs no disk."""
    resident, _ = logits(SHAPE)
    hosted, summary = logits(SHAPE, "--weights-device-size", "min", "--weights-host-size", "100%")
    assert hosted == resident and summary["weights"]["nvme_bytes"] == summary["weights"]["device_bytes"] == 0, summary


def test_bench():
    result = folder / "result.json"
    answer = spillway("bench", "decode", *SHAPE, *DISK, "--weights-device-size", "30%", "--batch-size", 3, "--random-input-len", 20,
                      "--num-steps", 4, "--synthetic-kv", "--save-result", "--result-filename", result, "--threads", 1)
    assert answer.returncode == 0 and "disk bound" in answer.stdout and "for weights and KV" in answer.stdout, answer
    found = json.loads(result.read_text())
    weights = found["weights"]
    assert weights["read_bytes_a_step"] > 0 and found["moved_bytes_a_step"] >= weights["read_bytes_a_step"], found
    assert 0 < found["compute_seconds_a_step"] <= found["step_seconds"], found
    expected = 3 / weights["read_bytes_a_step"] * found["disk_bytes_per_second"]
    assert abs(found["disk_tokens_per_second"] / expected - 1) < 1e-6, found


def test_summary_lines():
    """A batch tells at its end where layers lay and what the reckoning was."""
    model = golden_files.MODELS / "llama_text"
    (folder / "in.jsonl").write_text('{"custom_id": "a", "prompt": "the bees", "max_tokens": 4}\n')
    answer = spillway("batch", model, "-i", folder / "in.jsonl", "-o", folder / "out.jsonl", *DISK, "--weights-device-size", "min")
    assert answer.returncode == 0, answer
    assert re.search(r"^layers +device 0\.0, host 0\.0, streamed \d", answer.stderr, re.M), answer.stderr
    assert "reckoned before it began" in answer.stderr and ", weights " in answer.stderr, answer.stderr


def test_faults():
    base = ["logits", *SHAPE, "--tokens-file", folder / "tokens.json", "--output", folder / "no.npy", *DISK,
            "--weights-device-size", "min", "--quiet"]
    for fault, words in (("weights.io.read:eio:after=2", "Input/output error"), ("weights.io.read:flip:after=2", "not the bytes"),
                         ("weights.io.write:stale:after=2,count=1", "not the bytes"), ("weights.io.write:eio", "Input/output error")):
        line = one_error("E-WEIGHTS-IO", 74, *base, "--fault", fault)
        assert words in line and "model.layers." in line and "--weights-nvme-dir" in line, line
    line = one_error("E-SPILL-SPACE", 74, *base, "--fault", "weights.spill.allocate:enospc")
    assert "are free" in line, line
    assert not (folder / "no.npy").exists()
    same, _ = logits(SHAPE, *DISK, "--weights-device-size", "min", "--fault", "weights.io.read:short:odds=0.4,seed=3")
    assert same == logits(SHAPE)[0]


def test_truncated_source():
    """The source becomes shorter between the look at its header and the packing: the job ends by name."""
    source = golden_files.model_path("gguf_llama_q4_0")
    copy = folder / "short.gguf"
    shutil.copy(source, copy)
    os.truncate(copy, copy.stat().st_size * 3 // 4)
    line = one_error("E-GGUF-RANGE", 65, "logits", copy, "--tokens-file", folder / "tokens.json", "--output", folder / "no.npy", *DISK,
                     "--weights-device-size", "min", "--quiet")
    assert "short.gguf" in line, line


def test_refusals():
    base = ["logits", *SHAPE, "--tokens-file", folder / "tokens.json", "--output", folder / "no.npy", "--quiet"]
    bare = {name: value for name, value in os.environ.items() if name not in ("SLURM_TMPDIR", "TMPDIR", "PBS_JOBDIR")}
    assert "--weights-nvme-dir" in one_error("E-USAGE", 64, *base, "--weights-device-size", "min", env=bare)
    assert "have no place" in one_error("E-USAGE", 64, *base, "--weights-device-size", "40%", env=bare)
    assert "all layers stay" in one_error("E-USAGE", 64, *base, *DISK)
    assert "takes bytes" in one_error("E-USAGE", 64, *base, "--memory-limit", "50%")
    wrong = ["--weights-nvme-dir", "/nowhere", "--weights-device-size", "min"]
    assert "--weights-nvme-dir" in one_error("E-SPILL-CREATE", 73, *base, *wrong)


def larger_shape():
    """Layers of 12 MiB in f32, so that what streams is more than what does not change."""
    config = json.loads((pathlib.Path(__file__).resolve().parent.parent.parent / "configs/shapes/tiny-opt.json").read_text())
    config.update(hidden_size=512, word_embed_proj_dim=512, ffn_dim=2048, num_hidden_layers=10)
    (folder / "larger.json").write_text(json.dumps(config))
    return [folder / "larger.json", "--random-weights", "--weight-type", "f32"]


def test_memory_limit():
    """Refused with the numbers and with advice; the advice is right; what is told to fit stays within it."""
    model = larger_shape()
    base = ["logits", *model, "--tokens-file", folder / "tokens.json", "--output", folder / "no.npy", "--quiet", *DISK]
    small = ["--max-num-seqs", 1, "--max-model-len", 64, "--max-num-batched-tokens", 32]
    limit, bound = "150MiB", 150 * MIB
    line = one_error("E-MEMORY", 71, *base[:-2], *small, "--memory-limit", limit)
    assert "packed layers on the device 120." in line and "program and margin" in line, line
    share = re.search(r"--weights-device-size (\d+%) with --weights-nvme-dir needs ([\d.]+) MiB", line)
    assert share and float(share[2]) * MIB <= bound, line
    found, summary = logits(model, *DISK, *small, "--memory-limit", limit, "--weights-device-size", share[1])
    assert summary["memory_planned_bytes"] <= bound, summary
    program = logits(SHAPE)[1]["memory_peak_bytes"] - 8 * MIB  # that much is the tiny model's; more with sanitizers
    assert summary["memory_peak_bytes"] <= summary["memory_planned_bytes"] - 64 * MIB + program + 16 * MIB, (program, summary)
    resident, summary = logits(model, *small)
    assert found == resident and summary["memory_planned_bytes"] > bound, summary
    line = one_error("E-MEMORY", 71, *base, *small, "--memory-limit", "32MiB", "--weights-device-size", "min")
    assert "no less than" in line and "--kv-device-size" in line, line


def emulated_test():
    """On a device out of the host's reach: the bits of all on the device; the books; what a disk does wrong; what does not fit."""
    device = ["--backend", "emulated"]
    for model in (SHAPE, ["tiny-opt", "--random-weights", "--weight-type", "q4_0"]):
        resident, summary = logits(model, *device)
        all_bytes = summary["weights"]["device_bytes"]
        assert summary["weights"]["sent_bytes"] == 0, summary
        for share, host, disk in (("25%", 0, DISK), ("20%", "40%", DISK), ("min", 0, DISK), ("min", "100%", ())):
            streamed, summary = logits(model, *device, *disk, "--weights-device-size", share, "--weights-host-size", host,
                                       "--max-num-batched-tokens", 32)
            weights = summary["weights"]
            assert streamed == resident, (share, host)
            assert weights["device_bytes"] + weights["host_bytes"] + weights["nvme_bytes"] == all_bytes, weights
            assert weights["sent_bytes"] >= weights["host_bytes"] + weights["nvme_bytes"] > 0, weights
            assert (weights["nvme_bytes"] > 0) == bool(disk) and (weights["host_bytes"] > 0) == bool(host), weights
    base = ["logits", *SHAPE, "--tokens-file", folder / "tokens.json", "--output", folder / "no.npy", *device, *DISK,
            "--weights-device-size", "min", "--quiet"]
    for fault, words in (("weights.io.read:eio:after=2", "Input/output error"), ("weights.io.read:flip:after=2", "not the bytes")):
        line = one_error("E-WEIGHTS-IO", 74, *base, "--fault", fault)
        assert words in line and "model.layers." in line and "--weights-nvme-dir" in line, line
    larger_than_device(device)


def larger_than_device(device):
    """Layers that its memory does not hold: refused with the share that fits, which then runs, to the bits of a larger device."""
    model, few = larger_shape(), folder / "few.json"
    few.write_text(json.dumps(TOKENS[:3]))
    small = ["--tokens-file", few, "--max-num-seqs", 1, "--max-model-len", 64, "--max-num-batched-tokens", 32, "--kv-device-size", "8MiB"]
    limited = ["--emulation-memory", "180MiB"]
    line = one_error("E-DEVICE-MEMORY", 71, "logits", *model, *small, *device, *limited, "--output", folder / "no.npy", "--quiet")
    assert "device emulated:0: rank 0 needs " in line and "packed layers on the device 120." in line, line
    share = re.search(r"--weights-device-size (\d+%) with --weights-nvme-dir needs ", line)
    assert share and 0 < int(share[1][:-1]) < 100, line
    streamed, summary = logits(model, *small, *device, *limited, *DISK, "--weights-device-size", share[1])
    assert streamed == logits(model, *small, *device)[0] and summary["weights"]["sent_bytes"] > 0, summary


def ranks_test():
    """The bits of two and three resident ranks; an error of one ends all."""
    if not shutil.which("mpirun"):
        sys.exit(SKIPPED)
    for ranks in (2, 3):
        resident, _ = logits(SHAPE, "--ranks", ranks)
        streamed, summary = logits(SHAPE, "--ranks", ranks, *DISK, "--weights-device-size", "30%")
        assert streamed == resident and summary["weights"]["nvme_bytes"] > 0, summary
    answer = spillway("logits", *SHAPE, "--tokens-file", folder / "tokens.json", "--output", folder / "no.npy", *DISK, "--ranks", 2,
                      "--weights-device-size", "min", "--fault", "weights.io.read:eio:after=2")
    assert answer.returncode == 74 and "error[E-WEIGHTS-IO]" in answer.stderr, answer


def model_test():
    """SmolLM2: a quarter of the layers in memory, the rest by disk, the same bits; and the same answer on the emulated device."""
    model = os.environ.get("SPILLWAY_TEST_MODEL")
    if not model:
        print("SPILLWAY_TEST_MODEL is not set")
        sys.exit(SKIPPED)
    resident, _ = logits([model])
    streamed, summary = logits([model], *DISK, "--weights-device-size", "25%")
    weights = summary["weights"]
    assert streamed == resident, "the logits differ"
    assert weights["nvme_bytes"] > 2.9 * weights["device_bytes"] and weights["read_bytes"] >= weights["nvme_bytes"], weights
    words = ["run", model, "-p", "Bees make", "-n", 3, "--raw", "--ignore-eos", "--quiet", "--backend", "emulated"]
    resident = spillway(*words)
    if resident.returncode == UNAVAILABLE:  # a build without the emulation
        return
    streamed = spillway(*words, *DISK, "--weights-device-size", "25%", "--weights-host-size", "25%")
    assert resident.returncode == streamed.returncode == 0 and resident.stdout == streamed.stdout != "", (resident, streamed)


def cached_bytes(path):
    """Of the page cache, as mincore tells it."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype, libc.mmap.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p]
    descriptor = os.open(path, os.O_RDONLY)
    size = os.fstat(descriptor).st_size
    if size == 0:
        os.close(descriptor)
        return 0
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    os.close(descriptor)
    pages = ctypes.create_string_buffer((size + mmap.PAGESIZE - 1) // mmap.PAGESIZE)
    assert address != ctypes.c_void_p(-1).value and libc.mincore(address, size, pages) == 0, os.strerror(ctypes.get_errno())
    libc.munmap(address, size)
    return mmap.PAGESIZE * sum(page & 1 for page in pages.raw)


def drop_cache(path):
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def spill_files(process):
    """What it has open without a name, in this test's folder."""
    for path in pathlib.Path(f"/proc/{process.pid}/fd").iterdir():
        try:
            if str(folder) in os.readlink(path) and path.stat().st_nlink == 0:
                yield path
        except OSError:
            pass  # closed since


def memory_of(process, file):
    """Resident, and in the page cache: of the model's file, and of spill files. What it has mapped of the former counts twice."""
    status = pathlib.Path(f"/proc/{process.pid}/status").read_text()
    resident = re.search(r"VmRSS:\s+(\d+) kB", status)
    try:
        return (int(resident[1]) << 10 if resident else 0), cached_bytes(file), sum(cached_bytes(path) for path in spill_files(process))
    except OSError:
        return 0, 0, 0  # it ended


def cache_test():
    """Packing a mapped model leaves no more of it in the page cache than the matrix at hand, and nothing of what is spilled: with what is
    resident that is less than --memory-limit all the time."""
    pattern = bytes(byte & 0xAF if i % 2 else byte for i, byte in enumerate(random.Random(1).randbytes(1 << 16)))  # halves below 0.2
    data_of = lambda name, count: (b"\x00\x3c" * count if "norm" in name else (pattern * (count // 32768 + 1))[: 2 * count])
    model = llama_folder.write(folder / "cached", 768, 2048, 12, 4, 8, 131, "F16", data_of)
    file = model / "model.safetensors"
    size = file.stat().st_size
    drop_cache(file)
    kept = cached_bytes(file)
    small = ["--max-num-seqs", 1, "--max-model-len", 64, "--max-num-batched-tokens", 32, "--kv-device-size", "16MiB"]
    resident, _ = logits([model], *small)
    if kept > size // 20 or cached_bytes(file) < size // 2:
        print(f"this file system does not tell what it caches: {kept} of {size} bytes after they were dropped, {cached_bytes(file)} when all were read")
        sys.exit(SKIPPED)
    limit, bound = "150MiB", 150 * MIB
    for more in ([], ["--weight-type", "int4_group"]):
        drop_cache(file)
        words = ["logits", model, *small, "--tokens-file", folder / "tokens.json", "--output", folder / "cached.npy", "--threads", 1,
                 "--memory-limit", limit, *DISK, "--weights-device-size", "min", *more]
        process = subprocess.Popen([SPILLWAY, *map(str, words)], stderr=subprocess.PIPE, text=True)
        seen = []
        while process.poll() is None:
            seen.append(memory_of(process, file))
            time.sleep(0.001)
        assert process.returncode == 0, process.stderr.read()
        left, most = cached_bytes(file), max(cached for _, cached, _ in seen)
        print(f"{len(seen)} looks: resident and cached {max(map(sum, seen)) / MIB:.1f} MiB, of the file {most / MIB:.1f}, of spill files "
              f"{max(spilled for *_, spilled in seen) / MIB:.1f}, and at the end {left / MIB:.1f} of {size / MIB:.1f}")
        # the largest matrix has 3 MiB; who opens a file reads ahead of its header, by up to 8 MiB where this was written
        assert len(seen) > 10 and 0 < most < 16 * MIB and left < MIB, (len(seen), most, left)
        assert max(map(sum, seen)) <= bound, max(map(sum, seen))
        assert more or (folder / "cached.npy").read_bytes() == resident


class MemoryGroup:
    """A control group with a limit on memory, page cache included: version 2 where it is mounted, else version 1."""

    def __init__(self, limit):
        for place, name in (("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")):
            self.folder = pathlib.Path(place) / f"spillway-test-{os.getpid()}"
            try:
                self.folder.mkdir()
            except OSError:
                continue
            if (self.folder / name).exists():  # else it is a folder like any other, or has no such controller
                (self.folder / name).write_text(str(limit))
                return
            self.folder.rmdir()
        print("no control group with a memory limit can be made here")
        sys.exit(SKIPPED)

    def join(self):
        (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def close(self):
        self.folder.rmdir()


def root_test():
    """In a control group that all the layers do not fit, the program that lets them stream runs, and the other one is killed."""
    if os.geteuid() != 0:
        print("needs root for a control group")
        sys.exit(SKIPPED)
    model = larger_shape()
    small = ["--max-num-seqs", 1, "--max-model-len", 64, "--max-num-batched-tokens", 32]
    resident, _ = logits(model, *small)
    group = MemoryGroup(100 * MIB)
    try:
        words = ["logits", *model, *small, "--tokens-file", folder / "tokens.json", "--output", folder / "out.npy", "--threads", 1, "--quiet"]
        answer = spillway(*words, *DISK, "--weights-device-size", "min", preexec_fn=group.join)
        assert answer.returncode == 0 and (folder / "out.npy").read_bytes() == resident, answer
        answer = spillway(*words, preexec_fn=group.join)
        assert answer.returncode == -9, answer
    finally:
        group.close()


single = {"emulated": emulated_test, "ranks": ranks_test, "root": root_test, "model": model_test, "cache": cache_test}
tests = [single[sys.argv[2]]] if sys.argv[2:] else [test for name, test in list(globals().items()) if name.startswith("test_")]
try:
    for test in tests:
        test()
finally:
    shutil.rmtree(folder)
print(f"{len(tests)} passed, 0 failed, 0 skipped")
