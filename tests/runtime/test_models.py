#!/usr/bin/env python3
"""Golden logits: `spillway logits` on every model of tests/golden/models against what transformers gave.

    test_models.py SPILLWAY [NAME …] [--ranks 1,2,3] [--isa auto,reference] [--threads 1,2,3]
        [--block-size N] [--chunk N] [--backend NAME] [--comm NAME] [--weight-type NAME] [--attend host]

Two tolerances, both as shares of the deviation of a model's logits. Float weights, and encoded weights on the
reference kernels, are exact up to float32 rounding; what remains is a key or value that falls on the other side of a
float16 rounding. Encoded weights on the other kernels are multiplied with activations rounded to int8. The number of threads must
not change a bit. With --weight-type the models are those that have logits for it: logits_NAME.npy. Prints the worst error of every kind of run; the last line counts.
"""
import argparse
import pathlib
import subprocess
import sys
import tempfile

from golden_files import MODELS, differences, load_npy, model_names, model_path

# largest and root mean square difference, in deviations
EXACT = (3e-3, 3e-4)
INT8 = (0.2, 0.02)

# What has as many query heads or groups of MLP columns, and is refused on more ranks.
RANKS_MAX = {name: ranks for ranks, names in {
    2: ("gguf_llama_factors", "gguf_llama_q5_1"),
    3: ("gguf_llama_q5_0", "gguf_llama_q8_0", "gguf_qwen2", "gguf_qwen3"),
    4: ("gguf_llama_bf16_linear", "gguf_llama_k_quants", "llama_rope_linear", "llama_rope_llama3", "opt_post_norm", "qwen3"),
    5: ("gguf_llama_f16_tied", "gguf_llama_q4_0", "gguf_llama_q4_1", "llama_mha_biases", "opt_pre_norm"),
    6: ("llama_mqa_tied", "llama_text", "llama_wide_heads", "mistral_window"),
    7: ("qwen2_tied",),
    9: ("gguf_llama_f32", "llama_gqa"),
}.items() for name in names}

UNAVAILABLE = 69


class Driver:
    def __init__(self, spillway, scratch, more, weight_type):
        self.spillway = spillway
        self.more = more + (["--weight-type", weight_type] if weight_type else [])  # flags of every run
        self.golden = f"logits_{weight_type}.npy" if weight_type else "logits.npy"
        self.encoded = bool(weight_type)
        self.output = pathlib.Path(scratch) / "logits.npy"
        self.passed = self.failed = self.skipped = 0
        self.worst = {}

    def is_encoded(self, name):
        return self.encoded or name.startswith("gguf_") and not any(kind in name for kind in ("f32", "f16", "bf16"))

    def run(self, name, ranks, isa, threads):
        self.output.unlink(missing_ok=True)
        command = [self.spillway, "logits", str(model_path(name)), "--tokens-file", str(MODELS / "tokens.json"),
                   "--output", str(self.output), "--ranks", str(ranks), "--threads", str(threads), "--cpu-isa", isa, *self.more]
        return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)

    def judge(self, name, ranks, isa):
        """What is wrong with the logits just written; None: nothing."""
        largest, mean = differences(load_npy(self.output), load_npy(MODELS / name / self.golden))
        limits = INT8 if self.is_encoded(name) and isa != "reference" else EXACT
        if not (largest <= limits[0] and mean <= limits[1]):
            return f"differs by {largest:.2e} at most and {mean:.2e} in the mean, limits {limits}"
        kind = f"{'encoded' if self.is_encoded(name) else 'float'} weights, ranks {ranks}, {isa}"
        self.worst[kind] = max(self.worst.get(kind, (0.0, 0.0, "")), (largest, mean, name))
        return None

    def check(self, name, ranks, isa, threads, first_bytes):
        """Returns the bytes of the output, to be compared with those of other thread counts."""
        done = self.run(name, ranks, isa, threads)
        problem = found = None
        if ranks > RANKS_MAX.get(name, ranks):
            if done.returncode != 64 or "E-TOO-MANY-RANKS" not in done.stderr:
                problem = f"exit {done.returncode}, expected 64 and E-TOO-MANY-RANKS: {done.stderr.strip()}"
        elif done.returncode == UNAVAILABLE and "E-UNAVAILABLE" in done.stderr:
            self.skipped += 1
            return None
        elif done.returncode != 0:
            problem = f"exit {done.returncode}: {done.stderr.strip()}"
        else:
            found = self.output.read_bytes()
            problem = self.judge(name, ranks, isa)
            if not problem and first_bytes not in (None, found):
                problem = "the number of threads changes the bits"
        if problem:
            print(f"FAILED {name} ranks {ranks} isa {isa} threads {threads}: {problem}")
            self.failed += 1
        else:
            self.passed += 1
        return found

    def report(self):
        for kind, (largest, mean, name) in sorted(self.worst.items()):
            print(f"{kind}: {largest:.2e} of a deviation at most ({name}, mean {mean:.2e})")
        print(f"{self.passed} passed, {self.failed} failed, {self.skipped} skipped")
        return 1 if self.failed or not self.passed else 0


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("spillway")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--ranks", default="1")
    parser.add_argument("--isa", default="auto")
    parser.add_argument("--threads", default="1")
    parser.add_argument("--block-size", default="0", help="tokens of a KV block; 0: as the program chooses")
    parser.add_argument("--chunk", default="512", help="tokens of a step")
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--comm", default="auto")
    parser.add_argument("--weight-type", help="that layers are encoded in as they are loaded")
    parser.add_argument("--attend", default="device", choices=("device", "host"),
                        help="host: all KV lies there, and a step is a token, which is what is attended there")
    arguments = parser.parse_intermixed_args()
    more = ["--backend", arguments.backend, "--comm", arguments.comm, "--block-size", arguments.block_size, "--max-num-batched-tokens", arguments.chunk, "--max-num-seqs", "1"]
    if arguments.attend == "host":
        more += ["--attend", "host", "--max-num-batched-tokens", "1", "--kv-device-size", "min", "--kv-host-size", "8MiB"]
    with tempfile.TemporaryDirectory() as scratch:
        driver = Driver(arguments.spillway, scratch, more, arguments.weight_type)
        for name in arguments.names or [name for name in model_names() if (MODELS / name / driver.golden).exists()]:
            for ranks in map(int, arguments.ranks.split(",")):
                for isa in arguments.isa.split(","):
                    first_bytes = None
                    for threads in map(int, arguments.threads.split(",")):
                        found = driver.check(name, ranks, isa, threads, first_bytes)
                        first_bytes = first_bytes or found
        return driver.report()


if __name__ == "__main__":
    sys.exit(main())
