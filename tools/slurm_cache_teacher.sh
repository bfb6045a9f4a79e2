#!/usr/bin/env bash
# Store a teacher's outputs on a slurm cluster.
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#     tools/slurm_cache_teacher.sh PARTITION JOB_NAME CONFIG [CONFIG ...] --out DIR [flags of tools/cache_teacher.py]
set -euo pipefail
source "$(dirname "$0")/launchers.sh"
need 4 "$@"
launch_slurm "$1" "$2" cache_teacher.py "${@:3}"
