#!/usr/bin/env python3
"""A model larger than memory (yardstick Y8): decode at the geometry of OPT-30B with random weights, weights and KV streaming from one disk.

    bench_geometry.py --spillway build/launch/spillway --dir DIR [--shape opt-30b] [--batch 128] [--context 512] [--memory-limit 20GiB] …

Contexts are synthetic (pseudo-random keys and values of sealed blocks), weights are random numbers: it is the cost that is measured, and no text.
Without --shape the largest of opt-30b, opt-13b and opt-6.7b is taken whose weights and KV the disk has room for; what was passed over is said.

The placement: --kv-share of the limit is the KV budget, and the layers get what is left, in steps of 5 per cent, as the program's own reckoning
says. The bound beside the result is the slower of two:
  compute  matmul and attention of the same steps, without what they waited for; beside it, for comparison, the same geometry with 2 and 4 of its
           layers, all of it in memory: what a layer costs, times the layers, and what is not a layer
  disk     bytes of weights and KV that a step moved, over what the same ring reads from the same disk in the same process, before and after the steps
Files have no name and are gone afterwards. Nothing else should run meanwhile.
"""

import argparse
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

SHAPES = pathlib.Path(__file__).resolve().parent.parent.parent / "configs" / "shapes"
FALLBACKS = ("opt-30b", "opt-13b", "opt-6.7b")
LAYERS_TWIN = (2, 4)
DISK_SPARE = 1.08  # headers, padding, the file of the disk's own measurement


def read_shape(name):
    return json.loads((SHAPES / f"{name}.json").read_text(encoding="utf-8"))


def layer_numbers(config):
    """Numbers of a layer's matrices."""
    return 4 * config["hidden_size"] ** 2 + 2 * config["hidden_size"] * config["ffn_dim"]


def disk_need(args, config):
    """Bytes that may come to lie on disk: packed layers, and KV at its codec's size."""
    tokens = args.batch * (args.context + args.steps + args.warm_steps + 2 + args.block_spare)
    kv = 2 * config["num_hidden_layers"] * config["hidden_size"] * tokens * args.kv_bits / 8
    return layer_numbers(config) * config["num_hidden_layers"] * args.weight_bits / 8 + kv, kv


def choose_shape(args):
    free = shutil.disk_usage(args.dir).free
    for name in [args.shape] if args.shape else FALLBACKS:
        config = read_shape(name)
        need, _ = disk_need(args, config)
        if need * DISK_SPARE + (1 << 30) < free:
            return name, config
        print(f"{name}: left out: {need / 2**30:.1f} GiB of weights and KV, {free / 2**30:.1f} GiB are free in {args.dir}")
    sys.exit("no shape fits the disk")


def command(args, model, path, *more):
    words = [args.spillway, "bench", "decode", model, "--random-weights", "--weight-type", args.weight_type, "--synthetic-kv"]
    words += ["--batch-size", args.batch, "--random-input-len", args.context, "--num-steps", args.steps]
    words += ["--num-steps-warmup", args.warm_steps, "--threads", args.threads, "--kv-codec", args.kv_codec]
    words += ["--save-result", "--result-filename", path, "--summary-json", f"{path}.summary", "--comm-timeout", "600s", *more]
    return [str(word) for word in words]


