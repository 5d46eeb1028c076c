#!/usr/bin/env python3
"""`spillway plan` and --placement, on tiny models and described machines, or on this one, which is measured:
test_plan.py SPILLWAY GOLDEN_MODELS MACHINES [ranks|machine]"""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SPILLWAY, MODELS, MACHINES = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
T4 = MACHINES / "t4-flexgen.json"
TREE = MACHINES.parent.parent
KEYS = {"decode_tokens_per_second", "prefill_tokens_per_second", "total_tokens_per_second", "bottleneck", "kv_bytes_per_token",
        "tiers", "placement", "fits", "refusal", "one_more_gib", "block_tokens", "codec", "sequences", "decode_step", "work"}


def run(*arguments, rc=0, cache="/nonexistent/cache"):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}
    environment["XDG_CACHE_HOME"] = str(cache)
    done = subprocess.run([SPILLWAY, *map(str, arguments)], capture_output=True, text=True, timeout=120, env=environment)
    assert done.returncode == rc, (arguments, done)
    return done


def plan(model, *arguments, **options):
    return json.loads(run("plan", model, "--json", *arguments, **options).stdout)


# ---- described machines ----


def test_report(folder):
    work = ["opt-30b", "--machine", T4, "--batch", "128", "--prompt", "512", "--output", "32", "--weight-type", "f16"]
    found = plan(*work)
    assert KEYS <= found.keys(), KEYS - found.keys()
    assert found["fits"] and found["refusal"] is None and len(found["placement"]) == 6
    assert found["kv_bytes_per_token"] == 2 * 2 * 48 * 7168
    assert found["work"] == {"batch": 128, "prompt": 512, "output": 32}
    assert found["one_more_gib"]["device"]["total_tokens_per_second"] >= found["total_tokens_per_second"]
    assert set(found["one_more_gib"]) == {"device", "host", "nvme"}
    for tier in found["tiers"].values():
        parts = sum(tier[name] for name in ("weight_bytes", "kv_bytes", "staging_bytes", "activation_bytes", "other_bytes"))
        assert abs(parts - tier["needed_bytes"]) <= 1e-7 * parts and tier["needed_bytes"] <= tier["capacity_bytes"], tier
    layers = 48 * (4 * 7168 ** 2 + 2 * 7168 * 28672) * 2
    assert abs(sum(tier["weight_bytes"] for tier in found["tiers"].values()) - layers) < 1000
    text = run("plan", *work).stdout
    for words in ("placement   ", "bottleneck  " + found["bottleneck"], "one more GiB of host", "1376 KB of keys and values a token"):
        assert words in text, text


def test_attend_host(folder):
    """Proposed where it would be faster, with the same placement: a slow link beside fast memory."""
    machine = json.loads(T4.read_text())
    work = ["opt-30b", "--batch", "128", "--prompt", "512", "--output", "32", "--placement", "0,100,0,100,100,0", "--machine"]
    machine["host"]["bytes"] *= 4
    for rate, faster in ((0.5, True), (100, False)):
        described = json.loads(json.dumps(machine))
        described["link"]["to_device_bytes_per_second"] = rate * machine["host"]["copy_bytes_per_second"]
        (folder / "machine.json").write_text(json.dumps(described))
        found = plan(*work, folder / "machine.json")
        assert ("attend_host" in found) == faster, found
        assert ("--attend host  " in run("plan", *work, folder / "machine.json").stdout) == faster
        if not faster:
            continue
        proposed = found["attend_host"]
        assert proposed["placement"] == found["placement"] and proposed["seconds"] < found["seconds"]
        assert proposed["decode_step"]["kv_in_host_bytes"] > 0.9 * found["tiers"]["host"]["kv_read_bytes_a_step"]
        assert found["decode_step"]["kv_in_host_bytes"] == 0


def test_ranks_and_codecs(folder):
    one = plan("opt-30b", "--machine", MACHINES / "a100-8.json", "--ranks", "1", "--batch", "32")
    eight = plan("opt-30b", "--machine", MACHINES / "a100-8.json", "--batch", "32")
    assert eight["decode_step"]["collective"] > 0 == one["decode_step"]["collective"]
    assert eight["decode_step"]["matmul"] < one["decode_step"]["matmul"] / 7
    found = plan("opt-30b", "--machine", T4, "--batch", "64", "--any-codec")
    assert {other["codec"] for other in found["codecs"]} >= {"f16", "int8", "int4_group", "kivi2", "turboquant3"}
    assert found["total_tokens_per_second"] == max(other["total_tokens_per_second"] for other in found["codecs"])
    assert found["codec"] != "f16" and "KB a token" in run("plan", "opt-30b", "--machine", T4, "--any-codec").stdout
    assert plan("tiny-llama", "--machine", MACHINES / "laptop.json", "--prompt", "40")["placement"] == [100, 0, 100, 0, 100, 0]


