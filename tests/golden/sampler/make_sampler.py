#!/usr/bin/env python3
"""Makes sampler.json: what the sampler must choose, from torch and plain sorting in float64.

An independent reading of runtime/engine/sampler.h: full sorts, no shortcuts. Draws that fall within 1e-5 of a
boundary are left out, so that float32 weights cannot decide a case.

    python3 make_sampler.py        (needs numpy and torch; writes beside itself)
"""
import json
import pathlib

import numpy as np
import torch

MASK = 0xFFFFFFFF


def philox4x32_10(counter, key):
    """Salmon et al., SC 2011."""
    c, k = list(counter), list(key)
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 32) ^ c[3] ^ k[1], p0 & MASK]
        k = [(k[0] + 0x9E3779B9) & MASK, (k[1] + 0xBB67AE85) & MASK]
    return c


# known answers of the Random123 distribution
assert philox4x32_10([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
assert philox4x32_10([MASK] * 4, [MASK] * 2) == [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]


def unit(seed, index):
    out = philox4x32_10([0, 0, index & MASK, index >> 32], [seed & MASK, seed >> 32])
    return (((out[1] << 32) | out[0]) >> 11) * 2.0**-53


def ranked(logits):
    """Ids, best first; ties to the lower id."""
    return sorted(range(len(logits)), key=lambda i: (-logits[i], i))


def adjusted(case):
    logits = np.array(case["logits"], dtype=np.float32).astype(np.float64)
    for token, bias in case["biases"]:
        logits[token] += np.float32(bias)
    if case["repetition_penalty"] != 1:
        for token in set(case["prompt"]) | set(case["generated"]):
            factor = np.float64(np.float32(case["repetition_penalty"]))
            logits[token] = logits[token] / factor if logits[token] > 0 else logits[token] * factor
    for token in set(case["generated"]):
        logits[token] -= case["presence_penalty"]
        logits[token] -= case["frequency_penalty"] * case["generated"].count(token)
    for token in case["banned"]:
        logits[token] = -np.inf
    return logits


def choose(case):
    """The token, and how close the draw was to choosing another."""
    logits = adjusted(case)
    order = ranked(logits)
    if case["temperature"] == 0:
        return order[0], min(1.0, logits[order[0]] - logits[order[1]]) if len(order) > 1 else 1.0
    scaled = torch.tensor(logits / np.float64(np.float32(case["temperature"])))
    kept = order[: case["top_k"]] if case["top_k"] > 0 else order
    masked = torch.full_like(scaled, -torch.inf)
    masked[kept] = scaled[kept]
    probabilities = torch.softmax(masked, 0).numpy()
    margin = 1.0
    if case["top_p"] < 1:
        total, nucleus = 0.0, []
        for token in kept:
            nucleus.append(token)
            total += probabilities[token]
            margin = min(margin, abs(total - np.float32(case["top_p"])))
            if total >= np.float32(case["top_p"]):
                break
        kept = nucleus
    if case["min_p"] > 0:
        bound = np.float64(np.float32(case["min_p"])) * probabilities[kept[0]]
        margin = min([margin] + [abs(probabilities[t] - bound) for t in kept])
        kept = [t for t in kept if probabilities[t] >= bound]
    kept = sorted(kept)
    steps = np.cumsum(probabilities[kept]) / probabilities[kept].sum()
    u = unit(case["seed"], len(case["generated"]))
    margin = min(margin, np.abs(steps[:-1] - u).min() if len(kept) > 1 else 1.0)
    return kept[int(np.searchsorted(steps, u, side="right"))], margin


def random_case(rng, name):
    vocab = int(rng.choice([1, 2, 3, 17, 63, 64, 65, 131, 200]))
    spread = float(rng.choice([0.5, 2, 6]))
    pick = lambda *values: values[rng.integers(len(values))]
    tokens = lambda most: [int(t) for t in rng.integers(0, vocab, rng.integers(0, most + 1))]
    logits = np.round(rng.normal(0, spread, vocab), int(pick(1, 4))).astype(np.float32)
    if vocab > 16 and rng.random() < 0.2:
        logits[rng.integers(0, vocab, 3)] = -np.inf
    return {
        "name": name,
        "logits": [float(str(x)) for x in logits],  # short decimals, exact as float32
        "temperature": pick(0.0, 0.3, 0.7, 1.0, 1.0, 1.7),
        "top_k": int(pick(0, 0, 1, 2, 5, 40, 1000)),
        "top_p": pick(1.0, 1.0, 0.1, 0.5, 0.9, 0.95),
        "min_p": pick(0.0, 0.0, 0.02, 0.2),
        "presence_penalty": pick(0.0, 0.0, 0.5, -1.0),
        "frequency_penalty": pick(0.0, 0.0, 0.25, -0.5),
        "repetition_penalty": pick(1.0, 1.0, 1.25, 0.8),
        "seed": int(rng.integers(0, 2**63)),
        "biases": [[t, float(pick(-3.0, 2.5, -100.0))] for t in sorted(set(tokens(2)))],
        "banned": tokens(1) if vocab > 16 else [],
        "prompt": tokens(6),
        "generated": tokens(6),
        "top_logprobs": int(pick(0, 1, 5, 20)),
    }


def finish(case):
    token, margin = choose(case)
    logprobs = torch.log_softmax(torch.tensor(case["logits"], dtype=torch.float64), 0).tolist()
    case["logits"] = [x if np.isfinite(x) else None for x in case["logits"]]
    case["token"] = int(token)
    case["logprob"] = logprobs[token]
    order = ranked([x if x is not None else -np.inf for x in case["logits"]])
    top = [t for t in order[: case["top_logprobs"]]]
    case["top"] = [[t, logprobs[t] if np.isfinite(logprobs[t]) else None] for t in top]
    return margin


def main():
    rng = np.random.default_rng(20261123)
    cases = []
    while len(cases) < 300:
        case = random_case(rng, f"case {len(cases)}")
        margin = finish(case)
        exact = case["temperature"] == 0 and margin == 0  # a tie: decided by ids, not by rounding
        if margin > 1e-5 or (exact and case["repetition_penalty"] == 1):
            cases.append(case)
    path = pathlib.Path(__file__).with_name("sampler.json")
    lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    path.write_text(f"[\n{lines}\n]\n")
    print(f"{len(cases)} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
