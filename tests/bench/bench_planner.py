#!/usr/bin/env python3
"""How far the planner is off: predicted decode tokens a second beside those of `bench decode`, and its choice beside a swept grid.

    bench_planner.py --spillway build/launch/spillway --dir DIR MODEL... [--results FILE] [--batches 32] [--context 512] [--rounds 3] …

A round runs every placement of every model in turn (contexts are synthetic keys and values; a model that is a shape runs with random weights).
The planner measures the machine before and after each, for its speed wanders; what is predicted is the mean of the two. Figures are medians of the
rounds, an error the median of theirs. The first table has the given placements; the second, for each model and a memory limit that
is a share of what all would need, the placements of a grid in steps of --grid per cent that fit, fastest first, and where the
planner's own choice stands among them.

Runs are appended to --results, one JSON line each, and the tables are of all lines in it; --rounds 0 prints them alone. Nothing else
should run meanwhile.
"""

import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile

PLACEMENTS = ["100,0,100,0,100,0", "100,0,50,0,100,0", "100,0,25,0,100,0", "100,0,0,0,100,0", "50,0,100,0,100,0", "0,0,100,0,100,0",
              "50,0,50,0,100,0"]


def start(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return done, (done.stderr.strip().splitlines() or ["?"])[-1]


def load(args, batch):
    return ["--threads", str(args.threads), "--kv-nvme-dir", args.dir, "--io", args.io, "--kv-codec", args.codec,
            "--max-num-batched-tokens", str(max(args.rows, 2 * batch))]


def plan(args, model, batch, *more):
    """The planner's report; None when it refuses."""
    output = 2 * (args.steps // 2 + args.warm + 2)  # the middle of the answer is the middle of the timed steps
    command = [args.spillway, "plan", model, "--json", "--batch", str(batch), "--prompt", str(args.context), "--output", str(output)]
    done, why = start(command + load(args, batch) + ["--max-num-seqs", str(batch), *more])
    if done.returncode == 0 or done.stdout:
        return json.loads(done.stdout)
    print(f"{model}, batch {batch}: {why}", file=sys.stderr)
    return None


def bench(args, model, batch, placement):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "result.json")
        command = [args.spillway, "bench", "decode", model, "--batch-size", str(batch), "--random-input-len", str(args.context),
                   "--num-steps", str(args.steps), "--num-steps-warmup", str(args.warm), "--synthetic-kv", "--quiet",
                   "--placement", placement, "--save-result", "--result-filename", path] + load(args, batch)
        if not os.path.exists(model):
            command.append("--random-weights")
        done, why = start(command)
        if done.returncode != 0:
            print(f"{model}, batch {batch}, {placement}: left out: {why}", file=sys.stderr)
            return None
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def percents(placement):
    return ",".join(f"{part:g}" for part in placement)


def record(file, **row):
    print(json.dumps(row), file=file, flush=True)


def run_one(args, file, table, model, batch, placement, predicted, limit=(), chosen=False):
    result = bench(args, model, batch, placement)
    after = plan(args, model, batch, "--placement", placement, *limit, "--probe")
    if result and after:
        record(file, table=table, model=os.path.basename(model), batch=batch, placement=placement, chosen=chosen,
               predicted=statistics.mean(each["decode_tokens_per_second"] for each in (predicted, after)), bottleneck=predicted["bottleneck"],
               measured=result["tokens_per_second"], moved=result["moved_bytes_a_step"],
               told=sum(tier["kv_read_bytes_a_step"] + tier["kv_written_bytes_a_step"] + (tier["weights_read_bytes_a_step"]
                        if name == "nvme" else 0) for name, tier in predicted["tiers"].items() if name != "device"))


def run_placements(args, file, model, batch):
    for placement in args.placements:
        predicted = plan(args, model, batch, "--placement", placement)
        if predicted and predicted["fits"]:
            run_one(args, file, "placements", model, batch, placement, predicted)
        elif predicted:
            print(f"{model}, batch {batch}, {placement}: left out: {predicted['refusal']}", file=sys.stderr)


def run_grid(args, file, model, batch):
    """Under a limit of --share of what all would need; the planner's own choice among those that fit."""
    all_there = plan(args, model, batch, "--placement", "100,0,100,0,100,0")
    if not all_there:
        return
    limit = ["--memory-limit", f"{int(all_there['tiers']['device']['needed_bytes'] * args.share / 100 + 200e6) >> 10}KiB"]
    own = plan(args, model, batch, *limit)
    if not own or not own["fits"]:
        return
    run_one(args, file, "grid", model, batch, percents(own["placement"]), own, limit, chosen=True)
    for weights in range(0, 101, args.grid):
        for cache in range(0, 101, args.grid):
            placement = f"{weights},0,{cache},0,100,0"
            predicted = plan(args, model, batch, "--placement", placement, *limit)
            if predicted and predicted["fits"]:
                run_one(args, file, "grid", model, batch, placement, predicted, limit)


def read(path):
    groups = collections.defaultdict(list)
    with open(path, encoding="utf-8") as file:
        for row in map(json.loads, file):
            groups[row["table"], row["model"], row["batch"], row["placement"]].append(row)
    return groups


def medians(rows):
    return {name: statistics.median(row[name] for row in rows) for name in ("predicted", "measured", "moved", "told")}


def cells(rows):
    figures = medians(rows)
    off = statistics.median(row["predicted"] / row["measured"] for row in rows) - 1
    return (f"{figures['predicted']:.1f} | {figures['measured']:.1f} | {100 * off:+.0f} % | {figures['told'] / 1e6:.1f} | "
            f"{figures['moved'] / 1e6:.1f} | {rows[0]['bottleneck']} | {len(rows)} |"), abs(off)


def print_placements(groups):
    print("| model | batch | placement | predicted, tok/s | measured | off | told a step, MB | moved | bound by | rounds |\n" + "|---" * 10 + "|")
    errors = []
    for (table, model, batch, placement), rows in groups.items():
        if table == "placements":
            text, off = cells(rows)
            errors.append(off)
            print(f"| {model} | {batch} | {placement} | {text}")
    if errors:
        print(f"\nmedian error {100 * statistics.median(errors):.0f} %, largest {100 * max(errors):.0f} %\n")


def print_grid(groups):
    print("| model | batch | placement | predicted, tok/s | measured | off | told a step, MB | moved | bound by | rounds |\n" + "|---" * 10 + "|")
    by_load = collections.defaultdict(list)
    for (table, model, batch, placement), rows in groups.items():
        if table == "grid":
            by_load[model, batch].append((medians(rows)["measured"], placement, rows))
    shares = []
    for (model, batch), runs in by_load.items():
        runs.sort(reverse=True, key=lambda run: run[0])
        for measured, placement, rows in runs:
            chosen = rows[0]["chosen"]
            print(f"| {model} | {batch} | {placement}{' (the planner)' if chosen else ''} | {cells(rows)[0]}")
            if chosen:
                shares.append(f"{model}, batch {batch}: the planner's choice gives {100 * measured / runs[0][0]:.0f} % of the best")
    print("\n" + "\n".join(shares))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--spillway", required=True)
    parser.add_argument("--dir", required=True, help="where things spill to")
    parser.add_argument("--results", help="JSON lines of all runs (default: forgotten)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=lambda text: [int(word) for word in text.split(",")], default=[32])
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--placements", type=lambda text: text.split("/"), default=PLACEMENTS, help="separated by /")
    parser.add_argument("--grid", type=int, default=50, help="per cent; 0: no grid")
    parser.add_argument("--share", type=int, default=60, help="per cent of what all needs that the grid may take")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=4)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--codec", default="f16")
    parser.add_argument("--io", default="auto")
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = args.results or os.path.join(folder, "results.jsonl")
        with open(path, "a", encoding="utf-8") as file:
            for _ in range(args.rounds):
                plan(args, args.models[0], args.batches[0], "--probe")
                for model in args.models:
                    for batch in args.batches:
                        run_placements(args, file, model, batch)
                        if args.grid:
                            run_grid(args, file, model, batch)
        groups = read(path)
        print_placements(groups)
        if args.grid:
            print_grid(groups)


if __name__ == "__main__":
    main()
