#!/usr/bin/env python3
"""Makes tests/golden/models: tiny random models of every family and shape, and the logits that transformers gives.

    python3 make_models.py [NAME …]     (needs torch, transformers, safetensors, tokenizers and gguf)

Shapes are odd on purpose (9 query and 3 KV heads, 131 words, a head wider than hidden / heads), and the random weights
are large, so that attention is peaked, every bias and norm counts and a wrong detail is loud: for each model
the script also breaks the details that it stands for (window off, RoPE scaling off, biases zero …) and demands that
each break moves the logits by far more than the tolerance of the test.

The oracle runs in float32 on the stored weights, decoded where they are encoded; keys and values are rounded to float16
before attention reads them, as the runtime's cache does, and nothing else is rounded.
"""
import copy
import json
import pathlib
import shutil
import sys

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Q
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModelForCausalLM
from transformers.masking_utils import eager_mask
from transformers.models.llama.modeling_llama import eager_attention_forward, repeat_kv

HERE = pathlib.Path(__file__).parent / "models"
TOKEN_COUNT = 61
VOCAB = 131
LOUD = 0.05  # a broken detail moves some logit by at least this; see test_models.py for the tolerances

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def attention_f16_cache(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    if not hasattr(module, "num_key_value_groups"):  # OPT
        module.num_key_value_groups = 1
    return eager_attention_forward(
        module, query, key.half().float(), value.half().float(), attention_mask, scaling, dropout, **kwargs
    )


AttentionInterface.register("f16_cache", attention_f16_cache)
AttentionMaskInterface.register("f16_cache", eager_mask)


# ---- models ----

BASE = {"vocab_size": VOCAB, "num_hidden_layers": 2, "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2}


def rope(theta=10000.0, **scaling):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta, **scaling}}


def llama(hidden, heads, kv_heads, head_dim, intermediate, **more):
    return {
        "model_type": "llama", **BASE, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "head_dim": head_dim, "intermediate_size": intermediate,
        "rms_norm_eps": 1e-5, **rope(), **more,
    }


def qwen2(hidden, heads, kv_heads, intermediate, **more):
    return {
        "model_type": "qwen2", **BASE, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": intermediate, **rope(1e6), **more,
    }


def opt(hidden, heads, ffn, **more):
    return {
        "model_type": "opt", **BASE, "hidden_size": hidden, "num_attention_heads": heads, "ffn_dim": ffn,
        "bos_token_id": 2, "dropout": 0.0, "activation_function": "relu", **more,
    }


LINEAR = rope(rope_type="linear", factor=4.0)
LLAMA3 = rope(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=64)
NO_SCALING = rope()

