#!/bin/sh
# Makes results/sample anew: the run of the quick start, by the model that comes with farthing, with its report.
# FARTHING names a program to take; else one is built.
set -eu
root=$(cd "$(dirname "$0")/.." && pwd -P)
farthing=${FARTHING:-}
if [ -z "$farthing" ]; then
    (cd "$root" && cargo build --release)
    farthing=$(cd "$root" && cd "${CARGO_TARGET_DIR:-target}" && pwd)/release/farthing
fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
folder=$(cd "$folder" && pwd -P)
cd "$folder"
"$farthing" init sums --yes
rm -rf "$root/results/sample"
"$farthing" tune sums --budget 0.10 --test-share 0.1 --out "$root/results/sample"
cd "$root/results/sample"
# Where it was run is nobody's business, and what only the running program needs goes.
sed -i.bak "s|$folder/||g" study.toml
rm -f study.toml.bak .lock control.jsonl
du -sh "$root/results/sample"
