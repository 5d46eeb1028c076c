#!/usr/bin/env python3
"""Disks that fail, fill up, hang and lie under a batch whose keys and values spill: the answers are those of a calm run, or the
batch is refused with the right exit code. Each case on one rank and on two, unless it says otherwise.
Usage: test_spill_faults.py SPILLWAY MODEL TWIN [--root] [NAME…]; --root: the cases that mount file systems."""

import ctypes
import itertools
import json
import os
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time

from batch_answers import answers
from job import Job, Skip, expect, run_tests

LINES = 24
NOBODY = 65534
SECONDS_MAX = 60
KIBIBYTE = 1024


class Bench:
    """A folder for batches, and the answers of a run that nothing disturbs."""

    def __init__(self, spillway, model, twin, folder):
        self.spillway, self.model, self.twin, self.folder = spillway, model, twin, folder
        self.spill = os.path.join(folder, "spill")
        self.runs, self.calm_answers, self.calm_lock = itertools.count(1), {}, threading.Lock()
        os.chmod(folder, 0o755)
        os.mkdir(self.spill)
        self.few, self.many = self.write_input("few", LINES), self.write_input("many", 4 * LINES)

    def write_input(self, name, count):
        path = os.path.join(self.folder, name + ".jsonl")
        with open(path, "w", encoding="utf-8") as file:
            for i in range(count):
                file.write(json.dumps({"custom_id": f"line-{i}", "prompt": f"line {i} of the batch",
                                       "max_tokens": 60 + i % 40, "temperature": i % 2}) + "\n")
        return path

    def words(self, output, ranks, *more, lines=None):
        return [self.spillway, "batch", self.model, "--input", lines or self.few, "--output", output, "--ranks", ranks,
                "--seed", 3, "--threads", 1, "--block-size", 4, "--max-num-seqs", 8, "--max-num-batched-tokens", 64, *more]

    def spilling(self, *more, directory=None):
        return ["--kv-device-size", "512KiB", "--kv-nvme-dir", directory or self.spill, "--kv-nvme-size", "16MiB", *more]

    def output(self):
        folder = os.path.join(self.folder, f"run{next(self.runs)}")
        os.mkdir(folder)
        os.chmod(folder, 0o777)
        return os.path.join(folder, "out.jsonl")

    def run(self, ranks, *more, codes=(0,), prefix=(), environment=None, lines=None):
        """Answers by custom_id, and what the run said."""
        output = self.output()
        job = Job([*prefix, *self.words(output, ranks, *more, lines=lines)], environment=environment)
        expect(job, codes, seconds=SECONDS_MAX)
        said = "".join(job.lines)
        return answers(output), said

    def calm(self, ranks, lines=None):
        """The same with every block in memory; once."""
        key = (ranks, lines or self.few)
        with self.calm_lock:
            if key not in self.calm_answers:
                self.calm_answers[key] = self.run(ranks, lines=lines)[0]
        return self.calm_answers[key]

    def check_equal(self, found, ranks, lines=None):
        calm = self.calm(ranks, lines)
        odd = [name for name in calm if found.get(name) != calm[name]]
        assert not odd and len(found) == len(calm), f"{len(odd)} answers differ or lack, the first is {odd[:1]}"


def expect_said(said, pattern, count=None):
    found = re.findall(pattern, said)
    assert found if count is None else len(found) == count, f"/{pattern}/ {len(found)} times in: {said[-1500:]}"


def wait_for(condition, seconds=5):
    until = time.monotonic() + seconds
    while not condition() and time.monotonic() < until:
        time.sleep(0.01)
    return condition()


def on_both(case):
    return {f"{case.__doc__}, {ranks} rank{'s' * (ranks - 1)}": lambda bench, ranks=ranks: case(bench, ranks) for ranks in (1, 2)}


# ---- transfers that fail ----

def twin_case(plan, pattern, timeout="30s"):
    def case(bench, ranks):
        found, said = bench.run(ranks, *bench.spilling("--io", "threads", "--io-timeout", timeout),
                                environment={"LD_PRELOAD": bench.twin, "SPILL_TWIN": plan})
        bench.check_equal(found, ranks)
        expect_said(said, pattern)
    return case


def fails_at(*faults, timeout="30s", pattern=None):
    def case(bench, ranks):
        words = [word for fault in faults for word in ("--fault", fault)]
        found, said = bench.run(ranks, *bench.spilling("--io-timeout", timeout), *words)
        bench.check_equal(found, ranks)
        expect_said(said, pattern)
    return case


