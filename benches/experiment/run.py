#!/usr/bin/env python3
"""`farthing run` over many rows, and prompto over fewer, on one `farthing mock`: `python3 benches/experiment/run.py`.

For each: rows a second, CPU seconds for 1,000 rows and the largest resident memory, all of the whole process (start and
imports too). The endpoint is a process of its own, without limits, and answers at once; what it billed is compared with
what the experiment says was spent.

Options: --rows N (100000), --peer-rows N (2000), --concurrency N (64), --program PATH (target/release/farthing),
--python PATH (an interpreter with `prompto[openai]`; else benches/peers/venvs/prompto/bin/python, without it no peer),
--repeat N (1).
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
QUESTION = "Question {}: which of the following four statements is true, and why? Answer in one short sentence."


def measured(command, **more):
    """Runs a command to its end: wall seconds, CPU seconds, MiB."""
    begin = time.perf_counter()
    child = subprocess.Popen(command, **more)
    _, status, used = os.wait4(child.pid, 0)
    wall = time.perf_counter() - begin
    if status != 0:
        raise RuntimeError(f"{command[0]} ended with {os.waitstatus_to_exitcode(status)}")
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def ledger(root):
    with urllib.request.urlopen(root + "/ledger") as reply:
        return json.load(reply)


def line(name, rows, took):
    wall, cpu, memory = took
    print(f"{name:<24} {rows:>7} rows {wall:>8.2f} s {rows / wall:>9.0f} rows/s {cpu / rows * 1000:>9.4f} CPU s/1,000 {memory:>8.1f} MiB", flush=True)


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--rows", type=int, default=100_000)
    arguments.add_argument("--peer-rows", type=int, default=2_000)
    arguments.add_argument("--concurrency", type=int, default=64)
    arguments.add_argument("--repeat", type=int, default=1)
    arguments.add_argument("--program", type=Path, default=ROOT / "target/release/farthing")
    arguments.add_argument("--python", type=Path, default=ROOT / "benches/peers/venvs/prompto/bin/python")
    options = arguments.parse_args()
    program = options.program.resolve()
    mock = subprocess.Popen([program, "mock", "--port", "0"], stdout=subprocess.PIPE, text=True)
    url = mock.stdout.readline().split()[1]
    root = url.removesuffix("/v1")
    try:
        for _ in range(options.repeat):
            for rows in (options.rows // 10, options.rows):
                with tempfile.TemporaryDirectory() as folder:
                    ours(program, url, root, rows, options.concurrency, Path(folder))
            if options.python.exists():
                with tempfile.TemporaryDirectory() as folder:
                    # It counts its own time and CPU too, without start and imports.
                    client = [options.python.absolute(), ROOT / "benches/peers/client.py", "prompto", url]
                    command = [*client, str(options.peer_rows), "64", folder]
                    with open(Path(folder) / "own.json", "w+") as own:
                        took = measured(command, env=peer_environment(), cwd=folder, stdout=own, stderr=subprocess.DEVNULL)
                        own.seek(0)
                        alone = json.loads(own.read().splitlines()[-1])
                    line("prompto", options.peer_rows, took)
                    line("  asking alone", options.peer_rows, (alone["seconds"], alone["cpu"], took[2]))
    finally:
        mock.terminate()
        mock.wait()


def peer_environment():
    # The endpoint serves its own models alone.
    return os.environ | {"FARTHING_BENCH_MODEL": "mock-small"}


def ours(program, url, root, rows, concurrency, folder):
    with open(folder / "rows.jsonl", "w") as file:
        for number in range(rows):
            row = {"id": f"q{number}", "prompt": QUESTION.format(number), "model": "mock-small"}
            row |= {"parameters": {"temperature": 0, "max_tokens": 64}, "topic": "statements"}
            file.write(json.dumps(row) + "\n")
    (folder / "farthing.toml").write_text(
        f'[endpoints.here]\nprovider = "openai"\nbase_url = "{url}"\n[models.mock-small]\nprice = {{ input = 0.25, output = 0.75 }}\n'
    )
    for name, budget in (("farthing run", []), ("  under a budget", ["--budget", "1000", "--no-cache"])):
        before = ledger(root)
        out = "out" if not budget else "capped"
        command = [program, "run", "rows.jsonl", "--out", out, "--quiet", "--json", "--concurrency", str(concurrency)]
        took = measured([*command, *budget], cwd=folder, stdout=subprocess.DEVNULL)
        line(name, rows, took)
        summary = json.loads((folder / out / "summary.json").read_text())
        after = ledger(root)
        assert summary["answered"] == rows and summary["failed"] == 0, summary
        assert after["answered"] - before["answered"] == rows, "every row was asked once"
        lines = sum(1 for _ in open(folder / out / "results.jsonl"))
        assert lines == rows, f"{lines} results"
        billed = float(after["billed_usd"]) - float(before["billed_usd"])
        assert abs(billed - float(summary["spent_usd"])) < 1e-9, f"{billed} billed, {summary['spent_usd']} spent"
    command = [program, "run", "rows.jsonl", "--out", "again", "--quiet", "--json", "--concurrency", str(concurrency)]
    line("  from the store", rows, measured(command, cwd=folder, stdout=subprocess.DEVNULL))


main()
