#!/usr/bin/env python3
"""Optuna and FLAML on the same recorded tables as `cargo bench --bench search`, beside our own strategies, in one run.

    python3 -m venv V && V/bin/pip install flaml==2.7.0 optuna==5.0.0
    V/bin/python benches/search/peers.py --bench PROGRAM [--data DIR] [--tables exam,temperature] [--budgets 2,5,12] [--seeds 20]

PROGRAM is the built benchmark (cargo bench --bench search --no-run prints where it is). It writes the tables, runs our
strategies on them, and prints regrets; then the real packages search the same tables under the same rules: an evaluation
costs what it costs, samples that exist are not bought again (going from k to n samples pays the prompt again), nothing
is bought that does not fit the budget. With an inference budget each trial is probed on 16 instances first and dropped
when its mean production cost is over. Regret is to the best affordable configuration on the tuning instances, in
points; what production cannot afford counts as the worst affordable one. Recommended is the best mean of the trials that
were evaluated most (on everything, where one was).

  optuna tpe        TPESampler (multivariate), every trial on all instances
  optuna wilcoxon   the same with WilcoxonPruner, its pruned trials told by their mean as its documentation says
  flaml cfo, blend  FLAML's CFO and BlendSearch (with Optuna as its global search), from n = 1 where there is an n, all instances
"""

import argparse
import csv
import json
import logging
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import warnings

warnings.filterwarnings("ignore")
import optuna  # noqa: E402
from flaml import CFO, BlendSearch, tune  # noqa: E402

optuna.logging.set_verbosity(optuna.logging.ERROR)
logging.disable(logging.WARNING)

# The inference budgets of benches/search/tables.rs.
CASES = {
    "exam": [None, 0.018, 0.007],
    "temperature": [None, 0.003, 0.0015],
}
PROBE = 16


class Table:
    def __init__(self, folder, name):
        def read(kind):
            path = folder / f"{name}.{kind}.csv"
            if not path.exists():
                return None, None
            rows = list(csv.reader(open(path)))[1:]
            number = lambda cell: float(cell) if cell else None
            return [json.loads(row[0]) for row in rows], [[number(cell) for cell in row[1:]] for row in rows]

        self.rows, self.scores = read("scores")
        _, self.costs = read("costs")
        _, self.prompts = read("prompts")
        self.count = len(self.scores[0])
        key = lambda row: json.dumps({k: v for k, v in row.items() if k != "n"}, sort_keys=True)
        self.family = [key(row) if self.prompts else at for at, row in enumerate(self.rows)]
        self.n = [row.get("n", 1) for row in self.rows]
        mean = lambda values: statistics.fmean(v for v in values if v is not None)
        self.mean, self.production = [mean(line) for line in self.scores], [mean(line) for line in self.costs]
        self.names = [k for k in self.rows[0] if len({json.dumps(row.get(k)) for row in self.rows}) > 1]
        self.values = {k: sorted({row[k] for row in self.rows}, key=lambda v: (isinstance(v, str), v)) for k in self.names}

    def numeric(self, name):
        return all(isinstance(value, (int, float)) for value in self.values[name])

    def nearest(self, wanted):
        """The row with these words and the nearest numbers."""
        def distance(row):
            off = 0.0
            for name in self.names:
                if self.numeric(name):
                    span = self.values[name][-1] - self.values[name][0]
                    off += abs(row[name] - wanted[name]) / span
                else:
                    off += 1000.0 * (row[name] != wanted[name])
            return off

        return min(range(len(self.rows)), key=lambda at: distance(self.rows[at]))

    def price(self, rows):
        """What evaluating all of these rows costs, sharing samples."""
        largest = {}
        for at in rows:
            if self.family[at] not in largest or self.n[at] > self.n[largest[self.family[at]]]:
                largest[self.family[at]] = at
        return sum(sum(self.costs[at]) for at in largest.values())


class OutOfMoney(Exception):
    pass


class Purse:
    """One search: what was bought, and what is known of the trials."""

    def __init__(self, table, budget, inference, seed):
        self.table, self.left, self.inference = table, budget, inference
        self.order = list(range(table.count))
        random.Random(seed).shuffle(self.order)
        self.bought, self.seen = {}, {}

    def look(self, row, place):
        """The score of a row at a place of the order; `None` where it is missing."""
        table, instance = self.table, self.order[place]
        known = self.seen.setdefault(row, {})
        if instance not in known:
            there = self.bought.get((table.family[row], instance))
            cost = table.costs[row][instance]
            if there is not None:
                cost = 0.0 if table.n[row] <= table.n[there] else table.prompts[row][instance] + max(cost - table.costs[there][instance], 0.0)
            if cost > self.left + 1e-15:
                raise OutOfMoney
            self.left -= cost
            if there is None or table.n[row] > table.n[there]:
                self.bought[table.family[row], instance] = row
            known[instance] = table.scores[row][instance]
        return known[instance]

    def cost(self, row):
        return statistics.fmean(self.table.costs[row][at] for at in self.seen[row])

    def mean(self, row):
        values = [value for value in self.seen[row].values() if value is not None]
        return statistics.fmean(values) if values else 0.0

    def over(self, row):
        return self.inference is not None and self.cost(row) > self.inference

    def evaluate(self, row, watch=lambda place, score: False):
        """The mean of a row over all instances, or over those before it was pruned; 0 where it is too dear."""
        for place in range(self.table.count):
            score = self.look(row, place)
            if place + 1 == PROBE and self.over(row):
                return 0.0
            if score is not None and watch(self.order[place], score):
                break
        return 0.0 if self.over(row) else self.mean(row)

    def recommended(self):
        rows = [row for row in self.seen if self.seen[row] and not self.over(row)]
        most = max((len(self.seen[row]) for row in rows), default=0)
        best = [row for row in rows if len(self.seen[row]) == most]
        return max(best, key=self.mean, default=None)


