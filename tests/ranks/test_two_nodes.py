#!/usr/bin/env python3
"""Ranks on two nodes that are network namespaces: collectives, faults, a cut link. Needs root.
Usage: test_two_nodes.py RANK_LOOP COMM_OVER_MPI [NAME…]"""

import os
import signal
import subprocess
import sys
import time

from job import expect, run_tests
from nodes import Network, missing

COMM_TIMEOUT = 3
SECONDS_TO_END = 12  # after the cause was told, Open MPI takes its time to end the ranks of the other nodes


def running(network, program, ranks, timeout=COMM_TIMEOUT):
    job = network.job(ranks, program, "--timeout", timeout)
    said = 0
    while said < ranks:
        line = job.process.stderr.readline()
        assert line, "the job ended before it ran: " + "".join(job.lines)
        job.lines.append(line)
        assert "row shared" not in line, "ranks of two nodes cannot share memory"
        said += " is process " in line
    job.find_ranks()
    time.sleep(0.3)
    return job


def test_collectives(network, _, comm_over_mpi):
    for ranks in (2, 3, 4):
        expect(network.job(ranks, comm_over_mpi, "--by-message"), {0}, seconds=60)


def test_normal_end(network, program, _):
    expect(network.job(3, program, "--steps", 50), {0}, seconds=30)


def test_kill_each_rank(network, program, _):
    for victim in range(4):
        job = running(network, program, 4)
        os.kill(job.rank_process[victim], signal.SIGKILL)
        expect(job, {137, 76}, rf"E-PEER-LOST\].*: rank {victim}@spillway-{'ab'[victim // 2]} .*was killed", seconds=SECONDS_TO_END)


def test_stop_each_rank(network, program, _):
    for victim in (0, 3):
        job = running(network, program, 4, timeout=30)
        os.kill(job.rank_process[victim], signal.SIGSTOP)
        expect(job, {76}, rf"E-PEER-LOST\].*: rank {victim}@spillway-{'ab'[victim // 2]} .*it is stopped", seconds=SECONDS_TO_END)


def test_stop_the_only_rank_of_a_node(network, program, _):
    job = running(network, program, 3)
    os.kill(job.rank_process[2], signal.SIGSTOP)
    expect(job, {76}, rf"no progress for {COMM_TIMEOUT} s", seconds=COMM_TIMEOUT + SECONDS_TO_END)


def test_cut_link(network, program, _):
    """Ranks of both sides and mpirun end; the daemon of the lost node is Open MPI's own and may outlast the cut."""
    job = running(network, program, 4)
    network.cut()
    try:
        code = job.process.wait(COMM_TIMEOUT + SECONDS_TO_END)
        until = time.monotonic() + SECONDS_TO_END
        while (left := set(job.living()) & set(job.rank_process.values())) and time.monotonic() < until:
            time.sleep(0.1)
    except subprocess.TimeoutExpired:
        raise AssertionError("mpirun still runs") from None
    finally:
        network.mend()
        job.clean_up()
    assert code == 76, f"exit code {code}"
    assert not left, f"ranks {left} were left behind"


def main():
    if missing():
        print(f"skipped: {missing()}")
        return 77
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    with Network() as network:
        return run_tests(tests, sys.argv[3:], network, *sys.argv[1:3])


if __name__ == "__main__":
    sys.exit(main())
