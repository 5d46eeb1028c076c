#!/usr/bin/env python3
"""Faults of ranks: whatever happens to one, all end in time, with the right exit code, one line that names the odd
rank, and no process left. Usage: test_faults.py RANK_LOOP [NAME…]"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

SECONDS_MAX = 5  # from the fault to the last process gone
MARK = "SPILLWAY_TEST_MARK"


class Job:
    """rank_loop under its launcher; every process of it carries a mark in its environment."""

    def __init__(self, program, *arguments, ranks=2, command=None, stdin=subprocess.DEVNULL, environment=None):
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        words = command or [program, "--ranks", str(ranks), *map(str, arguments)]
        self.ranks = ranks
        self.process = subprocess.Popen(
            words, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {}), MARK: self.mark})
        self.rank_process, self.mpirun, self.lines = {}, None, []

    def wait_until_running(self):
        while len(self.rank_process) < self.ranks:
            line = self.process.stderr.readline()
            assert line, "the job ended before it ran: " + "".join(self.lines)
            self.lines.append(line)
            found = re.match(r"rank (\d+) is process (\d+) of launcher (\d+)", line)
            if found:
                self.rank_process[int(found[1])] = int(found[2])
                self.mpirun = int(found[3])
        time.sleep(0.3)
        return self

    def living(self):
        living = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/environ", "rb") as file:
                    marked = f"{MARK}={self.mark}".encode() in file.read()
                with open(f"/proc/{name}/stat") as file:
                    state = file.read().rsplit(")", 1)[1].split()[0]
            except OSError:
                continue
            if marked and state != "Z":
                living.append(int(name))
        return living

    def end(self, seconds=SECONDS_MAX):
        """Exit code, and what it said; fails when anything lives on."""
        until = time.monotonic() + seconds
        try:
            out, error = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.clean_up()
            raise AssertionError(f"still running after {seconds} s") from None
        while self.living() and time.monotonic() < until:
            time.sleep(0.05)
        left = self.living()
        self.clean_up()
        assert not left, f"processes {left} were left behind"
        self.lines.append(error)
        self.seconds = seconds - (until - time.monotonic())
        return self.process.returncode, out

    def clean_up(self):
        for process in self.living():
            os.kill(process, signal.SIGKILL)
        self.process.communicate()

    def errors(self):
        return [line for line in "".join(self.lines).splitlines() if "error[" in line]


def expect(job, codes, pattern=None, error_count=1, seconds=SECONDS_MAX):
    code, out = job.end(seconds)
    assert code in codes, f"exit code {code}, not {codes}: {job.errors()}"
    if pattern:
        errors = job.errors()
        assert len(errors) == error_count, f"{len(errors)} error lines, not {error_count}: {errors}"
        assert re.search(pattern, errors[0]), f"no /{pattern}/ in: {errors[0]}"
    return out


def each_rank(what):
    for ranks in (2, 3):
        for victim in range(ranks):
            what(ranks, victim)


def test_kill_each_rank(program):
    def kill(ranks, victim):
        job = Job(program, ranks=ranks).wait_until_running()
        os.kill(job.rank_process[victim], signal.SIGKILL)
        expect(job, {137, 76}, rf"E-PEER-LOST\].*: rank {victim}@\S+ \(process {job.rank_process[victim]}\) was killed")
    each_rank(kill)


def test_stop_each_rank(program):
    def stop(ranks, victim):
        job = Job(program, ranks=ranks).wait_until_running()
        os.kill(job.rank_process[victim], signal.SIGSTOP)
        expect(job, {76}, rf"E-PEER-LOST\].*: rank {victim}@\S+ .* it is stopped")
    each_rank(stop)


def test_stop_all_but_one(program):
    job = Job(program, ranks=3).wait_until_running()
    for victim in (0, 2):
        os.kill(job.rank_process[victim], signal.SIGSTOP)
    expect(job, {76}, r"rank [02]@.* it is stopped")


def test_kill_mpirun(program):
    job = Job(program, ranks=3).wait_until_running()
    os.kill(job.mpirun, signal.SIGKILL)
    expect(job, {76}, rf"E-PEER-LOST\].*mpirun \(process {job.mpirun}\) was killed by signal 9")


def test_kill_mpirun_with_a_stopped_rank(program):
    job = Job(program, ranks=2).wait_until_running()
    os.kill(job.rank_process[0], signal.SIGSTOP)
    os.kill(job.mpirun, signal.SIGKILL)
    expect(job, {76})


def test_kill_the_parent(program):
    job = Job(program, ranks=2).wait_until_running()
    job.process.kill()
    expect(job, {-signal.SIGKILL})


def test_kill_the_parent_and_mpirun(program):
    job = Job(program, ranks=2).wait_until_running()
    os.kill(job.rank_process[1], signal.SIGSTOP)
    job.process.kill()
    os.kill(job.mpirun, signal.SIGKILL)
    expect(job, {-signal.SIGKILL})


def test_signals_to_the_parent_drain(program):
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        job = Job(program, ranks=2).wait_until_running()
        job.process.send_signal(number)
        expect(job, {75})
        assert not job.errors(), job.errors()


def test_signals_while_starting(program):
    for delay_ms in (5, 20, 50, 100, 150, 200, 250, 300):
        job = Job(program, ranks=2)
        time.sleep(delay_ms / 1000)
        job.process.send_signal(signal.SIGTERM)
        expect(job, {75, -signal.SIGTERM} if delay_ms < 20 else {75})


def test_second_term_ends_at_once(program):
    job = Job(program, "--hang", 0, ranks=2).wait_until_running()
    job.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    job.process.send_signal(signal.SIGTERM)
    expect(job, {75}, seconds=3)


def test_signal_to_one_rank_stops_all(program):
    for number in (signal.SIGTERM, signal.SIGUSR1):
        job = Job(program, ranks=3).wait_until_running()
        os.kill(job.rank_process[2], number)
        expect(job, {75})


def test_second_term_to_a_hanging_rank(program):
    job = Job(program, "--hang", 1, ranks=2).wait_until_running()
    for _ in range(2):
        os.kill(job.rank_process[1], signal.SIGTERM)
        time.sleep(0.2)
    expect(job, {75})


def test_pause_of_the_whole_job_is_no_fault(program):
    job = Job(program, ranks=2).wait_until_running()
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
        expect(Job(program, "--steps", 200, ranks=ranks), {0})
    job = Job(program, "--steps", 200, "--linger", 1, ranks=2)
    expect(job, {0}, seconds=8)


def test_different_settings(program):
    expect(Job(program, "--differ", 1, ranks=3), {64}, r'E-RANK-MISMATCH\].*rank 1 has settings "odd"')
    expect(Job(program, "--differ", 0, ranks=3), {64}, r'E-RANK-MISMATCH\].*rank 0 has settings "odd"')


def test_refused_start(program):
    for rank in (0, 1):
        expect(Job(program, "--refuse", rank, ranks=2), {65}, rf"E-GGUF\] rank {rank}@")


def test_one_rank_falls(program):
    for rank in (0, 1):
        expect(Job(program, "--fall", rank, ranks=2), {74}, rf"E-OUTPUT-WRITE\] rank {rank}@")


def test_stuck_unit(program):
    for rank in (0, 2):
        expect(Job(program, "--hang", rank, "--timeout", 2, ranks=3), {76},
               rf"rank {rank}@\S+ \(process \d+\) made no progress for 2 s", seconds=SECONDS_MAX + 3)


def test_input_goes_to_rank_0(program):
    with subprocess.Popen(["seq", "30000"], stdout=subprocess.PIPE) as source:
        out = expect(Job(program, "--steps", 3, "--input", 1, stdin=source.stdout), {0}, seconds=20)
    assert out.splitlines() == [f"read {i}" for i in range(1, 30001)], "input was lost"


def test_without_mpirun(program):
    job = Job(program, ranks=2, environment={"PATH": "/nonexistent"})
    expect(job, {69}, r"E-UNAVAILABLE\].*mpirun")


def test_srun_without_pmix(program):
    job = Job(program, ranks=2, environment={"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"})
    expect(job, {69}, r"E-UNAVAILABLE\].*--mpi=pmix")


def test_wrong_number_under_mpirun(program):
    words = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--quiet", "-n", "2", program, "--ranks", "3"]
    code, _ = (job := Job(program, command=words)).end()
    assert code == 64, code
    assert all("E-USAGE" in line for line in job.errors())


def main():
    if not shutil.which("mpirun"):
        print("skipped: mpirun is not installed")
        return 77
    program, wanted = sys.argv[1], sys.argv[2:]
    tests = {name[5:]: test for name, test in globals().items() if name.startswith("test_")}
    passed = failed = 0
    for name, test in tests.items():
        if wanted and name not in wanted:
            continue
        started = time.monotonic()
        try:
            test(program)
            passed += 1
            print(f"ok   {name} ({time.monotonic() - started:.1f} s)", flush=True)
        except AssertionError as error:
            failed += 1
            print(f"FAIL {name}: {error}", flush=True)
    print(f"{passed} passed, {failed} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
