#!/usr/bin/env python3
"""One report of a run of run_gpu.sh, finished or not: report.json and report.txt from plan.tsv, steps.tsv and the results of benchmarks.

    gpu_report.py DIR [--gpus TEXT]

The result of a step lies in a file of its name. Exit 1 when a step failed, did not end in time, left half a result or did not run, or
none is there. Tokens/s are judged for OPT-30B only; a goal whose figures are not there is said to be not measured."""
import argparse
import csv
import json
import pathlib
import sys

TIMED_OUT, KILLED, SKIPPED = 124, 137, 77
DURATION, BANDWIDTH = "gpu__time_duration.sum", "dram__throughput.avg.pct_of_peak_sustained_elapsed"


class NotMeasured(Exception):
    """What a goal lacks."""


def figure(results, name, *path):
    """A field of a step's result."""
    found = results.get(name)
    if found is None:
        raise NotMeasured(f"{name} has no result")
    for field in path:
        if not isinstance(found, dict) or field not in found:
            raise NotMeasured(f"{name} has no {field}")
        found = found[field]
    return found


def tokens(results, ranks):
    if "opt-30b" not in str(figure(results, "throughput-1", "model")).lower():
        raise NotMeasured("for OPT-30B only")
    return figure(results, f"throughput-{ranks}", "output_throughput")


def scaling(results, ranks):
    return tokens(results, ranks) / tokens(results, 1)


def link_share(results):
    """Of the time of a step, what the link would take alone for the KV that one device read."""
    read = figure(results, "decode-streamed", "tiers", "host", "read_bytes_a_step")
    seconds = figure(results, "decode-streamed", "step_seconds")
    if not read:
        raise NotMeasured("decode-streamed read nothing from host memory")
    return read / seconds / figure(results, "link", "to_device_bytes_per_second")


def memory_share(results):
    return figure(results, "attention-bandwidth", "share")


# name, its figure, the least, why
GOALS = [
    ("throughput", lambda results: tokens(results, 1), 25.0, "2 x 12.5 tokens/s of ZeRO-Inference, batch 128, 512+32"),
    ("scaling to 2", lambda results: scaling(results, 2), 1.8, "times that of one GPU"),
    ("scaling to 4", lambda results: scaling(results, 4), 3.4, "times that of one GPU"),
    ("streamed KV", link_share, 0.85, "of what the link carries, measured beside it, when all KV comes from host memory"),
    ("decode attention", memory_share, 0.80, "of the bandwidth of the GPU's memory, by Nsight Compute"),
]


def counters_read(path):
    """{"share", "kernels"} of a table of Nsight Compute: of the memory's bandwidth, over the time of all kernels."""
    kernels = {}
    lines = [line for line in path.read_text().splitlines() if not line.startswith("==")]
    for row in csv.DictReader(lines):
        if row["Metric Name"] in (DURATION, BANDWIDTH):
            kernels.setdefault(row["ID"], {})[row["Metric Name"]] = float(row["Metric Value"].replace(",", ""))
    seconds = sum(kernel[DURATION] for kernel in kernels.values())
    if not seconds:
        raise ValueError("no kernel")
    share = sum(kernel[DURATION] * kernel[BANDWIDTH] for kernel in kernels.values()) / seconds / 100
    return {"share": share, "kernels": len(kernels)}


def results_read(folder):
    """{step: result}, and {step: what is wrong with its file}."""
    results, broken = {}, {}
    for path in sorted([*folder.glob("*.json"), *folder.glob("*.csv")]):
        if path.name == "report.json":
            continue
        try:
            results[path.stem] = counters_read(path) if path.suffix == ".csv" else json.loads(path.read_text())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            broken[path.stem] = f"{path.name} is no result: {type(error).__name__}, {error}"
    return results, broken


def rows_read(path, columns):
    """Lines that are whole."""
    rows = [line.split("\t") for line in path.read_text().splitlines()] if path.exists() else []
    return [row for row in rows if len(row) == columns]


def reason_read(folder, name):
    """Why a step was skipped, as it says."""
    path = folder / f"{name}.log"
    said = [line for line in path.read_text(errors="replace").splitlines() if "skipped" in line] if path.exists() else []
    return said[-1] if said else ""


def step_judge(folder, broken, name, status, milliseconds, limit, command):
    seconds, status = int(milliseconds) / 1000, int(status)
    step = {"name": name, "exit": status, "seconds": seconds, "limit": int(limit), "command": command, "verdict": "failed", "reason": ""}
    if status == SKIPPED:
        step.update(verdict="skipped", reason=reason_read(folder, name))
    elif status == TIMED_OUT or status == KILLED and seconds >= int(limit):
        step.update(verdict="timed out", reason=f"limit {limit} s")
    elif status != 0:
        step.update(reason=f"exit {status}, see {name}.log")
    elif name in broken:
        step.update(reason=broken[name])
    else:
        step.update(verdict="passed")
    return step


def steps_judge(folder, broken):
    steps = [step_judge(folder, broken, *row) for row in rows_read(folder / "steps.tsv", 5)]
    ran = {step["name"] for step in steps}
    for name, limit, command in rows_read(folder / "plan.tsv", 3):
        if name not in ran:
            steps.append({"name": name, "exit": None, "seconds": 0, "limit": int(limit), "command": command,
                          "verdict": "not run", "reason": ""})
    return steps


def goals_judge(results):
    for name, measure, least, why in GOALS:
        goal = {"goal": name, "least": least, "why": why, "value": None, "met": None}
        try:
            value = measure(results)
            goal.update(value=round(value, 3), met=value >= least)
        except (NotMeasured, TypeError, ZeroDivisionError) as reason:
            goal["not_measured"] = str(reason)
        yield goal


def text_of(report):
    lines = [f"GPUs (count, name, PCIe generation, lanes): {report['gpus'] or 'unknown'}", ""]
    for step in report["steps"]:
        verdict = step["verdict"] if step["verdict"] in ("passed", "skipped", "not run") else step["verdict"].upper()
        lines.append(f"{step['name']:<30}{verdict:<10}{step['seconds']:>10.1f} s  {step['reason']}".rstrip())
    for goal in report["goals"]:
        found = f"not measured: {goal['not_measured']}" if goal["met"] is None else (
            f"{goal['value']} of {goal['least']}, {'met' if goal['met'] else 'missed'}")
        lines.append(f"goal {goal['goal']}: {found} ({goal['why']})")
    lines += ["", ", ".join(f"{report[name]} {name.replace('_', ' ')}" for name in ("passed", "failed", "skipped", "timed_out", "not_run"))]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--gpus", default="")
    options = parser.parse_args()
    results, broken = results_read(options.folder)
    steps = steps_judge(options.folder, broken)
    verdicts = [step["verdict"] for step in steps]
    report = {"gpus": options.gpus, "steps": steps, "goals": list(goals_judge(results)), "results": results,
              **{word.replace(" ", "_"): verdicts.count(word) for word in ("passed", "failed", "skipped", "timed out", "not run")}}
    (options.folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    text = text_of(report)
    (options.folder / "report.txt").write_text(text)
    print(text, end="")
    return 0 if report["passed"] and set(verdicts) <= {"passed", "skipped"} else 1


if __name__ == "__main__":
    sys.exit(main())
