"""How well `mite` does, by prompt, temperature, number of responses, max_tokens and stop sequence, and what it costs.

    python3 models/train/evaluate.py --space search_spaces/arithmetic.toml \
        --temperatures 0,0.4,0.8,1.2 --count 2000 --full --csv models/mite/truth.csv

Samples are drawn once for each prompt and temperature, up to an empty line: with a smaller max_tokens, another stop
sequence or fewer responses one would have got a beginning of the same texts. Without a stop sequence the answers are
the same too, as only the first paragraph is read; what running on costs is measured on RUN_ON responses.
"""

import argparse
import csv
import importlib.util
import json
import random
import re
import time
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer

import train

RUN_ON = 100  # responses
PRICE = {"input": 0.10, "output": 0.40}
ROOT = Path(__file__).parents[2]


@torch.inference_mode()
def generate(params, prompts, n, width, temperature, end, newline, r):
    """`n` samples of at most `width` tokens after each prompt (lists of ids). A response is over where it says
    <|end|>, and with `end` after an empty line; finished ones leave the batch."""
    cos, sin = train.rotations()
    lengths, size = torch.tensor([len(p) for p in prompts]), max(map(len, prompts))
    tokens = torch.zeros(len(prompts), size, dtype=torch.long)
    for row, ids in zip(tokens, prompts):
        row[:len(ids)] = torch.tensor(ids)
    cache, groups = [], train.H // train.KV
    x = F.embedding(tokens, params["embed"])

    def first(q, k, v):
        cache.append([F.pad(y, (0, 0, 0, width)).repeat_interleave(n, 0) for y in (k, v)])
        return train.causal(q, k, v)

    for i in range(train.LAYERS):
        x = train.layer_of(params, i, x, cos[:size], sin[:size], first)
    x = x[torch.arange(len(prompts)), lengths - 1].repeat_interleave(n, 0)[:, None]
    lengths, rows = lengths.repeat_interleave(n), torch.arange(len(prompts) * n)
    made, last, alive = [[] for _ in rows], torch.full((len(rows),), -1), torch.ones(len(rows), dtype=torch.bool)
    for t in range(width):
        logits = F.linear(train.norm(x[:, 0], params["norm"]), params["embed"])
        if temperature > 0:  # the Gumbel way to draw
            noise = torch.rand(logits.shape, generator=r).clamp_min_(1e-20).log_().neg_().log_()
            logits = logits / temperature - noise
        token = logits.argmax(-1)
        for row, id in zip(rows[alive].tolist(), token[alive].tolist()):
            made[row].append(id)
        alive &= token != 0
        if end:
            alive &= (token != newline) | (last != newline)
        left = int(alive.sum())
        if left < 0.7 * len(rows):
            rows, lengths, token = rows[alive], lengths[alive], token[alive]
            cache, alive = [[y[alive] for y in kv] for kv in cache], alive[alive]
        if not left or t + 1 == width:
            break
        last, at = token, lengths + t
        x, turn = F.embedding(token, params["embed"])[:, None], (cos[at][:, None, None], sin[at][:, None, None])
        upto = int(at.max()) + 1
        mask = (torch.arange(upto) <= at[:, None])[:, None, None]
        index = torch.arange(len(rows))
        for i in range(train.LAYERS):
            def next_(q, k, v, kv=cache[i]):
                kv[0][index, :, at], kv[1][index, :, at] = k[:, :, 0], v[:, :, 0]
                # The heads that share keys and values are like several queries.
                q = q.reshape(len(rows), train.KV, groups, train.HD)
                y = F.scaled_dot_product_attention(q, kv[0][:, :, :upto], kv[1][:, :, :upto], attn_mask=mask)
                return y.reshape(len(rows), train.H, 1, train.HD)
            x = train.layer_of(params, i, x, *turn, next_)
    return [made[i * n:(i + 1) * n] for i in range(len(prompts))]


