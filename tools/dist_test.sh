#!/usr/bin/env bash
# Evaluate on several GPUs, or with several CPU processes on a machine without a GPU.
#   tools/dist_test.sh CONFIG CHECKPOINT GPUS [flags of tools/test.py]
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
source "$(dirname "$0")/launchers.sh"
need 3 "$@"
launch_distributed "$3" test.py "$1" "$2" "${@:4}"
