"""Writes what PyTorch and transformers compute in f32 with this folder's model: reference_f32.json, with the five largest
logits of each step of a few answers, and held_out_f32_greedy.txt, the greedy answer to each request of held_out.tsv. Prints
how many are exact, and how likely the expected answers are.

    python3 tests/models/home-commands/reference.py
"""

import json
from pathlib import Path

import tokenizers
import torch
import transformers

HERE = Path(__file__).parent
REQUESTS = [
    "please dim the bedroom lamp to forty percent",
    "wake me at half past six am tomorrow",
    "Turn on the kitchen lights and then set a timer for 5 minutes called pasta",
    "how humid is it in the basement?",
]

torch.set_num_threads(1)
model = transformers.AutoModelForCausalLM.from_pretrained(HERE, dtype=torch.float32).eval()
tokenizer = tokenizers.Tokenizer.from_file(str(HERE / "tokenizer.json"))
END = tokenizer.token_to_id("<|end|>")


def encode(request):
    return tokenizer.encode("<|request|>" + request + "<|call|>").ids


@torch.no_grad()
def answers(prompts):
    """Of prompts of one length: ids of the greedy answers, and the logits of each of their steps."""
    given, cache = torch.tensor(prompts), None
    ids, steps = [[] for _ in prompts], [[] for _ in prompts]
    for _ in range(model.config.max_position_embeddings - len(prompts[0])):
        out = model(given, past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        logits = out.logits[:, -1]
        given = logits.argmax(-1, keepdim=True)
        for row in range(len(prompts)):
            if not ids[row] or ids[row][-1] != END:
                ids[row].append(given[row].item())
                steps[row].append(logits[row])
        if all(row[-1] == END for row in ids):
            break
    return ids, steps


def top5(logits):
    values, ids = logits.topk(5)
    return [[i, round(value, 5)] for i, value in zip(ids.tolist(), values.tolist())]


def text(ids):
    return tokenizer.decode(ids, skip_special_tokens=True)


cases = []
for request in REQUESTS:
    prompt = encode(request)
    (ids,), (steps,) = answers([prompt])
    top = [top5(logits) for logits in steps]
    cases.append(dict(request=request, prompt_ids=prompt, answer_ids=ids, answer=text(ids), top5_logits_per_step=top))
(HERE / "reference_f32.json").write_text(json.dumps(cases) + "\n")

pairs = [line.split("\t") for line in (HERE / "held_out.tsv").read_text().splitlines()]
by_length = {}
for i, (request, _) in enumerate(pairs):
    prompt = encode(request)
    by_length.setdefault(len(prompt), []).append((i, prompt))
found = {}
for group in by_length.values():
    ids, _ = answers([prompt for _, prompt in group])
    found.update((i, text(row)) for (i, _), row in zip(group, ids))
(HERE / "held_out_f32_greedy.txt").write_text("".join(found[i] + "\n" for i in range(len(pairs))))


@torch.no_grad()
def likelihood():
    """The mean NLL of the expected answers, the token that ends each included, and how many tokens that are."""
    total, tokens = 0.0, 0
    for request, answer in pairs:
        prompt = encode(request)
        ids = torch.tensor([prompt + tokenizer.encode(answer + "<|end|>").ids])
        log_p = torch.log_softmax(model(ids).logits[0].double(), -1)
        scored = range(len(prompt) - 1, ids.shape[1] - 1)
        total -= sum(log_p[i, ids[0, i + 1]].item() for i in scored)
        tokens += len(scored)
    return total / tokens, tokens


exact = sum(found[i] == answer for i, (_, answer) in enumerate(pairs))
nll, tokens = likelihood()
print(f"{exact} of {len(pairs)} exact, mean NLL of the answers {nll:.6f} over {tokens} tokens")
print(f"torch {torch.__version__}, transformers {transformers.__version__}")
