#!/usr/bin/env bash
# Train on a slurm cluster.
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [flags of tools/train.py]
set -euo pipefail
source "$(dirname "$0")/launchers.sh"
need 4 "$@"
launch_slurm "$1" "$2" train.py "$3" --work-dir "$4" "${@:5}"
