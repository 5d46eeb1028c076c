#!/usr/bin/env python3
"""run_gpu.sh as far as it goes without a GPU: its plan, its refusal, and the report of made-up runs."""
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
failures = []


def expect(condition, what):
    if not condition:
        failures.append(what)
        print(f"FAILED: {what}")


def run(*arguments):
    return subprocess.run(arguments, capture_output=True, text=True)


def names_of(plan):
    return [line.split("\t")[0] for line in plan.splitlines()]


def test_plan():
    script = HERE / "run_gpu.sh"
    plan = run(script, "--dry-run", "--model", "/models/opt-30b")
    names = names_of(plan.stdout)
    expect(plan.returncode == 0, f"--dry-run exits with {plan.returncode}: {plan.stderr}")
    expect(names[:2] == ["configure", "build"], "a plan begins with the build")
    for name in ("kernels", "kernel-resources", "goldens-1-gpu", "sanitizer-racecheck", "bench-kernels", "throughput-1",
                 "decode-streamed", "weights-anywhere", "decode-weights-from-host"):
        expect(name in names, f"the plan has no {name}")
    expect(("goldens-2-gpus" in names) == ("sums-2-gpus" in names), "GPUs that compute together sum together")
    expect(len(names) == len(set(names)), "a step is there twice")
    expect(all(line.count("\t") == 1 for line in plan.stdout.splitlines()), "a step is a name and a command")
    expect("throughput-1" not in names_of(run(script, "--dry-run").stdout), "without a model its benchmarks are planned")
    quick = names_of(run(script, "--dry-run", "--quick", "--model", "m").stdout)
    expect("kernels" in quick and not any(n.startswith(("sanitizer", "bench", "throughput")) for n in quick), "--quick is not")
    expect(run(script, "--wrong").returncode == 64, "an unknown flag is taken")
    files = [word for line in plan.stdout.splitlines() for word in line.split()
             if word.startswith(str(HERE.parent)) and word.endswith((".py", ".sh"))]
    for file in files:
        expect(pathlib.Path(file).exists(), f"the plan runs {file}, which is not there")


def test_refusal():
    if shutil.which("nvidia-smi") and run("nvidia-smi", "-L").returncode == 0:
        return  # a node with GPUs: the script would run
    refused = run(HERE / "run_gpu.sh", "--output", "/nonexistent/report")
    expect(refused.returncode == 77 and "no GPU" in refused.stdout, f"exit {refused.returncode} without a GPU: {refused.stdout}")


def test_run():
    """On a node whose tools are made up: a build that fails ends the run, and the report says so."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for name, text in {"nvidia-smi": "echo 'NVIDIA Made Up'", "nvcc": "exit 0", "meson": "echo no such compiler; exit 3"}.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        done = subprocess.run([HERE / "run_gpu.sh", "--quick", "--output", folder / "report"], capture_output=True, text=True,
                              env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"})
        expect(done.returncode == 1, f"a run that cannot build exits with {done.returncode}: {done.stderr}")
        report = json.loads((folder / "report/report.json").read_text())
        expect([(s["name"], s["exit"]) for s in report["steps"]] == [("configure", 3)], f"steps: {report['steps']}")
        expect("NVIDIA Made Up" in report["gpus"], f"the report names the cards: {report['gpus']}")
        expect("no such compiler" in (folder / "report/configure.log").read_text(), "the log of a step is kept")


def report_of(steps, results):
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "steps.tsv").write_text("".join(f"{n}\t{e}\t1500\tcommand of {n}\n" for n, e in steps))
        for name, result in results.items():
            (folder / name).write_text(json.dumps(result))
        done = run(sys.executable, HERE / "gpu_report.py", folder, "--gpus", "2 H100")
        return done.returncode, json.loads((folder / "report.json").read_text()), (folder / "report.txt").read_text()


def test_report():
    status, report, text = report_of([("build", 0), ("kernels", 0)], {})
    expect(status == 0 and report["passed"] == 2 and not report["goals"], "a good run")
    status, report, text = report_of([("build", 0), ("kernels", 1), ("sanitizer", 77)], {})
    expect(status == 1 and report["failed"] == 1 and report["skipped"] == 1, "a failed step fails the run")
    expect("FAILED (1)" in text and "skipped" in text, "the text says which")
    expect(report_of([], {})[0] == 1, "a run of nothing passes")
    results = {"throughput-1.json": {"model": "OPT-30B", "output_throughput": 30.0},
               "throughput-2.json": {"model": "OPT-30B", "output_throughput": 45.0}}
    status, report, text = report_of([("build", 0)], results)
    expect([g["met"] for g in report["goals"]] == [True, False], f"goals: {report['goals']}")
    results["throughput-1.json"]["model"] = "smollm2"
    expect(not report_of([("build", 0)], results)[1]["goals"], "goals are judged for another model")


for test in (test_plan, test_refusal, test_run, test_report):
    test()
print(f"{4 - bool(failures)} passed, {int(bool(failures))} failed, 0 skipped")
sys.exit(1 if failures else 0)
