#!/usr/bin/env bash
# The project's own check: makes .venv, then lint, format, documentation and all tests. Arguments go to pytest, as in
#   bash tools/run_tests.sh -m "not slow"
set -euo pipefail
source "$(dirname "$0")/usage.sh"
help_if_asked "$@"
cd "$(dirname "$0")/.."
source tools/environment.sh
make_environment all
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m sphinx -W --keep-going -q -b html docs/en docs/_build/html
# A process for each core, up to 8, with one thread: the threads of several would wait for each other.
export OMP_NUM_THREADS=1
exec .venv/bin/python -m pytest -n logical --maxprocesses=8 --dist loadfile "$@"
