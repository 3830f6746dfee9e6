"""How well `mite` does, by prompt, temperature, number of responses, max_tokens and stop sequence, and what it costs.

    python3 models/train/evaluate.py --space search_spaces/arithmetic.toml --count 500 --csv models/mite/truth.csv

Samples are drawn once for each prompt and temperature, with the largest max_tokens and no stop sequence: with a smaller
max_tokens, another stop sequence or fewer responses one would have got a beginning of the same texts.
"""

import argparse
import csv
import functools
import importlib.util
import json
import random
import re
import time
import tomllib
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file
from tokenizers import Tokenizer

import train

PRICE = {"input": 0.10, "output": 0.40}
ROOT = Path(__file__).parents[2]


def load(folder):
    tensors = {name: x.astype(np.float32) for name, x in load_file(folder / "model.safetensors").items()}
    names = {"input_norm": "input_layernorm", "q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj",
             "o": "self_attn.o_proj", "post_norm": "post_attention_layernorm", "gate": "mlp.gate_proj",
             "up": "mlp.up_proj", "down": "mlp.down_proj"}
    params = {"embed": tensors["model.embed_tokens.weight"], "norm": tensors["model.norm.weight"],
              "layers": [{k: tensors[f"model.layers.{i}.{v}.weight"].T for k, v in names.items()} for i in range(train.LAYERS)]}
    return jax.tree.map(jnp.asarray, params), Tokenizer.from_file(str(folder / "tokenizer.json"))


@functools.partial(jax.jit, static_argnames=("width", "ends"))
def generate(params, tokens, lengths, temperature, key, repeats, width, ends):
    """`repeats` (its shape counts) samples of `width` tokens for each row of `tokens`, which are padded on the right.
    A row is over where it says <|end|> or one of `ends`, pairs of tokens that follow each other."""
    n = repeats.shape[0]
    logits, kept = train.forward(params, tokens, keep=True)
    logits = jnp.take_along_axis(logits, (lengths - 1)[:, None, None], 1)[:, 0]
    again = lambda x: jnp.repeat(x, n, 0)  # noqa: E731
    logits, lengths = again(logits), again(lengths)
    rows, size = len(lengths), tokens.shape[1] + width
    kept = [tuple(jnp.pad(again(x), ((0, 0), (0, width), (0, 0), (0, 0))) for x in kv) for kv in kept]
    made = jnp.zeros((rows, width), jnp.int32)

    def draw(logits, key):
        sampled = jax.random.categorical(key, logits / jnp.maximum(temperature, 1e-6))
        return jnp.where(temperature > 0, sampled, logits.argmax(-1)).astype(jnp.int32)

    def more(c):
        return (c[0] < width) & ~c[5].all()

    def advance(c):
        t, logits, kept, made, key, over, last = c
        key, sub = jax.random.split(key)
        token = jnp.where(over, 0, draw(logits, sub))
        made = made.at[:, t].set(token)
        over = over | (token == 0)
        for a, b in ends:
            over = over | ((last == a) & (token == b))
        x, at = params["embed"][token][:, None], lengths + t
        mask = (jnp.arange(size)[None] <= at[:, None])[:, None, None, None]
        new = []
        for layer, (k, v) in zip(params["layers"], kept):
            y = train.rms_norm(x, layer["input_norm"])
            q, k1, v1 = ((y @ layer[m]).reshape(rows, 1, -1, train.HD) for m in "qkv")
            q, k1 = train.rotate(q, at[:, None]), train.rotate(k1, at[:, None])
            k, v = k.at[jnp.arange(rows), at].set(k1[:, 0]), v.at[jnp.arange(rows), at].set(v1[:, 0])
            new.append((k, v))
            x = x + train.attend(q, k, v, mask) @ layer["o"]
            x = x + train.mlp(train.rms_norm(x, layer["post_norm"]), layer)
        logits = train.rms_norm(x, params["norm"])[:, 0] @ params["embed"].T
        return t + 1, logits, new, made, key, over, token

    start = (0, logits, kept, made, key, jnp.zeros(rows, bool), jnp.full(rows, -1, jnp.int32))
    return jax.lax.while_loop(more, advance, start)[3]


