#!/usr/bin/env python3
"""A batch whose ranks sum on (emulated) devices, struck while they do: a rank killed or stopped takes the job with it in time, though
the others' devices wait for it, and so does a device that fails or hangs, by rank, device, call and code; and the same command goes on
to the answers of a run that sums through host memory. Devices of another backend than "emulated" do not fail on demand.
Usage: test_sum_faults.py SPILLWAY MODEL [BACKEND]"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time

from job import Job, expect, run_tests
from test_batch_faults import LOST, ONE_BY_ONE, Batch, strike_rank

LINES, TOKENS = 24, 2  # the emulated device is slow
LINES_GPU, TOKENS_GPU = 400, 100  # a GPU is to be struck before it is through
SECONDS = 60  # from the start of a run to the last process gone
FAULTS = {"other": "E-DEVICE", "ecc": "E-DEVICE-ECC", "lost": "E-DEVICE-LOST", "kernel": "E-DEVICE-KERNEL", "link": "E-DEVICE-LINK"}


def write_input(folder, lines, tokens):
    with open(os.path.join(folder, "in.jsonl"), "w", encoding="utf-8") as file:
        for i in range(lines):
            request = {"custom_id": f"line-{i}", "prompt": f"line {i} of the batch", "max_tokens": tokens + i % 4}
            file.write(json.dumps(request) + "\n")


def fail_device(fault, code, pattern, *more, lines=1, first=""):
    """A batch of its own; one line, from the rank whose device it is, and more only where others find out soon after; all
    processes are gone in time."""
    def strike(batch):
        alone = Batch(batch.words[0], batch.words[2], os.path.dirname(batch.output), fault.replace(":", "-"))
        sums = batch.words[batch.words.index("--backend"):]
        job = Job([*alone.words, *ONE_BY_ONE, *sums, "--fault", fault, *more])
        expect(job, {code}, seconds=SECONDS)
        errors = job.errors()
        assert 1 <= len(errors) <= lines and all(re.search(pattern, line) for line in errors), errors
        assert first in errors[0], errors
        assert alone.count() < LINES, "the batch was through before it was struck"
    return strike


def stop_loading(batch):
    """TERM to the launcher ends ranks of which one hangs before it has its weights."""
    job = Job([*batch.words, "--fault", "device.copy:hang:after=5,rank=1"])
    job.wait_for_ranks(2)
    time.sleep(1)
    job.process.send_signal(signal.SIGTERM)
    expect(job, {75}, "E-STOPPED")


def device_faults():
    blows = {}
    for i, (kind, code) in enumerate(FAULTS.items()):
        rank = i % 2
        blows[f"device of rank {rank}: {kind}"] = fail_device(
            f"device.launch:{kind}:after=400,rank={rank}", 76, rf"error\[{code}\] rank {rank}@\S+: emulated:0: kernel \S+: .*; run ")
    blows["device of rank 1: memory"] = fail_device(
        "device.take:memory:after=5,rank=1", 71, r"error\[E-DEVICE-MEMORY\] rank 1@\S+: emulated:0: .*; lower ")
    for what in ("launch", "copy"):
        blows[f"device of rank 1: a {what} that never ends"] = fail_device(
            f"device.{what}:hang:after=100,rank=1", 76,
            r"error\[E-DEVICE-LOST\] rank 1@\S+: emulated:0: no progress for 3 s (in|in front of|behind) sum \d+ over ranks |"
            r"error\[E-PEER-LOST\] rank 0@\S+: (rank 0 on emulated:0: a wait in sum \d+ over ranks: rank 1 has not come "
            r"|rank 1@\S+ \(process \d+\) made no progress )",
            "--comm-timeout", "4s", lines=2, first="E-DEVICE-LOST")
    blows["device of rank 1: a launch that never ends, sums through the host"] = fail_device(
        "device.launch:hang:after=101,rank=1", 76, r"error\[E-PEER-LOST\] rank \d@\S+: rank \d@\S+ \(process \d+\) made no progress for 4 s",
        "--comm", "host", "--comm-timeout", "4s")
    for ranks, who in ((",rank=1", "1"), ("", r"\d")):
        blows[f"devices of ranks{ranks}: a copy that never ends while they load"] = fail_device(
            f"device.copy:hang:after=5{ranks}", 76,
            rf'error\[E-DEVICE-LOST\] rank {who}@\S+: emulated:0: no progress for 2 s in "loading \S+" \(see --comm-timeout\); run ',
            "--comm-timeout", "2s")
    blows["stop while loading"] = stop_loading
    return blows


def main():
    if not shutil.which("mpirun"):
        print("skipped: mpirun is not installed")
        return 77
    spillway, model, backend = (*sys.argv[1:], "emulated")[:3]
    with tempfile.TemporaryDirectory() as folder:
        lines, tokens = (LINES, TOKENS) if backend == "emulated" else (LINES_GPU, TOKENS_GPU)
        write_input(folder, lines, tokens)
        calm, struck = (Batch(spillway, model, folder, way) for way in ("host", "nccl"))
        calm.words += ["--backend", backend, "--comm", "host"]
        struck.words += ["--backend", backend, "--comm", "nccl"]

        def equal_answers(batch):
            batch.finish()
            calm.finish()
            assert len(calm.answers()) == lines, "lines without an answer"
            batch.check_equal(calm)

        return run_tests({
            "kill rank 1": strike_rank(signal.SIGKILL, 1, {137, 76}, LOST.format(1) + "was killed"),
            "stop rank 0": strike_rank(signal.SIGSTOP, 0, {76}, LOST.format(0) + ".*it is stopped"),
            **(device_faults() if backend == "emulated" else {}),
            "equal answers": equal_answers,
        }, [], struck)


if __name__ == "__main__":
    sys.exit(main())
