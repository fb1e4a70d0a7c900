"""Trains a character-level GPT in PyTorch, as nanoGPT does on a CPU, and prints tokens a second, step by step of a kind:

    python3 benches/peers/train.py TEXT --steps 200 --threads 2

The model, batch and optimizer are those of

    thumbformer train TEXT -o FOLDER --preset gpt2 --tokenizer chars --dim 128 --layers 4 --heads 4 --context 64 --batch 12 \\
        --learning-rate 1e-3 --weight-decay 0.1 --steps 200 --valid-share 0

Needs torch.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside the residual stream."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        batch, tokens, dim = x.shape
        parts = self.qkv(self.norm1(x)).split(dim, dim=2)
        q, k, v = (part.view(batch, tokens, self.heads, dim // self.heads).transpose(1, 2) for part in parts)
        h = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(batch, tokens, dim)
        x = x + self.out(h)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    """GPT-2 with a head that is the embedding's table."""

    def __init__(self, vocab, dim, layers, heads, context):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocab, dim), nn.Embedding(context, dim)
        self.blocks = nn.Sequential(*(Block(dim, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(dim)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.places(torch.arange(ids.shape[1]))
        return F.linear(self.norm(self.blocks(x)), self.tokens.weight)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path)
    for name, default in {"steps": 200, "threads": 1, "dim": 128, "layers": 4, "heads": 4, "context": 64, "batch": 12}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    text = a.text.read_text()
    ids_of = {character: i for i, character in enumerate(sorted(set(text)))}
    data = torch.tensor([ids_of[character] for character in text])
    model = GPT(len(ids_of), a.dim, a.layers, a.heads, a.context)
    matrices = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    begin, first = 0.0, 10
    for step in range(a.steps + first):
        if step == first:
            begin = time.perf_counter()
        starts = torch.randint(len(data) - a.context, (a.batch,)).tolist()
        x = torch.stack([data[i : i + a.context] for i in starts])
        y = torch.stack([data[i + 1 : i + 1 + a.context] for i in starts])
        loss = F.cross_entropy(model(x).flatten(0, 1), y.flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        loss.item()
    seconds = time.perf_counter() - begin
    print(f"{a.steps * a.batch * a.context / seconds:.0f} tokens/s, loss {loss.item():.4f}")


main()
