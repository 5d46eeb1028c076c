#!/usr/bin/env python3
"""Makes perplexity.json: how well transformers, in float32, predicts perplexity_text.txt (the GPL-3 up to its section 3).

    python3 make_perplexity.py SmolLM2-135M-Instruct.Q4_1.gguf     (needs torch, transformers and gguf; a minute)

Two models: llama_text of models/ and the real one on its decoded weights, with keys and values rounded to float16 as the runtime's
cache does and nothing else rounded. Windows are cut here the plain way (slices for chunked, the loop of transformers' guide to perplexity for
sliding), one forward pass each; per case the mean loss of the scored tokens, their number, and bits per byte of their text.
"""
import json
import math
import pathlib
import sys

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

import make_models  # registers the attention with float16 keys and values
import make_smollm2

HERE = pathlib.Path(__file__).parent
TEXT = (HERE / "perplexity_text.txt").read_text(encoding="utf-8")
BOS = 1
SMOLLM = pre_tokenizers.Sequence(
    [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])

# model, context, prefix, stride (0: chunked), windows at most (0: all), whether each window begins with BOS
CASES = [
    ("llama_text", 512, 128, 0, 0, False),
    ("llama_text", 100, 99, 0, 0, False),
    ("llama_text", 128, 32, 48, 0, False),
    ("llama_text", 128, 32, 0, 0, True),
    ("llama_text", 128, 32, 48, 9, True),
    ("smollm2", 256, 64, 0, 0, False),
    ("smollm2", 256, 64, 128, 7, False),
    ("smollm2", 64, 48, 0, 3, False),
]


def spans(count, context, prefix, stride):
    """(first, end, first that is scored) of each window, in tokens of the text."""
    if stride == 0:
        for first in range(0, count, context):
            end = min(first + context, count)
            if end - first > prefix:
                yield first, end, first + prefix
        return
    scored = prefix
    end = min(context, count)
    while scored < end:
        yield max(0, end - context), end, scored
        scored, end = end, min(end + stride, count)


def token_losses(model, tokens, head, first, end, scored):
    ids = torch.tensor([head + tokens[first:end]])
    logprobs = torch.log_softmax(model(ids).logits[0].double(), -1)
    return [-logprobs[len(head) + i - first - 1, tokens[i]].item() for i in range(scored, end)]


def byte_counts(tokenizer, tokens):
    """Bytes of each token: byte-level vocabularies write a byte as one letter."""
    counts = [len(piece) for piece in tokenizer.convert_ids_to_tokens(tokens)]
    assert sum(counts) == len(TEXT.encode()), (sum(counts), len(TEXT.encode()))
    return counts


def run_case(model, tokenizer, name, context, prefix, stride, limit, bos):
    tokens = tokenizer.encode(TEXT, add_special_tokens=False)
    head, counts = [BOS] * bos, byte_counts(tokenizer, tokens)
    losses, byte_count = [], 0
    cut = list(spans(len(tokens), context - len(head), prefix - len(head), stride))
    cut = cut[: limit or len(cut)]
    for first, end, scored in cut:
        losses += token_losses(model, tokens, head, first, end, scored)
        byte_count += sum(counts[scored:end])
    loss = math.fsum(losses) / len(losses)
    return {"model": name, "context": context, "prefix": prefix, "stride": stride, "limit": limit, "bos": bos,
            "windows": len(cut), "text_tokens": len(tokens), "tokens": len(losses), "loss": loss,
            "bits_per_byte": loss * len(losses) / math.log(2) / byte_count}


def load_model(name, smollm2):
    if name == "smollm2":
        tokenizer = AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
        tokenizer.backend_tokenizer.pre_tokenizer = SMOLLM  # read from GGUF it would not take digits apart
        model = make_smollm2.load(smollm2)
        model.set_attn_implementation("f16_cache")
        return model, tokenizer
    folder = HERE / "models" / name
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="f16_cache").eval()
    return model, AutoTokenizer.from_pretrained(folder)


def main():
    torch.set_num_threads(2)
    smollm2 = pathlib.Path(sys.argv[1])
    models = {name: load_model(name, smollm2) for name in dict.fromkeys(case[0] for case in CASES)}
    with torch.no_grad():
        results = [run_case(*models[case[0]], *case) for case in CASES]
    for result in results:
        print(result, "perplexity", round(math.exp(result["loss"]), 4))
    (HERE / "perplexity.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
