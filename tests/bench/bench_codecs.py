#!/usr/bin/env python3
"""What each KV codec costs in quality and gives in speed (yardstick Y5, end to end).

    bench_codecs.py --spillway build/launch/spillway --dir DIR MODEL.gguf --file TEXT [--codecs f16,int4_group] [--rounds 3]

Quality: `eval kl` on TEXT, by forced decoding behind a prefilled part of each window, against the same engine without a codec. Speed:
`bench decode --synthetic-kv` with a device budget that is a share of what f16 needs and the rest in DIR, codecs in turn in every
round; a figure is the median of the rounds. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile


def run(command):
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def quality(args, codec):
    answer = json.loads(run([args.spillway, "eval", "kl", args.model, "--file", args.file, "--context", str(args.context),
                             "--prefix", str(args.prefix), "--kv-codec", codec, "--threads", str(args.threads), "--dir", args.dir,
                             "--json", "--quiet"]))
    return answer["perplexity"], answer["kl_mean"], answer["kl_p99"], 100 * answer["same_top_token"]


def speed(args, codec, budget_bytes, need_bytes):
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "result.json")
        command = [args.spillway, "bench", "decode", args.model, "--threads", str(args.threads), "--batch-size", str(args.batch),
                   "--random-input-len", str(args.length), "--num-steps", str(args.steps), "--num-steps-warmup", "8",
                   "--synthetic-kv", "--kv-codec", codec, "--save-result", "--result-filename", path, "--quiet"]
        if budget_bytes:
            command += ["--kv-device-size", f"{budget_bytes // 1024}KiB", "--kv-nvme-dir", args.dir,
                        "--kv-nvme-size", f"{need_bytes * 5 // 4 // 1024}KiB"]
        run(command)
        with open(path, encoding="utf-8") as file:
            return json.load(file)


def median(values, digits):
    return f"{statistics.median(values):.{digits}f}"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--spillway", required=True)
    parser.add_argument("--dir", required=True)
    parser.add_argument("--file", help="the text for quality; without it only speed is measured")
    parser.add_argument("--codecs", default="f16,int8,fp8,int4_group,kivi4,kivi2,turboquant4,turboquant3_5,turboquant3,"
                        "turboquant2_5,turboquant2")
    parser.add_argument("--context", type=int, default=2048)
    parser.add_argument("--prefix", type=int, default=512)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument("--budget", type=int, default=25, help="per cent of what f16 needs, on the device")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3, help="of speed; 0: quality alone")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    codecs = args.codecs.split(",")
    if args.file:
        print("| codec | perplexity | mean KL | p99 KL | same top token, % |\n|---|---|---|---|---|")
        for codec in codecs:
            perplexity, mean, p99, same = quality(args, codec)
            print(f"| `{codec}` | {perplexity:.3f} | {mean:.5f} | {p99:.4f} | {same:.1f} |", flush=True)
    if args.rounds == 0:
        return
    need = speed(args, "f16", 0, 0)["tiers"]["device"]["used_bytes"]
    results = {codec: [] for codec in codecs}
    for _ in range(args.rounds):
        for codec in codecs:
            results[codec].append(speed(args, codec, need * args.budget // 100, need))
    print("\n| codec | tok/s | moved a step, MB | of disk bound, % | times f16 |\n|---|---|---|---|---|")
    base = statistics.median(result["tokens_per_second"] for result in results[codecs[0]])
    for codec in codecs:
        rows = results[codec]
        bound = [100 * row["tokens_per_second"] / row["disk_tokens_per_second"] for row in rows if row["disk_tokens_per_second"]]
        print(f"| `{codec}` | {median([row['tokens_per_second'] for row in rows], 1)} | "
              f"{median([row['moved_bytes_a_step'] / 1e6 for row in rows], 0)} | {median(bound, 0) if bound else '-'} | "
              f"{statistics.median(row['tokens_per_second'] for row in rows) / base:.2f} |")


if __name__ == "__main__":
    main()
