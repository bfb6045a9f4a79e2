#!/usr/bin/env bash
# Evaluate on a slurm cluster.
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#     tools/slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [flags of tools/test.py]
set -euo pipefail
source "$(dirname "$0")/launchers.sh"
need 4 "$@"
launch_slurm "$1" "$2" test.py "$3" "$4" "${@:5}"
