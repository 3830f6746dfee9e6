"""How near a default tune of mite comes to the best configuration there is, over seeds, by the true table.

    python3 models/train/nearness.py --farthing target/release/farthing --seeds 20
    python3 models/train/nearness.py --inference-budget 0.00002 --strategy random
"""

import argparse
import csv
import json
import statistics
import subprocess
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def key(prompt, temperature, n, max_tokens, stop):
    return prompt, round(float(temperature), 6), int(n), int(max_tokens), json.dumps(stop)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--farthing", type=Path, default=ROOT / "target/release/farthing")
    parser.add_argument("--truth", type=Path, default=ROOT / "models/mite/truth.csv")
    parser.add_argument("--budget", default="0.05")
    parser.add_argument("--inference-budget")
    parser.add_argument("--strategy", default="race")
    parser.add_argument("--seeds", type=int, default=20)
    args = parser.parse_args()
    truth = {}
    for row in csv.DictReader(args.truth.open()):
        at = key(row["prompt"], row["temperature"], row["n"], row["max_tokens"], json.loads(row["stop"]))
        truth[at] = (float(row["accuracy"]), float(row["cost_usd"]))
    limit = float(args.inference_budget or "inf")
    best = max((value for value in truth.values() if value[1] <= limit), key=lambda value: (value[0], -value[1]))
    print(f"{len(truth)} configurations; the best within the limits has {best[0]:.4f} at ${best[1]:.2e}")
    regrets, over = [], 0
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, args.seeds + 1):
            command = [args.farthing.resolve(), "tune", ROOT / "tasks/arithmetic", "--space",
                       ROOT / "search_spaces/arithmetic.toml", "--budget", args.budget, "--seed", str(seed),
                       "--strategy", args.strategy, "--json", "--quiet"]
            if args.inference_budget:
                command += ["--inference-budget", args.inference_budget]
            done = json.loads(subprocess.run(command, cwd=folder, check=True, capture_output=True).stdout)
            config = done["best"]["config"]
            score, cost = truth[key(*(config[name] for name in ("prompt", "temperature", "n", "max_tokens", "stop")))]
            over += cost > limit
            regrets.append(100 * (best[0] - score))
            print(seed, f"{score:.4f} ${cost:.2e} regret {regrets[-1]:.1f} points", json.dumps(config), flush=True)
    error = statistics.stdev(regrets) / len(regrets) ** 0.5 if len(regrets) > 1 else 0.0
    print(f"mean regret {statistics.mean(regrets):.2f} +- {error:.2f} points over {len(regrets)} seeds, "
          f"median {statistics.median(regrets):.2f}, most {max(regrets):.1f}; {over} over the inference budget")


if __name__ == "__main__":
    main()