def bench(args, folder, model, *more):
    """(result, summary, error line)"""
    path = os.path.join(folder, "result.json")
    done = subprocess.run(command(args, model, path, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return None, None, next((line for line in done.stderr.splitlines() if "error[" in line), done.stderr[-500:])
    print(done.stdout, end="", flush=True)
    with open(path, encoding="utf-8") as result, open(f"{path}.summary", encoding="utf-8") as summary:
        return json.load(result), json.load(summary), ""


def place(args, folder, name, kv_bytes):
    """Options that keep the rank within the limit, by the program's own advice; then the run with them."""
    limit = int(float(re.match(r"[\d.]+", args.memory_limit)[0]) * (1 << 30))
    kv = int(min(limit * args.kv_share, kv_bytes * DISK_SPARE))
    options = ["--memory-limit", args.memory_limit, "--kv-device-size", f"{kv // 1024}KiB"]
    options += ["--kv-nvme-dir", args.dir, "--kv-nvme-size", f"{int(kv_bytes * DISK_SPARE) // 1024}KiB"]
    result, summary, error = bench(args, folder, name, *options)
    advice = re.search(r"--weights-device-size (\d+%|min) with", error)
    if result is None and advice:
        options += ["--weights-nvme-dir", args.dir, "--weights-device-size", advice[1]]
        result, summary, error = bench(args, folder, name, *options)
    if result is None:
        sys.exit(error)
    return result, summary, options


def twin_seconds(args, folder, config, layers):
    """Seconds of a step with so many layers, all of it in memory."""
    path = os.path.join(folder, f"twin-{layers}.json")
    pathlib.Path(path).write_text(json.dumps(dict(config, num_hidden_layers=layers)), encoding="utf-8")
    result, _, error = bench(args, folder, path, "--quiet")
    if result is None:
        sys.exit(error)
    return args.batch / result["median_tokens_per_second"]


def report(name, args, config, result, summary, options, twins):
    few, many = LAYERS_TWIN
    layer = (twins[1] - twins[0]) / (many - few)
    twin = layer * config["num_hidden_layers"] + max(twins[0] - few * layer, 0)
    compute_seconds = result["compute_seconds_a_step"]
    disk_seconds = result["moved_bytes_a_step"] / result["disk_bytes_per_second"] if result["disk_bytes_per_second"] else 0
    bound = args.batch / max(compute_seconds, disk_seconds)
    weights, tiers = result["weights"], result["tiers"]
    print(f"\n{name}, {args.weight_type} random weights, batch {args.batch}, context {args.context} synthetic, KV {args.kv_codec}, "
          f"{args.steps} steps, {args.threads} threads, limit {args.memory_limit}")
    print("options           ", " ".join(options))
    print(f"decode             {result['tokens_per_second']:.3f} tok/s, {result['step_seconds']:.2f} s a step")
    print(f"moved a step       weights {weights['read_bytes_a_step'] / 1e9:.2f} GB, KV "
          f"{(tiers['nvme']['read_bytes_a_step'] + tiers['nvme']['written_bytes_a_step']) / 1e9:.2f} GB; disk alone "
          f"{result['disk_bytes_per_second'] / 1e9:.2f} GB/s, {disk_seconds:.2f} s")
    print(f"compute            {compute_seconds:.2f} s a step of matmul and attention in the same steps")
    if twins[1] > 0:
        print(f"                   {twin:.2f} s a step by twins of {few} and {many} layers, all in memory ({layer:.3f} s a layer)")
    print(f"waited a step      weights {weights['stall_seconds_a_step']:.2f} s, KV {tiers['nvme']['stall_seconds_a_step']:.2f} s")
    print(f"memory             peak {summary['memory_peak_bytes'] / 2**30:.2f} GiB resident, reckoned "
          f"{summary['memory_planned_bytes'] / 2**30:.2f} GiB")
    print(f"bound              {bound:.3f} tok/s, the {'disk' if disk_seconds > compute_seconds else 'arithmetic'}: "
          f"{100 * result['tokens_per_second'] / bound:.1f} % reached")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spillway", required=True)
    parser.add_argument("--dir", required=True, help="where weights and KV lie")
    parser.add_argument("--shape", help="a name of configs/shapes of the OPT family (default: the largest that fits)")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--warm-steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--memory-limit", default="20GiB", help="in GiB")
    parser.add_argument("--kv-share", type=float, default=0.25, help="of the limit that is the KV budget")
    parser.add_argument("--weight-type", default="q4_0")
    parser.add_argument("--weight-bits", type=float, default=4.5, help="of --weight-type, for the disk's room")
    parser.add_argument("--kv-codec", default="f16")
    parser.add_argument("--kv-bits", type=float, default=16, help="of --kv-codec, for the disk's room")
    parser.add_argument("--block-spare", type=int, default=32, help="tokens a sequence may leave empty in its last block")
    parser.add_argument("--no-twins", action="store_true", help="leave the runs with few layers in memory out")
    args = parser.parse_args()
    name, config = choose_shape(args)
    _, kv_bytes = disk_need(args, config)
    with tempfile.TemporaryDirectory() as folder:
        result, summary, options = place(args, folder, name, kv_bytes)
        twins = [0, 0] if args.no_twins else [twin_seconds(args, folder, config, layers) for layers in LAYERS_TWIN]
        report(name, args, config, result, summary, options, twins)


if __name__ == "__main__":
    main()