def test_what_does_not_fit(folder):
    arguments = ["opt-30b", "--machine", T4, "--weight-type", "f16", "--batch", "64", "--placement", "100,0,100,0,100,0"]
    done = run("plan", *arguments, "--json", rc=65)
    found = json.loads(done.stdout)
    assert not found["fits"] and found["refusal"].startswith("device: ") and "error[E-PLACEMENT]: device" in done.stderr
    assert found["nearest"]["placement"][0] < 25
    nearest = ",".join(f"{part:g}" for part in found["nearest"]["placement"])
    again = plan(*arguments[:-1], nearest)
    assert again["fits"] and again["total_tokens_per_second"] == found["nearest"]["total_tokens_per_second"]
    assert "the nearest that fits" in run("plan", *arguments, rc=65).stdout
    small = json.loads(T4.read_text())
    small["host"]["bytes"] = small["device"]["bytes"] = 1e8
    path = folder / "small.json"
    path.write_text(json.dumps(small))
    done = run("plan", "opt-30b", "--machine", path, rc=65)
    assert "does not fit: device" in done.stdout and "the nearest that fits: there is none" in done.stdout
    small["device"]["bytes"], small["host"]["bytes"], small["disk"]["bytes"] = 4e9, 8e9, 40e9
    path.write_text(json.dumps(small))
    fewer = json.loads(run("plan", "opt-30b", "--machine", path, "--batch", "64", "--max-num-seqs", "64", "--json", rc=65).stdout)
    assert fewer["nearest"]["sequences"] == 32 and fewer["refusal"].startswith("nvme: "), fewer
    assert "error[E-PLACEMENT]" in done.stderr, done


def test_refusals(folder):
    broken = folder / "broken.json"
    broken.write_text(T4.read_text().replace('"disk"', '"disc"'))
    for code, status, arguments in (
        ("E-PLACEMENT", 65, ["--placement", "10,20"]),
        ("E-PLACEMENT", 65, ["--placement", "60,50,0,0,100,0"]),
        ("E-PLACEMENT", 65, ["--placement", "1e3,0,0,0,100,0"]),
        ("E-PLACEMENT", 65, ["--placement", "20,80,0,100,0,100"]),
        ("E-USAGE", 64, ["--prompt", "many"]),
        ("E-USAGE", 64, ["--output", "0"]),
        ("E-CONTEXT-LENGTH", 65, ["--prompt", "2048"]),
        ("E-TOO-MANY-RANKS", 64, ["--machine", MACHINES / "a100-8.json", "--ranks", "64"]),
        ("E-MACHINE", 65, ["--machine", broken]),
        ("E-MACHINE", 65, ["--ranks", "2"]),  # without peers
        ("E-FILE-MISSING", 66, ["--machine", folder / "none.json"]),
    ):
        done = run("plan", "opt-30b", "--machine", T4, *arguments, rc=status)
        assert f"error[{code}]" in done.stderr and done.stderr.count("error[") == 1, (arguments, done.stderr)


