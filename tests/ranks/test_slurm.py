#!/usr/bin/env python3
"""The Slurm scripts of launch/jobs on a Slurm of two nodes: jobs that are drained, killed, requeued, preempted, cancelled and met by their
time limit. Each script must bring its batch to the end by itself, or where it may not, when it is submitted again; then each line has one
answer, equal to that of a calm run. Reads of the spill files crawl, so that any machine takes long enough to be struck.
Needs root, munge and Slurm. Usage: test_slurm.py SPILLWAY MODEL SPILL_TWIN SCRIPTS CONFIGS [NAME…]"""

import json
import os
import re
import signal
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor

import cluster
import nodes
from batch_answers import answers
from cluster import CannotStart, Cluster, contain, log_of
from job import Job, expect, run_tests

LINES = 40
SECONDS_MAX = 150
SLOW = "kv-device-size: min\nblock-size: 4\nmax-num-batched-tokens: 64\nmax-num-seqs: 2\nkv-nvme-size: 1MiB\nio: threads\n"


def wait_for(condition, what):
    until = time.monotonic() + SECONDS_MAX
    while not (found := condition()):
        assert time.monotonic() < until, f"waited {SECONDS_MAX} s for {what}"
        time.sleep(0.1)
    return found


class Bench:
    def __init__(self, slurm, spillway, model, twin, scripts, configs, folder):
        self.slurm, self.model, self.scripts, self.folder = slurm, model, scripts, folder
        self.fast = log_of(os.path.join(configs, "cluster_scratch.yaml")) + "max-num-seqs: 16\n"
        scratch = os.path.join(folder, "scratch")
        os.mkdir(scratch)
        slurm.environment.update({
            "PATH": f"{os.path.dirname(spillway)}:{slurm.environment['PATH']}", "SLURM_TMPDIR": scratch,
            "LD_PRELOAD": twin, "SPILL_TWIN": "read:crawl:0", "OMPI_MCA_btl": "vader,tcp,self", "OMPI_MCA_btl_tcp_if_include": "eth0"})
        self.input = os.path.join(folder, "in.jsonl")
        with open(self.input, "w", encoding="utf-8") as file:
            for i in range(LINES):
                file.write(json.dumps({"custom_id": f"line-{i}", "prompt": f"line {i} of the batch", "max_tokens": 40 + i % 20,
                                       "ignore_eos": True, "temperature": i % 2}) + "\n")
        output = os.path.join(folder, "calm.jsonl")
        expect(Job([spillway, "batch", model, "-i", self.input, "-o", output, "--ranks", 2, "--seed", 3]), {0}, seconds=SECONDS_MAX)
        self.calm = answers(output)
        assert len(self.calm) == LINES

    def check(self, *outputs):
        found = [item for output in outputs for item in answers(output).items()]
        odd = [name for name, answer in found if self.calm.get(name) != answer]
        assert len(found) == len(dict(found)) == LINES and not odd, f"{len(found)} answers, {len(odd)} of them differ"


