#!/usr/bin/env python3
"""Faults of ranks: whatever happens to one, all end in time, with the right exit code, one line that names the odd
rank, and no process left. Usage: test_faults.py RANK_LOOP [NAME…]"""

import os
import shutil
import signal
import subprocess
import sys
import time

from job import SECONDS_MAX, Job, expect, run_tests


def loop(program, ranks, *arguments, **how):
    return Job([program, "--ranks", ranks, *arguments], **how)


def running(program, ranks, *arguments):
    """A job whose ranks have met and go round in the loop."""
    job = loop(program, ranks, *arguments)
    said = 0
    while said < ranks:
        line = job.process.stderr.readline()
        assert line, "the job ended before it ran: " + "".join(job.lines)
        job.lines.append(line)
        said += " is process " in line
    job.find_ranks()
    time.sleep(0.3)
    return job


def each_rank(what):
    for ranks in (2, 3):
        for victim in range(ranks):
            what(ranks, victim)


def test_kill_each_rank(program):
    def kill(ranks, victim):
        job = running(program, ranks)
        os.kill(job.rank_process[victim], signal.SIGKILL)
        expect(job, {137, 76}, rf"E-PEER-LOST\].*: rank {victim}@\S+ \(process {job.rank_process[victim]}\) was killed")
    each_rank(kill)


def test_stop_each_rank(program):
    def stop(ranks, victim):
        job = running(program, ranks)
        os.kill(job.rank_process[victim], signal.SIGSTOP)
        expect(job, {76}, rf"E-PEER-LOST\].*: rank {victim}@\S+ .* it is stopped")
    each_rank(stop)


def test_stop_all_but_one(program):
    job = running(program, 3)
    for victim in (0, 2):
        os.kill(job.rank_process[victim], signal.SIGSTOP)
    expect(job, {76}, r"rank [02]@.* it is stopped")


def test_kill_mpirun(program):
    job = running(program, 3)
    os.kill(job.mpirun, signal.SIGKILL)
    expect(job, {76}, rf"E-PEER-LOST\].*mpirun \(process {job.mpirun}\) was killed by signal 9")


def test_kill_mpirun_with_a_stopped_rank(program):
    job = running(program, 2)
    os.kill(job.rank_process[0], signal.SIGSTOP)
    os.kill(job.mpirun, signal.SIGKILL)
    expect(job, {76})


def test_kill_the_parent(program):
    job = running(program, 2)
    job.process.kill()
    expect(job, {-signal.SIGKILL})


def test_kill_the_parent_and_mpirun(program):
    job = running(program, 2)
    os.kill(job.rank_process[1], signal.SIGSTOP)
    job.process.kill()
    os.kill(job.mpirun, signal.SIGKILL)
    expect(job, {-signal.SIGKILL})


def test_signals_to_the_parent_drain(program):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        job = running(program, 2)
        job.process.send_signal(number)
        expect(job, {75})
        assert not job.errors(), job.errors()


def test_signals_while_starting(program):
    for delay_ms in (5, 20, 50, 100, 150, 200, 250, 300):
        job = loop(program, 2)
        time.sleep(delay_ms / 1000)
        job.process.send_signal(signal.SIGTERM)
        expect(job, {75, -signal.SIGTERM} if delay_ms < 20 else {75})


def test_second_term_ends_at_once(program):
    job = running(program, 2, "--hang", 0)
    job.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    job.process.send_signal(signal.SIGTERM)
    expect(job, {75}, seconds=3)


def test_signal_to_one_rank_stops_all(program):
    for number in (signal.SIGTERM, signal.SIGUSR1):
        job = running(program, 3)
        os.kill(job.rank_process[2], number)
        expect(job, {75})


def test_second_term_to_a_hanging_rank(program):
    job = running(program, 2, "--hang", 1)
    for _ in range(2):
        os.kill(job.rank_process[1], signal.SIGTERM)
        time.sleep(0.2)
    expect(job, {75})


