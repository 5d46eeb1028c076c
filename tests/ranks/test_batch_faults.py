#!/usr/bin/env python3
"""One batch, struck again and again: each rank killed and stopped, mpirun and the parent killed, drained, hurried. Each time
all processes are gone in time with the right exit code, the same command goes on, and in the end each line has exactly
one answer, equal to that of a run that nobody disturbed. Usage: test_batch_faults.py SPILLWAY MODEL"""

import json
import os
import shutil
import signal
import sys
import tempfile
import time

from batch_answers import answers
from job import Job, expect, run_tests

LINES = 2000
LINES_BETWEEN = 10  # answered before the next blow
SECONDS_TO_ANSWER = 60
ONE_BY_ONE = ["--max-num-seqs", 1]  # slow enough to be struck
SIDE_BY_SIDE = ["--max-num-seqs", 32]  # the same answers
STOPPED = r"E-STOPPED\] rank 0@"
LOST = r"E-PEER-LOST\].*: rank {}@\S+ \(process \d+\) "


class Batch:
    def __init__(self, spillway, model, folder, name):
        self.output = os.path.join(folder, name + ".jsonl")
        self.words = [spillway, "batch", model, "--ranks", 2, "--input", os.path.join(folder, "in.jsonl"),
                      "--output", self.output, "--seed", 3]
        self.environment = {}

    def count(self):
        if not os.path.exists(self.output):
            return 0
        with open(self.output, "rb") as file:
            return file.read().count(b"\n")

    def start(self):
        """Runs until it has answered a few more lines."""
        before = self.count()
        job = Job(self.words + ONE_BY_ONE, environment=self.environment)
        until = time.monotonic() + SECONDS_TO_ANSWER
        while self.count() < before + LINES_BETWEEN:
            assert job.process.poll() is None, "the batch ended before it was struck: " + job.process.stderr.read()
            assert time.monotonic() < until, "the batch answers nothing"
            time.sleep(0.01)
        job.find_ranks()
        return job

    def finish(self):
        expect(Job(self.words + SIDE_BY_SIDE, environment=self.environment), {0}, seconds=300)

    def check_equal(self, calm):
        found, expected = self.answers(), calm.answers()
        odd = [name for name in expected if found.get(name) != expected[name]]
        assert not odd and len(found) == len(expected), f"{len(odd)} answers differ or lack, the first is {odd[:1]}"

    def answers(self):
        return answers(self.output)


def write_input(folder, lines):
    with open(os.path.join(folder, "in.jsonl"), "w", encoding="utf-8") as file:
        for i in range(lines):
            request = {"custom_id": f"line-{i}", "prompt": f"line {i} of the batch", "max_tokens": 200 + i % 100,
                       "temperature": 1 if i % 2 else 0}
            file.write(json.dumps(request) + "\n")


def strike_rank(number, rank, codes, pattern=None):
    def strike(batch):
        job = batch.start()
        os.kill(job.rank_process[rank], number)
        expect(job, codes, pattern)
    return strike


def strike_mpirun(batch):
    job = batch.start()
    os.kill(job.mpirun, signal.SIGKILL)
    expect(job, {76}, rf"E-PEER-LOST\].*mpirun \(process {job.mpirun}\) was killed")


def strike_parent(number, codes, pattern=None):
    def strike(batch):
        job = batch.start()
        job.process.send_signal(number)
        expect(job, codes, pattern)
    return strike


BLOWS = {
    "kill rank 0": strike_rank(signal.SIGKILL, 0, {137, 76}, LOST.format(0) + "was killed"),
    "kill rank 1": strike_rank(signal.SIGKILL, 1, {137, 76}, LOST.format(1) + "was killed"),
    "stop rank 0": strike_rank(signal.SIGSTOP, 0, {76}, LOST.format(0) + ".*it is stopped"),
    "stop rank 1": strike_rank(signal.SIGSTOP, 1, {76}, LOST.format(1) + ".*it is stopped"),
    "kill mpirun": strike_mpirun,
    "kill the parent": strike_parent(signal.SIGKILL, {-signal.SIGKILL}),
    "drain through the parent": strike_parent(signal.SIGTERM, {75}, STOPPED),
    "drain through rank 1": strike_rank(signal.SIGUSR1, 1, {75}, STOPPED),
    "hurry through rank 0": strike_rank(signal.SIGTERM, 0, {75}, STOPPED),
    "hurry through rank 1": strike_rank(signal.SIGTERM, 1, {75}, STOPPED),
}


def main():
    if not shutil.which("mpirun"):
        print("skipped: mpirun is not installed")
        return 77
    spillway, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        write_input(folder, LINES)
        calm, struck = (Batch(spillway, model, folder, name) for name in ("calm", "struck"))

        def equal_answers(batch):
            batch.finish()
            calm.finish()
            assert len(calm.answers()) == LINES, "lines without an answer"
            batch.check_equal(calm)

        return run_tests({**BLOWS, "equal answers": equal_answers}, [], struck)


if __name__ == "__main__":
    sys.exit(main())
