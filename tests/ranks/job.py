"""A job of several ranks, started by its launcher and watched from outside, for tests that break it."""

import concurrent.futures
import os
import re
import signal
import subprocess
import time

SECONDS_MAX = 5  # from the fault to the last process gone
MARK = "SPILLWAY_TEST_MARK"
PATIENT_AT_ONCE = 3


def living(mark):
    """Processes that carry the mark in their environment."""
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/environ", "rb") as file:
                marked = f"{MARK}={mark}".encode() in file.read()
            with open(f"/proc/{name}/stat") as file:
                state = file.read().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue
        if marked and state != "Z":
            found.append(int(name))
    return found


class Job:
    """A program and all that it starts; every process of it carries a mark in its environment."""

    def __init__(self, words, stdin=subprocess.DEVNULL, environment=None):
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            list(map(str, words)), stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**os.environ, **(environment or {}), MARK: self.mark})
        self.rank_process, self.mpirun, self.lines = {}, None, []

    def find_ranks(self):
        """Fills rank_process and mpirun from what the launcher told each rank."""
        for process in self.living():
            try:
                with open(f"/proc/{process}/environ", "rb") as file:
                    rank = re.search(rb"\0OMPI_COMM_WORLD_RANK=(\d+)", file.read())
                with open(f"/proc/{process}/stat") as file:
                    parent = int(file.read().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
            if rank:
                self.rank_process[int(rank[1])] = process
                self.mpirun = parent

    def wait_for_ranks(self, count, seconds=30):
        """Until so many have been started; what they do by then is for the caller to guess."""
        until = time.monotonic() + seconds
        while len(self.rank_process) < count:
            assert time.monotonic() < until, "the ranks were not started"
            time.sleep(0.05)
            self.find_ranks()

    def living(self):
        return living(self.mark)

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


class Skip(Exception):
    """What a test needs is not here."""


def run_test(name, test, arguments):
    """Runs one and says so; its verdict."""
    started = time.monotonic()
    try:
        test(*arguments)
    except AssertionError as error:
        print(f"FAIL {name}: {error}", flush=True)
        return "failed"
    except Skip as reason:
        print(f"skip {name}: {reason}", flush=True)
        return "skipped"
    print(f"ok   {name} ({time.monotonic() - started:.1f} s)", flush=True)
    return "passed"


def run_tests(tests, wanted, *arguments, patient=()):
    """Runs what is wanted of {name: test}, or all; returns the exit code. Those that mostly wait (patient) run beside each other."""
    chosen = {name: test for name, test in tests.items() if not wanted or name in wanted}
    with concurrent.futures.ThreadPoolExecutor(PATIENT_AT_ONCE) as pool:
        waiting = [pool.submit(run_test, name, chosen[name], arguments) for name in patient if name in chosen]
        verdicts = [verdict.result() for verdict in waiting]
    verdicts += [run_test(name, test, arguments) for name, test in chosen.items() if name not in patient]
    passed, failed, skipped = (verdicts.count(word) for word in ("passed", "failed", "skipped"))
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0 if passed else 77
