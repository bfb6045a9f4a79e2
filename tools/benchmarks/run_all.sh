#!/usr/bin/env bash
# Run the tests of the operations and then all benchmarks, on the GPU, or on the CPU of a machine without a GPU:
#   bash tools/benchmarks/run_all.sh [OUT]
# Takes a few minutes. For the arguments of a script: `python tools/benchmarks/<script>.py --help`.
set -euo pipefail
source "$(dirname "$0")/../usage.sh"
help_if_asked "$@"
cd "$(dirname "$0")/../.."
case "${1:-}" in -*) echo "error: there is no flag $1; see --help" >&2 && exit 2 ;; esac
PYTHON=${PYTHON:-python}
OUT=${1:-tools/benchmarks/results}

"$PYTHON" -m pytest -q -m 'not slow' tests/ops
"$PYTHON" -W ignore tools/benchmarks/relation_losses.py --seconds 2 --out "$OUT"
"$PYTHON" -W ignore tools/benchmarks/training_step.py --seconds 10 --out "$OUT"
"$PYTHON" -W ignore tools/benchmarks/training_step.py --methods --seconds 10 --out "$OUT"
"$PYTHON" -W ignore tools/benchmarks/growth.py --seconds 1 --out "$OUT"