def test_flexgen_table(folder):
    """The table of configs/machines is what the command says."""
    spec = importlib.util.spec_from_file_location("plan_flexgen", TREE / "tests/bench/plan_flexgen.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = (MACHINES / "README.md").read_text(encoding="utf-8")
    for line in module.table(SPILLWAY, T4):
        assert line in page, f"configs/machines/README.md lacks\n{line}"


# ---- this machine ----

BATCH, CONTEXT, STEPS = 6, 100, 18  # what is read ahead when the counting begins or ends is a step and a half of weights
SHAPE = ["--threads", "1", "--block-size", "4", "--max-num-batched-tokens", "12", "--io", "threads"]


def bench(folder, placement, cache, *more):
    result, summary = folder / "result.json", folder / "summary.json"
    done = run("bench", "decode", "tiny-llama", "--random-weights", *SHAPE, "--batch-size", BATCH, "--random-input-len", CONTEXT, "--num-steps", STEPS,
               "--num-steps-warmup", "4", "--synthetic-kv", "--placement", placement, "--kv-nvme-dir", folder, "--save-result",
               "--result-filename", result, "--summary-json", summary, *more, cache=cache)
    return done, json.loads(result.read_text()), json.loads(summary.read_text())


def machine_test(folder):
    """Bytes a step are those that move; what was measured once is kept; the summary has both."""
    cache = folder / "cache"
    asked = ["tiny-llama", *SHAPE, "--batch", BATCH, "--prompt", CONTEXT, "--output", 2 * STEPS, "--kv-nvme-dir", folder]
    done, _, summary = bench(folder, "100,0,40,0,100,0", cache)
    assert "plan" not in summary and "without a prediction" in done.stderr, done.stderr
    assert "measuring this machine" in run("plan", *asked, cache=cache).stderr
    assert "measuring" not in run("plan", *asked, cache=cache).stderr
    kept = list((cache / "spillway").iterdir())
    assert len(kept) == 1 and json.loads(kept[0].read_text())["disk"]["read_bytes_per_second"] > 0
    assert "error[E-PLACEMENT]: device" in run("plan", *asked, "--memory-limit", "129MiB", rc=65, cache=cache).stderr
    limited = plan(*asked, "--memory-limit", "134MiB", cache=cache)
    assert limited["placement"] != [100, 0, 100, 0, 100, 0] == plan(*asked, "--memory-limit", "1GiB", cache=cache)["placement"]
    for placement in ("100,0,40,0,100,0", "100,0,0,100,100,0", "100,0,20,30,100,0", "40,20,50,0,100,0"):
        planned = plan(*asked, "--placement", placement, cache=cache)
        done, measured, summary = bench(folder, placement, cache)
        assert summary["plan"]["placement"] == planned["placement"] and "tok/s predicted" in done.stderr
        predicted = summary["plan"]["decode_tokens_per_second"]
        assert f"predicted                   {predicted:.2f} tok/s" in done.stdout, done.stdout
        assert summary["plan"]["decode_tokens_per_second"] > 0
        told = sum(planned["tiers"][tier]["kv_read_bytes_a_step"] for tier in ("host", "nvme"))
        moved = sum(measured["tiers"][tier]["read_bytes_a_step"] for tier in ("host", "nvme"))
        assert told > 0 and -0.05 < moved / told - 1 < 0.3, (placement, told, moved)  # staging takes up to a quarter of the device
        told = planned["tiers"]["nvme"]["weights_read_bytes_a_step"]
        moved = measured["weights"]["read_bytes_a_step"]
        assert abs(moved - told) <= 0.2 * told, (placement, told, moved)  # matrices stay whole
        for tier in ("host", "nvme"):
            there = measured["tiers"][tier]["capacity_bytes"]
            assert planned["tiers"][tier]["kv_bytes"] * 0.9 <= there <= planned["tiers"][tier]["kv_bytes"], (placement, tier)
    done, measured, summary = bench(folder, "auto", cache)
    assert summary["plan"]["placement"] == [100, 0, 100, 0, 100, 0] and "placement 100,0,100,0,100,0" in done.stderr
    assert measured["moved_bytes_a_step"] == 0
    hindsight_test(folder, cache)


def hindsight_test(folder, cache):
    """A prediction is made for the longest requests; at the end for those that came."""
    summary = folder / "summary.json"
    (folder / "in.jsonl").write_text("".join(json.dumps({"prompt": "a b c " * 9, "max_tokens": 12, "ignore_eos": True}) + "\n"
                                             for _ in range(5)))
    text = run("batch", MODELS / "llama_text", "-i", folder / "in.jsonl", "-o", folder / "out.jsonl", "--threads", "1", "--placement",
               "auto", "--kv-nvme-dir", folder, "--io", "threads", "--summary-json", summary, cache=cache).stderr
    assert "measuring" not in text and "predicted for these requests" in text and "placement 100,0,100,0,100,0" in text, text
    planned = json.loads(summary.read_text())["plan"]
    came = planned["for_these_requests"]
    assert came["sequences"] == 5 and came["decode_tokens_per_second"] > 0 and planned["decode_tokens_per_second"] > 0
    assert came["seconds"] < planned["seconds"], planned


def placement_of_a_described_device(folder):
    """A file says what the device is: with too little memory for the layers some come from elsewhere, and the logits are the same."""
    machine, summary, tokens, out = folder / "small_device.json", folder / "summary.json", folder / "tokens.json", folder / "out.npy"
    tokens.write_text(json.dumps(list(range(3, 33))))
    words = ["logits", "tiny-llama", "--random-weights", "--backend", "emulated", "--tokens-file", tokens, "--output", out, "--threads", "1",
             "--max-num-batched-tokens", "16", "--max-model-len", "64", "--block-size", "16", "--summary-json", summary]
    run(*words)
    resident, described = out.read_bytes(), json.loads(T4.read_text())
    needed = plan("tiny-llama", "--machine", T4, "--batch", "1", "--prompt", "32", "--output", "32",
                  "--max-num-batched-tokens", "16", "--block-size", "16")["tiers"]["device"]
    described["device"]["bytes"] = 0.8 * needed["needed_bytes"]
    machine.write_text(json.dumps(described))
    run(*words, "--placement", "auto", "--machine", machine, "--kv-nvme-dir", folder)
    found = json.loads(summary.read_text())
    assert out.read_bytes() == resident and found["plan"]["placement"][0] < 100 and found["weights"]["sent_bytes"] > 0, found
    assert "should be false" in run(*words, "--placement", "auto", "--machine", MACHINES / "laptop.json", rc=65).stderr
    assert "--placement" in run(*words, "--machine", machine, rc=64).stderr


def test_placement_of_runs(folder):
    text = ["run", MODELS / "llama_text", "-p", "hello", "-n", "4", "--ignore-eos", "--threads", "1", "--raw", "--quiet"]
    plain = run(*text).stdout
    for placement in ("100,0,50,50,100,0", "0,100,100,0,100,0", "30,30,20,30,100,0", "0,0,0,0,100,0"):
        assert run(*text, "--placement", placement, "--kv-nvme-dir", folder).stdout == plain, placement
    emulated = [*text, "--backend", "emulated"]
    plain = run(*emulated).stdout
    for placement in ("100,0,50,50,100,0", "0,100,100,0,100,0", "30,30,20,30,100,0", "0,0,0,0,100,0"):
        assert run(*emulated, "--placement", placement, "--kv-nvme-dir", folder).stdout == plain, placement
    assert "--machine FILE" in run(*emulated, "--placement", "auto", rc=69).stderr
    placement_of_a_described_device(folder)
    for code, status, arguments in (
        ("E-PLACEMENT", 65, ["--placement", "100,0,0,0,0,100"]),
        ("E-PLACEMENT", 65, ["--placement", "half"]),
        ("E-USAGE", 64, ["--placement", "100,0,50,50,100,0", "--kv-host-size", "1MiB"]),
        ("E-USAGE", 64, ["--placement", "100,0,100,0,100,0", "--weights-host-size", "10%"]),
        ("E-USAGE", 64, ["--placement", "100,0,50,0,100,0"]),  # no folder
        ("E-USAGE", 64, ["--placement", "50,0,100,0,100,0"]),
    ):
        done = run(*text, *arguments, rc=status)
        assert f"error[{code}]" in done.stderr and done.stderr.count("error[") == 1, (arguments, done.stderr)


def ranks_test(folder):
    """Rank 0 chooses, all take the budgets, no bit changes."""
    outputs = []
    for number, placement in enumerate(([], ["--placement", "50,0,30,20,100,0", "--kv-nvme-dir", folder])):
        output = folder / f"{number}.npy"
        run("logits", MODELS / "llama_text", "-p", "hello world, said the bee", "--ranks", "2", "--threads", "1", "--quiet",
            "--block-size", "4", "-b", "4", "--output", output, *placement)
        outputs.append(output.read_bytes())
    assert outputs[0] == outputs[1]
    done = run("logits", MODELS / "llama_text", "-p", "x", "--ranks", "2", "--quiet", "--output", folder / "x.npy", "--placement",
               "100,0,0,0,0,0", rc=65)
    assert done.stderr.count("error[E-PLACEMENT]") == 1, done.stderr


if sys.argv[4:] == ["ranks"] and (not shutil.which("mpirun") or "mpi none" in run("version", "--verbose").stdout):
    sys.exit(77)
of_their_own = {"ranks": ranks_test, "machine": machine_test}
tests = ([of_their_own[name] for name in sys.argv[4:]] or
         [test for name, test in list(globals().items()) if name.startswith("test_")])
for test in tests:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        test(pathlib.Path(name))
print(f"{len(tests)} passed, 0 failed, 0 skipped")
