#!/usr/bin/env python3
"""`farthing tune`, as a user would run it, on the scenarios of a FLAML / AutoGen benchmark, over HTTP.

    run.py --bench DIR [--farthing PROGRAM] [--scenario NAME ...] [--seeds 1-12] [--share 1.0] [--strategy NAME] [--out FILE]

DIR holds the benchmark: a fake OpenAI server with a known response surface (fake_openai.py, surface.py, surfaces/,
data/), an oracle that knows what every configuration is truly worth (oracle.py), and FLAML's own results (results/).
Each run gets a fresh server stream, the same tuning instances as FLAML's run of that seed, the same search space
(temperature 0..2 or top_p 0..1, max_tokens 50..999, n 1..99, five prompts, the scenario's models and stops), the same
metric (a vote over the n answers) and the same inference budget; `--share 0.33` gives it a third of FLAML's dollars.
Dollars are the server's own count. Regret is to the best configuration within the inference budget, on 500 test
problems that no tuner saw. Needs python3 with aiohttp and numpy (what the server and the oracle need).
"""

import argparse
import json
import os
import pathlib
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
import urllib.request

SCENARIOS = {
    # models, stops, inference budget, optimization budget, instances: as in the benchmark's own bench_flaml.py
    "single": (["gpt-3.5-turbo"], [None], 0.002, 3.0, 100),
    "single_small": (["gpt-3.5-turbo"], [None], 0.002, 1.0, 50),
    "tight": (["gpt-3.5-turbo"], [None], 0.0005, 1.0, 100),
    "multi": (["text-ada-001", "text-davinci-003", "gpt-3.5-turbo", "gpt-4"], [["\n\nQ:"], ["\n"], None], 0.02, 20.0, 100),
    "multi_small": (["text-ada-001", "text-davinci-003", "gpt-3.5-turbo", "gpt-4"], [["\n\nQ:"], ["\n"], None], 0.02, 8.0, 50),
}


class Server:
    def __init__(self, bench, surface, data, port):
        command = [sys.executable, bench / "fake_openai.py", "--surface", surface, "--data", data, "--port", str(port)]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=bench)
        self.base = f"http://127.0.0.1:{port}"
        for _ in range(100):
            try:
                self.get("/admin/stats")
                return
            except OSError:
                time.sleep(0.1)
        raise SystemExit("the benchmark's server did not start: does its python have aiohttp?")

    def get(self, path):
        return json.load(urllib.request.urlopen(self.base + path))

    def reset(self, seed):
        request = urllib.request.Request(f"{self.base}/admin/reset?seed={seed}", data=b"", method="POST")
        return json.load(urllib.request.urlopen(request))