TRANSFERS = {
    "reads fail": twin_case("read:eio:20", r"E-SPILL-IO\].*: read 0 of them: Input/output error"),
    "writes fail": twin_case("write:eio:20", r"E-SPILL-IO\].*: wrote 0 of them: Input/output error"),
    "the disk turns read-only": twin_case("write:erofs:20", r"E-SPILL-IO\].*Read-only file system"),
    "the disk is slow": twin_case("read:slow:0", r"lines +24 ok"),
    "reads hang": twin_case("read:hang:20", r"E-SPILL-LATE\].*a read not ended after 0.5 s", "500ms"),
    "writes hang": twin_case("write:hang:20", r"E-SPILL-LATE\].*a write not ended after 0.5 s", "500ms"),
    "reads of io_uring get stuck": fails_at("io.read:stuck:after=20", timeout="500ms", pattern=r"E-SPILL-OFF\].*late"),
}
PATIENT = ["reads hang", "writes hang", "reads of io_uring get stuck"]  # whose ends wait for the system


# ---- bytes that change ----

def spill_descriptors(job, directory):
    for process in job.living():
        folder = f"/proc/{process}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue
        for name in names:
            try:
                target = os.readlink(f"{folder}/{name}")
            except OSError:
                continue
            if target.startswith(directory) and target.endswith("(deleted)"):
                yield f"{folder}/{name}"


def spoil(job, directory, draw):
    """Turns the first bytes of a few blocks on disk, which hold their headers."""
    for path in spill_descriptors(job, directory):
        try:
            descriptor = os.open(path, os.O_RDWR)
            for _ in range(4):
                os.pwrite(descriptor, bytes(draw.randrange(256) for _ in range(64)), draw.randrange(100) * 4096)
            os.fdatasync(descriptor)
            os.close(descriptor)
        except OSError:
            pass  # its process ends


def run_spoiled(bench, ranks, *more):
    output, draw = bench.output(), random.Random(ranks)
    job = Job(bench.words(output, ranks, *bench.spilling(*more), lines=bench.many))
    until = time.monotonic() + SECONDS_MAX
    while job.process.poll() is None and time.monotonic() < until:
        spoil(job, bench.spill, draw)
        time.sleep(0.05)
    return job, output


def bytes_are_spoiled(bench, ranks):
    """bytes are spoiled on disk"""
    job, output = run_spoiled(bench, ranks, "--max-corrupt", 1000000)
    expect(job, {0})
    bench.check_equal(answers(output), ranks, bench.many)
    expect_said("".join(job.lines), r"E-SPILL-CRC\].*4096 bytes at offset \d+: not the bytes")
    expect_said("".join(job.lines), r"faults +[1-9]\d* corrupt blocks")


def too_many_are_spoiled(bench, ranks):
    """too many bytes are spoiled"""
    job, output = run_spoiled(bench, ranks, "--max-corrupt", 2)
    expect(job, {0})
    bench.check_equal(answers(output), ranks, bench.many)
    expect_said("".join(job.lines), r"E-SPILL-OFF\].*[1-9]\d* wrong blocks")


def spoiled_is_fatal(bench, ranks):
    """spoiled bytes are fatal where asked"""
    job, output = run_spoiled(bench, ranks, "--on-corrupt", "fail")
    job_code, _ = job.end(SECONDS_MAX)
    assert job_code == 74, f"exit code {job_code}: {job.errors()}"
    errors = job.errors()
    assert errors and re.search(rf'E-SPILL-CRC\].*"{bench.spill}", 4096 bytes at offset \d+', errors[0]), errors
    calm = bench.calm(ranks, bench.many)
    assert all(calm[name] == answer for name, answer in answers(output).items()), "an answer is wrong"


# ---- ends ----

def killed_again_and_again(bench, ranks):
    """killed again and again"""
    output, draw = bench.output(), random.Random(ranks)
    words = bench.words(output, ranks, *bench.spilling(), lines=bench.many)
    for _ in range(3):
        job = Job(words)
        time.sleep(0.1 + draw.random() * (0.2 + 0.4 * ranks))
        for process in job.living():
            try:
                os.kill(process, signal.SIGKILL)
            except ProcessLookupError:
                pass
        job.end()
        assert not os.listdir(bench.spill), f"left behind: {os.listdir(bench.spill)}"
    expect(Job(words), {0}, seconds=SECONDS_MAX)
    bench.check_equal(answers(output), ranks, bench.many)


def hung_at_the_end(bench, ranks):
    """stuck I/O delays the end by seconds at most"""
    begin = time.monotonic()
    found, _ = bench.run(ranks, *bench.spilling("--io-timeout", "300ms"), "--fault", "io.write:stuck:after=10")
    bench.check_equal(found, ranks)
    assert time.monotonic() - begin < 10, f"took {time.monotonic() - begin:.1f} s"


# ---- limits of the system ----

