#!/usr/bin/env python3
"""Commands end to end on a tiny model: test_commands.py SPILLWAY GOLDEN_MODELS [ranks | NAME...]

Every test gets an empty folder. The oracle of a batch that is disturbed is the output of one that is not: ids, times and
seeds come from the input, so lines must be equal byte for byte."""

import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

SPILLWAY, MODELS = sys.argv[1], pathlib.Path(sys.argv[2])
MODEL = MODELS / "llama_text"
LIMIT_S = 120
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("SPILLWAY_")}


def start(*arguments, **options):
    options.setdefault("env", ENVIRONMENT)
    return subprocess.Popen([SPILLWAY, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options)


def run(*arguments, rc=0, text=None, **options):
    """stdout, stderr of a command that must end with `rc`."""
    process = start(*arguments, stdin=subprocess.PIPE, **options)
    out, err = process.communicate(text, timeout=LIMIT_S)
    assert process.returncode == rc, f"{arguments}: exit {process.returncode}, expected {rc}\n{err.decode(errors='replace')}"
    return out, err.decode(errors="replace")


def one_error(err, code):
    lines = [line for line in err.splitlines() if "error[" in line]
    assert len(lines) == 1 and f"error[{code}]" in lines[0], err
    return lines[0]


def batch(folder, *more, source="in.jsonl", output="out.jsonl", rc=0, **options):
    return run("batch", MODEL, "-i", folder / source, "-o", folder / output, "--threads", "1", "--quiet", *more, rc=rc,
               **options)


def start_batch(folder, *more):
    return start("batch", MODEL, "-i", folder / "in.jsonl", "-o", folder / "out.jsonl", "--threads", "1", "--quiet", *more,
                 stdin=subprocess.DEVNULL)


def write_lines(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" if not isinstance(line, str) else line + "\n" for line in lines))


def records(path):
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def sampled_lines(count, tokens=24):
    """Sampled and greedy requests of different lengths, with names."""
    return [{"custom_id": f"id {i}", "prompt": "abc " * (1 + i % 5), "max_tokens": tokens + i % 7, "ignore_eos": True,
             "temperature": i % 3 / 2} for i in range(count)]


def sorted_lines(path):
    return sorted(path.read_bytes().splitlines())


# ---- the command line ----


def test_usage(folder):
    out, _ = run("--help")
    assert b"batch status" in out and b"bench throughput" in out
    out, _ = run("version", "--verbose")
    assert b"compiler" in out and b"libraries" in out
    assert run("--version")[0] == run("version")[0]
    assert "did you mean batch?" in one_error(run("bacth", rc=64)[1], "E-USAGE")
    assert "did you mean --max-tokens?" in one_error(run("run", MODEL, "--max-token", "3", rc=64)[1], "E-USAGE")
    assert "needs --prompt" in one_error(run("run", MODEL, rc=64)[1], "E-USAGE")
    one_error(run("run", MODEL, "-p", "x", "--kv-device-size", "64", rc=64)[1], "E-USAGE")
    one_error(run("run", folder / "none", "-p", "x", rc=66)[1], "E-FILE-MISSING")
    one_error(run("run", MODEL, "-p", "x", "--chat-template", "nonsense", rc=65)[1], "E-CHAT-TEMPLATE")
    one_error(run("run", MODEL, "-p", "x", "-n", "100000", rc=65)[1], "E-CONTEXT-LENGTH")
    one_error(run("version", "--config", folder / "none.yaml", rc=66)[1], "E-FILE-MISSING")


def test_configuration(folder):
    config, printed = folder / "a.yaml", folder / "b.yaml"
    config.write_text("max_num_seqs: 9\nseed: 4\nstop: [x]\ninput: other\n")
    environment = {**ENVIRONMENT, "SPILLWAY_SEED": "5", "SPILLWAY_MAX_TOKENS": "11"}
    arguments = ["run", MODEL, "--config", config, "--max-tokens", "12", "--print-config"]
    out, _ = run(*arguments, env=environment)
    text = out.decode()
    for line in (f"max-num-seqs: 9  # config {config}:1", "seed: 5  # env", "max-tokens: 12  # flag", "top-k: 0  # default",
                 'stop: ["x"]  # config'):
        assert line in text, text
    printed.write_bytes(out)
    again = run("run", "--config", printed, "--print-config")[0].decode()
    values = lambda printed_text: [line.split("  # ")[0] for line in printed_text.splitlines()]
    assert values(again) == values(text)
    config.write_text("seed: 1\nmax_num_seq: 9\n")
    line = one_error(run("run", MODEL, "--config", config, "-p", "x", rc=64)[1], "E-CONFIG")
    assert f"{config}:2:1" in line and "did you mean max-num-seqs?" in line


def test_completion(folder):
    for shell in ("bash", "zsh", "fish"):
        out, _ = run("completion", shell)
        assert b"max-model-len" in out and b"batch" in out
    script = run("completion", "bash")[0].decode()
    script += 'COMP_WORDS=(spillway batch --max-m); COMP_CWORD=2; _spillway; echo "${COMPREPLY[@]}"\n'
    script += 'COMP_WORDS=(spillway batch --cpu-isa av); COMP_CWORD=3; _spillway; echo "${COMPREPLY[@]}"\n'
    script += 'COMP_WORDS=(spillway ben); COMP_CWORD=1; _spillway; echo "${COMPREPLY[@]}"\n'
    answer = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True).stdout
    assert answer == "--max-model-len\navx2 avx512\nbench\n", answer


def test_full_output(folder):
    with open("/dev/full", "w") as full:
        process = subprocess.run([SPILLWAY, "completion", "bash"], stdout=full, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.returncode == 74
    one_error(process.stderr.decode(), "E-OUTPUT-WRITE")


def test_doctor(folder):
    checks = json.loads(run("doctor", "--json")[0])
    assert {check["check"] for check in checks} >= {"cpu", "mpi", "memory", "memlock", "numa"}
    assert all(check["verdict"] in ("ok", "warn") for check in checks), checks
    directories = ["--kv-nvme-dir", folder, "--kv-nvme-dir", folder / "none"]
    checks = json.loads(run("doctor", "--json", *directories, rc=69)[0])
    spill, missing = [check for check in checks if check["check"] == "spill files"]
    for part in (str(folder), "direct I/O" if spill["verdict"] == "ok" else "buffered", "depth 32", "16.0 MiB staging registered"):
        assert part in spill["finding"], spill
    assert missing["verdict"] == "fail" and "No such file" in missing["finding"], missing


def test_device_hangs(folder):
    """A rank alone whose device never ends a kernel, or a copy, ends in time, also where it hangs before the model is loaded; with patience for
    ever it would not. And asked to stop it does, at once."""
    if b"emulated" not in run("version", "--verbose")[0]:
        return
    base = ["run", MODEL, "--raw", "-n", "4", "--ignore-eos", "--quiet", "-p", "hello", "--backend", "emulated"]
    loading = r'"loading (memory of )?\S+'
    for fault, where in (("launch:hang:after=60", '"layer"'), ("copy:hang:after=40", '"'), ("copy:hang", loading), ("copy:hang:after=9", loading)):
        begin = time.monotonic()
        _, log = run(*base, "--fault", f"device.{fault}", "--comm-timeout", "2s", rc=76)
        assert re.search(f"emulated:0: no progress for 2 s in {where}", one_error(log, "E-DEVICE-LOST")), log
        assert time.monotonic() - begin < 30
    assert run(*base, "--comm-timeout", "2s")[0]
    for number in (signal.SIGTERM, signal.SIGUSR1):
        process = subprocess.Popen([SPILLWAY, *base, "--fault", "device.copy:hang"], stderr=subprocess.PIPE, env=ENVIRONMENT)
        time.sleep(1)
        process.send_signal(number)
        begin = time.monotonic()
        _, log = process.communicate(timeout=30)
        assert process.returncode == 75 and time.monotonic() - begin < 10, (process.returncode, log)
        one_error(log.decode(), "E-STOPPED")


def test_places(folder):
    """Which NUMA node a rank belongs on, and that it goes there, on a machine that hwloc is told of."""
    if b"emulated" not in run("version", "--verbose")[0]:
        return
    told = {**ENVIRONMENT, "HWLOC_XMLFILE": str(pathlib.Path(__file__).with_name("two_nodes.xml"))}
    device = ["--backend", "emulated", "--emulation-pci", "0000:86:00.0"]

    def places(*more, env=told):
        checks = json.loads(run("doctor", "--json", *more, env=env)[0])
        return [check["finding"] for check in checks if check["check"] == "places"]

    found = "emulated:0 (emulated) at 0000:86:00.0, NUMA node 1, CPUs 1"
    assert places(*device) == [f"rank 0 of a node: {found}"]
    assert places(*device, "--ranks", "2") == [f"rank {rank} of a node: {found}" for rank in range(2)]
    assert places("--backend", "emulated")[0].startswith("no device on the PCI bus")
    base = ["run", MODEL, "--raw", "-n", "4", "--ignore-eos", "-p", "hello", "--temperature", "0"]
    answer, log = run(*base, *device, env=told)
    assert f"rank 0: {found}, not bound: this is a description of another machine" in log, log
    if {0, 1} <= os.sched_getaffinity(0):
        bound, log = run(*base, *device, env={**told, "HWLOC_THISSYSTEM": "1"})
        assert found in log and "threads 1 a rank" in log and bound == answer, log
        assert "--numa none" in run(*base, *device, "--numa", "none", env={**told, "HWLOC_THISSYSTEM": "1"})[1]


def test_backends(folder):
    checks = json.loads(run("doctor", "--json")[0])
    finding = next(check["finding"] for check in checks if check["check"] == "backends")
    base = ["run", MODEL, "--raw", "-n", "4", "--ignore-eos", "--quiet", "-p", "hello", "--temperature", "0"]
    answer = run(*base, "--backend", "cpu")[0]
    if "cuda not: " in finding:
        reason = finding.split("cuda not: ")[1].split(", cpu")[0]
        assert reason in one_error(run(*base, "--backend", "cuda", rc=69)[1], "E-UNAVAILABLE")
        assert run(*base, "--backend", "auto")[0] == answer
    if "emulated" in finding:
        late = [run(*base, "--backend", "emulated", "--emulation-seed", seed)[0] for seed in (1, 2)]
        assert late[0] == late[1] and len(late[0]) > 4
    one_error(run(*base, "--backend", "abacus", rc=64)[1], "E-USAGE")


def test_device_memory(folder):
    """A device with memory of its own: per cent are of that, --memory-limit is of the host, and both are reckoned before any work."""
    if b"emulated" not in run("version", "--verbose")[0]:
        return
    mebibyte, lines = 1 << 20, folder / "in.jsonl"
    lines.write_text("".join(json.dumps({"custom_id": str(i), "prompt": "hello", "max_tokens": 2}) + "\n" for i in range(40)))

    def words(*more):
        return ["batch", MODEL, "--quiet", "-i", lines, "-o", folder / "out.jsonl", "--backend", "emulated", *more]

    def memory_of(*more):
        for file in folder.glob("out*"):
            file.unlink()
        run(*words("--summary-json", folder / "summary.json", *more))
        told = json.loads((folder / "summary.json").read_text())
        return sorted_lines(folder / "out.jsonl"), told["device_memory"], told["tiers"]["device"]["capacity_bytes"], told

    answers = set()
    for size, share in (("128MiB", 0.01), ("256MiB", 0.01), ("128MiB", 0.02)):
        answer, device, capacity, told = memory_of("--emulation-memory", size, "--kv-device-size", f"{share:.0%}")
        assert 0 <= share * device["free_bytes"] - capacity < 64 << 10, (size, share, capacity, device)
        assert device["planned_bytes"] - 72 * mebibyte < device["taken_bytes"] <= device["planned_bytes"], device
        assert told["memory_planned_bytes"] < 80 * mebibyte, told
        answers.add(tuple(answer))
    answer, more, *_ = memory_of("--emulation-memory", "128MiB")
    assert more["planned_bytes"] > device["planned_bytes"] and answers == {tuple(answer)}, (more, device)

    small = ["--emulation-memory", "92MiB"]
    line = one_error(run(*words(*small, "--kv-device-size", "20MiB"), rc=71)[1], "E-DEVICE-MEMORY")
    assert "device emulated:0: rank 0 needs " in line and "KV on the device 3." in line and "are free" in line, line
    fits = re.search(r"--kv-device-size (\d+MiB) fits", line)
    assert fits and memory_of(*small, "--kv-device-size", fits[1])[0] == answer, line
    assert memory_of(*small)[0] == answer
    line = one_error(run(*words("--emulation-memory", "64MiB"), rc=71)[1], "E-DEVICE-MEMORY")
    assert "no --kv-device-size and no --weights-device-size fits" in line, line
    line = one_error(run(*words("--kv-device-size", "20MiB", "--memory-limit", "8MiB"), rc=71)[1], "E-MEMORY")
    assert "program and margin" in line and "KV on the device" not in line and "packed layers" not in line, line
    one_error(run(*words("--emulation-memory", "50%"), rc=64)[1], "E-USAGE")


def test_nccl(folder):
    checks = json.loads(run("doctor", "--json")[0])
    finding = next(check["finding"] for check in checks if check["check"] == "nccl")
    assert re.fullmatch(r"\d+\.\d+\.\d+", finding) or finding.startswith("not here: libnccl.so.2"), finding
    base = ["run", MODEL, "-n", "1", "-p", "hello"]
    run(*base, "--comm", "nccl")  # one rank has nothing to sum
    one_error(run(*base, "--comm", "post", rc=64)[1], "E-USAGE")


# ---- run, chat, logits, bench ----


def test_run(folder):
    base = ["run", MODEL, "--raw", "-n", "12", "--ignore-eos", "--quiet", "--seed", "3"]
    alone, _ = run(*base, "-p", "hello world", "--threads", "1")
    assert alone.endswith(b"\n") and len(alone) > 12
    assert run(*base, "-p", "hello world", "--threads", "2")[0] == alone
    assert run(*base, "-p", "-", "--threads", "1", text=b"hello world")[0] == alone
    assert run(*base, "-p", "hello world", "--threads", "1", "--block-size", "32", "-b", "3")[0] == alone
    assert run(*base, "-p", "hello world", "--threads", "1", "--seed", "4")[0] != alone
    note = run(*base[:-4], "-p", "x", "--dry-run")[1]
    assert "dry run" in note


def test_chat(folder):
    base = ["chat", MODEL, "--chat-template", "chatml", "-n", "6", "--ignore-eos", "--threads", "1", "--quiet"]
    two = run(*base, "--seed", "1", text=b"hello\n\n/clear\nhello\n/exit\nnever\n")[0]
    one = run(*base, "--seed", "1", text=b"hello\n")[0]
    assert two == one + one
    longer = run(*base, "--seed", "1", text=b"hello\nhello\n")[0]
    assert longer.startswith(one) and longer != two


def test_logits(folder):
    tokens = folder / "tokens.json"
    tokens.write_text("[5, 6, 7, 8]")
    run("logits", MODEL, "--tokens-file", tokens, "--output", folder / "a.npy", "--quiet")
    data = (folder / "a.npy").read_bytes()
    assert data[:6] == b"\x93NUMPY" and b"'shape': (4, 320)" in data[:128] and len(data) == 128 + 4 * 320 * 4
    assert all(value == value for value in struct.unpack("<1280f", data[128:]))
    tokens.write_text("[5, 6, 700]")
    one_error(run("logits", MODEL, "--tokens-file", tokens, "--output", folder / "b.npy", "--quiet", rc=65)[1], "E-REQUEST")
    assert not (folder / "b.npy").exists() and not (folder / "b.npy.partial").exists()
    one_error(run("logits", MODEL, "--output", folder / "b.npy", rc=64)[1], "E-USAGE")
    one_error(run("logits", MODEL, "-p", "x", "--output", folder / "no" / "b.npy", "--quiet", rc=73)[1], "E-OUTPUT-CREATE")


def test_bench(folder):
    result = folder / "result.json"
    sizes = ["--random-input-len", "9", "--random-output-len", "5", "--threads", "1", "--quiet", "--save-result",
             "--result-filename", result]
    run("bench", "throughput", MODEL, "--num-prompts", "7", "--max-concurrency", "3", *sizes)
    numbers = json.loads(result.read_text())
    assert (numbers["completed"], numbers["failed"], numbers["total_input"], numbers["total_output"]) == (7, 0, 63, 35)
    for field in ("request_throughput", "output_throughput", "total_token_throughput", "mean_ttft_ms", "p99_itl_ms",
                  "median_tpot_ms", "std_e2el_ms"):
        assert numbers[field] >= 0, field
    split = numbers["split_seconds"]
    parts = sum(split[name] for name in ("matmul", "attention", "collective", "sampling", "other"))
    assert abs(parts - split["prefill"] - split["decode"]) < 1e-6
    assert numbers["limits_bytes_per_second"]["memory_read"] > 1e8
    run("bench", "latency", MODEL, "--batch-size", "2", "--num-iters", "3", *sizes)
    numbers = json.loads(result.read_text())
    assert len(numbers["latencies"]) == 3 and numbers["percentiles"]["50"] > 0


# ---- batch ----


def test_batch_forms(folder):
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    write_lines(folder / "in.jsonl", [
        {"custom_id": "c", "method": "POST", "url": "/v1/chat/completions",
         "body": {**chat, "logprobs": True, "top_logprobs": 2, "return_token_ids": True, "ignore_eos": True}},
        {"custom_id": "t", "method": "POST", "url": "/v1/completions",
         "body": {"prompt": ["a", "b"], "n": 2, "max_tokens": 4, "logprobs": 1, "ignore_eos": True, "model": "m"}},
        {"prompt": [5, 6, 7], "max_tokens": 2, "return_token_ids": True, "ignore_eos": True},
        {"messages": chat["messages"], "max_tokens": 1, "custom_id": "m", "ignore_eos": True},
    ])
    batch(folder, "--chat-template", "chatml", "--summary-json", folder / "s.json")
    answers = {record["custom_id"]: record["response"]["body"] for record in records(folder / "out.jsonl")}
    assert set(answers) == {"c", "t", "line-3", "m"}
    body = answers["c"]
    assert body["object"] == "chat.completion" and body["choices"][0]["message"]["role"] == "assistant"
    content = body["choices"][0]["logprobs"]["content"]
    assert len(content) == 3 and all(len(entry["top_logprobs"]) == 2 for entry in content)
    assert len(body["choices"][0]["token_ids"]) == 3 and len(body["prompt_token_ids"]) == body["usage"]["prompt_tokens"]
    body = answers["t"]
    assert body["model"] == "m" and [choice["index"] for choice in body["choices"]] == [0, 1, 2, 3]
    assert all(len(choice["logprobs"]["tokens"]) == 4 for choice in body["choices"])
    assert body["usage"]["completion_tokens"] == 16 and body["choices"][0]["finish_reason"] == "length"
    body = answers["line-3"]
    assert body["choices"][0]["prompt_token_ids"] == [5, 6, 7] and len(body["choices"][0]["token_ids"]) == 2
    assert (folder / "out.errors.jsonl").read_bytes() == b""
    summary = json.loads((folder / "s.json").read_text())
    assert summary["lines"] == {"ok": 4, "failed": 0, "skipped": 0} and summary["tokens"]["generated"] == 3 + 16 + 2 + 1
    assert summary["tiers"]["device"]["peak_bytes"] > 0


def test_batch_errors(folder):
    text = {"prompt": "a", "max_tokens": 2, "ignore_eos": True}
    write_lines(folder / "in.jsonl", [
        {"custom_id": "a", **text}, "not json", {"custom_id": "a", **text}, "", {"custom_id": "b", **text, "temperature": -1},
        {"custom_id": "c", **text, "max_tokens": 10 ** 6}, {"custom_id": "d", **text}, {"custom_id": "e", "prompt": [400]},
        {"custom_id": "f", **text, "unheard_of": 1}, {"custom_id": "g", **text, "logit_bias": {"400": 1}}])
    batch(folder)
    assert sorted(record["custom_id"] for record in records(folder / "out.jsonl")) == ["a", "d"]
    errors = {record["error"]["line"]: record for record in records(folder / "out.errors.jsonl")}
    told = {line: (record["custom_id"], record["error"]["code"], record["error"]["param"]) for line, record in errors.items()}
    assert told == {
        2: (None, "invalid_json", None), 3: ("a", "duplicate_custom_id", "custom_id"), 4: (None, "invalid_json", None),
        5: ("b", "invalid_value", "temperature"), 6: ("c", "context_length_exceeded", "max_tokens"),
        8: ("e", "invalid_value", "prompt"), 9: ("f", "unsupported_parameter", "unheard_of"),
        10: ("g", "invalid_value", None)}, told
    before = sorted_lines(folder / "out.jsonl"), sorted_lines(folder / "out.errors.jsonl")
    batch(folder)
    assert (sorted_lines(folder / "out.jsonl"), sorted_lines(folder / "out.errors.jsonl")) == before
    one_error(batch(folder, "--fail-on-request-error", rc=1)[1], "E-REQUESTS-FAILED")
    batch(folder, "--retry-errors")
    assert (sorted_lines(folder / "out.jsonl"), sorted_lines(folder / "out.errors.jsonl")) == before
    batch(folder, "--one-file", output="one.jsonl")
    assert sorted_lines(folder / "one.jsonl") == sorted(before[0] + before[1])
    batch(folder, "--one-file", "--retry-errors", output="one.jsonl")
    assert sorted_lines(folder / "one.jsonl") == sorted(before[0] + before[1])
    err = batch(folder, "--no-lenient", output="strict.jsonl", rc=65)[1]
    assert "error[E-BATCH-LINE]" in err and "line 2:" in err and "line 3:" in err and "line 5: temperature" in err and "refused as a whole" in err
    assert not (folder / "strict.jsonl").exists()


def test_batch_lines_format(folder):
    (folder / "in.jsonl").write_bytes(b"one\r\n{two}\n\xff\nlast")
    batch(folder, "--format", "lines", "--max-tokens", "2", "--ignore-eos")
    assert sorted(record["custom_id"] for record in records(folder / "out.jsonl")) == ["line-1", "line-2", "line-4"]
    assert records(folder / "out.errors.jsonl")[0]["error"]["line"] == 3


def test_batch_files(folder):
    write_lines(folder / "in.jsonl", sampled_lines(4, 3))
    one_error(batch(folder, source="none.jsonl", rc=66)[1], "E-FILE-MISSING")
    one_error(batch(folder, source=".", rc=66)[1], "E-FILE-MISSING")
    one_error(batch(folder, output="no/out.jsonl", rc=73)[1], "E-OUTPUT-CREATE")
    one_error(batch(folder, output="in.jsonl", rc=64)[1], "E-USAGE")
    one_error(batch(folder, "-e", folder / "out.jsonl", rc=64)[1], "E-USAGE")
    assert not (folder / "out.jsonl").exists()
    batch(folder, "--dry-run")
    assert not (folder / "out.jsonl").exists()
    (folder / "out.jsonl").write_text('{"custom_id":"x","error":null}\n')
    assert "--resume ids" in one_error(batch(folder, rc=65)[1], "E-BATCH-OUTPUT")
    batch(folder, "--resume", "ids")
    assert len(records(folder / "out.jsonl")) == 5


def test_batch_edited_input(folder):
    lines = sampled_lines(40, 3)
    write_lines(folder / "in.jsonl", lines)
    batch(folder)
    lines[29]["max_tokens"] = 9
    lines.append({"custom_id": "new", "prompt": "x", "max_tokens": 2})
    write_lines(folder / "in.jsonl", lines)
    line = one_error(batch(folder, rc=65)[1], "E-BATCH-OUTPUT")
    first, last = map(int, line.split("lines ")[1].split("(")[0].split(" to "))
    assert first <= 30 <= last < first + 10, line
    batch(folder, "--resume", "ids")
    assert len({record["custom_id"] for record in records(folder / "out.jsonl")}) == 41
    one_error(batch(folder, "--temperature", "0.5", rc=65)[1], "E-BATCH-OUTPUT")


def test_batch_order(folder):
    write_lines(folder / "in.jsonl", sampled_lines(60, 2) + ["broken"])
    batch(folder, "--ordered", "--reorder-window", "5", "--one-file")
    ids = [record["custom_id"] for record in records(folder / "out.jsonl")]
    assert ids == [f"id {i}" for i in range(60)] + [None]


def test_batch_shards(folder):
    """Shards together answer each line once, with the bytes of a run without; broken lines and second uses of a name, too."""
    lines = [*sampled_lines(40, 3), "broken", {"prompt": "unnamed", "max_tokens": 2}, *sampled_lines(2, 3)]
    write_lines(folder / "in.jsonl", lines)
    batch(folder)
    shards = [f"shard{number}.jsonl" for number in (1, 2, 3)]
    counts = []
    for number, name in enumerate(shards, 1):
        batch(folder, "--shard", f"{number}/3", output=name)
        counts.append(json.loads(run("batch", "status", folder / name, "--json")[0])["request_counts"])
    for ending in (".jsonl", ".errors.jsonl"):
        parts = [line for name in shards for line in sorted_lines(folder / name.replace(".jsonl", ending))]
        assert sorted(parts) == sorted_lines(folder / f"out{ending}"), ending
    assert all(count["total"] == count["completed"] + count["failed"] > 5 for count in counts), counts
    assert sum(count["total"] for count in counts) == len(lines), counts
    line = one_error(batch(folder, "--shard", "2/3", output=shards[0], rc=65)[1], "E-BATCH-OUTPUT")
    assert "--shard 1/3, now it is 2/3" in line, line
    line = one_error(batch(folder, output=shards[0], rc=65)[1], "E-BATCH-OUTPUT")
    assert "now it is 1/1" in line, line
    for wrong in ("0/3", "4/3", "1", "1/", "1/3x", "-1/3", " 1/3", "1/0", "1/1000001"):
        one_error(batch(folder, "--shard", wrong, output="no.jsonl", rc=64)[1], "E-USAGE")


def test_batch_repeats(folder):
    """Neighbours, threads, block sizes and chunks do not show in a byte."""
    write_lines(folder / "in.jsonl", sampled_lines(30, 8))
    batch(folder)
    for number, more in enumerate((["--max-num-seqs", "3"], ["-b", "7", "--threads", "2"], ["--block-size", "32"])):
        name = f"again{number}.jsonl"
        batch(folder, *more, output=name)
        assert sorted_lines(folder / name) == sorted_lines(folder / "out.jsonl"), more


def test_status(folder):
    write_lines(folder / "in.jsonl", sampled_lines(3, 2) + ["broken"])
    one_error(run("batch", "status", folder / "out.jsonl", rc=66)[1], "E-FILE-MISSING")
    batch(folder)
    text = run("batch", "status", folder / "out.jsonl")[0].decode().split()
    assert text == "status completed total 4 completed 3 failed 1 remaining 0".split()
    report = json.loads(run("batch", "status", folder / "out.jsonl", "--json")[0])
    assert report["request_counts"] == {"total": 4, "completed": 3, "failed": 1}
    assert report["status"] == "completed" and report["running"] is False


def wait_for_lines(path, count, process):
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if path.exists() and path.read_bytes().count(b"\n") >= count:
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.005)
    raise AssertionError("no progress")


SLOW = ["--max-num-seqs", "1"]


def clean_run(folder, lines):
    clean = folder / "clean"
    clean.mkdir()
    write_lines(folder / "in.jsonl", lines)
    shutil.copy2(folder / "in.jsonl", clean / "in.jsonl")
    batch(clean)
    return sorted_lines(clean / "out.jsonl"), sorted_lines(clean / "out.errors.jsonl")


def test_killed(folder):
    """SIGKILL at random moments until the job is through: what is there is always whole lines of the clean run and at most
    one torn tail, and in the end the same lines."""
    lines = sampled_lines(500, 40) + ["broken", {"custom_id": "id 3", "prompt": "again"}]
    answers, failures = clean_run(folder, lines)
    output = folder / "out.jsonl"
    generator = random.Random(7)
    kills = 0
    while True:
        process = start_batch(folder, *SLOW)
        target = (output.read_bytes().count(b"\n") if output.exists() else 0) + generator.randrange(30, 80)
        try:
            while process.poll() is None and (not output.exists() or output.read_bytes().count(b"\n") < target):
                time.sleep(0.002)
            time.sleep(generator.random() * 0.02)
        finally:
            process.kill()
            process.communicate()
        whole, torn = output.read_bytes().rpartition(b"\n")[::2] if output.exists() else (b"", b"")
        there = whole.split(b"\n") if whole else []
        assert len(there) == len(set(there)) and set(there) <= set(answers)
        assert not torn or any(answer.startswith(torn) for answer in answers)
        if process.returncode == 0:
            break
        kills += 1
        if kills % 4 == 0 and whole:
            with open(output, "ab") as file:  # a crash may also leave half a line
                file.write(answers[0][: generator.randrange(1, 60)])
    assert kills >= 5, kills
    assert sorted_lines(output) == answers and sorted_lines(folder / "out.errors.jsonl") == failures


def test_stopped(folder):
    lines = sampled_lines(300, 60)
    answers, _ = clean_run(folder, lines)
    output = folder / "out.jsonl"
    for name in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT):
        before = output.read_bytes().count(b"\n") if output.exists() else 0
        process = start_batch(folder, *SLOW)
        wait_for_lines(output, before + 5, process)
        begin = time.monotonic()
        process.send_signal(name)
        err = process.communicate(timeout=LIMIT_S)[1].decode()
        assert process.returncode == 75, (name, process.returncode, err)
        assert time.monotonic() - begin < 20
        assert "same command" in one_error(err, "E-STOPPED")
        assert output.read_bytes().endswith(b"\n")
    assert b"remaining" in run("batch", "status", output)[0]
    batch(folder)
    assert sorted_lines(output) == answers


