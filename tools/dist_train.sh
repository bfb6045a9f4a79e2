#!/usr/bin/env bash
# Train on several GPUs, or with several CPU processes on a machine without a GPU.
#   tools/dist_train.sh CONFIG GPUS [flags of tools/train.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
source "$(dirname "$0")/launchers.sh"
need 2 "$@"
launch_distributed "$2" train.py "$1" "${@:3}"
