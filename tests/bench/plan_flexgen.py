#!/usr/bin/env python3
"""FlexGen's published runs (arXiv 2303.06865: prompts of 512 tokens, answers of 32, generated tokens over prefill and decode together) beside
what `spillway plan` predicts for the same placement on the same machine, and for the one that it would choose itself.

    plan_flexgen.py --spillway build/launch/spillway [--machine configs/machines/t4-flexgen.json]

Nothing is measured: a machine file and a shape give the same table everywhere.
"""

import argparse
import json
import pathlib
import subprocess

MACHINE = pathlib.Path(__file__).resolve().parents[2] / "configs/machines/t4-flexgen.json"
RUNS = [  # model, 4 bits, batch, placement, tok/s published
    ("opt-6.7b", False, 2, "100,0,100,0,100,0", 25.26),
    ("opt-30b", False, 144, "20,80,0,100,100,0", 7.32),
    ("opt-175b", False, 256, "0,50,0,0,100,0", 0.69),
    ("opt-6.7b", True, 72, "100,0,100,0,100,0", 29.12),
    ("opt-30b", True, 512, "0,100,0,100,100,0", 8.38),
    ("opt-175b", True, 144, "0,100,0,100,100,0", 1.12),
]


def plan(spillway, machine, model, four_bits, *more):
    command = [spillway, "plan", model, "--machine", str(machine), "--prompt", "512", "--output", "32", "--json", *more]
    command += ["--weight-type", "int4_group", "--kv-codec", "int4_group"] if four_bits else ["--weight-type", "f16"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode in (0, 65), done.stderr
    return json.loads(done.stdout)


def percents(placement):
    return ",".join(f"{part:g}" for part in placement)


def line(spillway, machine, run):
    model, four_bits, batch, placement, published = run
    asked = plan(spillway, machine, model, four_bits, "--batch", str(batch), "--placement", placement,
                 "--max-num-batched-tokens", "2048")
    there = asked if asked["fits"] else asked["nearest"]
    own = plan(spillway, machine, model, four_bits, "--batch", str(batch))
    note = "" if asked["fits"] else f" ({percents(there['placement'])}, {there['sequences']} at once)"
    return (f"| {model}{', 4 bits' if four_bits else ''} | {batch} | {placement}{note} | {published} | "
            f"{there['total_tokens_per_second']:.2f} | {there['bottleneck']} | {percents(own['placement'])}, "
            f"{own['sequences']} at once | {own['total_tokens_per_second']:.2f} | {own['bottleneck']} |")


def table(spillway, machine=MACHINE):
    head = ["model", "batch", "FlexGen's placement (the nearest that fits)", "FlexGen, tok/s", "predicted there", "bound by",
            "the planner's own", "predicted", "bound by"]
    return ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"] + [line(spillway, machine, run) for run in RUNS]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True)
    parser.add_argument("--machine", default=MACHINE)
    args = parser.parse_args()
    print("\n".join(table(args.spillway, args.machine)))


if __name__ == "__main__":
    main()
