#!/usr/bin/env python3
"""`spillway bench io` on a small file: test_bench_io.py SPILLWAY"""

import os
import subprocess
import sys
import tempfile

SPILLWAY = sys.argv[1]
SMALL = ["--size", "8MiB", "--io-size", "256KiB", "--io-depth", "4", "--seconds", "50ms"]


def bench(*arguments, path=None):
    environment = dict(os.environ, PATH=path) if path is not None else None
    with tempfile.TemporaryDirectory() as folder:
        answer = subprocess.run([SPILLWAY, "bench", "io", "--dir", folder, *arguments], capture_output=True, text=True,
                                timeout=120, env=environment)
        assert os.listdir(folder) == [], os.listdir(folder)
    return answer


def rows_of(answer):
    return {tuple(line.split()[:2]): [float(word) for word in line.split()[2:] if word[-1].isdigit()]
            for line in answer.stdout.splitlines() if line.startswith(("uring", "threads", "fio "))
            and len(line.split()) == 8}


def test_measures_each_way():
    answer = bench(*SMALL, path="/nowhere")
    assert answer.returncode == 0, answer.stderr
    rows = rows_of(answer)
    assert ("threads", "read") in rows and ("threads", "write") in rows, answer.stdout
    assert ("uring", "read") in rows or "no uring" in answer.stdout, answer.stdout
    assert "fio: No such file or directory" in answer.stdout, answer.stdout
    for speed, operations, median, ninety_ninth, cpu in rows.values():
        assert speed > 0 and operations > 0 and cpu >= 0
        assert 0 < median <= ninety_ninth


def test_one_way_alone():
    answer = bench(*SMALL, "--io", "threads", path="/nowhere")
    assert answer.returncode == 0, answer.stderr
    assert set(rows_of(answer)) == {("threads", "read"), ("threads", "write")}, answer.stdout


def test_a_fault_ends_it_with_its_cause():
    answer = bench(*SMALL, "--io", "threads", "--fault", "io.read:eio:after=3", path="/nowhere")
    assert answer.returncode == 74, answer
    assert "error[E-SPILL-IO]" in answer.stderr and "Input/output error" in answer.stderr, answer.stderr


def test_refusals():
    for arguments, code, words in (
        (["--io-size", "1000"], 64, "--io-size"),
        (["--size", "4KiB"], 64, "--size"),
        (["--fault", "io.read:enospc"], 64, "io.read cannot"),
        (["--fault", "io.setup:eperm", "--io", "threads"], 71, "Operation not permitted"),
    ):
        answer = bench(*SMALL, *arguments)
        assert answer.returncode == code and words in answer.stderr, (arguments, answer)
    answer = subprocess.run([SPILLWAY, "bench", "io", "--dir", "/nowhere"], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 73 and "E-SPILL-CREATE" in answer.stderr, answer


passed = 0
for name, test in list(globals().items()):
    if name.startswith("test_"):
        test()
        passed += 1
print(f"{passed} passed, 0 failed, 0 skipped")