def test_locked(folder):
    write_lines(folder / "in.jsonl", sampled_lines(200, 60))
    process = start_batch(folder, *SLOW)
    try:
        wait_for_lines(folder / "out.jsonl", 1, process)
        line = one_error(batch(folder, rc=73)[1], "E-BATCH-LOCKED")
        assert f"{process.pid}@" in line
        report = json.loads(run("batch", "status", folder / "out.jsonl", "--json")[0])
        assert report["running"] is True and report["status"] == "in_progress"
    finally:
        process.kill()
        process.communicate()


def test_disk_full(folder):
    """A limit on file size is a disk that is full in the middle of a line."""
    lines = sampled_lines(60)
    answers, _ = clean_run(folder, lines)
    limit = sum(map(len, answers)) // 2
    set_limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    line = one_error(batch(folder, rc=74, preexec_fn=set_limit)[1], "E-OUTPUT-WRITE")
    safe = int(line.split("first ")[1].split(" lines")[0])
    whole = (folder / "out.jsonl").read_bytes()
    assert whole.endswith(b"\n") and whole.count(b"\n") == safe > 0
    batch(folder)
    assert sorted_lines(folder / "out.jsonl") == answers


# ---- on two ranks: the program starts mpirun by itself ----


def ranks_sum_on_devices(folder):
    """Which way activations are summed: refused, or told at the start; the answers are equal."""
    base = ["run", MODEL, "--raw", "-n", "4", "--ignore-eos", "-p", "hello", "--temperature", "0", "--ranks", "2"]
    refusal = one_error(run(*base, "--backend", "cpu", "--comm", "nccl", rc=69)[1], "E-UNAVAILABLE")
    assert "--comm nccl: rank 0: its device has no collectives" in refusal, refusal
    if b"emulated" not in run("version", "--verbose")[0]:
        return
    ways = {"nccl": "on the devices, by the twin of NCCL", "auto": "through host memory: rank 0: an emulated device"}
    answers = set()
    for way, told in ways.items():
        answer, log = run(*base, "--backend", "emulated", "--comm", way)
        assert f"sums over ranks: {told}" in log, log
        answers.add(answer)
    assert len(answers) == 1, answers


