"""Writes a LLaMA checkpoint of a shape of bench's ladder, in f32 with random weights, for this and other engines:

    python3 benches/peers/checkpoint.py 110M /tmp/110M

Needs numpy. The same shape and seed give the same weights everywhere.
"""

import json
import struct
import sys
from pathlib import Path

import numpy as np

# dim, layers, heads, KV heads, hidden, vocabulary: LADDER in benches/src/subject.rs.
SHAPES = {
    "260K": (64, 5, 8, 4, 172, 512),
    "15M": (288, 6, 6, 6, 768, 32_000),
    "110M": (768, 12, 12, 12, 2048, 32_000),
    "1B": (2048, 22, 32, 4, 5632, 32_000),
}


def tensors(dim, layers, heads, kv_heads, hidden, vocab):
    """Names and shapes, in the order of the layers."""
    kv = dim // heads * kv_heads
    yield "model.embed_tokens.weight", (vocab, dim)
    for layer in range(layers):
        for name, shape in {
            "input_layernorm": (dim,),
            "self_attn.q_proj": (dim, dim),
            "self_attn.k_proj": (kv, dim),
            "self_attn.v_proj": (kv, dim),
            "self_attn.o_proj": (dim, dim),
            "post_attention_layernorm": (dim,),
            "mlp.gate_proj": (hidden, dim),
            "mlp.up_proj": (hidden, dim),
            "mlp.down_proj": (dim, hidden),
        }.items():
            yield f"model.layers.{layer}.{name}.weight", shape
    yield "model.norm.weight", (dim,)


def values(shape, rng):
    """Ones for norms; for matrices, what keeps the size of activations."""
    if len(shape) == 1:
        return np.ones(shape, np.float32)
    return rng.standard_normal(shape, np.float32) * np.float32(0.7 / shape[1] ** 0.5)


def write(shape, folder):
    dim, layers, heads, kv_heads, hidden, vocab = shape
    folder.mkdir(parents=True, exist_ok=True)
    header, offset = {}, 0
    for name, size in tensors(*shape):
        end = offset + 4 * int(np.prod(size))
        header[name] = {"dtype": "F32", "shape": size, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, size in tensors(*shape):
            file.write(values(size, rng).tobytes())
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": dim,
        "num_hidden_layers": layers,
        "intermediate_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocab,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in SHAPES:
        sys.exit(f"usage: {sys.argv[0]} {'|'.join(SHAPES)} FOLDER")
    write(SHAPES[sys.argv[1]], Path(sys.argv[2]))