# Each row: config; how it is stored; breaks: config overrides, or ("zero" | "one", name part) for tensors.
MODELS = {
    "llama_gqa": dict(config=llama(72, 9, 3, 8, 104), dtype="BF16", breaks=[rope(20000.0)]),
    "llama_wide_heads": dict(config=llama(36, 6, 2, 20, 52, **rope(5e5)), dtype="F32",
                             breaks=[{"rms_norm_eps": 0.1}]),
    "llama_mqa_tied": dict(config=llama(48, 6, 1, 16, 76, tie_word_embeddings=True), dtype="F16"),
    "llama_mha_biases": dict(config=llama(40, 5, 5, 8, 52, attention_bias=True, mlp_bias=True), dtype="F16", shards=3,
                             old_keys=True,
                             breaks=[("zero", "q_proj.bias"), ("zero", "k_proj.bias"), ("zero", "v_proj.bias"),
                                     ("zero", "o_proj.bias"), ("zero", "gate_proj.bias"), ("zero", "up_proj.bias"),
                                     ("zero", "down_proj.bias")]),
    "llama_rope_linear": dict(config=llama(32, 4, 2, 8, 48, **LINEAR), dtype="BF16", breaks=[NO_SCALING]),
    "llama_rope_llama3": dict(config=llama(32, 4, 2, 16, 48, **LLAMA3), dtype="BF16", old_keys=True,
                              breaks=[NO_SCALING, LINEAR]),
    "mistral_window": dict(config={**llama(48, 6, 2, 8, 68), "model_type": "mistral", "sliding_window": 16}, dtype="BF16",
                           breaks=[{"sliding_window": None}, {"sliding_window": 17}, {"sliding_window": 15}]),
    "qwen2_tied": dict(config=qwen2(56, 7, 1, 72, tie_word_embeddings=True), dtype="BF16",
                       breaks=[("zero", "q_proj.bias"), ("zero", "k_proj.bias"), ("zero", "v_proj.bias")]),
    "qwen3": dict(config={**llama(40, 4, 2, 20, 60, **rope(1e6)), "model_type": "qwen3"}, dtype="BF16",
                  breaks=[("one", "q_norm"), ("one", "k_norm")]),
    "opt_pre_norm": dict(config=opt(60, 5, 88), dtype="F16",
                         breaks=[("zero", "fc1.bias"), ("zero", "fc2.bias"), ("zero", "out_proj.bias"),
                                 ("zero", "v_proj.bias"), ("zero", "layer_norm.bias"), ("zero", "embed_positions")]),
    "opt_post_norm": dict(config=opt(44, 4, 64, do_layer_norm_before=False, word_embed_proj_dim=28), dtype="F16",
                          breaks=[{"do_layer_norm_before": True}]),
    "llama_text": dict(config=llama(48, 6, 3, 8, 72, tie_word_embeddings=True, vocab_size=320, num_hidden_layers=2,
                                    max_position_embeddings=512), dtype="BF16", text=True),
    # one file each: GGUF names, q and k rows permuted for interleaved RoPE, encoded weights
    "gguf_llama_f32": dict(config=llama(36, 9, 3, 8, 52), gguf=Q.F32),
    "gguf_llama_f16_tied": dict(config=llama(40, 5, 1, 16, 52, tie_word_embeddings=True), gguf=Q.F16),
    "gguf_llama_bf16_linear": dict(config=llama(32, 4, 2, 8, 48, **LINEAR), gguf=Q.BF16, breaks=[NO_SCALING]),
    "gguf_llama_factors": dict(config=llama(32, 4, 4, 16, 64, **LLAMA3), gguf=Q.Q8_0, breaks=[NO_SCALING]),
    "gguf_llama_q4_0": dict(config=llama(96, 6, 3, 16, 160), gguf=Q.Q4_0),
    "gguf_llama_q4_1": dict(config=llama(96, 6, 2, 16, 160, vocab_size=320, max_position_embeddings=512), gguf=Q.Q4_1,
                            text=True),
    "gguf_llama_q5_0": dict(config=llama(64, 4, 2, 16, 96), gguf=Q.Q5_0),
    "gguf_llama_q5_1": dict(config=llama(64, 2, 1, 32, 96), gguf=Q.Q5_1),
    "gguf_llama_q8_0": dict(config=llama(96, 3, 3, 32, 96, num_hidden_layers=1),
                            gguf=Q.Q8_0),
    "gguf_llama_k_quants": dict(config=llama(256, 4, 1, 32, 256, num_hidden_layers=1), gguf=[Q.Q4_K, Q.Q5_K, Q.Q6_K]),
    "gguf_qwen2": dict(config=qwen2(64, 4, 2, 96), gguf=Q.Q5_0, breaks=[("zero", "k_proj.bias")]),
    "gguf_qwen3": dict(config={**llama(64, 4, 2, 32, 96, **rope(1e6)), "model_type": "qwen3"}, gguf=Q.Q4_1,
                       breaks=[("one", "q_norm"), ("one", "k_norm")]),
}


def random_weights(model, generator):
    """Gains chosen so that attention scores spread over several units and logits over about one."""
    for name, tensor in model.named_parameters():
        noise = torch.randn(tensor.shape, generator=generator)
        if "embed_positions" in name:
            value = 0.5 * noise
        elif "norm" in name and name.endswith("weight"):
            value = 1 + 0.25 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed_tokens" in name:
            value = noise * (1.0 if not model.config.tie_word_embeddings else 0.4)
        elif "q_proj" in name or "k_proj" in name:
            value = 1.6 * noise / tensor.shape[1] ** 0.5
        else:
            value = noise / tensor.shape[1] ** 0.5
        tensor.data.copy_(value)


def build(config):
    config = AutoConfig.for_model(**config)
    config._attn_implementation = "f16_cache"
    return AutoModelForCausalLM.from_config(config, attn_implementation="f16_cache").float().eval()


def logits_of(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].numpy()


def check_breaks(name, row, model, tokens, golden):
    for change in row.get("breaks", []):
        if isinstance(change, dict):
            broken = build({**row["config"], **change})
            broken.load_state_dict(model.state_dict(), strict=False)
        else:
            broken = copy.deepcopy(model)
            found = [t for n, t in broken.named_parameters() if change[1] in n]
            assert found, (name, change)
            for tensor in found:
                tensor.data.fill_(0.0 if change[0] == "zero" else 1.0)
        moved = np.abs(logits_of(broken, tokens) - golden).max()
        assert moved > LOUD, f"{name}: {change} moves the logits by {moved} only"


