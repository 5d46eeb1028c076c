#!/usr/bin/env python3
"""The job scripts that start mpirun: node.sh, and with --nodes two_nodes.sh over two network namespaces (root). They are struck
like a batch of test_batch_faults.py, and in the end each line has one answer, equal to that of a calm run.
Usage: test_jobs.py SPILLWAY MODEL SCRIPTS [--nodes] [NAME…]"""

import itertools
import os
import re
import shutil
import signal
import sys
import tempfile

from job import Job, expect, run_tests
from nodes import NODES, Network, inside, missing
from test_batch_faults import Batch, write_input

LINES = 40
SECONDS_MAX = 120
MEBIBYTE = 1 << 20
SPILLING = ["--kv-device-size", "min", "--block-size", 4, "--max-num-batched-tokens", 64, "--kv-host-size", "64KiB",
            "--kv-nvme-size", "1MiB", "--drain-timeout", "1s"]


# again.sh with a child that is lost once and then takes its time, and a TERM before the N-th command that it runs with its trap set.
TERM_BEFORE = """
. "$1/again.sh"
n=$2 events=$3
child() {
  trap - DEBUG
  trap 'exit 75' USR1
  [ -s "$events" ] || { echo lost >>"$events" && exit 76; }
  for _ in {1..30}; do sleep 0.05; done
  echo through >>"$events"
}
strike() {
  [ "$BASHPID" != $$ ] || [ -z "${restarts-}" ] || [ "$((n -= 1))" != 0 ] || { echo TERM >>"$events" && kill -TERM $$; }
}
set -o functrace
trap strike DEBUG
run_again child
"""


class Script(Batch):
    """A batch that a job script runs."""

    def __init__(self, bench, name, *more, **environment):
        super().__init__(bench.spillway, bench.model, bench.folder, name)
        files = [bench.model, os.path.join(bench.folder, "in.jsonl"), self.output]
        self.words = bench.words(*files, "--seed", 3, *more)
        self.environment = {**bench.environment, **environment}


class Node:
    """This node alone."""

    def __init__(self, spillway, model, scripts, folder):
        self.spillway, self.model, self.scripts, self.folder = spillway, model, scripts, folder
        self.ranks = 2
        self.environment = {"PATH": f"{os.path.dirname(spillway)}:{os.environ['PATH']}", "RANKS": "2", "TMPDIR": folder}
        self.calm = Batch(spillway, model, folder, "calm")

    def words(self, *more):
        return [os.path.join(self.scripts, "node.sh"), *more]

    def check_end(self, batch):
        if not os.path.exists(self.calm.output):
            self.calm.words[self.calm.words.index("--ranks") + 1] = self.ranks
            self.calm.finish()
            assert len(self.calm.answers()) == LINES, "lines without an answer"
        batch.check_equal(self.calm)


class Nodes(Node):
    """Two ranks on one node, one on the other."""

    def __init__(self, network, *arguments):
        super().__init__(*arguments)
        self.ranks = 3
        self.environment = {**self.environment, **network.environment()}
        self.hosts = os.path.join(self.folder, "hosts")
        with open(self.hosts, "w", encoding="utf-8") as file:
            file.writelines(f"{address} slots={slots}\n" for address, slots in zip(NODES.values(), (2, 1)))

    def words(self, *more):
        return inside(next(iter(NODES)), os.path.join(self.scripts, "two_nodes.sh"), self.hosts, *more)


def test_drain(bench):
    batch = Script(bench, "drain")
    job = batch.start()
    job.process.send_signal(signal.SIGTERM)
    expect(job, {75}, r"E-STOPPED\] rank 0@", seconds=SECONDS_MAX)
    batch.finish()
    bench.check_end(batch)


def test_lost_rank(bench):
    """The script goes on by itself."""
    batch = Script(bench, "lost")
    job = batch.start()
    os.kill(job.rank_process[bench.ranks - 1], signal.SIGKILL)
    expect(job, {0}, seconds=SECONDS_MAX)
    said = "".join(job.lines)
    assert len(re.findall(r"exit code (76|137), going on", said)) == 1, said
    bench.check_end(batch)


