#!/usr/bin/env python3
"""One report of a run of run_gpu.sh: report.json and report.txt from steps.tsv and the results of benchmarks.

    gpu_report.py DIR [--gpus TEXT]

Exit 1 when a step failed, or none is there. Goals are judged for OPT-30B only, where its results are."""
import argparse
import json
import pathlib
import sys

# name, result file, what is taken of it, the least, why
GOALS = [
    ("throughput", "throughput-1.json", "output_throughput", 25.0, "2 x 12.5 tokens/s of ZeRO-Inference, batch 128, 512+32"),
    ("scaling to 2", "throughput-2.json", "output_throughput", 1.8, "times that of one GPU"),
    ("scaling to 4", "throughput-4.json", "output_throughput", 3.4, "times that of one GPU"),
]


def steps_read(folder):
    steps = []
    for line in (folder / "steps.tsv").read_text().splitlines():
        name, status, milliseconds, command = line.split("\t")
        steps.append({"name": name, "exit": int(status), "seconds": int(milliseconds) / 1000, "command": command})
    return steps


def result_read(folder, name):
    path = folder / name
    return json.loads(path.read_text()) if path.exists() else None


def goals_judge(folder):
    one = result_read(folder, "throughput-1.json")
    for name, file, field, least, why in GOALS:
        result = result_read(folder, file)
        if result is None or one is None or "opt-30b" not in str(one.get("model", "")).lower():
            continue
        value = result[field] / (one[field] if name.startswith("scaling") else 1)
        yield {"goal": name, "value": round(value, 3), "least": least, "met": value >= least, "why": why}


def text_of(report):
    lines = [f"GPUs: {report['gpus'] or 'unknown'}", ""]
    for step in report["steps"]:
        verdict = {0: "passed", 77: "skipped"}.get(step["exit"], f"FAILED ({step['exit']})")
        lines.append(f"{step['name']:<24}{verdict:<14}{step['seconds']:>10.1f} s")
    for goal in report["goals"]:
        lines.append(f"goal {goal['goal']}: {goal['value']} of {goal['least']}, {'met' if goal['met'] else 'missed'} ({goal['why']})")
    lines += ["", f"{report['passed']} passed, {report['failed']} failed, {report['skipped']} skipped"]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--gpus", default="")
    options = parser.parse_args()
    steps = steps_read(options.folder)
    skipped = sum(step["exit"] == 77 for step in steps)
    passed = sum(step["exit"] == 0 for step in steps)
    report = {"gpus": options.gpus, "steps": steps, "goals": list(goals_judge(options.folder)), "passed": passed,
              "failed": len(steps) - passed - skipped, "skipped": skipped,
              "results": {p.stem: json.loads(p.read_text()) for p in sorted(options.folder.glob("*.json")) if p.stem != "report"}}
    (options.folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    text = text_of(report)
    (options.folder / "report.txt").write_text(text)
    print(text, end="")
    return 1 if report["failed"] or not passed else 0


if __name__ == "__main__":
    sys.exit(main())
