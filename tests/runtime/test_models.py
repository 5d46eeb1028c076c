#!/usr/bin/env python3
"""Golden logits: `spillway logits` on every model of tests/golden/models against what transformers gave.

    test_models.py SPILLWAY [--ranks 1,2,3] [--isa auto,reference] [--threads 1,2,3] [NAME …]

Two tolerances, both as shares of the deviation of a model's logits. Float weights, and encoded weights on the
reference kernels, are exact up to float32 rounding; what remains is a key or value that falls on the other side of a
float16 rounding. Encoded weights on the other kernels are multiplied with activations rounded to int8.
Prints the worst error of every kind of run; the last line counts.
"""
import argparse
import json
import subprocess
import sys
import tempfile
import pathlib

from golden_files import MODELS, differences, load_npy, model_names, model_path, token_count

# largest and root mean square difference, in deviations
EXACT = (4e-3, 4e-4)
INT8 = (0.15, 0.03)

# fewer query heads than ranks: refused, exit 64
TOO_MANY_RANKS = {("gguf_llama_q5_1", 3)}


def is_encoded(name):
    return name.startswith("gguf_") and not any(kind in name for kind in ("f32", "f16", "bf16"))


class Driver:
    def __init__(self, spillway, scratch):
        self.spillway = spillway
        self.scratch = pathlib.Path(scratch)
        self.passed = self.failed = 0
        self.worst = {}

    def fail(self, label, why):
        self.failed += 1
        print(f"FAILED {label}: {why}")

    def run(self, name, ranks, isa, threads):
        output = self.scratch / "logits.npy"
        output.unlink(missing_ok=True)
        command = [self.spillway, "logits", str(model_path(name)), "--tokens-file", str(MODELS / "tokens.json"),
                   "--output", str(output), "--ranks", str(ranks), "--threads", str(threads), "--cpu-isa", isa]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return done, output

    def check(self, name, ranks, isa, threads):
        label = f"{name} ranks {ranks} isa {isa} threads {threads}"
        done, output = self.run(name, ranks, isa, threads)
        if (name, ranks) in TOO_MANY_RANKS:
            if done.returncode != 64 or "E-TOO-MANY-RANKS" not in done.stderr:
                return self.fail(label, f"exit {done.returncode}, expected 64 and E-TOO-MANY-RANKS: {done.stderr}")
            self.passed += 1
            return
        if done.returncode != 0:
            return self.fail(label, f"exit {done.returncode}: {done.stderr.strip()}")
        largest, mean = differences(load_npy(output), load_npy(MODELS / name / "logits.npy"))
        int8 = is_encoded(name) and isa != "reference"
        limits = INT8 if int8 else EXACT
        if largest > limits[0] or mean > limits[1]:
            return self.fail(label, f"differs by {largest:.2e} at most and {mean:.2e} in the mean, limits {limits}")
        self.passed += 1
        kind = f"{'encoded' if is_encoded(name) else 'float'} weights, ranks {ranks}, {isa}"
        worst = self.worst.get(kind, (0.0, 0.0, ""))
        self.worst[kind] = max(worst, (largest, mean, name))

    def report(self):
        for kind, (largest, mean, name) in sorted(self.worst.items()):
            print(f"{kind}: {largest:.2e} of a deviation at most ({name}, mean {mean:.2e})")
        print(f"{self.passed} passed, {self.failed} failed, 0 skipped")
        return 1 if self.failed or not self.passed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("spillway")
    parser.add_argument("--ranks", default="1")
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--threads", default="1")
    parser.add_argument("names", nargs="*")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        driver = Driver(arguments.spillway, scratch)
        for name in arguments.names or model_names():
            for ranks in map(int, arguments.ranks.split(",")):
                for isa in arguments.isa.split(","):
                    for threads in map(int, arguments.threads.split(",")):
                        driver.check(name, ranks, isa, threads)
        return driver.report()


if __name__ == "__main__":
    sys.exit(main())
