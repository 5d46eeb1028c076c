#!/usr/bin/env python3
"""SmolLM2-135M-Instruct Q4_1 against transformers in float32 on the same weights (golden/smollm2.npz and .json).

    SPILLWAY_TEST_MODEL=FILE test_smollm2.py SPILLWAY [--isa auto,reference]

Logits of a text: the mean divergence KL(transformers || spillway), over the classes of the golden file, and the share of positions
with the same best token. Greedy answers: the generated tokens and the text, over one and two ranks. Skipped (77) without the model.
"""
import argparse
import hashlib
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile

from golden_files import GOLDEN, load_npy, load_npz

SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

# kernels: largest mean divergence, smallest share of equal best tokens. llama.cpp's divergence on such files is about 0.003.
LIMITS = {"reference": (1e-6, 0.99), "auto": (0.003, 0.93), "avx2": (0.003, 0.93), "avx512": (0.003, 0.93)}


def log_sum_exp(values):
    top = max(values)
    return top + math.log(math.fsum(math.exp(v - top) for v in values))


def divergence(golden, row, vocab, found):
    """KL at one position over the best tokens and one class for all others."""
    _, width, ids = golden["top_ids.npy"]
    expected = golden["top_logprobs.npy"][2][row * width : (row + 1) * width]
    ids = ids[row * width : (row + 1) * width]
    logits = found[row * vocab : (row + 1) * vocab]
    shift = log_sum_exp(logits)
    ours = [logits[i] - shift for i in ids]
    total = math.fsum(math.exp(p) * (p - q) for p, q in zip(expected, ours))
    rest = 1 - math.fsum(map(math.exp, expected))
    our_rest = 1 - math.fsum(map(math.exp, ours))
    return total + (rest * math.log(rest / our_rest) if rest > 1e-9 and our_rest > 0 else 0.0), max(
        range(vocab), key=logits.__getitem__) == ids[0]


def check_logits(spillway, model, golden, isa, scratch):
    """What is wrong; None: nothing."""
    tokens, output = scratch / "tokens.json", scratch / "logits.npy"
    tokens.write_text(json.dumps(list(golden["tokens.npy"][2])))
    done = subprocess.run([spillway, "logits", model, "--tokens-file", str(tokens), "--output", str(output), "--cpu-isa", isa],
                          capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        return f"exit {done.returncode}: {done.stderr.strip()}"
    rows, vocab, found = load_npy(output)
    results = [divergence(golden, row, vocab, found) for row in range(rows)]
    mean = math.fsum(kl for kl, _ in results) / rows
    agreement = sum(same for _, same in results) / rows
    sample, width = golden["sample_ids.npy"][2], golden["sample_logits.npy"][1]
    worst = max(abs(found[row * vocab + token] - golden["sample_logits.npy"][2][row * width + i])
                for row in range(rows) for i, token in enumerate(sample))
    print(f"{isa}: mean KL {mean:.2e} nats over {rows} positions, best token equal in {agreement:.1%}, "
          f"sampled logits within {worst:.3f}")
    if not (mean <= LIMITS[isa][0] and agreement >= LIMITS[isa][1]):
        return f"limits are {LIMITS[isa]}"
    return None


def request(chat, number):
    """Every second one as a chat, the others as the token ids that the chat should become."""
    body = {"temperature": 0, "max_tokens": len(chat["tokens"]), "return_token_ids": True}
    if number % 2 == 0:
        body["messages"] = [{"role": "user", "content": chat["question"]}]
        return {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": body}
    body["prompt"] = chat["prompt"]
    return {"custom_id": str(number), "method": "POST", "url": "/v1/completions", "body": body}


def check_answers(spillway, model, chats, ranks, scratch):
    """Yields what is wrong with each answer; None: nothing."""
    lines = scratch / "in.jsonl"
    out, errors = scratch / f"out{ranks}.jsonl", scratch / f"errors{ranks}.jsonl"
    lines.write_text("".join(json.dumps(request(chat, i)) + "\n" for i, chat in enumerate(chats)), encoding="utf-8")
    done = subprocess.run([spillway, "batch", model, "-i", str(lines), "-o", str(out), "-e", str(errors), "--ranks", str(ranks)],
                          capture_output=True, text=True, errors="replace")
    if done.returncode != 0:
        yield f"{ranks} ranks: exit {done.returncode}: {done.stderr.strip()}"
        return
    answers = {line["custom_id"]: line for line in map(json.loads, out.read_text(encoding="utf-8").splitlines())}
    failures = {line["custom_id"]: line["error"] for line in map(json.loads, errors.read_text().splitlines())}
    for i, chat in enumerate(chats):
        if str(i) not in answers:
            yield f"{ranks} ranks: {chat['question']}: no answer: {failures.get(str(i))}"
            continue
        choice = answers[str(i)]["response"]["body"]["choices"][0]
        text = choice["message"]["content"] if i % 2 == 0 else choice["text"]
        if choice["token_ids"] != chat["tokens"]:
            yield f"{ranks} ranks: {chat['question']}: tokens {choice['token_ids']}, expected {chat['tokens']}"
        elif text != chat["text"]:
            yield f"{ranks} ranks: {chat['question']}: {text!r}, expected {chat['text']!r}"
        else:
            yield None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("spillway")
    parser.add_argument("--isa", default="auto,reference")
    arguments = parser.parse_args()
    model = os.environ.get("SPILLWAY_TEST_MODEL", "")
    if not os.path.exists(model):
        print("SPILLWAY_TEST_MODEL names no file: tests/run.sh fetches the model")
        return 77
    if hashlib.sha256(pathlib.Path(model).read_bytes()).hexdigest() != SHA256:
        print(f"{model} is another file than the one that the golden logits were made of")
        return 77
    golden = load_npz(GOLDEN / "smollm2.npz")
    chats = json.loads((GOLDEN / "smollm2.json").read_text())["chats"]
    problems = []
    with tempfile.TemporaryDirectory() as scratch:
        scratch = pathlib.Path(scratch)
        for isa in arguments.isa.split(","):
            problems.append(check_logits(arguments.spillway, model, golden, isa, scratch))
        for ranks in (1, 2):
            problems += check_answers(arguments.spillway, model, chats, ranks, scratch)
    failed = [problem for problem in problems if problem]
    for problem in failed:
        print("FAILED", problem)
    print(f"{len(problems) - len(failed)} passed, {len(failed)} failed, 0 skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
