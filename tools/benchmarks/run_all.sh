#!/usr/bin/env bash
# Every benchmark, on the GPU where there is one and else on the CPU, after the tests of the operations on that device:
#   bash tools/benchmarks/run_all.sh [OUT]
# Takes a few minutes. Arguments of the scripts themselves: `python tools/benchmarks/<script>.py --help`.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PYTHON=${PYTHON:-python}
OUT=${1:-tools/benchmarks/results}

"$PYTHON" -m pytest -q -m 'not slow' tests/ops
"$PYTHON" -W ignore tools/benchmarks/relation_losses.py --seconds 2 --out "$OUT"
"$PYTHON" -W ignore tools/benchmarks/training_step.py --seconds 10 --out "$OUT"
"$PYTHON" -W ignore tools/benchmarks/growth.py --seconds 1 --out "$OUT"
