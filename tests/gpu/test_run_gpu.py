#!/usr/bin/env python3
"""run_gpu.sh as far as it goes without a GPU: its plan, its refusals, runs on a node whose tools are made up, and reports of made-up
runs. Usage: test_run_gpu.py [BENCH_LINK]"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
SCRIPT = HERE / "run_gpu.sh"
GPU = "NVIDIA Made Up, 5, 16"
NVCC_FOLDER = "/usr/local/cuda/bin"
# As meson 1.0 is: --reconfigure wants a folder that was configured before.
MESON = """folder=$2
case "$*" in *--reconfigure*) [ -e "$folder/meson-private/coredata.dat" ] || { echo not a valid build tree; exit 1; };; esac
mkdir -p "$folder/meson-private" && : >"$folder/meson-private/coredata.dat" && echo "configured with $*" """
failures = []


def expect(condition, what):
    if not condition:
        failures.append(what)
        print(f"FAILED: {what}")


def run(*arguments, **options):
    return subprocess.run(arguments, capture_output=True, text=True, **options)


def names_of(plan):
    return [line.split("\t")[0] for line in plan.splitlines()]


class Node:
    """A node with GPUs and tools that are made up, a build folder and what a run of the script leaves."""

    def __init__(self, folder, gpus=1, **tools):
        self.folder, self.build, self.output = folder, folder / "build", folder / "report"
        self.tools = folder / "tools"
        tools = {"nvidia-smi": f"for _ in {'x ' * gpus}; do echo '{GPU}'; done", "nvcc": "exit 0", "meson": MESON, "ninja": "echo 1.11.1", **tools}
        for name, text in tools.items():
            self.put(self.tools / name, text)

    def put(self, path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)

    def built(self, path, text):
        self.put(self.build / path, text)

    def words(self, *more):
        return [SCRIPT, "--build", self.build, "--output", self.output, *more]

    def environment(self):
        return {**os.environ, "PATH": f"{self.tools}:{os.environ['PATH']}"}

    def run(self, *more):
        """Exit code, and the report's steps by name."""
        done = run(*self.words(*more), env=self.environment())
        return done, self.steps()

    def report(self):
        return json.loads((self.output / "report.json").read_text())

    def steps(self):
        return {step["name"]: step for step in self.report()["steps"]} if (self.output / "report.json").exists() else {}


def verdicts(steps):
    return {name: step["verdict"] for name, step in steps.items()}


def test_plan(_):
    plan = run(SCRIPT, "--dry-run", "--model", "/models/opt-30b")
    names = names_of(plan.stdout)
    expect(plan.returncode == 0, f"--dry-run exits with {plan.returncode}: {plan.stderr}")
    expect(names[:2] == ["configure", "build"], "a plan begins with the build")
    for name in ("kernels", "kernel-resources", "device", "invariance", "spilling", "weights-anywhere", "attend-host", "goldens-1-gpu",
                 "goldens-attend-host", "goldens-int4-group", "sanitizer-racecheck", "sanitizer-memcheck-attention", "bench-kernels", "link",
                 "attention-bandwidth", "throughput-1", "decode-streamed", "decode-weights-from-host"):
        expect(name in names, f"the plan has no {name}")
    expect(len(names) == len(set(names)), "a step is there twice")
    rows = [line.split("\t") for line in plan.stdout.splitlines()]
    expect(all(len(row) == 3 and int(row[1]) > 0 for row in rows), "a step is a name, its limit in seconds and a command")
    commands = {row[0]: row[2] for row in rows}
    for name, program in (("invariance", "test_invariance 1 "), ("spilling", "test_spilling 1 "), ("weights-anywhere", "test_weight_tiers 1 ")):
        expect(program in commands[name] and commands[name].endswith(" cuda"), f"{name} is {commands[name]}")
    expect("throughput-1" not in names_of(run(SCRIPT, "--dry-run").stdout), "without a model its benchmarks are planned")
    quick = names_of(run(SCRIPT, "--dry-run", "--quick", "--model", "m").stdout)
    expect("kernels" in quick and not any(n.startswith(("sanitizer", "bench", "throughput", "link")) for n in quick), "--quick is not")
    only = run(SCRIPT, "--dry-run", "--only", "link sanitizer-*-attention", "--limit", "50").stdout
    expect(names_of(only) == ["configure", "build", *(f"sanitizer-{tool}-attention" for tool in ("memcheck", "racecheck", "initcheck", "synccheck")),
                              "link"], f"--only takes {names_of(only)}")
    expect(all(line.split("\t")[1] == "50" for line in only.splitlines()), "--limit is passed over")
    expect(run(SCRIPT, "--wrong").returncode == 64, "an unknown flag is taken")
    files = [word for line in plan.stdout.splitlines() for word in line.split()
             if word.startswith(str(HERE.parent)) and word.endswith((".py", ".sh"))]
    for file in files:
        expect(pathlib.Path(file).exists(), f"the plan runs {file}, which is not there")


