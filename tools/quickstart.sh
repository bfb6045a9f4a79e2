#!/usr/bin/env bash
# From a fresh clone to a distilled student: makes .venv, writes handwritten digits as an image folder, trains a small ViT,
# and distils it into a small DeiT by SeRKD, beside labels only and logit KD. Started again, it continues.
#   bash tools/quickstart.sh [flags of tools/experiments/quickstart.py]
set -euo pipefail
cd "$(dirname "$0")/.."
source tools/environment.sh
make_environment mmlab,quickstart
exec .venv/bin/python -W ignore tools/experiments/quickstart.py "$@"
