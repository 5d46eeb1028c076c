"""Writes a Llama as a folder with config.json and one safetensors file, with the Python standard library alone."""
import json
import math
import struct

ELEMENT_BYTES = {"F16": 2, "F32": 4}


def tensors(hidden, intermediate, heads, kv_heads, layers, vocab):
    """{name: shape}; matrices of layers are those with "proj" in their names."""
    kv = hidden // heads * kv_heads
    found = {"model.embed_tokens.weight": [vocab, hidden], "lm_head.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    for layer in range(layers):
        for name, shape in (("self_attn.q_proj", [hidden, hidden]), ("self_attn.k_proj", [kv, hidden]), ("self_attn.v_proj", [kv, hidden]),
                            ("self_attn.o_proj", [hidden, hidden]), ("mlp.gate_proj", [intermediate, hidden]),
                            ("mlp.up_proj", [intermediate, hidden]), ("mlp.down_proj", [hidden, intermediate]),
                            ("input_layernorm", [hidden]), ("post_attention_layernorm", [hidden])):
            found[f"model.layers.{layer}.{name}.weight"] = shape
    return found


def matrix_elements(shapes):
    return sum(math.prod(shape) for name, shape in shapes.items() if "proj" in name)


def write(path, hidden, intermediate, heads, kv_heads, layers, vocab, dtype, data_of):
    """data_of(name, element count) → the bytes of a tensor."""
    shapes = tensors(hidden, intermediate, heads, kv_heads, layers, vocab)
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * ELEMENT_BYTES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    path.mkdir()
    with open(path / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            file.write(data_of(name, math.prod(shape)))
    (path / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden, "intermediate_size": intermediate,
        "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab,
        "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": False}))
    return path