def test_pause_of_the_whole_job_is_no_fault(program):
    job = running(program, 2)
    for process in job.rank_process.values():
        os.kill(process, signal.SIGSTOP)
    time.sleep(5)
    for process in job.rank_process.values():
        os.kill(process, signal.SIGCONT)
    time.sleep(4)
    assert len(job.living()) == 4, "the job ended because it was paused"
    job.process.send_signal(signal.SIGTERM)
    expect(job, {75})


def test_normal_end(program):
    for ranks in (1, 2, 3):
        expect(loop(program, ranks, "--steps", 200), {0})
    job = loop(program, 2, "--steps", 200, "--linger", 1)
    expect(job, {0}, seconds=8)


def test_different_settings(program):
    expect(loop(program, 3, "--differ", 1), {64}, r'E-RANK-MISMATCH\].*rank 1 has settings "odd"')
    expect(loop(program, 3, "--differ", 0), {64}, r'E-RANK-MISMATCH\].*rank 0 has settings "odd"')


def test_refused_start(program):
    for rank in (0, 1):
        expect(loop(program, 2, "--refuse", rank), {65}, rf"E-GGUF\] rank {rank}@")


def test_one_rank_falls(program):
    for rank in (0, 1):
        expect(loop(program, 2, "--fall", rank), {74}, rf"E-OUTPUT-WRITE\] rank {rank}@")


def test_stuck_unit(program):
    for rank in (0, 2):
        expect(loop(program, 3, "--hang", rank, "--timeout", 2), {76},
               rf"rank {rank}@\S+ \(process \d+\) made no progress for 2 s", seconds=SECONDS_MAX + 3)


def test_stuck_load(program):
    for rank in (0, 2):
        expect(loop(program, 3, "--stall", rank, "--timeout", 2), {76},
               rf'rank {rank}@\S+ \(process \d+\) made no progress for 2 s in "loading a matrix"', seconds=SECONDS_MAX + 3)


def test_slow_load(program):
    expect(loop(program, 2, "--fill", 1, "--timeout", 2, "--steps", 10), {0}, seconds=20)


def test_stop_while_loading(program):
    for number in (signal.SIGTERM, signal.SIGUSR1):
        job = loop(program, 2, "--stall", 1)
        job.wait_for_ranks(2)
        time.sleep(1)
        job.process.send_signal(number)
        expect(job, {75}, r"E-STOPPED\] rank 1@")


def test_input_goes_to_rank_0(program):
    with subprocess.Popen(["seq", "30000"], stdout=subprocess.PIPE) as source:
        out = expect(loop(program, 2, "--steps", 3, "--input", 1, stdin=source.stdout), {0}, seconds=20)
    assert out.splitlines() == [f"read {i}" for i in range(1, 30001)], "input was lost"


def test_input_of_another_node(program):
    words = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--quiet", "-n", "2", program, "--ranks", "2"]
    expect(Job(words, environment={"_SPILLWAY_INPUT": "/proc/self/fd/0 pipe:[1]"}), {69},
           r"E-UNAVAILABLE\].*standard input.*two nodes")


def test_without_mpirun(program):
    job = loop(program, 2, environment={"PATH": "/nonexistent"})
    expect(job, {69}, r"E-UNAVAILABLE\].*mpirun")


def test_srun_without_pmix(program):
    job = loop(program, 2, environment={"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"})
    expect(job, {69}, r"E-UNAVAILABLE\].*--mpi=pmix")


def test_wrong_number_under_mpirun(program):
    words = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--quiet", "-n", "2", program, "--ranks", "3"]
    code, _ = (job := Job(words)).end()
    assert code == 64, code
    assert all("E-USAGE" in line for line in job.errors())


def main():
    if not shutil.which("mpirun"):
        print("skipped: mpirun is not installed")
        return 77
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    return run_tests(tests, sys.argv[2:], sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