def as_nobody(*limits):
    if os.geteuid() != 0:
        return ["prlimit", *limits]
    if not shutil.which("setpriv"):
        raise Skip("setpriv is not installed")
    return ["prlimit", *limits, "setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]


def home():
    return {"HOME": "/tmp", "TMPDIR": "/tmp"}


def little_memlock(bench, ranks):
    """little memory may be locked"""
    os.chmod(bench.spill, 0o1777)
    found, said = bench.run(ranks, *bench.spilling("--io", "uring"), prefix=as_nobody(f"--memlock={256 * KIBIBYTE}"),
                            environment=home())
    bench.check_equal(found, ranks)
    expect_said(said, rf"{0.125 / ranks:.1f} of 0.5 MiB staging registered, memlock limit 0.2 MiB")


def forbid_uring(words):
    """Runs words without io_uring, as in a container: its system calls answer EPERM."""
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
    load_number, equal, allow, refuse = (0x20, 0, 0, 0), 0x15, (0x06, 0, 0, 0x7fff0000), (0x06, 0, 0, 0x00050001)
    rows = [load_number, (equal, 3, 0, 425), (equal, 2, 0, 426), (equal, 1, 0, 427), allow, refuse]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in rows))
    program = Program(len(rows), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) != 0 or libc.prctl(22, 2, ctypes.byref(program), 0, 0) != 0:
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
    os.execvp(words[0], words)


def without_uring():
    return [sys.executable, os.path.abspath(__file__), "--forbid-uring"]


def uring_is_forbidden(bench, ranks):
    """io_uring is forbidden"""
    found, said = bench.run(ranks, *bench.spilling(), prefix=without_uring())
    bench.check_equal(found, ranks)
    expect_said(said, r"spill I/O: threads \(pool of \d+\).*io_uring: Operation not permitted")


def forbidden_uring_is_demanded(bench, ranks):
    """forbidden io_uring is demanded"""
    found, said = bench.run(ranks, *bench.spilling("--io", "uring"), prefix=without_uring(), codes={71})
    assert not found
    expect_said(said, r"error\[E-IO-ENGINE\].*kernel.io_uring_disabled.*seccomp")


def files_may_not_grow(bench, ranks):
    """files may be no larger than a limit"""
    _, said = bench.run(ranks, *bench.spilling(), prefix=["prlimit", f"--fsize={7000 * KIBIBYTE}"], codes={74})
    expect_said(said, r"error\[E-SPILL-SPACE\].*File too large")


def files_stop_growing(bench, ranks):
    """a file size limit is met on the way"""
    output = bench.output()
    job = Job(bench.words(output, ranks, *bench.spilling(), lines=bench.many))
    wait_for(lambda: len(list(spill_descriptors(job, bench.spill))) == ranks, SECONDS_MAX)
    for process in job.living():
        try:
            resource.prlimit(process, resource.RLIMIT_FSIZE, (400 * KIBIBYTE, 400 * KIBIBYTE))
        except ProcessLookupError:
            pass
    expect(job, {0}, seconds=SECONDS_MAX)
    bench.check_equal(answers(output), ranks, bench.many)
    expect_said("".join(job.lines), r"E-SPILL-NOSPC\].*File too large")


# ---- the directory ----

def directory_vanishes(bench, ranks):
    """the directory vanishes"""
    directory, output = os.path.join(bench.folder, f"vanishing{ranks}"), bench.output()
    os.mkdir(directory)
    job = Job(bench.words(output, ranks, *bench.spilling(directory=directory), lines=bench.many))
    wait_for(lambda: len(list(spill_descriptors(job, directory))) == ranks, SECONDS_MAX)
    os.rmdir(directory)
    expect(job, {0}, seconds=SECONDS_MAX)
    bench.check_equal(answers(output), ranks, bench.many)


def refused(directory, pattern, prefix=(), environment=None):
    def case(bench, ranks):
        path = directory(bench)
        words = prefix() if prefix else ()
        found, said = bench.run(ranks, *bench.spilling(directory=path), codes={73}, prefix=words, environment=environment)
        assert not found
        expect_said(said, rf"error\[E-SPILL-CREATE\].*{pattern}")
    return case


def made(name, mode):
    def make(bench):
        path = os.path.join(bench.folder, name)
        os.makedirs(path, exist_ok=True)
        os.chmod(path, mode)
        return path
    return make


def on_a_network(bench, ranks):
    """the disk is a network's"""
    network = {"LD_PRELOAD": bench.twin, "SPILL_TWIN": "lies:nfs:0"}
    found, said = bench.run(ranks, *bench.spilling(), environment=network)
    bench.check_equal(found, ranks)
    expect_said(said, r"warning\[E-SPILL-CREATE\].*\(nfs\) is a network file system", 1)
    unasked = {**network, "SLURM_TMPDIR": "", "TMPDIR": bench.spill, "PBS_JOBDIR": ""}
    _, said = bench.run(ranks, "--kv-nvme-size", "16MiB", codes=(64,), environment=unasked)
    expect_said(said, rf'error\[E-USAGE\].*\$TMPDIR, "{bench.spill}": is a network file system', 1)