def test_gpu_counts(folder):
    """What runs on several GPUs, by how many there are."""
    for gpus, goldens, sums in ((1, [1], []), (2, [1, 2], [2]), (3, [1, 2, 3], [2, 3]), (8, [1, 2, 8], [2, 3])):
        node = Node(folder / str(gpus), gpus)
        names = names_of(run(*node.words("--dry-run", "--model", "m"), env=node.environment()).stdout)
        expected = {*(f"goldens-{n}-gpu{'s' * (n > 1)}" for n in goldens), *(f"sums-{n}-gpus" for n in sums)}
        found = {name for name in names if "-gpu" in name}
        expect(found == expected and ("faults-of-sums" in names) == (gpus > 1), f"{gpus} GPUs: {names}")


def test_refusal(folder):
    node = Node(folder, gpus=0)
    refused, _ = node.run()
    expect(refused.returncode == 77 and "no GPU" in refused.stdout, f"exit {refused.returncode} without a GPU: {refused.stdout}")
    node = Node(folder)
    node.output.mkdir()
    (node.output / "thesis.txt").write_text("not ours")
    refused, _ = node.run()
    expect(refused.returncode == 64 and (node.output / "thesis.txt").exists(), f"a folder of other files is taken: {refused}")


def test_build_fails(folder):
    node = Node(folder, meson="echo no such compiler; exit 3")
    done, steps = node.run("--quick")
    expect(done.returncode == 1, f"a run that cannot build exits with {done.returncode}: {done.stderr}")
    expect(steps["configure"]["exit"] == 3 and set(verdicts(steps).values()) == {"failed", "not run"}, f"steps: {verdicts(steps)}")
    expect(GPU in node.report()["gpus"], f"the report names the cards: {node.report()['gpus']}")
    expect("no such compiler" in (node.output / "configure.log").read_text(), "the log of a step is kept")


def configure_twice(node):
    for words in ("a fresh folder", "one that is configured"):
        _, steps = node.run("--only", "none")
        log = (node.output / "configure.log").read_text()
        expect(verdicts(steps) == {"configure": "passed", "build": "passed"}, f"{words}: {verdicts(steps)}: {log[-500:]}")
    expect("--reconfigure" in steps["configure"]["command"], "an old folder keeps its old options")


def test_configure(folder):
    configure_twice(Node(folder))


def test_configure_by_meson(folder):
    """The same by meson itself, where it and nvcc are."""
    path = f"{os.environ['PATH']}:{NVCC_FOLDER}"
    if not shutil.which("meson") or not shutil.which("nvcc", path=path):
        return
    node = Node(folder)
    for name in ("meson", "nvcc"):
        (node.tools / name).unlink()
    configure_twice(node)


def test_limits(folder):
    """A step that hangs is ended, what it started too, and the others run."""
    node = Node(folder)
    node.built("tests/kernels/test_device", f"sh -c 'sleep 4; touch {folder}/outlived' & sleep 30")
    node.built("tests/runtime/test_invariance", 'echo "$@"')
    begin = time.monotonic()
    done, steps = node.run("--limit", "2", "--only", "device invariance")
    expect(verdicts(steps) == {"configure": "passed", "build": "passed", "device": "timed out", "invariance": "passed"}, f"{verdicts(steps)}")
    expect(done.returncode == 1 and time.monotonic() - begin < 20, f"exit {done.returncode} after {time.monotonic() - begin} s")
    time.sleep(max(0, begin + 5 - time.monotonic()))
    expect(not (folder / "outlived").exists(), "what a step started outlives it")
    expect("TIMED OUT" in done.stdout and "limit 2 s" in done.stdout, done.stdout)
    expect((node.output / "invariance.log").read_text() == "1 20 cuda\n", "a property has its seeds and backend")


