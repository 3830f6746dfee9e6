#!/usr/bin/env python3
"""Writes src/models/table.csv anew: prices, limits and kinds of the models of OpenAI, Azure, Anthropic and Gemini.

    python3 scripts/refresh_models.py             # the newest litellm on PyPI
    python3 scripts/refresh_models.py 1.109.1     # this version: the same version gives the same bytes

The figures come from the package litellm (MIT licence, https://pypi.org/project/litellm/), which keeps the providers'
public price lists in one JSON file. The package is downloaded with pip into a temporary folder, read as a zip file, and
never installed or run. Only the standard library is needed. Numbers are read as decimals, never as binary floats.

What is left out: models that do not answer with text alone (image, audio, video, realtime), embeddings, moderation,
models that search the web and bill each search (tokens are not all they cost),
fine-tuned models, Azure's regional deployments (their price is 10 % up: give it in farthing.toml), previews without a
price (a price of 0 is for the user to write), and models whose price or output limit is not known.

Read `git diff src/models/table.csv` before committing what it wrote: prices change.
"""

import csv
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from decimal import Decimal

TABLE = pathlib.Path(__file__).resolve().parent.parent / "src" / "models" / "table.csv"
PRICES = "litellm/model_prices_and_context_window_backup.json"
COLUMNS = (
    "provider name kind input cached_input cache_write output batch_input batch_output "
    "long_over long_input long_cached_input long_cache_write long_output "
    "context_window max_output_tokens reasoning sampling vision tools"
).split()
PROVIDERS = {
    "openai": "openai",
    "text-completion-openai": "openai",
    "azure": "azure",
    "azure_text": "azure",
    "anthropic": "anthropic",
    "gemini": "gemini",
}
KINDS = {"chat": "chat", "completion": "text", "responses": "responses"}
# By name where the data does not say what comes out.
NOT_TEXT = re.compile(
    r"audio|realtime|tts|transcribe|image|lyria|omni|robotics|computer-use|container|deep-research|model-router|search|^ft:|^mistral|^command"
)
# Models whose API bounds the answer by the context window alone (platform.openai.com/docs/models, "max output tokens"
# equals the window or there is none). litellm lists 4,096, which is no upper bound.
WINDOW_BOUND = re.compile(r"^(gpt-4|gpt-4-0613|gpt-4-32k.*|gpt-35?-turbo-16k.*|gpt-3\.?5-turbo-instruct.*|davinci-002|babbage-002)$")
WINDOW = {"gpt-3.5-turbo-instruct": 4096, "gpt-3.5-turbo-instruct-0914": 4096}


def download(version, folder):
    """The wheel of litellm, by way of pip."""
    wanted = f"litellm=={version}" if version else "litellm"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "-d", folder, wanted]
    subprocess.run(command, check=True)
    (wheel,) = pathlib.Path(folder).glob("litellm-*.whl")
    return wheel


def as_of(version):
    """The day on which that version was uploaded, from PyPI's index: the files of a wheel carry no date."""
    accept = {"Accept": "application/vnd.pypi.simple.v1+json, text/html;q=0.5"}
    request = urllib.request.Request("https://pypi.org/simple/litellm/", headers=accept)
    with urllib.request.urlopen(request) as reply:
        page = reply.read().decode()
    # As JSON or as HTML: one object, or one link, a file.
    for piece in re.split(r"\}|<a ", page):
        time = re.search(r"upload-time\"?[=:] ?\"(\d{4}-\d\d-\d\d)", piece)
        if time and re.search(rf"litellm-{re.escape(version)}(-|\.tar)", piece):
            return time.group(1)
    sys.exit(f"PyPI's index does not say when litellm {version} was uploaded")


def per_million(row, *names):
    """Dollars per million tokens as a plain decimal; the first of the fields that is there."""
    for name in names:
        if row.get(name) is not None:
            text = format((Decimal(row[name]) * 1_000_000).normalize(), "f")
            # A picodollar a token is as fine as farthing counts.
            assert -Decimal(text).as_tuple().exponent <= 6, (name, text)
            return text
    return ""


def sampling(provider, name, row):
    """Whether temperature, top_p and logprobs are taken.

    `yes`; `no`; `effort`: only with reasoning_effort = "none"; `default`: also where no reasoning_effort is given,
    because "none" is that model's default.
    """
    if row.get("supports_sampling_params") is False:
        return "no"
    # The chat variants of gpt-5 do not reason at will; what they refuse is not documented.
    if re.search(r"(^|-)chat(-|$)", name):
        return "yes"
    if provider in ("openai", "azure") and row.get("supports_reasoning"):
        if row.get("default_reasoning_effort") == "none":
            return "default"
        return "effort" if row.get("supports_none_reasoning_effort") else "no"
    return "yes"