def node_test_restarts_end(bench):
    batch = Script(bench, "end", MAX_RESTARTS="0")
    job = batch.start()
    os.kill(job.rank_process[0], signal.SIGKILL)
    expect(job, {76, 137}, r"E-PEER-LOST\].*: rank 0@\S+ .*was killed", seconds=SECONDS_MAX)


def node_test_wrong_input(bench):
    """What would end the same way again does not run again."""
    batch = Script(bench, "wrong")
    batch.words += ["--errors", batch.output]
    expect(Job(batch.words, environment=batch.environment), {64}, r"E-USAGE\]", seconds=SECONDS_MAX)


def node_test_term_any_time(bench):
    """A TERM before any command of the loop, until it comes after all: nothing runs to its end behind it."""
    events = os.path.join(bench.folder, "events")
    for number in itertools.count(1):
        with open(events, "w", encoding="utf-8"):
            pass
        code, _ = Job(["bash", "-c", TERM_BEFORE, "again", bench.scripts, number, events]).end(SECONDS_MAX)
        with open(events, encoding="utf-8") as file:
            seen = file.read().split()
        if "TERM" not in seen:
            break
        after = seen[seen.index("TERM"):]
        assert "through" not in after and (code in (75, 76) or "through" in seen), f"before command {number}: {seen}, exit code {code}"
    assert code == 0 and number > 10, f"exit code {code} after {number} commands"