def test_signal(folder):
    """Asked to end, the step is ended, and the report has what ran and what did not."""
    node = Node(folder)
    node.built("tests/kernels/test_device", f"touch {folder}/running; sleep 30")
    process = subprocess.Popen(node.words("--only", "device invariance"), env=node.environment(), stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 30
    while not (folder / "running").exists() and time.monotonic() < until:
        time.sleep(0.02)
    expect(verdicts(node.steps()) == {"configure": "passed", "build": "passed", "device": "not run", "invariance": "not run"},
           f"the report before the end: {verdicts(node.steps())}")
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=30)
    expect(process.returncode == 1 and "not run" in out, f"exit {process.returncode}: {out}")
    expect(verdicts(node.steps())["device"] == "failed" and verdicts(node.steps())["invariance"] == "not run", f"{verdicts(node.steps())}")


def test_skips(folder):
    """Tools that are not here, and counters that one may not read, are reasons."""
    node = Node(folder)
    if not shutil.which("compute-sanitizer"):
        done, steps = node.run("--only", "sanitizer-memcheck")
        expect(steps["sanitizer-memcheck"]["verdict"] == "skipped" and done.returncode == 0, f"{verdicts(steps)}, exit {done.returncode}")
        expect("there is no compute-sanitizer" in done.stdout, done.stdout)
    log = 'while [ $# -gt 0 ]; do [ "$1" != --log-file ] || file=$2; shift; done; '
    node.put(node.tools / "ncu", f"{log} echo '==ERROR== ERR_NVGPUCTRPERM' >$file; exit 1")
    _, steps = node.run("--only", "attention-bandwidth")
    expect("counters" in steps["attention-bandwidth"]["reason"] and steps["attention-bandwidth"]["verdict"] == "skipped", f"{steps}")
    node.put(node.tools / "ncu", f"{log} exit 1")
    _, steps = node.run("--only", "attention-bandwidth")
    expect(steps["attention-bandwidth"]["verdict"] == "failed", f"{verdicts(steps)}")


def test_old_results(folder):
    """What an earlier run left does not count in the next."""
    node = Node(folder)
    node.built("tests/bench/bench_link", """echo '{"to_device_bytes_per_second": 5e10}'""")
    node.run("--only", "link")
    expect(node.report()["results"].keys() == {"link"}, f"results: {node.report()['results']}")
    node.run("--only", "none")
    expect(not node.report()["results"] and not (node.output / "link.log").exists(), "results of an earlier run are there")


def test_link(folder):
    """The program gives what the report takes."""
    if len(sys.argv) < 2:
        return
    node = Node(folder)
    node.built("tests/bench/bench_link", f"exec {sys.argv[1]} cpu $2")
    _, steps = node.run("--only", "link")
    result = node.report()["results"].get("link", {})
    expect(verdicts(steps)["link"] == "passed" and result["devices"] == 1 and result["to_device_bytes_per_second"] > 1e8, f"{steps}, {result}")


def report_of(folder, steps, results, plan=()):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "steps.tsv").write_text("".join(f"{n}\t{e}\t1500\t20\tcommand of {n}\n" for n, e in steps))
    (folder / "plan.tsv").write_text("".join(f"{n}\t20\tcommand of {n}\n" for n in plan))
    for name, result in results.items():
        (folder / name).write_text(result if isinstance(result, str) else json.dumps(result))
    done = run(sys.executable, HERE / "gpu_report.py", folder, "--gpus", "2 H100")
    expect(done.returncode in (0, 1) and not done.stderr, f"the report breaks: {done.stderr}")
    return done.returncode, json.loads((folder / "report.json").read_text()), (folder / "report.txt").read_text()


