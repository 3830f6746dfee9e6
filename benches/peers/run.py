#!/usr/bin/env python3
"""What a request costs other tools and us, on one loopback endpoint: `python3 benches/peers/run.py [PEER ...]`.

Peers: openai litellm sammo lmwrapper prompto inspect promptfoo (default: all). Each is installed once, in the pinned
version of `requirements-PEER.txt` (or `package.json`), into `target/peers`. The endpoint is that of
`benches/runner.rs`: a process of its own that answers every request at once with the same 0.8 kB. CPU is that of the
asking process alone, in seconds per 1,000 requests; of promptfoo, a program and no library, its start is part of it.
The ratio is to `Client::create_many` over a fresh SQLite store, every response durable before it is used.

Options: --requests N (2000), --concurrency N (64), --limit SECONDS (1200: a peer that takes longer is ended, and said to
be), --runner PROGRAM (a built `runner` bench; else it is built with `cargo bench --no-default-features --bench runner
--no-run`).
"""

import argparse
import datetime
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOME = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent.parent / "target")).resolve() / "peers"
PEERS = ["openai", "litellm", "sammo", "lmwrapper", "prompto", "inspect", "promptfoo"]


def build():
    command = ["cargo", "bench", "--no-default-features", "--bench", "runner", "--no-run"]
    done = subprocess.run(command, cwd=HERE.parent.parent, stderr=subprocess.PIPE, text=True, check=True)
    return HERE.parent.parent / re.search(r"Executable .*\((.*)\)", done.stderr).group(1)


def python_of(peer):
    """The interpreter of a peer's venv, made where there is none."""
    folder = HOME / "venvs" / peer
    if not (folder / "whole").exists():
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        requirements = HERE / f"requirements-{peer}.txt"
        subprocess.run([folder / "bin/pip", "install", "-q", "-r", requirements], check=True)
        (folder / "whole").touch()
    return folder / "bin/python"


def version_of(peer):
    """The pinned version."""
    if peer == "promptfoo":
        return json.loads((HERE / "package.json").read_text())["dependencies"]["promptfoo"]
    lines = (HERE / f"requirements-{peer}.txt").read_text().splitlines()
    return next(line.split("==")[1] for line in lines if line.startswith(peer))


def ask_python(peer, base, count, width, work, limit):
    command = [python_of(peer), HERE / "client.py", peer, base, str(count), str(width), work]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=work, timeout=limit
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip().splitlines()[-1] if done.stderr.strip() else "it failed")
    return json.loads(done.stdout.splitlines()[-1])


def ask_promptfoo(base, count, width, work, limit):
    program = HOME / "node_modules/promptfoo/dist/src/main.js"
    if not program.exists():
        HOME.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / "package.json", HOME)
        subprocess.run(["npm", "install", "--silent"], cwd=HOME, check=True)
    settings = {"apiBaseUrl": base, "apiKey": "none", "temperature": 0, "max_tokens": 64}
    tests = [{"vars": {"q": str(number)}} for number in range(count)]
    provider = {"id": "openai:chat:gpt-4o-mini", "config": settings}
    config = {"prompts": ["Question {{q}}: which statement is true?"], "providers": [provider], "tests": tests}
    path = Path(work) / "config.json"
    path.write_text(json.dumps(config))
    quiet = {"PROMPTFOO_DISABLE_TELEMETRY": "1", "PROMPTFOO_DISABLE_UPDATE": "1", "PROMPTFOO_CONFIG_DIR": work}
    command = ["node", program, "eval", "-c", path, "--no-cache", "--no-table", "--no-progress-bar", "-j", str(width)]
    wall, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    subprocess.run(command, env=os.environ | quiet, **nowhere, check=True, timeout=limit)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": time.perf_counter() - wall, "cpu": cpu}


def ask_farthing(runner, what, base, count, width):
    command = [runner, "--one", base, "--only", what, "--requests", str(count), "--concurrency", str(width)]
    seconds, _, cpu = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    return {"seconds": float(seconds), "cpu": float(cpu)}


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("peers", nargs="*", default=PEERS, help=" ".join(PEERS))
    arguments.add_argument("--requests", type=int, default=2000)
    arguments.add_argument("--concurrency", type=int, default=64)
    arguments.add_argument("--limit", type=float, default=1200)
    arguments.add_argument("--runner", type=Path)
    options = arguments.parse_args()
    unknown = set(options.peers) - set(PEERS)
    if unknown:
        arguments.error(f"unknown: {' '.join(sorted(unknown))}")
    runner, width = (options.runner or build()).resolve(), options.concurrency
    endpoint = subprocess.Popen([runner, "--serve", "0"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    base = f"http://127.0.0.1:{endpoint.stdout.readline().strip()}/v1"
    try:
        # Enough that the steps in which the system counts CPU do not show.
        own = ["client, SQLite", "evaluate, SQLite", "bare"]
        rows = [(what, ask_farthing(runner, what, base, 20_000, width), 20_000) for what in own]
        ours = rows[0][1]["cpu"] / rows[0][2]
        for peer in options.peers:
            count = options.requests
            with tempfile.TemporaryDirectory() as work:
                try:
                    ask = ask_promptfoo if peer == "promptfoo" else lambda *rest: ask_python(peer, *rest)
                    rows.append((f"{peer} {version_of(peer)}", ask(base, count, width, work, options.limit), count))
                except (OSError, RuntimeError, subprocess.SubprocessError) as error:
                    print(f"{peer}: {error}", file=sys.stderr)
    finally:
        endpoint.stdin.close()
        endpoint.wait()
    print(f"{datetime.date.today()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}, {width} at once")
    print(f"{'':<18} {'requests':>9} {'CPU s / 1,000':>14} {'per s':>9} {'to ours':>9}")
    for name, took, count in rows:
        each = took["cpu"] / count
        known = {"client, SQLite": "farthing", "evaluate, SQLite": "farthing evaluate", "bare": "bare reqwest"}
        name = known.get(name, name)
        print(f"{name:<18} {count:>9} {each * 1000:>14.4f} {count / took['seconds']:>9.0f} {each / ours:>9.1f}")


main()