def write_task(folder, surface, rows, models, stops, base):
    """The task, its space and its endpoint as files, in farthing's formats."""
    quote = json.dumps
    with open(folder / "tune.jsonl", "w") as file:
        for row in rows:
            file.write(json.dumps({"id": row["id"], "problem": row["problem"], "answer": row["answer"]}) + "\n")
    (folder / "task.toml").write_text(
        '[task]\nname = "surface"\n[data]\ntune = "tune.jsonl"\ntest = "tune.jsonl"\nid = "id"\n'
        '[objective]\nmetric = "success_vote"\n'
        '[metrics.success_vote]\ntype = "exact_match"\nexpected = "{{ answer }}"\n'
        "extract = 'Answer:\\s*(-?\\d+)'\nextract_from = \"last\"\nvote = \"majority\"\n"
    )
    prompts = [template["text"].replace("{problem}", "{{ problem }}") for template in surface["templates"]]
    choices = ",\n".join(f"  {{ name = \"p{at}\", template = {quote(text)} }}" for at, text in enumerate(prompts))
    space = f'[space]\nname = "surface"\n[params.prompt]\ntype = "categorical"\nchoices = [\n{choices}\n]\n'
    space += f'[params.model]\ntype = "categorical"\nchoices = {quote(models)}\n'
    space += '[params.sampling]\ntype = "categorical"\nchoices = ["temperature", "top_p"]\n'
    space += '[params.temperature]\ntype = "float"\nlow = 0.0\nhigh = 2.0\nwhen = { sampling = "temperature" }\n'
    space += '[params.top_p]\ntype = "float"\nlow = 0.0\nhigh = 1.0\nwhen = { sampling = "top_p" }\n'
    space += '[params.max_tokens]\ntype = "int"\nlow = 50\nhigh = 999\nlog = true\n'
    space += '[params.n]\ntype = "int"\nlow = 1\nhigh = 99\n'
    if stops != [None]:
        space += f'[params.stop]\ntype = "categorical"\nchoices = {quote([stop or [] for stop in stops])}\n'
    (folder / "space.toml").write_text(space)
    endpoints = f'[endpoints.surface]\nprovider = "openai"\nbase_url = "{base}/v1"\n'
    for model in models:
        about = surface["models"][model]
        price = about["price1K"] if isinstance(about["price1K"], list) else [about["price1K"]] * 2
        endpoints += f'[models."{model}"]\nprice = {{ input = {price[0] * 1000:g}, output = {price[1] * 1000:g} }}\n'
        endpoints += f'context_window = {about["context"]}\nkind = "{"chat" if about["kind"] == "chat" else "text"}"\n'
    (folder / "farthing.toml").write_text(endpoints)
    return prompts


def one(args, scenario, seed, server, surface_file, data_file, oracle):
    models, stops, inference_budget, budget, count = SCENARIOS[scenario]
    surface = json.loads(surface_file.read_text())
    problems = oracle.load_problems(str(data_file))
    rows = random.Random(seed).sample(problems[:500], count)
    server.reset(seed)
    with tempfile.TemporaryDirectory(prefix="farthing-flaml-") as folder:
        folder = pathlib.Path(folder)
        prompts = write_task(folder, surface, rows, models, stops, server.base)
        command = [args.farthing, "tune", folder, "--budget", f"{budget * args.share:.6f}", "--seed", str(seed), "--quiet"]
        command += ["--inference-budget", str(inference_budget), "--out", folder / "run", "--store", folder / "store.db"]
        command += ["--strategy", args.strategy] if args.strategy else []
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=os.environ | {"OPENAI_API_KEY": "sk-fake"})
        wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        stats = server.get("/admin/stats")
        result = {"scenario": scenario, "seed": seed, "share": args.share, "strategy": args.strategy or "default", "exit": done.returncode}
        result |= {"budget": budget * args.share, "server_dollars": round(stats["dollars"], 6), "calls": stats["calls"]}
        result |= {"wall_s": round(wall, 2), "cpu_s": round(cpu, 2), "over_budget": stats["dollars"] > budget * args.share + 1e-9}
        best = oracle.cached_best(str(surface_file), str(data_file), "test", models, [t["text"] for t in surface["templates"]], stops, inference_budget, "success_vote", cache=str(args.cache))
        result["best_possible"] = best[0][0]
        if done.returncode != 0:
            sys.stderr.write(done.stderr)
            return result | {"regret": best[0][0], "feasible": None, "summary": {}}
        request = tomllib.loads((folder / "run/best.toml").read_text())
        summary = json.loads((folder / "run/summary.json").read_text())
        config = {k: v for k, v in request["config"].items() if k in ("model", "temperature", "top_p", "max_tokens", "n")}
        config["prompt"] = surface["templates"][int(request["config"]["prompt"][1:])]["text"]
        if request["config"].get("stop"):
            config["stop"] = request["config"]["stop"]
        true = oracle.load(str(surface_file), str(data_file), "test").evaluate(config, "success_vote", reps=400, seed=1)
        result |= {"regret": best[0][0] - true["success_vote"], "true": true["success_vote"], "true_cost": true["inference_cost"]}
        result |= {"feasible": true["inference_cost"] <= inference_budget * 1.02, "trials": summary["trials"], "evaluations": summary["evaluations"]}
        result |= {"stop_reason": summary["stop_reason"], "claimed": summary["best"]["score"], "config": request["config"]}
        if args.keep:
            subprocess.run(["cp", "-r", folder, args.keep / f"{scenario}-{seed}"], check=True)
        return result


