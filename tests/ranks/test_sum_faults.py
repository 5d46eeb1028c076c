#!/usr/bin/env python3
"""A batch whose ranks sum on (emulated) devices, struck while they do: a rank killed or stopped takes the job with it in time, though
the others' devices wait for it, and the same command goes on to the answers of a run that sums through host memory.
Usage: test_sum_faults.py SPILLWAY MODEL"""

import json
import os
import shutil
import signal
import sys
import tempfile

from job import run_tests
from test_batch_faults import LOST, Batch, strike_rank

LINES = 24  # the emulated device is slow


def write_input(folder):
    with open(os.path.join(folder, "in.jsonl"), "w", encoding="utf-8") as file:
        for i in range(LINES):
            request = {"custom_id": f"line-{i}", "prompt": f"line {i} of the batch", "max_tokens": 2 + i % 4}
            file.write(json.dumps(request) + "\n")


def main():
    if not shutil.which("mpirun"):
        print("skipped: mpirun is not installed")
        return 77
    spillway, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        write_input(folder)
        calm, struck = (Batch(spillway, model, folder, way) for way in ("host", "nccl"))
        calm.words += ["--backend", "emulated", "--comm", "host"]
        struck.words += ["--backend", "emulated", "--comm", "nccl"]

        def equal_answers(batch):
            batch.finish()
            calm.finish()
            assert len(calm.answers()) == LINES, "lines without an answer"
            batch.check_equal(calm)

        return run_tests({
            "kill rank 1": strike_rank(signal.SIGKILL, 1, {137, 76}, LOST.format(1) + "was killed"),
            "stop rank 0": strike_rank(signal.SIGSTOP, 0, {76}, LOST.format(0) + ".*it is stopped"),
            "equal answers": equal_answers,
        }, [], struck)


if __name__ == "__main__":
    sys.exit(main())
