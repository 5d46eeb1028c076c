#!/usr/bin/env python3
"""What a KV budget costs decode: yardsticks Y3 and, on a real disk, Y10 (`scan` beside `lru`).

    bench_spill.py --spillway build/launch/spillway --dir DIR MODEL.gguf [--results FILE] [--batches 32] [--contexts 1024] …

Each round runs the same batch without a budget, then with each budget and placement in turn (`bench decode --synthetic-kv`, whose
contexts are pseudo-random keys and values), so that a machine whose speed wanders does so for all. Budgets are per cent of what the resident run
took. A figure is the median of the rounds; shares are medians of the rounds' shares: of the resident run of the same round, and of what
the disk allows, measured in the same run. What does not fit the memory or DIR is left out, and said.

Rounds are appended to --results, one JSON line a run, and the table is of all lines in it: a long benchmark can run in parts, and
--rounds 0 prints the table alone. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

BLOCK_BYTES_SPARE = 1.06  # header and padding of spilled blocks, and room for the last ones


def kibibytes(count):
    return f"{int(count) // 1024}KiB"


def run(args, batch, context, budget_bytes, placement, need_bytes, resident):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "result.json")
        command = [args.spillway, "bench", "decode", args.model, "--threads", str(args.threads), "--batch-size", str(batch)]
        command += ["--random-input-len", str(context), "--num-steps", str(args.steps), "--num-steps-warmup", "8"]
        command += ["--synthetic-kv", "--save-result", "--result-filename", path, "--quiet", "--io", args.io]
        command += ["--io-depth", str(args.io_depth)]
        if budget_bytes:
            command += ["--kv-device-size", kibibytes(budget_bytes), "--kv-placement", placement, "--kv-nvme-dir", args.dir]
            command += ["--kv-nvme-size", kibibytes(need_bytes * BLOCK_BYTES_SPARE), "--resident-speed", str(resident)]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0:
            return None, done.stderr.strip().splitlines()[-1]
        with open(path, encoding="utf-8") as file:
            return json.load(file), ""


def record(args, file, key, result):
    row = dict(zip(("batch", "context", "budget", "placement"), key), result=result)
    print(json.dumps(row), file=file, flush=True)


def run_round(args, file, batch, context):
    """The resident run and all others; False when there is no room for it."""
    resident, why = run(args, batch, context, 0, None, 0, 0)
    if not resident:
        print(f"batch {batch}, context {context}: left out: {why}", file=sys.stderr)
        return False
    need = resident["tiers"]["device"]["used_bytes"]
    if shutil.disk_usage(args.dir).free < 1.2 * need + (1 << 30):
        print(f"batch {batch}, context {context}: left out: {need / 2**30:.1f} GiB do not fit {args.dir}", file=sys.stderr)
        return False
    rows = [((batch, context, 100, "-"), resident)]
    for budget in args.budgets:
        for placement in args.placements:
            result, why = run(args, batch, context, need * budget // 100, placement, need, resident["tokens_per_second"])
            if result:
                rows.append(((batch, context, budget, placement), result))
            else:
                print(f"batch {batch}, context {context}, {budget} %, {placement}: left out: {why}", file=sys.stderr)
    for key, result in rows:
        record(args, file, key, dict(result, resident_cpu_step_seconds=resident["cpu_step_seconds"],
                                     resident_tokens_per_second=resident["tokens_per_second"]))
    return True


def figures(result):
    """What the table shows of one run."""
    seconds, moved = result["step_seconds"], result["moved_bytes_a_step"]
    stalled = sum(tier["stall_seconds_a_step"] for tier in result["tiers"].values())
    limits = [limit for limit in (result["resident_tokens_per_second"], result["disk_tokens_per_second"]) if limit > 0]
    return {
        "tok": result["tokens_per_second"],
        "resident": result["tokens_per_second"] / result["resident_tokens_per_second"],
        "disk": result["tokens_per_second"] / result["disk_tokens_per_second"] if result["disk_tokens_per_second"] else None,
        "bound": result["tokens_per_second"] / min(limits),
        "disk_rate": result["disk_bytes_per_second"] / 1e9 or None,
        "rate": moved / seconds / 1e9 or None,
        "bytes": moved / 1e6 or None,
        "cpu": (result["cpu_step_seconds"] - result["resident_cpu_step_seconds"]) / (moved / 1e9) if moved else None,
        "stall": stalled / seconds,
    }


COLUMNS = [  # title, figure, factor, digits
    ("tok/s", "tok", 1, 1),
    ("of resident, %", "resident", 100, 0),
    ("of disk bound, %", "disk", 100, 0),
    ("of the lower, %", "bound", 100, 0),
    ("moved a step, MB", "bytes", 1, 0),
    ("GB/s", "rate", 1, 2),
    ("disk alone, GB/s", "disk_rate", 1, 2),
    ("CPU s a GB", "cpu", 1, 3),
    ("stalled, %", "stall", 100, 0),
]


def cell(runs, name, factor, digits):
    values = [run[name] for run in runs if run[name] is not None]
    return f"{factor * statistics.median(values):.{digits}f}" if values else "-"


def print_table(path):
    groups = {}
    with open(path, encoding="utf-8") as file:
        for row in map(json.loads, file):
            key = (row["batch"], row["context"], -row["budget"], row["placement"])
            groups.setdefault(key, []).append(figures(row["result"]))
    print("| batch | context | budget, % | placement | rounds | " + " | ".join(title for title, *_ in COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 5) + "|")
    for (batch, context, budget, placement), runs in sorted(groups.items()):
        cells = " | ".join(cell(runs, *rest) for _, *rest in COLUMNS)
        print(f"| {batch} | {context} | {-budget} | {placement} | {len(runs)} | {cells} |")


def numbers(text):
    return [int(word) for word in text.split(",")]


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--spillway", required=True)
    parser.add_argument("--dir", required=True, help="where KV spills to")
    parser.add_argument("--results", help="JSON lines of all runs (default: forgotten)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=numbers, default=[32, 128])
    parser.add_argument("--contexts", type=numbers, default=[512, 1024, 4096])
    parser.add_argument("--budgets", type=numbers, default=[50, 25, 10])
    parser.add_argument("--placements", type=lambda text: text.split(","), default=["scan", "lru"])
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--io", default="auto")
    parser.add_argument("--io-depth", type=int, default=0)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        path = args.results or os.path.join(folder, "results.jsonl")
        with open(path, "a", encoding="utf-8") as file:
            for batch in args.batches:
                for context in args.contexts:
                    for _ in range(args.rounds):
                        if not run_round(args, file, batch, context):
                            break
        print(f"{cpu_name()}, {args.threads} threads, {os.path.basename(args.model)}, synthetic KV, {args.steps} steps a run, "
              f"medians of interleaved rounds\n")
        print_table(path)


if __name__ == "__main__":
    sys.exit(main())
