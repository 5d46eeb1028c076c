#!/usr/bin/env python3
"""Spillway beside llama.cpp on the same files, threads and shapes: yardsticks Y1 (batched decode) and Y2 (prefill).

    bench_llama_cpp.py --spillway build/launch/spillway --peer-python VENV/bin/python MODEL.gguf [MODEL.gguf …]

The peer is llama.cpp as the PyPI package llama-cpp-python builds it on this machine: `python3 -m venv VENV &&
VENV/bin/pip install llama-cpp-python`. Rounds are interleaved, ours and the peer's in turn; a figure is the median of the rounds,
a ratio the median of the rounds' ratios. Nothing else should run meanwhile. Prints a Markdown table.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))


def run_ours(args, model, batch, prompt, generate):
    with tempfile.TemporaryDirectory() as folder:
        result = os.path.join(folder, "result.json")
        command = [args.spillway, "bench", "throughput", model, "--threads", str(args.threads), "--num-prompts", str(batch)]
        command += ["--random-input-len", str(prompt), "--random-output-len", str(generate), "--max-concurrency", str(batch)]
        command += ["--max-num-seqs", str(batch), "--cpu-isa", args.cpu_isa, "--save-result", "--result-filename", result, "--quiet"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        with open(result, encoding="utf-8") as file:
            figures = json.load(file)
    return {"prefill": figures["prefill_throughput"], "decode": figures["decode_throughput"]}


def run_peer(args, model, batch, prompt, generate):
    command = [args.peer_python, os.path.join(HERE, "llama_cpp_round.py"), model, "--threads", str(args.threads)]
    command += ["--batch", str(batch), "--prompt", str(prompt), "--generate", str(generate)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(args, model, batch, prompt, generate):
    rounds = [(run_ours(args, model, batch, prompt, generate), run_peer(args, model, batch, prompt, generate))
              for _ in range(args.rounds)]
    row = {}
    for phase in ("prefill", "decode"):
        row[phase] = (statistics.median(ours[phase] for ours, _ in rounds),
                      statistics.median(peer[phase] for _, peer in rounds),
                      statistics.median(ours[phase] / peer[phase] for ours, peer in rounds))
    return row


def cpu_name():
    with open("/proc/cpuinfo", encoding="utf-8") as file:
        return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--spillway", required=True)
    parser.add_argument("--peer-python", required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu-isa", default="auto")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", default="1,8,32,128")
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    args = parser.parse_args()

    print(f"{cpu_name()}, {args.threads} threads, kernels {args.cpu_isa}, prompts of {args.prompt}, {args.generate} tokens each, "
          f"median of {args.rounds} interleaved rounds\n")
    print("| model | batch | prefill, tok/s | llama.cpp | ratio | decode, tok/s | llama.cpp | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for model in args.models:
        for batch in map(int, args.batches.split(",")):
            row = compare(args, model, batch, args.prompt, args.generate)
            cells = " | ".join(f"{ours:.0f} | {peer:.0f} | {ratio:.2f}x" for ours, peer, ratio in (row["prefill"], row["decode"]))
            print(f"| {os.path.basename(model)} | {batch} | {cells} |", flush=True)


if __name__ == "__main__":
    sys.exit(main())