def goals_of(report):
    return {goal["goal"]: goal["met"] for goal in report["goals"]}


def test_report(folder):
    folder /= "report"
    status, report, text = report_of(folder, [("build", 0), ("kernels", 0)], {})
    expect(status == 0 and report["passed"] == 2 and set(goals_of(report).values()) == {None}, "a good run")
    expect("goal decode attention: not measured: attention-bandwidth has no result" in text, f"what is not measured is said: {text}")
    status, report, text = report_of(folder, [("build", 0), ("kernels", 1), ("sanitizer", 77)], {})
    expect(status == 1 and report["failed"] == 1 and report["skipped"] == 1, "a failed step fails the run")
    expect("FAILED" in text and "exit 1" in text and "skipped" in text, "the text says which")
    expect(report_of(folder, [], {})[0] == 1, "a run of nothing passes")
    status, report, text = report_of(folder, [("build", 0), ("kernels", 124), ("spilling", 137)], {}, plan=("build", "kernels", "spilling", "link"))
    expect(status == 1 and (report["timed_out"], report["failed"], report["not_run"]) == (1, 1, 1), f"{text}")
    expect(report_of(folder, [("build", 0)], {}, plan=("build", "link"))[0] == 1, "a run that was cut short passes")


def test_broken_result(folder):
    """Half a file is no reason to lose the report, but its step failed."""
    steps = [("build", 0), ("throughput-1", 0), ("link", 0), ("attention-bandwidth", 0)]
    status, report, text = report_of(folder / "report", steps, {
        "throughput-1.json": '{"model": "OPT-30B", "output_thr', "link.json": "", "attention-bandwidth.csv": "==PROF== nothing\n"})
    expect(status == 1 and report["failed"] == 3 and "throughput-1.json is no result" in text, text)
    whole = {"decode-streamed.json": {"step_seconds": 1}, "link.json": [1], "throughput-1.json": {"model": "OPT-30B", "output_throughput": None}}
    expect(set(goals_of(report_of(folder / "report", [("build", 0)], whole)[1]).values()) == {None}, "results without their fields")


def test_goals(folder):
    folder /= "report"
    counters = "==PROF== Connected\n" + '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n' + "".join(
        f'"{i}","attend_tiles","{metric}","x","{value}"\n' for i, (time_ns, share) in enumerate((("3,000", "90"), ("1,000", "50.0")))
        for metric, value in (("gpu__time_duration.sum", time_ns), ("dram__throughput.avg.pct_of_peak_sustained_elapsed", share)))
    results = {"throughput-1.json": {"model": "OPT-30B", "output_throughput": 30.0},
               "throughput-2.json": {"model": "OPT-30B", "output_throughput": 45.0},
               "decode-streamed.json": {"tiers": {"host": {"read_bytes_a_step": 90e9}}, "step_seconds": 2.0},
               "link.json": {"to_device_bytes_per_second": 50e9}, "attention-bandwidth.csv": counters}
    report = report_of(folder, [("build", 0)], results)[1]
    expect(goals_of(report) == {"throughput": True, "scaling to 2": False, "scaling to 4": None, "streamed KV": True, "decode attention": True},
           f"goals: {report['goals']}")
    expect([g["value"] for g in report["goals"]][-2:] == [0.9, 0.8], f"shares: {report['goals']}")
    results["throughput-1.json"]["model"] = "smollm2"
    results["link.json"]["to_device_bytes_per_second"] = 60e9
    report = report_of(folder, [("build", 0)], results)[1]
    expect(goals_of(report) == {"throughput": None, "scaling to 2": None, "scaling to 4": None, "streamed KV": False, "decode attention": True},
           f"goals are judged for another model: {report['goals']}")


tests = [test for name, test in globals().items() if name.startswith("test_")]
failed = 0
for test in tests:
    before = len(failures)
    with tempfile.TemporaryDirectory() as scratch:
        test(pathlib.Path(scratch))
    failed += len(failures) > before
print(f"{len(tests) - failed} passed, {failed} failed, 0 skipped")
sys.exit(1 if failed else 0)
