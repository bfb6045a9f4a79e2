#!/usr/bin/env bash
# Store a teacher's outputs with several GPUs, or with several CPU processes on a machine without a GPU.
#   [GPUS=8] tools/dist_cache_teacher.sh CONFIG [CONFIG ...] --out DIR [flags of tools/cache_teacher.py]
# GPUS: the processes on this machine; all of its GPUs, or 1 without a GPU, by default.
# Several machines with a common DIR: set NNODES, NODE_RANK, MASTER_ADDR and PORT on each.
set -euo pipefail
source "$(dirname "$0")/launchers.sh"
need 2 "$@"
GPUS=${GPUS-$("$PYTHON" -c 'import torch; print(max(1, torch.cuda.device_count()))')}
launch_distributed "$GPUS" cache_teacher.py "$@"