PLACES = {
    "the directory is missing": refused(lambda bench: bench.folder + "/nowhere", "No such file or directory"),
    "the directory is not ours to write": refused(made("locked", 0o555), "Permission denied", as_nobody, home()),
    "everybody may write the directory": refused(made("open", 0o777), "has no sticky bit"),
}


# ---- file systems of our own (root) ----

class Mount:
    def __init__(self, bench, *words):
        self.path = tempfile.mkdtemp(dir=bench.folder)
        done = subprocess.run(["mount", *words, self.path], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Skip("mount: " + done.stderr.strip())

    def __enter__(self):
        return self.path

    def __exit__(self, *_):
        subprocess.run(["umount", self.path], check=True)

    def free(self):
        space = os.statvfs(self.path)
        return space.f_bavail * space.f_frsize


def small_tmpfs(bench):
    return Mount(bench, "-t", "tmpfs", "-o", "size=800k", "spill")


def small_ext4(bench):
    if not shutil.which("mkfs.ext4"):
        raise Skip("mkfs.ext4 is not installed")
    image = tempfile.NamedTemporaryFile(dir=bench.folder, suffix=".ext4", delete=False)
    image.truncate(1024 * KIBIBYTE)
    subprocess.run(["mkfs.ext4", "-q", "-O", "^has_journal", "-m", "0", image.name], check=True)
    return Mount(bench, "-o", "loop", image.name)


def fills_up(make_mount):
    def case(bench, ranks):
        mount = make_mount(bench)
        with mount as path:
            before = mount.free()
            found, said = bench.run(ranks, *bench.spilling(directory=path), "--fault", "spill.allocate:eopnotsupp",
                                    lines=bench.many)
            bench.check_equal(found, ranks, bench.many)
            expect_said(said, r"E-SPILL-NOSPC\].*No space left on device")
            assert wait_for(lambda: mount.free() == before), f"{mount.free()} bytes are free, not {before}"
    return case


def does_not_fit(bench, ranks):
    """the file system is too small from the start"""
    with small_tmpfs(bench) as path:
        _, said = bench.run(ranks, *bench.spilling(directory=path), codes={74})
        expect_said(said, r"error\[E-SPILL-SPACE\].*bytes aside, \d+ are free: No space left on device; see --kv-nvme-size")


def killed_on_a_mount(bench, ranks):
    """killed, and its space is free again"""
    mount = Mount(bench, "-t", "tmpfs", "-o", "size=64m", "spill")
    with mount as path:
        before = mount.free()
        job = Job(bench.words(bench.output(), ranks, *bench.spilling(directory=path), lines=bench.many))
        assert wait_for(lambda: mount.free() < before), "nothing was set aside"
        for process in job.living():
            os.kill(process, signal.SIGKILL)
        job.end()
        assert wait_for(lambda: mount.free() == before), f"{mount.free()} bytes are free, not {before}"


MOUNTS = {"a tmpfs fills up": fills_up(small_tmpfs), "an ext4 file system fills up": fills_up(small_ext4)}


def cases(functions, named):
    for name, function in named.items():
        function.__doc__ = name
    return {name: case for function in [*named.values(), *functions] for name, case in on_both(function).items()}


def main():
    if sys.argv[1] == "--forbid-uring":
        forbid_uring(sys.argv[2:])
    spillway, model, twin, *wanted = sys.argv[1:]
    as_root = "--root" in wanted
    if as_root and not os.environ.get("SPILL_NAMESPACE"):
        if os.geteuid() != 0 or subprocess.run(["unshare", "--mount", "true"], check=False).returncode != 0:
            print("skipped: mounting needs root and a namespace of mounts")
            return 77
        os.environ["SPILL_NAMESPACE"] = "1"
        os.execvp("unshare", ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv])
    tests = (cases([does_not_fit, killed_on_a_mount], MOUNTS) if as_root else
             cases([bytes_are_spoiled, too_many_are_spoiled, spoiled_is_fatal, killed_again_and_again, hung_at_the_end,
                    little_memlock, uring_is_forbidden, forbidden_uring_is_demanded, files_may_not_grow, files_stop_growing,
                    directory_vanishes, on_a_network], {**TRANSFERS, **PLACES}))
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        return run_tests(tests, [name for name in wanted if name != "--root"], Bench(spillway, model, twin, folder),
                         patient=[name for name in tests if name.split(",")[0] in PATIENT])


if __name__ == "__main__":
    sys.exit(main())
