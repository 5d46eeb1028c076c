#!/usr/bin/env python3
"""Makes smollm2.npz and smollm2.json: what transformers computes in float32 on the weights of SmolLM2-135M-Instruct.Q4_1.gguf.

    python3 make_smollm2.py SmolLM2-135M-Instruct.Q4_1.gguf     (needs torch, transformers and gguf; a minute)

The weights are decoded to float32, nothing else is rounded. Whole logits would be 50 MB, so per position of a text the file keeps
the TOP best tokens with their log-probabilities (what is left is one class "other": the divergence over these classes
is a lower bound of the whole one, and nearly all of it), and the logits of a fixed sample of tokens from all over the vocabulary.
Beside them: greedy answers to chats, each up to the first token that leads the second best by less than MARGIN, so that
rounding cannot change the text.
"""
import json
import pathlib
import sys

import gguf
import numpy as np
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

HERE = pathlib.Path(__file__).parent
TOP = 128
SAMPLE = 32
ANSWER_TOKENS = 40
MARGIN = 0.25
END = 2  # <|im_end|>

TEXT = """The lighthouse had stood on the northern rocks for a hundred and forty years when the last keeper, Martha Ellison, \
locked its door and walked down to the boat. She did not look back. In her bag were three notebooks, a tin of tea, and \
the brass key of a room that no longer had a lock.

def moving_average(values, window):
    total = 0.0
    result = []
    for i, value in enumerate(values):
        total += value
        if i >= window:
            total -= values[i - window]
        result.append(total / min(i + 1, window))
    return result

Water boils at 100 degrees Celsius at sea level, but on Mount Everest it boils at about 71 degrees. The capital of \
Australia is Canberra, not Sydney. In 1969, Apollo 11 landed on the Moon; 12 people have walked there since.

- Das ist ein kurzer Satz auf Deutsch.
- Ceci est une phrase en français.
- {"name": "test", "values": [1, 2, 3], "ok": true}
"""

CHATS = [
    "What is the capital of France?",
    "Who wrote Romeo and Juliet?",
    "Count from one to ten.",
    "What is the opposite of hot?",
    "Name the planets of the solar system.",
    "Write a haiku about rain.",
    "How many days are in a week?",
    "What is photosynthesis?",
    "Translate 'good morning' to French.",
    "What color is the sky on a clear day?",
    "Tell me a short story about a fox.",
    "What is 2 + 2?",
    "List three fruits.",
    "Who was the first person on the moon?",
    "Explain gravity in one sentence.",
    "What is the largest ocean on Earth?",
    "Spell the word 'cat'.",
    "Give me a synonym for happy.",
]


def unpermute(array, heads):
    """Rows of q and k from neighbouring pairs, as GGUF holds them for llama, back to halves."""
    return array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


NAMES = {
    "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm",
}


def hf_name(name):
    if name in ("token_embd.weight", "output_norm.weight"):
        return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def load(path):
    reader = gguf.GGUFReader(path)
    value = lambda key: reader.fields["llama." + key].contents()
    config = LlamaConfig(
        vocab_size=value("vocab_size"), hidden_size=value("embedding_length"), num_hidden_layers=value("block_count"),
        intermediate_size=value("feed_forward_length"), num_attention_heads=value("attention.head_count"),
        num_key_value_heads=value("attention.head_count_kv"), rms_norm_eps=value("attention.layer_norm_rms_epsilon"),
        max_position_embeddings=value("context_length"), tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": value("rope.freq_base")},
    )
    config._attn_implementation = "eager"
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {}
    for tensor in reader.tensors:
        array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        turn = next((heads[p] for p in heads if f".{p}." in tensor.name), None)
        state[hf_name(tensor.name)] = torch.from_numpy(unpermute(array, turn).copy() if turn else array.copy())
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    missing, unexpected = model.load_state_dict(state, strict=False, assign=True)
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    model.model.rotary_emb = type(model.model.rotary_emb)(config)  # its buffers were meta tensors
    return model.eval()


def greedy(model, prompt):
    """The answer up to its end, a close call or ANSWER_TOKENS."""
    tokens, past, fresh = [], None, prompt
    while len(tokens) < ANSWER_TOKENS and fresh != [END]:
        out = model(torch.tensor([fresh]), past_key_values=past, use_cache=True)
        past = out.past_key_values
        best = torch.topk(out.logits[0, -1], 2)
        if best.values[0] - best.values[1] < MARGIN:
            break
        fresh = [int(best.indices[0])]
        tokens += fresh
    return tokens


def main():
    path = pathlib.Path(sys.argv[1])
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = load(path)
    tokens = tokenizer.encode(TEXT)
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0].double()
        logprobs = torch.log_softmax(logits, -1)
        best = torch.topk(logprobs, TOP)
        sample = np.sort(np.random.default_rng(5).choice(logits.shape[1], SAMPLE, replace=False))
        chats = []
        for question in CHATS:
            rendered = tokenizer.apply_chat_template([{"role": "user", "content": question}], add_generation_prompt=True,
                                                     tokenize=False)
            prompt = tokenizer.encode(rendered, add_special_tokens=False)
            answer = greedy(model, prompt)
            print(f"{len(answer):3} {question} {tokenizer.decode(answer)!r}")
            if len(answer) >= 4:
                chats.append({"question": question, "prompt": prompt, "tokens": answer,
                              "text": tokenizer.decode(answer, skip_special_tokens=True)})
    np.savez_compressed(
        HERE / "smollm2.npz", tokens=np.array(tokens, dtype=np.int32), top_ids=best.indices.numpy().astype(np.uint16),
        top_logprobs=best.values.numpy().astype(np.float32), sample_ids=sample.astype(np.int32),
        sample_logits=logits[:, sample].numpy().astype(np.float32),
    )
    (HERE / "smollm2.json").write_text(json.dumps({"tokens": tokens, "chats": chats}, indent=1) + "\n")
    kept = best.values.exp().sum(-1)
    print(f"{len(tokens)} positions; the best {TOP} hold {kept.mean():.4f} of the mass ({kept.min():.4f} at least); "
          f"{len(chats)} of {len(CHATS)} chats kept; {(HERE / 'smollm2.npz').stat().st_size} bytes")


if __name__ == "__main__":
    main()
