#!/usr/bin/env python3
"""One measurement of llama.cpp through llama-cpp-python: prefill and batched decode, as one JSON line.

    llama_cpp_round.py MODEL.gguf --threads 2 --batch 8 --prompt 128 --generate 32
"""

import argparse
import ctypes
import json
import time

import llama_cpp as llama


def fill(batch, rows):
    """rows: (token, position, sequence, wants logits)"""
    batch.n_tokens = len(rows)
    for i, (token, position, sequence, logits) in enumerate(rows):
        batch.token[i], batch.pos[i], batch.logits[i] = token, position, logits
        batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence


def decode(context, batch, rows):
    fill(batch, rows)
    if llama.llama_decode(context, batch) != 0:
        raise SystemExit("llama_decode failed")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--generate", type=int, default=32)
    args = parser.parse_args()

    llama.llama_log_set(ctypes.cast(None, llama.llama_log_callback), None)
    llama.llama_backend_init()
    model = llama.llama_model_load_from_file(args.model.encode(), llama.llama_model_default_params())
    params = llama.llama_context_default_params()
    params.n_ctx = args.batch * (args.prompt + args.generate + 8)
    params.n_batch, params.n_ubatch = 512, 512
    params.n_seq_max = args.batch
    params.n_threads = params.n_threads_batch = args.threads
    context = llama.llama_init_from_model(model, params)
    batch = llama.llama_batch_init(max(512, args.batch), 0, 1)

    prompt = [(7919 * s + 104729 * i + 17) % 40000 + 100 for s in range(args.batch) for i in range(args.prompt)]
    rows = [(prompt[s * args.prompt + i], i, s, i == args.prompt - 1) for s in range(args.batch) for i in range(args.prompt)]
    decode(context, batch, rows[:1])  # warm up, then forget it
    llama.llama_memory_clear(llama.llama_get_memory(context), True)

    start = time.perf_counter()
    for first in range(0, len(rows), 512):
        decode(context, batch, rows[first : first + 512])
    llama.llama_synchronize(context)
    prefill = time.perf_counter() - start

    start = time.perf_counter()
    for step in range(args.generate):
        token = 1000 + step
        decode(context, batch, [(token, args.prompt + step, s, True) for s in range(args.batch)])
        llama.llama_synchronize(context)
    seconds = time.perf_counter() - start
    print(json.dumps({"prefill": len(rows) / prefill, "decode": args.batch * args.generate / seconds}))


if __name__ == "__main__":
    main()