# ---- Hugging Face folders ----

DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def use_old_keys(config):
    """As files before transformers 5 say it: rope_theta and rope_scaling; what follows from other keys is left out."""
    parameters = config.pop("rope_parameters")
    config["rope_theta"] = parameters.pop("rope_theta")
    config["torch_dtype"] = config.pop("dtype")
    if parameters["rope_type"] != "default":
        config["rope_scaling"] = parameters
    if config["head_dim"] * config["num_attention_heads"] == config["hidden_size"]:
        del config["head_dim"]
    if config["num_key_value_heads"] == config["num_attention_heads"]:
        del config["num_key_value_heads"]


def write_folder(folder, row, model):
    folder.mkdir(parents=True)
    dtype = DTYPES[row["dtype"]]
    config = json.loads(model.config.to_json_string())
    config["architectures"] = [type(model).__name__]
    config["dtype"] = str(dtype).removeprefix("torch.")
    if row.get("old_keys"):
        use_old_keys(config)
    (folder / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    tensors = {n: t.detach().to(dtype).contiguous() for n, t in model.named_parameters()}  # tied ones once
    shard_count = row.get("shards", 1)
    if shard_count == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    index, names = {}, sorted(tensors)
    for shard in range(shard_count):
        file = f"model-{shard + 1:05}-of-{shard_count:05}.safetensors"
        mine = {n: tensors[n] for n in names[shard::shard_count]}
        save_file(mine, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(mine, file))
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(index.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


# ---- a small vocabulary: all bytes, a few merges, ChatML ----

SENTENCES = [
    "The cat sat on the mat and the dog ran after the ball in the park.",
    "Water boils at one hundred degrees; ice melts at zero.",
    "Hello, how are you today? I am fine, thank you.",
    "She said that the answer to the question was not in the book.",
]
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def make_tokenizer():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=SPECIALS, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(SENTENCES * 4, trainer)
    assert tokenizer.get_vocab_size() == 320
    return tokenizer


def write_tokenizer(folder):
    make_tokenizer().save(str(folder / "tokenizer.json"))
    settings = {
        "add_bos_token": False, "bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "chat_template": CHATML,
        "model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": [2, 0]}) + "\n")


def add_gguf_tokenizer(writer):
    model = json.loads(make_tokenizer().to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    kind = [gguf.TokenType.CONTROL if p in SPECIALS else gguf.TokenType.NORMAL for p in pieces]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(pieces)
    writer.add_token_types(kind)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHATML)


# ---- GGUF files ----

GGUF_NAMES = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def gguf_name(name):
    outer = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
             "lm_head.weight": "output.weight"}
    if name in outer:
        return outer[name]
    _, _, layer, middle = name.split(".", 3)
    part, kind = middle.rsplit(".", 1)
    return f"blk.{layer}.{GGUF_NAMES[part]}.{kind}"


def permute(array, heads):
    """Rows of q and k from halves to neighbouring pairs, as llama.cpp's converter does for llama."""
    return array.reshape(heads, 2, array.shape[0] // heads // 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def unpermute(array, heads):
    return array.reshape(heads, array.shape[0] // heads // 2, 2, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def halves(values):
    return values.astype(np.float16).view(np.uint8).reshape(len(values), 2)


def random_k_blocks(kind, rows, columns, spread, rng):
    """Valid random blocks: every bit pattern of codes and sub-scales, block scales so that weights spread as asked."""
    count = rows * columns // 256
    codes = {Q.Q4_K: 128, Q.Q5_K: 160, Q.Q6_K: 192}[kind]
    body = rng.integers(0, 256, (count, codes + (12 if kind != Q.Q6_K else 16)), dtype=np.uint8)
    jitter = rng.uniform(0.7, 1.4, count)
    if kind == Q.Q6_K:  # low bits, high bits, int8 sub-scales, d
        blocks = np.concatenate([body, halves(jitter)], axis=1)
    else:  # d, dmin (so that weights centre on 0), 6-bit sub-scales and minima, codes
        middle = 7.5 if kind == Q.Q4_K else 15.5
        blocks = np.concatenate([halves(jitter), halves(jitter * middle), body], axis=1)
    scale = spread / gguf.quants.dequantize(blocks, kind).std()
    if kind == Q.Q6_K:
        blocks[:, -2:] = halves(jitter * scale)
    else:
        blocks[:, 0:2], blocks[:, 2:4] = halves(jitter * scale), halves(jitter * scale * middle)
    return blocks.reshape(rows, -1)


def encode(array, kind, rng):
    if kind in (Q.Q4_K, Q.Q5_K, Q.Q6_K):
        if array.shape[1] % 256 != 0:
            kind = Q.Q8_0
        else:
            return random_k_blocks(kind, *array.shape, array.std(), rng), kind
    if array.shape[1] % 32 != 0 and kind not in (Q.F32, Q.F16, Q.BF16):
        raise ValueError(f"rows of {array.shape[1]} are no whole blocks")
    return gguf.quants.quantize(np.ascontiguousarray(array), kind), kind


def decode(data, kind):
    return data.astype(np.float32) if kind in (Q.F32, Q.F16) else gguf.quants.dequantize(data, kind)


def add_gguf_config(writer, config):
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_rope_dimension_count(head_dim)
    if head_dim * config.num_attention_heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])


