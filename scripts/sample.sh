#!/bin/sh
# Makes results/sample anew: a run of the model that comes with farthing, with its report.
set -eu
cd "$(dirname "$0")/.."
farthing=${FARTHING:-}
if [ -z "$farthing" ]; then
    cargo build --release
    farthing=${CARGO_TARGET_DIR:-target}/release/farthing
fi
store=$(mktemp -d)
trap 'rm -rf "$store"' EXIT
rm -rf results/sample
"$farthing" tune tasks/arithmetic --budget 0.05 --test-share 0.5 --inference-budget 0.00003 --store "$store/sample.db" --out results/sample
# Where this was run is nobody's business: paths become relative, and what only the running program needs goes.
sed -i.bak -e "s|$PWD/||g" -e "s|$store/|.farthing/|g" results/sample/study.toml
rm -f results/sample/study.toml.bak results/sample/.lock results/sample/control.jsonl
du -sh results/sample
