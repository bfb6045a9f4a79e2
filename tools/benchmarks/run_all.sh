#!/usr/bin/env bash
# Check and measure everything that needs a GPU, once, in less than 10 minutes, and write a report to attach to a pull request:
#   bash tools/benchmarks/run_all.sh [OUT] [flags of tools/benchmarks/run_all.py]
# Without a GPU it is a rehearsal on the CPU; --quick computes little. PYTHON is the interpreter, by default python.
set -euo pipefail
source "$(dirname "$0")/../usage.sh"
help_if_asked "$@"
exec "${PYTHON:-python}" "$(dirname "$0")/run_all.py" "$@"