def flaml(bench, scenario):
    """FLAML's own mean regret, counting only picks within the inference budget, dollars and CPU seconds."""
    file = bench / "results" / f"flaml_{scenario}_vary.jsonl"
    if not file.exists():
        return None
    rows = [row for row in map(json.loads, file.read_text().splitlines()) if not row.get("warm")]
    regret = [row["best_possible"] - row["guarded_true_test"] for row in rows]
    mean = statistics.mean
    return mean(regret), sum(row["feasible"] for row in rows), len(rows), mean(row["server_dollars"] for row in rows), mean(row["wall_s"] for row in rows), mean(row["client_cpu_s"] for row in rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", type=pathlib.Path, required=True)
    parser.add_argument("--farthing", default="farthing")
    parser.add_argument("--scenario", nargs="*", choices=list(SCENARIOS), default=list(SCENARIOS))
    parser.add_argument("--seeds", default="1-12")
    parser.add_argument("--share", type=float, default=1.0)
    parser.add_argument("--strategy")
    parser.add_argument("--surface", default="main.json")
    parser.add_argument("--port", type=int, default=8177)
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path(tempfile.gettempdir()) / "farthing-oracle.json")
    parser.add_argument("--keep", type=pathlib.Path, help="keep the runs' folders here")
    parser.add_argument("--out", type=pathlib.Path, help="append a JSON line a run")
    args = parser.parse_args()
    args.bench, args.farthing = args.bench.resolve(), str(pathlib.Path(args.farthing).resolve()) if os.sep in args.farthing else args.farthing
    sys.path.insert(0, str(args.bench))
    import oracle

    surface, data = args.bench / "surfaces" / args.surface, args.bench / "data/problems.jsonl"
    low, _, high = args.seeds.partition("-")
    server = Server(args.bench, surface, data, args.port)
    table = []
    try:
        for scenario in args.scenario:
            rows = []
            for seed in range(int(low), int(high or low) + 1):
                row = one(args, scenario, seed, server, surface, data, oracle)
                rows.append(row)
                print({k: (round(v, 4) if isinstance(v, float) else v) for k, v in row.items() if k != "best_possible"}, flush=True)
                if args.out:
                    with open(args.out, "a") as file:
                        file.write(json.dumps(row) + "\n")
            regrets = [row["regret"] for row in rows]
            error = statistics.stdev(regrets) / len(regrets) ** 0.5 if len(regrets) > 1 else 0.0
            mean = lambda key: statistics.mean(row[key] for row in rows)
            table.append((scenario, len(rows), statistics.mean(regrets), error, sum(bool(row["feasible"]) for row in rows), sum(row["over_budget"] for row in rows), mean("server_dollars"), mean("wall_s"), mean("cpu_s"), flaml(args.bench, scenario)))
    finally:
        server.process.terminate()
    print("\n| scenario | runs | regret | within inference budget | over the budget | server $ | wall s | CPU s | FLAML: regret, within, $, wall s, CPU s |\n|---|---|---|---|---|---|---|---|---|")
    for scenario, runs, regret, error, feasible, over, dollars, wall, cpu, theirs in table:
        other = "" if theirs is None else f"{theirs[0]:.3f}, {theirs[1]}/{theirs[2]}, {theirs[3]:.2f}, {theirs[4]:.1f}, {theirs[5]:.1f}"
        print(f"| {scenario} | {runs} | {regret:.3f} ± {error:.3f} | {feasible}/{runs} | {over} | {dollars:.2f} | {wall:.1f} | {cpu:.2f} | {other} |")


if __name__ == "__main__":
    main()