def ranks_same_answers(folder):
    lines = sampled_lines(40, 8) + ["broken"]
    answers, failures = clean_run(folder, lines)
    batch(folder, "--ranks", "2")
    texts = lambda path: {record["custom_id"]: len(record["response"]["body"]["choices"][0]["text"])
                          for record in records(path)}
    assert texts(folder / "out.jsonl").keys() == texts(folder / "clean" / "out.jsonl").keys()
    assert sorted_lines(folder / "out.errors.jsonl") == failures
    batch(folder, "--ranks", "2", output="again.jsonl")
    assert sorted_lines(folder / "again.jsonl") == sorted_lines(folder / "out.jsonl")


def ranks_stopped(folder):
    """A signal to the launcher stops both ranks at the same step; the same command goes on."""
    write_lines(folder / "in.jsonl", sampled_lines(300, 60))
    output = folder / "out.jsonl"
    for name in (signal.SIGTERM, signal.SIGUSR1):
        before = output.read_bytes().count(b"\n") if output.exists() else 0
        process = start_batch(folder, "--ranks", "2", *SLOW)
        wait_for_lines(output, before + 5, process)
        process.send_signal(name)
        err = process.communicate(timeout=LIMIT_S)[1].decode()
        assert process.returncode == 75, (name, process.returncode, err)
        ids = [record["custom_id"] for record in records(output)]
        assert len(ids) == len(set(ids)) and output.read_bytes().endswith(b"\n")
    batch(folder, "--ranks", "2")
    assert sorted(record["custom_id"] for record in records(output)) == sorted(f"id {i}" for i in range(300))