def llama3_factors(config):
    """The factors that llama.cpp's converter writes as rope_freqs.weight; the oracle keeps transformers' own rule."""
    p = config.rope_parameters
    frequencies = p["rope_theta"] ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    lengths = 2 * np.pi / frequencies
    low, high = (p["original_max_position_embeddings"] / p[k] for k in ("low_freq_factor", "high_freq_factor"))
    smooth = (p["original_max_position_embeddings"] / lengths - p["low_freq_factor"]) / (
        p["high_freq_factor"] - p["low_freq_factor"])
    middle = 1 / ((1 - smooth) / p["factor"] + smooth)
    return np.where(lengths < high, 1.0, np.where(lengths > low, p["factor"], middle)).astype(np.float32)


def write_gguf(path, row, model, rng):
    """Writes the encoded weights and puts what they decode to into the model."""
    config = model.config
    is_llama = config.model_type == "llama"
    kinds = row["gguf"] if isinstance(row["gguf"], list) else [row["gguf"]]
    path.parent.mkdir(parents=True)
    writer = gguf.GGUFWriter(path, config.model_type)
    writer.add_name(path.stem)
    add_gguf_config(writer, config)
    if row.get("text"):
        add_gguf_tokenizer(writer)
    if is_llama and config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(config))
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for index, (name, tensor) in enumerate(model.named_parameters()):
        array = tensor.detach().numpy()
        turn = next((heads[part] for part in heads if part in name and is_llama), None)
        if turn:
            array = permute(array, turn)
        if array.ndim == 1:
            writer.add_tensor(gguf_name(name), np.ascontiguousarray(array))
            continue
        data, kind = encode(array, kinds[index % len(kinds)], rng)
        writer.add_tensor(gguf_name(name), data, raw_dtype=kind)
        decoded = decode(data, kind).reshape(array.shape)
        tensor.data.copy_(torch.from_numpy(np.ascontiguousarray(unpermute(decoded, turn) if turn else decoded)))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- all of it ----


def make(name, row, tokens):
    seed = int.from_bytes(name.encode(), "little") % 2**31
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    model = build(row["config"])
    random_weights(model, generator)
    if "gguf" in row:
        write_gguf(folder / f"{name}.gguf", row, model, np.random.default_rng(seed))
    else:
        for tensor in model.parameters():
            tensor.data.copy_(tensor.data.to(DTYPES[row["dtype"]]).float())
        write_folder(folder, row, model)
        if row.get("text"):
            write_tokenizer(folder)
    golden = logits_of(model, tokens)
    assert golden.dtype == np.float32 and np.isfinite(golden).all()
    check_breaks(name, row, model, tokens, golden)
    np.save(folder / "logits.npy", golden)
    size = sum(f.stat().st_size for f in folder.iterdir())
    print(f"{name:24} {size / 1024:7.0f} KiB  logits deviate by {golden.std():.2f}, largest {np.abs(golden).max():.1f}")


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tokens = [int(t) for t in np.random.default_rng(3).integers(3, VOCAB, TOKEN_COUNT)]
    HERE.mkdir(exist_ok=True)
    (HERE / "tokens.json").write_text(json.dumps(tokens) + "\n")
    for name in sys.argv[1:] or MODELS:
        make(name, MODELS[name], tokens)


if __name__ == "__main__":
    main()