def long_context(row):
    """The prices of requests whose prompt is longer than some thousand tokens."""
    over = sorted({int(m.group(1)) for m in (re.fullmatch(r"input_cost_per_token_above_(\d+)k_tokens", n) for n in row) if m})
    if not over:
        return {}
    assert len(over) == 1, row
    above = f"above_{over[0]}k_tokens"
    return {
        "long_over": over[0] * 1000,
        "long_input": per_million(row, f"input_cost_per_token_{above}"),
        "long_cached_input": per_million(row, f"cache_read_input_token_cost_{above}"),
        "long_cache_write": per_million(row, f"cache_creation_input_token_cost_{above}"),
        "long_output": per_million(row, f"output_cost_per_token_{above}", "output_cost_per_token"),
    }


def entry(key, row):
    """One row of the table, or None for what is left out."""
    provider = PROVIDERS.get(row.get("litellm_provider"))
    kind = KINDS.get(row.get("mode"))
    if provider is None or kind is None:
        return None
    name = key
    if provider in ("azure", "gemini"):
        if not key.startswith(provider + "/"):
            return None
        name = key[len(provider) + 1 :]
    outputs = set(row.get("supported_output_modalities") or ["text"])
    # litellm lists images as an output of gpt-5.1 and 5.2, because those call an image tool; they answer with text.
    if "/" in name or NOT_TEXT.search(name) or outputs - {"text", "image"} or "text" not in outputs:
        return None
    price_in, price_out = per_million(row, "input_cost_per_token"), per_million(row, "output_cost_per_token")
    window, most = row.get("max_input_tokens"), row.get("max_output_tokens")
    if not price_in or not price_out or Decimal(price_in) + Decimal(price_out) == 0 or not window or not most:
        return None
    window = WINDOW.get(name, window)
    # For some models litellm gives the longest prompt, which is the window less the longest answer.
    if provider in ("openai", "azure") and window + most in (400_000, 1_050_000):
        window += most
    if WINDOW_BOUND.match(name):
        most = window
    batch_in = per_million(row, "input_cost_per_token_batches")
    batch_out = per_million(row, "output_cost_per_token_batches")
    return {
        "provider": provider,
        "name": name,
        "kind": kind,
        "input": price_in,
        "cached_input": per_million(row, "cache_read_input_token_cost"),
        "cache_write": per_million(row, "cache_creation_input_token_cost"),
        "output": price_out,
        "batch_input": batch_in if batch_out else "",
        "batch_output": batch_out if batch_in else "",
        **long_context(row),
        "context_window": window,
        "max_output_tokens": min(most, window),
        "reasoning": flag(row.get("supports_reasoning")),
        "sampling": sampling(provider, name, row),
        "vision": flag(row.get("supports_vision")),
        "tools": flag(row.get("supports_function_calling")),
    }


def flag(value):
    return "yes" if value else "no"


def main():
    version = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory() as folder:
        wheel = download(version, folder)
        version = wheel.name.split("-")[1]
        with zipfile.ZipFile(wheel) as package:
            models = json.loads(package.read(PRICES), parse_float=Decimal)
    rows = sorted(
        (row for row in (entry(key, row) for key, row in models.items()) if row),
        key=lambda row: (row["provider"], row["name"]),
    )
    # What a model takes is the same at Azure, where litellm's flags are less complete.
    openai = {row["name"]: row for row in rows if row["provider"] == "openai"}
    for row in rows:
        if row["provider"] == "azure" and row["name"] in openai:
            for column in ("reasoning", "sampling", "vision", "tools"):
                row[column] = openai[row["name"]][column]
    assert len({(row["provider"], row["name"]) for row in rows}) == len(rows)
    out = io.StringIO()
    out.write(f"# source: the package litellm {version} (PyPI, MIT licence)\n")
    out.write(f"# as_of: {as_of(version)}\n")
    out.write("# Dollars per million tokens, standard tier. Written by scripts/refresh_models.py: do not edit.\n")
    writer = csv.DictWriter(out, COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    TABLE.write_text(out.getvalue())
    print(f"{len(rows)} models of litellm {version} -> {TABLE}")


if __name__ == "__main__":
    main()
