#!/usr/bin/env python3
"""Configurations that this program would compute wrongly are refused by name, and those that say the same in other words are
taken: each row changes a golden model's config.json or GGUF metadata.

    test_refusals.py SPILLWAY
"""
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

from golden_files import MODELS, model_path

DELETE = object()
UNSUPPORTED, TENSOR, CONFIG, GGUF = "E-MODEL-UNSUPPORTED", "E-TENSOR", "E-HF-CONFIG", "E-GGUF"

# model, changes, error code, what its line must name
REFUSED = [
    ("llama_text", {"hidden_act": "gelu"}, UNSUPPORTED, "hidden_act"),
    ("llama_text", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}}, UNSUPPORTED, "rope_type"),
    ("llama_text", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}}, UNSUPPORTED, "rope_type"),
    ("llama_text", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, UNSUPPORTED, "factor"),
    ("llama_text", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": -1}}, UNSUPPORTED, "factor"),
    ("llama_text", {"rope_parameters": {"rope_type": "default", "rope_theta": 0}}, UNSUPPORTED, "rope_theta"),
    ("llama_text", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
     UNSUPPORTED, "partial_rotary_factor"),
    ("llama_text", {"rope_scaling": {"type": "longrope", "short_factor": [1.0], "long_factor": [2.0]},
                    "rope_parameters": DELETE}, UNSUPPORTED, "rope_scaling"),
    ("llama_rope_llama3", {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, UNSUPPORTED, "rope_scaling"),
    ("llama_text", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, UNSUPPORTED, "quantization_config"),
    ("llama_text", {"num_local_experts": 8}, UNSUPPORTED, "num_local_experts"),
    ("llama_text", {"residual_multiplier": 0.22}, UNSUPPORTED, "residual_multiplier"),
    ("llama_text", {"logits_scaling": 8.0}, UNSUPPORTED, "logits_scaling"),
    ("llama_text", {"attn_logit_softcapping": 50.0}, UNSUPPORTED, "attn_logit_softcapping"),
    ("llama_text", {"a_key_of_next_year": 1}, UNSUPPORTED, "a_key_of_next_year"),
    ("llama_text", {"architectures": ["LlamaForSequenceClassification"]}, UNSUPPORTED, "LlamaForSequenceClassification"),
    ("llama_text", {"architectures": ["GemmaForCausalLM"]}, UNSUPPORTED, "GemmaForCausalLM"),
    ("llama_text", {"architectures": []}, CONFIG, "architectures"),
    ("llama_text", {"architectures": DELETE}, CONFIG, "architectures"),
    ("llama_text", {"num_hidden_layers": DELETE}, CONFIG, "num_hidden_layers"),
    ("llama_text", {"num_hidden_layers": 0}, UNSUPPORTED, "layer"),
    ("llama_text", {"num_hidden_layers": 3}, TENSOR, "layers.2"),
    ("llama_text", {"num_hidden_layers": 1}, UNSUPPORTED, "layers.1"),
    ("llama_text", {"num_hidden_layers": "two"}, CONFIG, "num_hidden_layers"),
    ("llama_text", {"num_attention_heads": 0}, UNSUPPORTED, "num_attention_heads"),
    ("llama_text", {"num_key_value_heads": 4}, UNSUPPORTED, "KV heads"),
    ("llama_text", {"num_key_value_heads": 0}, UNSUPPORTED, "KV heads"),
    ("llama_text", {"head_dim": 16}, TENSOR, "q_proj"),
    ("llama_text", {"hidden_size": 96}, TENSOR, "shape"),
    ("llama_text", {"vocab_size": 321}, TENSOR, "embed_tokens"),
    ("llama_text", {"tie_word_embeddings": False}, TENSOR, "lm_head"),
    ("llama_text", {"attention_bias": True}, TENSOR, "bias"),
    ("llama_mha_biases", {"attention_bias": False}, UNSUPPORTED, "bias"),
    ("llama_mha_biases", {"mlp_bias": False}, UNSUPPORTED, "bias"),
    ("qwen2_tied", {"attention_bias": True}, UNSUPPORTED, "attention_bias"),
    ("qwen2_tied", {"architectures": ["LlamaForCausalLM"]}, UNSUPPORTED, "bias"),
    ("llama_text", {"architectures": ["Qwen2ForCausalLM"]}, TENSOR, "bias"),
    ("llama_text", {"rms_norm_eps": -1.0}, UNSUPPORTED, "epsilon"),
    ("qwen2_tied", {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}, UNSUPPORTED, "use_sliding_window"),
    ("qwen2_tied", {"layer_types": ["full_attention", "sliding_attention"]}, UNSUPPORTED, "layer_types"),
    ("qwen3", {"layer_types": ["full_attention", "linear_attention"]}, UNSUPPORTED, "layer_types"),
    ("opt_pre_norm", {"activation_function": "gelu"}, UNSUPPORTED, "activation_function"),
    ("opt_pre_norm", {"enable_bias": False}, UNSUPPORTED, "enable_bias"),
    ("opt_pre_norm", {"layer_norm_elementwise_affine": False}, UNSUPPORTED, "layer_norm_elementwise_affine"),
    ("opt_pre_norm", {"_remove_final_layer_norm": True}, UNSUPPORTED, "_remove_final_layer_norm"),
    ("opt_pre_norm", {"num_attention_heads": 7}, UNSUPPORTED, "head"),
    ("opt_pre_norm", {"word_embed_proj_dim": 30}, TENSOR, "embed_tokens"),
    ("gguf_llama_q4_0", {"general.architecture": "falcon"}, UNSUPPORTED, "falcon"),
    ("gguf_llama_q4_0", {"llama.rope.scaling.type": "yarn"}, UNSUPPORTED, "llama.rope.scaling.type"),
    ("gguf_llama_q4_0", {"llama.expert_count": 8}, UNSUPPORTED, "llama.expert_count"),
    ("gguf_llama_q4_0", {"llama.attention.clamp_kqv": 8.0}, UNSUPPORTED, "llama.attention.clamp_kqv"),
    ("gguf_llama_q4_0", {"llama.attention.scale": 0.5}, UNSUPPORTED, "llama.attention.scale"),
    ("gguf_llama_q4_0", {"llama.logit_scale": 2.0}, UNSUPPORTED, "llama.logit_scale"),
    ("gguf_llama_q4_0", {"llama.tensor_data_layout": "Meta AI original pth"}, UNSUPPORTED, "llama.tensor_data_layout"),
    ("gguf_llama_q4_0", {"llama.rope.dimension_count": 7}, UNSUPPORTED, "rotary"),
    ("gguf_llama_q4_0", {"llama.attention.value_length": 8, "llama.attention.key_length": 16}, UNSUPPORTED, "value_length"),
    ("gguf_llama_q4_0", {"llama.block_count": DELETE}, GGUF, "llama.block_count"),
    ("gguf_llama_q4_0", {"llama.block_count": 3}, TENSOR, "blk.2"),
    ("gguf_llama_q4_0", {"llama.attention.head_count_kv": 4}, UNSUPPORTED, "KV heads"),
]

# model, changes: the same logits as without them
TAKEN = [
    ("llama_text", {"use_cache": False, "torch_dtype": "bfloat16", "dtype": DELETE}),
    ("llama_text", {"rope_parameters": DELETE, "rope_theta": 10000.0, "rope_scaling": None}),
    ("llama_text", {"head_dim": DELETE, "pretraining_tp": DELETE, "mlp_bias": DELETE, "attention_bias": DELETE}),
    ("llama_text", {"sliding_window": None}),
    ("llama_rope_linear", {"rope_parameters": DELETE, "rope_theta": 10000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}),
    ("qwen2_tied", {"layer_types": DELETE, "max_window_layers": DELETE, "sliding_window": 4096}),
    ("opt_pre_norm", {"word_embed_proj_dim": 60, "layerdrop": 0.1, "attention_dropout": 0.1}),
    ("gguf_llama_q4_0", {"general.file_type": 2, "general.quantization_version": 2}),
    ("gguf_llama_q4_0", {"llama.rope.scaling.type": "none"}),
]


def patch_folder(source, target, changes):
    target.mkdir()
    for file in source.iterdir():
        if file.name != "config.json":
            os.symlink(file, target / file.name)
    config = json.loads((source / "config.json").read_text())
    for key, value in changes.items():
        if value is DELETE:
            config.pop(key, None)
        else:
            config[key] = value
    (target / "config.json").write_text(json.dumps(config))
    return target


SCALAR_BYTES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
U32, F32, STRING, ARRAY, ALIGNMENT = 4, 6, 8, 9, 32


def skip_value(data, at, kind):
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", data, at)[0]
    if kind == ARRAY:
        element, count = struct.unpack_from("<IQ", data, at)
        at += 12
        for _ in range(count):
            at = skip_value(data, at, element)
        return at
    return at + SCALAR_BYTES[kind]


def gguf_string(text):
    return struct.pack("<Q", len(text.encode())) + text.encode()


def gguf_pair(key, value):
    if isinstance(value, str):
        return gguf_string(key) + struct.pack("<I", STRING) + gguf_string(value)
    if isinstance(value, float):
        return gguf_string(key) + struct.pack("<If", F32, value)
    return gguf_string(key) + struct.pack("<II", U32, value)


def patch_gguf(source, target, changes):
    """Rewrites the metadata; tensor infos and data follow as they were, aligned again."""
    data = source.read_bytes()
    magic, version, tensor_count, pair_count = struct.unpack_from("<4sIQQ", data)
    at, pairs = 24, {}
    for _ in range(pair_count):
        begin = at
        (length,) = struct.unpack_from("<Q", data, at)
        key = data[at + 8 : at + 8 + length].decode()
        (kind,) = struct.unpack_from("<I", data, at + 8 + length)
        at = skip_value(data, at + 12 + length, kind)
        pairs[key] = data[begin:at]
    infos = at
    for _ in range(tensor_count):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
        at += 4 + 8 * struct.unpack_from("<I", data, at)[0] + 4 + 8
    for key, value in changes.items():
        pairs.pop(key, None)
        if value is not DELETE:
            pairs[key] = gguf_pair(key, value)
    head = struct.pack("<4sIQQ", magic, version, tensor_count, len(pairs)) + b"".join(pairs.values()) + data[infos:at]
    padding = lambda size: b"\0" * (-size % ALIGNMENT)
    target.write_bytes(head + padding(len(head)) + data[at + len(padding(at)) :])
    return target


class Driver:
    def __init__(self, spillway, scratch):
        self.spillway = spillway
        self.scratch = pathlib.Path(scratch)
        self.passed = self.failed = 0

    def patched(self, name, changes):
        source, target = model_path(name), self.scratch / "model"
        shutil.rmtree(target, ignore_errors=True)
        target.unlink(missing_ok=True) if target.is_file() else None
        return (patch_folder if source.is_dir() else patch_gguf)(source, target, changes)

    def logits(self, path):
        output = self.scratch / "logits.npy"
        output.unlink(missing_ok=True)
        done = subprocess.run([self.spillway, "logits", str(path), "--tokens-file", str(MODELS / "tokens.json"), "--output",
                               str(output), "--threads", "1"], capture_output=True, text=True, errors="replace", timeout=60)
        return done, output.read_bytes() if output.exists() else None

    def count(self, name, changes, problem):
        if problem:
            shown = {k: "deleted" if v is DELETE else v for k, v in changes.items()}
            print(f"FAILED {name} {shown}: {problem}")
        self.failed += bool(problem)
        self.passed += not problem

    def check_refused(self, name, changes, code, named):
        done, _ = self.logits(self.patched(name, changes))
        errors = [line for line in done.stderr.splitlines() if ": error[" in line]
        problem = None
        if done.returncode != 65 or len(errors) != 1:
            problem = f"exit {done.returncode} and {len(errors)} error lines, expected 65 and one: {done.stderr.strip()}"
        elif f"error[{code}]" not in errors[0] or named not in errors[0]:
            problem = f"expected {code} naming {named}: {errors[0]}"
        self.count(name, changes, problem)

    def check_taken(self, name, changes):
        _, golden = self.logits(model_path(name))
        done, found = self.logits(self.patched(name, changes))
        problem = None
        if done.returncode != 0:
            problem = done.stderr.strip()
        elif golden is None or found != golden:
            problem = "the logits changed"
        self.count(name, changes, problem)


def main():
    with tempfile.TemporaryDirectory() as scratch:
        driver = Driver(sys.argv[1], scratch)
        for row in REFUSED:
            driver.check_refused(*row)
        for row in TAKEN:
            driver.check_taken(*row)
    print(f"{driver.passed} passed, {driver.failed} failed, 0 skipped")
    return 1 if driver.failed or not driver.passed else 0


if __name__ == "__main__":
    sys.exit(main())
