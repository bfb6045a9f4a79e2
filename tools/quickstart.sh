#!/usr/bin/env bash
# From a fresh clone to a distilled student: creates .venv, writes handwritten digits as an image folder, trains a small ViT
# and distills it into a small DeiT by SeRKD, with labels only and logit KD for comparison. A second start continues.
#   bash tools/quickstart.sh [flags of tools/experiments/quickstart.py]
set -euo pipefail
source "$(dirname "$0")/usage.sh"
help_if_asked "$@"
cd "$(dirname "$0")/.."
source tools/environment.sh
make_environment mmlab,quickstart
exec .venv/bin/python -W ignore tools/experiments/quickstart.py "$@"