class Sampler:
    def __init__(self, folder, rows=240):
        (self.params, self.tokenizer), self.rows = load(folder), rows
        newline = self.tokenizer.encode("\n").ids[0]
        self.ends = {True: ((newline, newline),), False: ()}

    def __call__(self, prompts, n, temperature, width, end=True, seed=0):
        """[[token ids up to and with <|end|>, ...] of each prompt]; `end`: an empty line ends a response too."""
        encoded, out = [e.ids for e in self.tokenizer.encode_batch(prompts)], []
        size = -(-max(map(len, encoded)) // 32) * 32
        group = max(1, self.rows // n)
        for i in range(0, len(encoded), group):
            part = encoded[i:i + group]
            tokens = np.zeros((group, size), np.int32)
            for row, ids in zip(tokens, part):
                row[:len(ids)] = ids
            lengths = np.array([len(ids) for ids in part] + [1] * (group - len(part)))
            made = np.array(generate(self.params, tokens, lengths, temperature, jax.random.PRNGKey(seed * 100003 + i),
                                     np.zeros(n), width, self.ends[end]))
            for samples in made.reshape(group, n, width)[:len(part)]:
                out.append([list(s[:np.argmax(s == 0) + 1]) if (s == 0).any() else list(s) for s in samples])
        return out, [len(ids) for ids in encoded]


# What farthing would say of a text: the last number of its first paragraph, the most frequent one of all responses.

def read(text):
    paragraph = re.split(r"\n\n", text.lstrip(), maxsplit=1)[0]
    numbers = re.findall(r"\d+", paragraph)
    return int(numbers[-1]) if numbers else None


def cut(tokenizer, ids, max_tokens, stops):
    """(text, billed tokens) of a response that is cut by max_tokens and before the first of the stop sequences."""
    ids = ids[:max_tokens]
    text = tokenizer.decode(ids)
    at = min((text.find(s) for s in stops if s in text), default=-1)
    if at < 0:
        return text, len(ids)
    count = next(i for i in range(len(ids) + 1) if any(s in tokenizer.decode(ids[:i]) for s in stops))
    return text[:at], count


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
    parser.add_argument("--full", action="store_true", help="every max_tokens and stop, not only the longest and \\n\\n")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()
    params = tomllib.loads(args.space.read_text())["params"]
    sampler, rows = Sampler(args.model), instances(args.count, args.seed)
    limits = sorted(params["max_tokens"]["choices"], reverse=True)
    stops = params["stop"]["choices"] if args.full else [["\n\n"]]
    table = []
    for prompt in params["prompt"]["choices"]:
        if args.prompts and prompt["name"] not in args.prompts.split(","):
            continue
        for temperature in map(float, args.temperatures.split(",")):
            begun, n = time.time(), args.n if temperature > 0 else 1
            texts = [render(prompt, row["problem"]) for row in rows]
            made, asked = sampler(texts, n, temperature, limits[0], end=not args.full)
            for limit in limits if args.full else limits[:1]:
                for stop in stops:
                    cuts = [[cut(sampler.tokenizer, s, limit, stop) for s in samples] for samples in made]
                    for k in [k for k in (1, 2, 3, 5, 7, 10) if k <= n]:
                        score = [vote([read(t) for t, _ in c[:k]], row["answer"]) for c, row in zip(cuts, rows)]
                        out = [sum(tokens for _, tokens in c[:k]) for c in cuts]
                        cost = (np.mean(asked) * PRICE["input"] + np.mean(out) * PRICE["output"]) / 1e6
                        table.append({"prompt": prompt["name"], "temperature": temperature, "n": k, "max_tokens": limit,
                                      "stop": json.dumps(stop), "accuracy": round(float(np.mean(score)), 4),
                                      "input_tokens": round(float(np.mean(asked)), 1),
                                      "output_tokens": round(float(np.mean(out)), 1), "cost_usd": f"{cost:.3e}"})
                        if limit == limits[0] and stop == stops[-1 if not args.full else stops.index(["\n\n"])]:
                            print(*table[-1].values(), repr(cuts[0][0][0][:70]) if k == 1 else "", flush=True)
            kinds = {row["kind"]: [] for row in rows}
            for c, row in zip(made, rows):
                kinds[row["kind"]].append(vote([read(sampler.tokenizer.decode(c[0]))], row["answer"]))
            print("   by kind, one response:", {k: round(float(np.mean(v)), 2) for k, v in kinds.items()},
                  f"{time.time() - begun:.0f} s", flush=True)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
