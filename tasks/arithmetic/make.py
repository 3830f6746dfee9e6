"""Makes tune.jsonl and test.jsonl: little arithmetic word problems of the five kinds that farthing's made-up models
(`provider = "mock"`) can solve. All of it is invented here; the same seed gives the same files.

    python3 tasks/arithmetic/make.py
"""

import json
import random
from pathlib import Path

SEED = 1
COUNT = 200  # problems a split
NAMES = [("Ann", "she"), ("Ben", "he"), ("Clara", "she"), ("David", "he"), ("Eva", "she"), ("Felix", "he"), ("Greta", "she"),
         ("Hugo", "he"), ("Ida", "she"), ("Jonas", "he"), ("Kira", "she"), ("Leo", "he"), ("Mia", "she"), ("Nils", "he")]
THINGS = ["apples", "stamps", "marbles", "pencils", "stickers", "cards", "shells", "beads", "coins", "books"]
BAGS = ["bags", "boxes", "packs", "bundles"]


def collect(r):
    (name, who), thing = r.choice(NAMES), r.choice(THINGS)
    has, bags, size = r.randint(3, 120), r.randint(2, 14), r.randint(3, 24)
    gone = r.randint(1, has + bags * size - 1)
    return (f"{name} has {has} {thing}, buys {bags} {r.choice(BAGS)} of {size} and gives {gone} away. "
            f"How many {thing} has {who} now?"), has + bags * size - gone


def share(r):
    (name, _), thing = r.choice(NAMES), r.choice(THINGS)
    friends, each = r.randint(2, 12), r.randint(3, 40)
    more = r.randint(1, friends * each - 2)
    return (f"{name} picks {friends * each - more} {thing}, finds {more} more and shares them equally among {friends} friends. "
            f"How many {thing} does each friend get?"), each


def change(r):
    (name, who), (thing, price) = r.choice(NAMES), (r.choice(["ticket", "pen", "cake", "lamp", "toy"]), r.randint(2, 36))
    count = r.randint(2, 16)
    paid = min(999, (price * count // 10 + r.randint(1, 5)) * 10)
    return (f"A {thing} costs {price} dollars. {name} buys {count} of them and pays with {paid} dollars. "
            f"How many dollars does {who} get back?"), paid - price * count


def compare(r):
    (one, _), (two, _) = r.sample(NAMES, 2)
    thing, has, times = r.choice(THINGS), r.randint(4, 80), r.randint(2, 9)
    lost = r.randint(1, has * times - 1)
    return (f"{one} has {has} {thing}. {two} has {times} times as many and loses {lost}. "
            f"How many {thing} have they together?"), has + has * times - lost


def pack(r):
    (name, _), thing = r.choice(NAMES), r.choice(THINGS)
    one, two = r.sample(BAGS, 2)
    a, b, c, d = r.randint(2, 14), r.randint(3, 24), r.randint(2, 9), r.randint(3, 16)
    lost = r.randint(1, 30)
    return (f"{name} packs {a} {one} of {b} {thing} and {c} {two} of {d}, and loses {lost}. "
            f"How many {thing} are left?"), a * b + c * d - lost


KINDS = [collect, share, change, compare, pack]


def main():
    r = random.Random(SEED)
    seen = set()
    for split in ["tune", "test"]:
        rows = []
        while len(rows) < COUNT:
            kind = KINDS[len(rows) % len(KINDS)]
            problem, answer = kind(r)
            if problem in seen or not 0 <= answer < 1000:
                continue
            seen.add(problem)
            rows.append({"id": f"{split}-{len(rows) + 1:03}", "problem": problem, "answer": answer, "kind": kind.__name__})
        path = Path(__file__).parent / f"{split}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