class Sampler:
    def __init__(self, folder, rows=500):
        self.params, self.rows = train.read(folder), rows
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.newline = self.tokenizer.encode("\n").ids[0]

    def __call__(self, prompts, n, temperature, width, end=True, seed=0):
        """([[ids of each response] of each prompt], [tokens of each prompt])"""
        encoded, out = [e.ids for e in self.tokenizer.encode_batch(prompts)], []
        r, group = torch.Generator().manual_seed(seed), max(1, self.rows // n)
        for i in range(0, len(encoded), group):
            out += generate(self.params, encoded[i:i + group], n, width, temperature, end, self.newline, r)
        return out, [len(ids) for ids in encoded]


# What farthing would say of a text: the last number of its first paragraph, the most frequent one of all responses.

def read(text):
    paragraph = re.split(r"\n\n", text.lstrip(), maxsplit=1)[0]
    numbers = re.findall(r"\d+", paragraph)
    return int(numbers[-1]) if numbers else None


class Text:
    """A response: its text, and how many tokens it takes to say a beginning of it."""

    def __init__(self, tokenizer, ids):
        pieces = [tokenizer.decode([id]) for id in ids]
        self.text, self.edges = "".join(pieces), np.cumsum([len(p) for p in pieces])

    def cut(self, max_tokens, stops):
        """(text, billed tokens) where max_tokens ends it, or the first of the stop sequences, which is left out."""
        count = min(max_tokens, len(self.edges))
        text = self.text[:self.edges[count - 1]]
        first = min(((text.find(s), len(s)) for s in stops if s in text), default=None)
        if first is None:
            return text, count
        return text[:first[0]], int(np.searchsorted(self.edges, sum(first))) + 1


def vote(answers, expected):
    """Farthing's majority: ties count by their share."""
    counts = Counter(a for a in answers if a is not None)
    if not counts:
        return 0.0
    top = [a for a, c in counts.items() if c == max(counts.values())]
    return (expected in top) / len(top)


def render(choice, problem):
    text = choice.get("template") or "\n".join(m["content"] for m in choice["messages"])
    return text.replace("{{ problem }}", problem)


def instances(count, seed):
    spec = importlib.util.spec_from_file_location("make", ROOT / "tasks/arithmetic/make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make.instances(random.Random(seed), count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, default=ROOT / "models/mite")
    parser.add_argument("--space", type=Path, default=ROOT / "search_spaces/arithmetic.toml")
    parser.add_argument("--count", type=int, default=200, help="fresh instances")
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--temperatures", default="0,0.7")
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--prompts", default="", help="only these, by name")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--full", action="store_true", help="every max_tokens and stop, not only the longest and \\n\\n")
    parser.add_argument("--csv", type=Path, help="rows are added to it")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    params = tomllib.loads(args.space.read_text())["params"]
    sampler, rows = Sampler(args.model), instances(args.count, args.seed)
    limits = sorted(params["max_tokens"]["choices"], reverse=True)
    for temperature in map(float, args.temperatures.split(",")):
        for prompt in params["prompt"]["choices"]:
            if args.prompts and prompt["name"] not in args.prompts.split(","):
                continue
            begun, n, table = time.time(), args.n if temperature > 0 else 1, []
            asked = [render(prompt, row["problem"]) for row in rows]
            made, given = sampler(asked, n, temperature, limits[0])
            made = [[Text(sampler.tokenizer, s) for s in samples] for samples in made]
            stops = [["\n\n"], ["\n"], []] if args.full else [["\n\n"]]
            if args.full:
                on, _ = sampler(asked[:RUN_ON], 1, temperature, limits[0], end=False, seed=1)
                on = [len(s) for samples in on for s in samples]
            for limit in limits if args.full else limits[:1]:
                for stop in stops:
                    cuts = [[s.cut(limit, stop) for s in samples] for samples in made]
                    answers = [[read(text) for text, _ in c] for c in cuts]
                    for k in range(1, n + 1):
                        score = np.mean([vote(a[:k], row["answer"]) for a, row in zip(answers, rows)])
                        out = np.mean([sum(tokens for _, tokens in c[:k]) for c in cuts])
                        if not stop:
                            out = k * np.mean(np.minimum(on, limit))
                        cost = (np.mean(given) * PRICE["input"] + out * PRICE["output"]) / 1e6
                        table.append({"prompt": prompt["name"], "temperature": temperature, "n": k, "max_tokens": limit,
                                      "stop": json.dumps(stop), "instances": len(rows), "accuracy": f"{score:.4f}",
                                      "input_tokens": f"{np.mean(given):.1f}", "output_tokens": f"{out:.1f}",
                                      "cost_usd": f"{cost:.2e}"})
                        if limit == limits[0] and stop == stops[0]:
                            print(*table[-1].values(), repr(cuts[0][0][0][:70]) if k == 1 else "", flush=True)
            kinds = {row["kind"]: [] for row in rows}
            for c, row in zip(made, rows):
                kinds[row["kind"]].append(read(c[0].text) == row["answer"])
            print("   by kind, one response:", {k: round(float(np.mean(v)), 2) for k, v in kinds.items()},
                  f"{time.time() - begun:.0f} s", flush=True)
            if args.csv:
                new = not args.csv.exists()
                with args.csv.open("a", newline="") as file:
                    writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
                    if new:
                        writer.writeheader()
                    writer.writerows(table)


if __name__ == "__main__":
    main()