class SlurmJob:
    """A script that was submitted, with a configuration that its next start reads anew."""

    def __init__(self, bench, script, name, *flags):
        self.bench, self.slurm = bench, bench.slurm
        self.script, self.name = os.path.join(bench.scripts, script), name
        self.output, self.log, self.config = (os.path.join(bench.folder, name + ending) for ending in (".jsonl", ".log", ".yaml"))
        self.configure(SLOW)
        self.submit(*flags)

    def submit(self, *flags, **environment):
        self.id = self.slurm.call(
            "sbatch", "--parsable", "--exclusive=user", f"--output={self.log}", *flags, self.script, self.bench.model, self.bench.input,
            self.output, "--config", self.config, "--seed", 3, **environment).strip()

    def configure(self, text):
        with open(self.config + ".new", "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(self.config + ".new", self.config)

    def count(self):
        return log_of(self.output).count("\n")

    def wait_for_answers(self):
        """Two more than there are, so that it runs."""
        before = self.count()
        wait_for(lambda: self.count() >= before + 2, f"answers of {self.name}: {log_of(self.log)[-500:]}")

    def wait_for_restart(self, number):
        wait_for(lambda: int(self.slurm.show(self.id)["Restarts"]) >= number, f"restart {number}: {log_of(self.log)[-500:]}")

    def wait_for_end(self, state="COMPLETED", task=None):
        over = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
        found = wait_for(lambda: (shown := self.slurm.show(task or self.id))["JobState"] in over and shown, f"the end of {self.name}")
        assert found["JobState"] == state, f"{found['JobState']}, {found['ExitCode']}: {log_of(self.log)[-1500:]}"
        return found


def test_struck(bench):
    """A drain, a rank killed, a requeue from outside; the job goes on behind each."""
    job, slurm = SlurmJob(bench, "slurm_batch.sbatch", "struck", "--nodelist=spillway-a"), bench.slurm
    job.wait_for_answers()
    assert "which is $SLURM_TMPDIR" in log_of(job.log), log_of(job.log)
    slurm.call("scancel", "--signal=USR1", job.id)
    job.wait_for_restart(1)
    assert len(re.findall(r"E-STOPPED\]", log_of(job.log))) == 1, log_of(job.log)
    job.wait_for_answers()
    os.kill(slurm.processes(job.id, "spillway")[-1], signal.SIGKILL)
    job.wait_for_restart(2)
    job.wait_for_answers()
    job.configure(bench.fast)
    slurm.call("scontrol", "requeue", job.id)
    assert int(job.wait_for_end()["Restarts"]) == 3
    bench.check(job.output)


def test_array(bench):
    """One task is cancelled, the others drain; those go on, that one only when it is submitted again."""
    array, slurm = SlurmJob(bench, "slurm_array.sbatch", "array", "--array=1-3", "--ntasks-per-node=1",
                     "--nodelist=spillway-a"), bench.slurm
    outputs = [f"{array.output[:-len('.jsonl')]}.{number}-of-3.jsonl" for number in (1, 2, 3)]
    first, second, third = (f"{array.id}_{number}" for number in (1, 2, 3))
    wait_for(lambda: all(map(log_of, outputs)), f"answers of all tasks: {log_of(array.log)[-500:]}")
    slurm.call("scancel", second)
    assert array.wait_for_end("CANCELLED", second)["Restarts"] == "0"
    array.configure(bench.fast)
    for task in (first, third):
        slurm.call("scancel", "--signal=USR1", task)
    for task in (first, third):
        assert array.wait_for_end("COMPLETED", task)["Restarts"] == "1"
    array.submit("--array=2", SHARDS="3")
    array.wait_for_end()
    bench.check(*outputs)


def test_array_task(bench):
    """A task that loses its rank goes on alone, also the one whose number is that of the array: what runs beside it is left to run, and what
    has finished stays so."""
    array, slurm = SlurmJob(bench, "slurm_array.sbatch", "task", "--array=1-3", "--ntasks-per-node=1", "--nodelist=spillway-a"), bench.slurm
    outputs = [f"{array.output[:-len('.jsonl')]}.{number}-of-3.jsonl" for number in (1, 2, 3)]
    wait_for(lambda: all(map(log_of, outputs)), f"answers of all tasks: {log_of(array.log)[-500:]}")
    tasks = [f"{array.id}_{number}" for number in (1, 2, 3)]
    finished, beside, struck = sorted(tasks, key=lambda task: slurm.show(task)["JobId"] == array.id)
    number = slurm.show(struck)["JobId"]
    assert number == array.id, f"no task has the number of the array: {number}"
    array.configure(bench.fast)
    slurm.call("scancel", "--signal=USR1", finished)
    assert array.wait_for_end(task=finished)["Restarts"] == "1"
    assert slurm.show(beside)["JobState"] == "RUNNING", "it should take longer"
    os.kill(slurm.processes(number, "spillway")[-1], signal.SIGKILL)
    wait_for(lambda: slurm.show(struck)["Restarts"] == "1", f"the restart: {log_of(array.log)[-500:]}")
    array.wait_for_end(task=struck)
    restarts = [slurm.show(task)["Restarts"] for task in (finished, beside, struck)]
    assert restarts == ["1", "0", "1"], restarts
    slurm.call("scancel", "--signal=USR1", beside, check=False)  # by now it may be through
    array.wait_for_end(task=beside)
    bench.check(*outputs)


def test_preempted(bench):
    """A job of more rank takes the node; Slurm requeues what it puts out."""
    job, slurm = SlurmJob(bench, "slurm_batch.sbatch", "preempted", "--nodelist=spillway-b"), bench.slurm
    job.wait_for_answers()
    job.configure(bench.fast)
    slurm.call("sbatch", "--partition=urgent", "--nodelist=spillway-b", "--exclusive", "--output=/dev/null", "--wrap=true")
    assert int(job.wait_for_end()["Restarts"]) == 1
    assert "DUE TO PREEMPTION" in log_of(job.log), log_of(job.log)
    bench.check(job.output)


def test_time_limit(bench):
    """Two nodes; the drain begins before the limit, and the job is requeued by its script."""
    job = SlurmJob(bench, "slurm_batch.sbatch", "limited", "--nodes=2", "--ntasks-per-node=1", "--time=1", "--signal=USR1@59")
    pattern = r"running requests have 120 s to finish(.|\n)*E-STOPPED\].*of \d+ lines to do"
    wait_for(lambda: re.search(pattern, log_of(job.log)), f"the drain: {log_of(job.log)[-500:]}")
    job.configure(bench.fast)
    assert int(job.wait_for_end()["Restarts"]) >= 1
    bench.check(job.output)


def test_final(bench):
    """What would end the same way again is not requeued."""
    job = SlurmJob(bench, "slurm_batch.sbatch", "final", "--nodelist=spillway-a")
    job.wait_for_answers()
    job.configure("kv-nvme-dir: /nowhere\nkv-nvme-size: 1MiB\n")
    bench.slurm.call("scancel", "--signal=USR1", job.id)
    found = job.wait_for_end("FAILED")
    assert (found["ExitCode"], found["Restarts"]) == ("73:0", "1"), found


def main():
    arguments, wanted = [os.path.abspath(path) for path in sys.argv[1:6]], sys.argv[6:]
    reason = nodes.missing() or ("" if not cluster.missing() else f"not installed: {' '.join(cluster.missing())}")
    if reason:
        print(f"skipped: {reason}")
        return 77
    contain()
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as folder, nodes.Network(), Cluster(folder) as slurm:
            bench = Bench(slurm, *arguments, folder)
            # At the same time: Slurm takes its time to look at limits, and before it starts a job again.
            with ThreadPoolExecutor() as pool:
                started = {name: pool.submit(test, bench) for name, test in tests.items() if not wanted or name in wanted}
                return run_tests({name: test.result for name, test in started.items()}, [])
    except CannotStart as reason:
        print(f"skipped: {reason}")
        return 77


if __name__ == "__main__":
    sys.exit(main())