def ranks_failures(folder):
    """What fails on rank 0 alone ends both, with its own code and one line."""
    write_lines(folder / "in.jsonl", sampled_lines(3, 2))
    one_error(batch(folder, "--ranks", "2", source="none.jsonl", rc=66)[1], "E-FILE-MISSING")
    one_error(run("run", MODEL, "--ranks", "2", "-p", "x", "-n", "100000", "--quiet", rc=65)[1], "E-CONTEXT-LENGTH")


def ranks_input(folder):
    base = ["run", MODEL, "--raw", "-n", "12", "--ignore-eos", "--quiet", "--ranks", "2"]
    assert run(*base, "-p", "-", text=b"hello world")[0] == run(*base, "-p", "hello world")[0]
    base = ["chat", MODEL, "--chat-template", "chatml", "-n", "6", "--ignore-eos", "--quiet", "--ranks", "2"]
    assert run(*base, text=b"hello\n/clear\nhello\n")[0] == run(*base, text=b"hello\n")[0] * 2


def main(module):
    wanted = sys.argv[3:]
    prefix = "ranks_" if wanted == ["ranks"] else "test_"
    if prefix == "ranks_" and not shutil.which("mpirun"):
        print("0 passed, 0 failed, 1 skipped")
        return 77
    tests = {name: test for name, test in module.items()
             if name in wanted or (name.startswith(prefix) and wanted in ([], ["ranks"]))}
    failed = []
    for name, test in tests.items():
        folder = pathlib.Path(tempfile.mkdtemp(prefix="spillway_commands_"))
        begin = time.monotonic()
        try:
            test(folder)
        except Exception as problem:  # an assertion, a timeout, a record that is no JSON
            failed.append(name)
            print(f"{name}: {type(problem).__name__}: {problem}")
        else:
            print(f"{name}: {time.monotonic() - begin:.1f} s")
        finally:
            shutil.rmtree(folder)
    print(f"{len(tests) - len(failed)} passed, {len(failed)} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(globals()))
