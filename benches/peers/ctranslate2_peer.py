"""Drives CTranslate2 as a peer of bench: converts a checkpoint of checkpoint.py to its int8, and measures it.

    python3 benches/peers/ctranslate2_peer.py convert /tmp/110M /tmp/110M.ct2
    bench --shapes 110M --peer 'ct2=python3 benches/peers/ctranslate2_peer.py run /tmp/110M.ct2 {prompt} {steps} {threads}'

Needs ctranslate2 and numpy, which are for comparison on one's own machine only. CT2_FORCE_CPU_ISA=AVX2 before the command
keeps its own loops to AVX2, as --backend avx2 keeps this runtime; its int8 products also need ONEDNN_MAX_CPU_ISA=AVX2 (on
AMD) or MKL_ENABLE_INSTRUCTIONS=AVX2 (on Intel).

Prefill is a prompt and its first token; decode is what further tokens add. Both are repeated for a tenth of a second, after
a warm-up. The first token is timed from loading the model on: Python's own start does not count.
"""

import json
import struct
import sys
import time
from pathlib import Path

import numpy as np

# Tokens of the prompt that the first token answers, as in bench.
FIRST_PROMPT = 32


def read_checkpoint(folder):
    """The configuration, and a function from a tensor's name to its values."""
    config = json.loads((folder / "config.json").read_text())
    data = np.memmap(folder / "model.safetensors", np.uint8, "r")
    (length,) = struct.unpack("<Q", bytes(data[:8]))
    header = json.loads(bytes(data[8 : 8 + length]))

    def tensor(name):
        start, end = (8 + length + offset for offset in header[name]["data_offsets"])
        return np.array(data[start:end]).view(np.float32).reshape(header[name]["shape"])

    return config, tensor


def convert(folder, output):
    from ctranslate2.specs import common_spec, transformer_spec

    config, tensor = read_checkpoint(folder)
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    spec = transformer_spec.TransformerDecoderModelSpec.from_config(
        config["num_hidden_layers"],
        heads,
        activation=common_spec.Activation.SWISH,
        ffn_glu=True,
        rms_norm=True,
        rotary_dim=0,
        rotary_interleave=False,
        rotary_base=config["rope_theta"],
        num_heads_kv=None if kv_heads == heads else kv_heads,
    )
    decoder = spec.decoder
    decoder.scale_embeddings = False
    decoder.embeddings.weight = tensor("model.embed_tokens.weight")
    decoder.projection.weight = decoder.embeddings.weight
    decoder.layer_norm.gamma = tensor("model.norm.weight")
    for number, layer in enumerate(decoder.layer):

        def weight(name):
            return tensor(f"model.layers.{number}.{name}.weight")

        attention, mlp = layer.self_attention, layer.ffn
        attention.layer_norm.gamma = weight("input_layernorm")
        attention.linear[0].weight = np.concatenate([weight(f"self_attn.{x}_proj") for x in "qkv"])
        attention.linear[1].weight = weight("self_attn.o_proj")
        mlp.layer_norm.gamma = weight("post_attention_layernorm")
        mlp.linear_0.weight = weight("mlp.gate_proj")
        mlp.linear_0_noact.weight = weight("mlp.up_proj")
        mlp.linear_1.weight = weight("mlp.down_proj")
    spec.config.bos_token, spec.config.eos_token, spec.config.unk_token = "0", "1", "2"
    spec.config.layer_norm_epsilon = config["rms_norm_eps"]
    spec.register_vocabulary([str(i) for i in range(config["vocab_size"])])
    spec.validate()
    spec.optimize(quantization="int8")
    output.mkdir(parents=True, exist_ok=True)
    spec.save(str(output))


def mean_time(work):
    """Seconds that `work` takes, once warm."""
    work()
    start, count = time.perf_counter(), 0
    while True:
        work()
        count += 1
        elapsed = time.perf_counter() - start
        if elapsed >= 0.1:
            return elapsed / count


def run(model, prompt, steps, threads):
    import ctranslate2

    start = time.perf_counter()
    options = dict(device="cpu", inter_threads=1, intra_threads=threads, compute_type="int8")
    generator = ctranslate2.Generator(str(model), **options)

    def generate(prompt, tokens):
        """Greedily, `tokens` tokens exactly; the whole prompt in one pass."""
        ids = ["0"] + [str(3 + 7919 * i % 997) for i in range(1, prompt)]
        options = dict(max_length=tokens, min_length=tokens, include_prompt_in_result=False, sampling_topk=1)
        (result,) = generator.generate_batch([ids], **options)
        found = len(result.sequences_ids[0])
        if found != tokens:
            sys.exit(f"it generated {found} tokens, expected {tokens}")

    generate(FIRST_PROMPT, 1)
    first = time.perf_counter() - start
    prefill = mean_time(lambda: generate(prompt, 1))
    both = mean_time(lambda: generate(prompt, 1 + steps))
    speeds = {
        "prefill_tokens_per_s": prompt / prefill,
        "decode_tokens_per_s": steps / (both - prefill),
        "first_token_ms": 1e3 * first,
    }
    print(json.dumps(speeds))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["convert", folder, output]:
            convert(Path(folder), Path(output))
        case ["run", model, prompt, steps, threads]:
            run(Path(model), int(prompt), int(steps), int(threads))
        case _:
            sys.exit(f"usage: {sys.argv[0]} convert CHECKPOINT MODEL | run MODEL PROMPT STEPS THREADS")
