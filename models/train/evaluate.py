"""How well `mite` does, by prompt, temperature, number of responses, max_tokens and stop sequence, and what it costs:
the whole table of search_spaces/arithmetic.toml, on fresh instances.

    cargo build --release
    python3 models/train/evaluate.py --farthing target/release/farthing --csv models/mite/truth.csv

`farthing run` draws responses once for each prompt and temperature, up to an empty line: with a smaller max_tokens,
another stop sequence or fewer responses one gets beginnings of the same texts (docs/local.md), which are cut here; their
tokens are counted anew from the text. Without a stop sequence the answers are the same too, as only the first paragraph
is read; what running on costs is measured on RUN_ON responses.
"""

import argparse
import csv
import importlib.util
import itertools
import json
import random
import re
import subprocess
import tempfile
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

RUN_ON = 200  # responses
MOST = 10  # responses to one prompt
PRICE = {"input": 0.10, "output": 0.40}
ROOT = Path(__file__).parents[2]


def ask(farthing, prompts, params):
    """The answers of `farthing run`, in the order of the prompts."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder) / "rows.jsonl"
        lines = ({"id": str(i), "prompt": p, "model": "mite", "parameters": params} for i, p in enumerate(prompts))
        rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
        subprocess.run([farthing, "run", rows, "--out", "out", "--quiet"], cwd=folder, check=True)
        answers = [json.loads(line) for line in (Path(folder) / "out/results.jsonl").open()]
    for answer in answers:
        for key in ("response", "finish_reason"):
            answer[key] = answer[key] if isinstance(answer[key], list) else [answer[key]]
    return answers


class Text:
    """A response: its text, and where in it each of its tokens ends."""

    def __init__(self, tokenizer, text, ended):
        self.text, self.edges = text, [end for _, end in tokenizer.encode(text).offsets] or [0]
        if ended:  # the token of the stop sequence, or of the text's end
            self.edges.append(len(text))

    def cut(self, max_tokens, stops):
        """(text, billed tokens) where max_tokens ends it, or the first of the stop sequences, which is left out."""
        count = min(max_tokens, len(self.edges))
        text = self.text[:self.edges[count - 1]]
        first = min(((text.find(s), len(s)) for s in stops if s in text), default=None)
        if first is None:
            return text, count
        return text[:first[0]], int(np.searchsorted(self.edges, sum(first))) + 1


# What farthing would say of a text: the last number of its first paragraph, the most frequent one of all responses.

def read(text):
    paragraph = re.split(r"\n\n", text.lstrip(), maxsplit=1)[0]
    numbers = re.findall(r"\d+", paragraph)
    return int(numbers[-1]) if numbers else None


def vote(answers, expected):
    """Farthing's majority: ties count by their share."""
    counts = Counter(a for a in answers if a is not None)
    if not counts:
        return 0.0
    top = [a for a, c in counts.items() if c == max(counts.values())]
    return (expected in top) / len(top)


def render(choice, problem):
    messages = choice.get("messages") or [{"role": "user", "content": choice["template"]}]
    return [message | {"content": message["content"].replace("{{ problem }}", problem)} for message in messages]


def instances(count, seed):
    spec = importlib.util.spec_from_file_location("make", ROOT / "tasks/arithmetic/make.py")
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    return make.instances(random.Random(seed), count)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--farthing", type=Path, default=ROOT / "target/release/farthing")
    parser.add_argument("--space", type=Path, default=ROOT / "search_spaces/arithmetic.toml")
    parser.add_argument("--count", type=int, default=2000, help="fresh instances")
    parser.add_argument("--seed", type=int, default=12345)
    parser.add_argument("--prompts", default="", help="only these, by name")
    parser.add_argument("--csv", type=Path, required=True, help="rows are added to it")
    args = parser.parse_args()
    params = tomllib.loads(args.space.read_text())["params"]
    tokenizer = Tokenizer.from_file(str(ROOT / "models/mite/tokenizer.json"))
    rows, steps = instances(args.count, args.seed), params["temperature"]
    limits, stops = sorted(params["max_tokens"]["choices"], reverse=True), params["stop"]["choices"]
    known = set()
    if args.csv.exists():
        known = {(row["prompt"], float(row["temperature"])) for row in csv.DictReader(args.csv.open())}
    for step in range(round((steps["high"] - steps["low"]) / steps["step"]) + 1):
        temperature = round(steps["low"] + step * steps["step"], 6)
        for prompt in params["prompt"]["choices"]:
            name = prompt["name"]
            if (name, temperature) in known or args.prompts and name not in args.prompts.split(","):
                continue
            n = MOST if temperature > 0 else 1
            settings = {"temperature": temperature, "max_tokens": limits[0]}
            asked = [render(prompt, row["problem"]) for row in rows]
            answers = ask(args.farthing.resolve(), asked, settings | {"n": n, "stop": ["\n\n"]})
            made = [[Text(tokenizer, text, why == "stop") for text, why in zip(a["response"], a["finish_reason"])]
                    for a in answers]
            given = np.mean([a["prompt_tokens"] for a in answers])
            on = [a["completion_tokens"] for a in ask(args.farthing.resolve(), asked[:RUN_ON], settings)]
            table = []
            for limit, stop in itertools.product(limits, stops):
                cuts = [[text.cut(limit, stop) for text in texts] for texts in made]
                read_of = [[read(text) for text, _ in c] for c in cuts]
                for k in range(1, n + 1):
                    score = np.mean([vote(a[:k], row["answer"]) for a, row in zip(read_of, rows)])
                    out = np.mean([sum(tokens for _, tokens in c[:k]) for c in cuts])
                    if not stop:
                        out = k * np.mean(np.minimum(on, limit))
                    cost = (given * PRICE["input"] + out * PRICE["output"]) / 1e6
                    table.append({"prompt": name, "temperature": temperature, "n": k, "max_tokens": limit,
                                  "stop": json.dumps(stop), "accuracy": f"{score:.4f}", "input_tokens": f"{given:.1f}",
                                  "output_tokens": f"{out:.1f}", "cost_usd": f"{cost:.2e}"})
                    if limit == limits[0] and stop == ["\n\n"] and k in (1, 3, n):
                        print(*table[-1].values(), flush=True)
            new = not args.csv.exists()
            with args.csv.open("a", newline="") as file:
                writer = csv.DictWriter(file, table[0].keys(), lineterminator="\n")
                if new:
                    writer.writeheader()
                writer.writerows(table)


if __name__ == "__main__":
    main()