def fake(folder, name, *lines):
    """A program of that name in the folder."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(("#!/bin/sh", *lines, "")))
    os.chmod(path, 0o755)
    return folder


def bare_path(folder):
    """What the scripts themselves call, without spillway and mpirun."""
    os.makedirs(folder, exist_ok=True)
    for name in ("bash", "sh", "sleep", "dirname", "basename", "lscpu", "grep", "sort", "wc", "id", "seq"):
        os.symlink(shutil.which(name), os.path.join(folder, name))
    return folder


def node_test_missing_program(bench):
    """Said once, and not tried again: nor is a program that cannot be started further below."""
    bare = bare_path(os.path.join(bench.folder, "bare"))
    hollow = fake(os.path.join(bench.folder, "hollow"), "spillway", "exit 127")
    files = ("MODEL", "INPUT", "OUTPUT")
    for path, words, missing in ((bare, ["node.sh", *files], "spillway"), (bare, ["two_nodes.sh", "HOSTS", *files], "spillway"),
                                 (f"{hollow}:{bare}", ["two_nodes.sh", "HOSTS", *files], "mpirun"),
                                 (f"{hollow}:{bare}", ["node.sh", *files], None)):
        job = Job([os.path.join(bench.scripts, words[0]), *words[1:]], environment={"PATH": path})
        expect(job, {127}, seconds=SECONDS_MAX)
        said = "".join(job.lines)
        assert "going on" not in said, said
        assert missing is None or f'no program "{missing}"' in said, said


def node_test_ranks(bench):
    """RANKS, else a rank a GPU, else a rank a socket; GPUs are those that nvidia-smi lists and CUDA_VISIBLE_DEVICES shows."""
    tools = os.path.join(bench.folder, "tools")
    path = f"{tools}:{bench.environment['PATH']}"
    for gpus, ranks, visible, expected in (
            (2, "", None, 2), (3, "1", None, 1), (0, "", None, None), (4, "", "2", 1), (4, "", "3,0,1", 3), (4, "", "GPU-5ad0,1", 2),
            (4, "", "0,-1,1", 1), (2, "", "1,7", 1), (4, "", "", None), (4, "", "NoDevFiles", None)):
        fake(tools, "nvidia-smi", *(f"echo 'GPU {i}: stand-in'" for i in range(gpus)), f"exit {int(gpus == 0)}")
        shown = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
        batch = Script(bench, "ranks", "--dry-run", PATH=path, RANKS=ranks, **shown)
        job = Job(batch.words, environment=batch.environment)
        expect(job, {0}, seconds=SECONDS_MAX)
        found = re.search(r"in order; (\d+) rank", "".join(job.lines))
        assert found and int(found[1]) == (expected or sockets()), (gpus, ranks, visible, job.lines)


def sockets():
    found = set()
    for name in filter(re.compile(r"cpu\d+$").match, os.listdir("/sys/devices/system/cpu")):
        path = f"/sys/devices/system/cpu/{name}/topology/physical_package_id"
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                found.add(file.read())
    return len(found) or 1


def nodes_test_budgets(bench):
    """Budgets of a node are shared by its own ranks: the two of one have half each, the one of the other all."""
    batch = Script(bench, "budgets", *SPILLING)
    job = Job(batch.words, environment=batch.environment)
    while "spill I/O" not in (line := job.process.stderr.readline()):
        assert line, "the job ended before it spilled: " + "".join(job.lines)
        job.lines.append(line)
    job.find_ranks()
    sizes = {rank: [os.stat(f"/proc/{process}/fd/{name}").st_size for name in os.listdir(f"/proc/{process}/fd")
                    if is_spill_file(f"/proc/{process}/fd/{name}", bench.folder)]
             for rank, process in job.rank_process.items()}
    assert sizes == {0: [MEBIBYTE // 2], 1: [MEBIBYTE // 2], 2: [MEBIBYTE]}, sizes
    job.process.send_signal(signal.SIGTERM)
    expect(job, {75}, seconds=SECONDS_MAX)
    said = "".join(job.lines)
    assert "host 0.0 MiB, nvme 0.5 MiB a rank" in said and "which is $TMPDIR" in said, said


def nodes_test_variables(bench):
    """Options that are set as variables are those of the ranks of the other node, too."""
    batch = Script(bench, "variables", SPILLWAY_BLOCK_SIZE="4", SPILLWAY_MAX_NUM_BATCHED_TOKENS="64")
    expect(Job(batch.words, environment=batch.environment), {0}, seconds=SECONDS_MAX)
    assert len(batch.answers()) == LINES, "lines without an answer"


def nodes_test_other_settings(bench):
    """Where a node has a variable of its own, what differs is named."""
    first = next(iter(NODES))
    batch = Script(bench, "other")
    batch.words = inside(first, "mpirun", "--quiet", "--allow-run-as-root", "--bind-to", "none", "--hostfile", bench.hosts,
                         "sh", "-c", f'[ "$(hostname)" = {first} ] || export SPILLWAY_BLOCK_SIZE=4; exec "$@"', "sh", bench.spillway,
                         "batch", bench.model, "--input", os.path.join(bench.folder, "in.jsonl"), "--output", batch.output)
    expect(Job(batch.words, environment=batch.environment), {64},
           r'E-RANK-MISMATCH\].*rank 2 has settings "block-size: 4 .*rank 0 has settings "block-size: ', seconds=SECONDS_MAX)


def is_spill_file(path, folder):
    try:
        return os.readlink(path).startswith(folder) and os.stat(path).st_nlink == 0
    except OSError:
        return False


def main():
    arguments = [os.path.abspath(path) for path in sys.argv[1:4]]
    on_nodes = "--nodes" in sys.argv
    wanted = [name for name in sys.argv[4:] if name != "--nodes"]
    if (reason := missing() if on_nodes else "" if shutil.which("mpirun") else "mpirun is not installed"):
        print(f"skipped: {reason}")
        return 77
    prefixes = ("test_", "nodes_test_" if on_nodes else "node_test_")
    tests = {name.split("test_")[1]: test for name, test in globals().items() if name.startswith(prefixes)}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        write_input(folder, LINES)
        if not on_nodes:
            return run_tests(tests, wanted, Node(*arguments, folder))
        with Network() as network:
            return run_tests(tests, wanted, Nodes(network, *arguments, folder))


if __name__ == "__main__":
    sys.exit(main())
