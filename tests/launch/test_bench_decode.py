#!/usr/bin/env python3
"""`spillway bench decode` on a tiny model: test_bench_decode.py SPILLWAY MODELS [ranks]"""

import json
import os
import shutil
import subprocess
import sys
import tempfile

SPILLWAY, MODELS = sys.argv[1], sys.argv[2]
MODEL = os.path.join(MODELS, "gguf_llama_f32", "gguf_llama_f32.gguf")
UNAVAILABLE, SKIPPED = 69, 77  # a build without MPI; for meson
BATCH, CONTEXT, STEPS = 3, 40, 4
LOAD = ["--batch-size", str(BATCH), "--random-input-len", str(CONTEXT), "--num-steps", str(STEPS), "--block-size", "4"]
SPILL = ["--kv-nvme-dir", "FOLDER", "--kv-nvme-size", "8MiB", "--max-num-batched-tokens", "6"]


def bench(*arguments):
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        path = os.path.join(folder, "result.json")
        arguments = [word.replace("FOLDER", folder) for word in arguments]
        answer = subprocess.run([SPILLWAY, "bench", "decode", MODEL, "--threads", "1", *LOAD, "--save-result",
                                 "--result-filename", path, *arguments], capture_output=True, text=True, timeout=120)
        result = json.load(open(path, encoding="utf-8")) if os.path.exists(path) else None
    return answer, result


def check_counts(result):
    assert result["tokens_per_second"] > 0 and result["cpu_step_seconds"] > 0, result
    assert result["prompt_tokens"] == result["recomputed_tokens"] == 0, result
    tokens = result["tokens_per_second"] * result["step_seconds"] * STEPS
    assert abs(tokens - BATCH * STEPS) < 1e-3, result


def test_resident():
    for more in ([], ["--synthetic-kv"]):
        answer, result = bench(*more, "--resident-speed", "1000000")
        assert answer.returncode == 0, answer
        check_counts(result)
        assert result["synthetic_kv"] == bool(more) == ("synthetic KV" in answer.stdout), answer.stdout
        assert result["moved_bytes_a_step"] == result["disk_bytes_per_second"] == 0, result
        assert result["limit_tokens_per_second"] == 1e6 and "of the lower bound" in answer.stdout, answer.stdout


def test_spilled():
    answer, result = bench("--synthetic-kv", "--kv-device-size", "min", *SPILL)
    assert answer.returncode == 0, answer
    check_counts(result)
    nvme = result["tiers"]["nvme"]
    assert nvme["used_bytes"] > 0 and nvme["read_bytes_a_step"] > 0, result
    expected = BATCH / (nvme["read_bytes_a_step"] + nvme["written_bytes_a_step"]) * result["disk_bytes_per_second"]
    assert abs(result["disk_tokens_per_second"] / expected - 1) < 1e-6, result
    assert "disk bound" in answer.stdout and "resident speed unknown" in answer.stdout, answer.stdout


def ranks_test():
    if not shutil.which("mpirun"):
        sys.exit(SKIPPED)
    answer, result = bench("--synthetic-kv", "--ranks", "2")
    if answer.returncode == UNAVAILABLE:
        sys.exit(SKIPPED)
    assert answer.returncode == 0 and result["ranks"] == 2, answer
    check_counts(result)


def test_refusals():
    for arguments, words in (
        (["--max-model-len", str(CONTEXT + 2)], "raise --max-model-len"),
        (["--kv-device-size", "80KiB", *SPILL], "at once, not 3"),
    ):
        answer, _ = bench(*arguments)
        assert answer.returncode != 0 and "error[E-CONTEXT-LENGTH]" in answer.stderr and words in answer.stderr, answer


tests = [ranks_test] if sys.argv[3:] == ["ranks"] else [test for name, test in list(globals().items()) if name.startswith("test_")]
for test in tests:
    test()
print(f"{len(tests)} passed, 0 failed, 0 skipped")