# A search of a finite table ends when it goes on proposing what is known.
MOST_TRIALS, MOST_REPEATS = 400, 60


def search(purse, suggest):
    repeats = 0
    try:
        for _ in range(MOST_TRIALS):
            before = purse.left
            suggest()
            repeats = repeats + 1 if purse.left == before else 0
            if repeats > MOST_REPEATS:
                break
    except OutOfMoney:
        pass


def run_optuna(purse, seed, pruner):
    table = purse.table
    study = optuna.create_study(
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=seed, multivariate=True),
        pruner=optuna.pruners.WilcoxonPruner(p_threshold=0.1) if pruner else optuna.pruners.NopPruner(),
    )

    def suggest():
        trial = study.ask()
        wanted = {}
        for name in table.names:
            values = table.values[name]
            if name == "n":
                wanted[name] = trial.suggest_int(name, values[0], values[-1])
            elif table.numeric(name):
                wanted[name] = trial.suggest_float(name, values[0], values[-1])
            else:
                wanted[name] = trial.suggest_categorical(name, values)

        def watch(instance, score):
            trial.report(score, instance)
            return trial.should_prune()

        study.tell(trial, purse.evaluate(table.nearest(wanted), watch if pruner else lambda *_: False))

    search(purse, suggest)


def run_flaml(purse, seed, kind):
    table = purse.table
    space, low = {}, {}
    for name in table.names:
        values = table.values[name]
        if name == "n":
            space[name], low[name] = tune.lograndint(values[0], values[-1] + 1), values[0]
        elif table.numeric(name):
            space[name] = tune.uniform(values[0], values[-1])
        else:
            space[name] = tune.choice(values)
    searcher = kind(metric="score", mode="max", space=space, low_cost_partial_config=low, cost_attr="cost", seed=seed)
    count = 0

    def suggest():
        nonlocal count
        count += 1
        wanted = searcher.suggest(f"t{count}")
        if wanted is None:
            return
        before = purse.left
        score = purse.evaluate(table.nearest(wanted))
        searcher.on_trial_complete(f"t{count}", {"score": score, "cost": max(before - purse.left, 1e-9), "config": wanted, "time_total_s": 1.0})

    search(purse, suggest)


PEERS = {
    "optuna tpe": lambda purse, seed: run_optuna(purse, seed, False),
    "optuna wilcoxon": lambda purse, seed: run_optuna(purse, seed, True),
    "flaml cfo": lambda purse, seed: run_flaml(purse, seed, CFO),
    "flaml blend": lambda purse, seed: run_flaml(purse, seed, BlendSearch),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, type=pathlib.Path)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path(os.environ.get("FARTHING_SHARED", "../shared")) / "recorded")
    parser.add_argument("--tables", default="exam,temperature", help="beginnings of names; matrices are named by their files")
    parser.add_argument("--budgets", default="2,5,12", help="per cent of the price of everything affordable")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--ours", default="race,halving,random", help="our strategies; nothing leaves them out")
    args = parser.parse_args()
    shares = [float(text) / 100 for text in args.budgets.split(",")]
    with tempfile.TemporaryDirectory(prefix="farthing-peers-") as folder:
        folder = pathlib.Path(folder)
        subprocess.run([args.bench, "--bench", "--data", args.data, "--export", folder], check=True, stdout=subprocess.DEVNULL)
        names = sorted(path.name.removesuffix(".scores.csv") for path in folder.glob("*.scores.csv"))
        names = [name for name in names if not name.endswith(".unseen") and any(name.startswith(want) for want in args.tables.split(","))]
        print("mean regret in points ± standard error at " + ", ".join(f"{100 * share:g} %" for share in shares) + f" of the price, {args.seeds} seeds")
        if args.ours:
            groups = ",".join(sorted({name if name in CASES else "matrices" for name in names}))
            ours = [args.bench, "--bench", "--data", args.data, "--threads", "1", "--seeds", str(args.seeds), "--budgets", args.budgets]
            ours += ["--strategies", args.ours, "--groups", groups]
            text = subprocess.run(ours, check=True, capture_output=True, text=True).stdout
            print("\n".join(line for line in text.splitlines()[1:] if "(unseen)" not in line), flush=True)
        groups = {}
        for name in names:
            table = Table(folder, name)
            for inference in CASES.get(name, [None]):
                affordable = [at for at in range(len(table.rows)) if inference is None or table.production[at] <= inference]
                best, worst = max(table.mean[at] for at in affordable), min(table.mean[at] for at in affordable)
                label = (name if name in CASES else "matrices") + (f"-{inference}" if inference else "")
                for peer, play in PEERS.items():
                    for share in shares:
                        for seed in range(args.seeds):
                            purse = Purse(table, share * table.price(affordable), inference, seed)
                            play(purse, seed)
                            found = purse.recommended()
                            reached = table.mean[found] if found in affordable else worst
                            cell = groups.setdefault((label, peer), {}).setdefault(share, [])
                            cell.append((100 * (best - reached), found is not None and found not in affordable))
    for (label, peer), cells in sorted(groups.items()):
        words, over = [], 0.0
        for share in shares:
            values = [value for value, _ in cells[share]]
            error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
            words.append(f"{statistics.fmean(values):.2f}±{error:.2f}".rjust(11))
            over += sum(over for _, over in cells[share]) / len(values) / len(shares)
        print(f"{label + ' ' + peer:<42}{' '.join(words)}  {100 * over:>4.0f} %")


if __name__ == "__main__":
    sys.exit(main())
