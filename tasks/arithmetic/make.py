"""Makes tune.jsonl and test.jsonl: little problems of the kinds that farthing's own small model, mite, has learned.
All of it is invented; the same seed gives the same files.

    python3 tasks/arithmetic/make.py
"""

import json
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "models/train"))
from corpus import KINDS as MAKERS  # noqa: E402  (the kinds of problems, and their wordings)

SEED = 7
COUNT = {"tune": 300, "test": 300}
KINDS = ["sum", "difference", "product", "find", "give", "packs", "change", "share", "together", "trade", "mixed"]  # in turn


def instances(r, count, seen=None):
    """`count` problems, all different, and different from those `seen`."""
    seen, rows = set() if seen is None else seen, []
    while len(rows) < count:
        kind = KINDS[len(rows) % len(KINDS)]
        problem, steps = MAKERS[kind](r)
        if problem not in seen:
            seen.add(problem)
            rows.append({"problem": problem, "answer": steps[-1][3], "kind": kind})
    return rows


def main():
    r, seen = random.Random(SEED), set()
    for split, count in COUNT.items():
        rows = [{"id": f"{split}-{i + 1:03}"} | row for i, row in enumerate(instances(r, count, seen))]
        path = Path(__file__).parent / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
