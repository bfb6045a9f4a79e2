#!/usr/bin/env bash
# Train on a slurm cluster.
#   [GPUS=8] [GPUS_PER_NODE=8] [CPUS_PER_TASK=5] [SRUN_ARGS=...] \
#     tools/slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [flags of tools/train.py]
set -euo pipefail
if [ $# -lt 4 ]; then
  sed -n '2,4s/^# //p' "$0" >&2
  exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
TOOLS=$(cd "$(dirname "$0")" && pwd)

# SRUN_ARGS is several words on purpose.
# shellcheck disable=SC2086
PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}" exec srun -p "$PARTITION" \
  --job-name="$JOB_NAME" \
  --gres="gpu:${GPUS_PER_NODE:-8}" \
  --ntasks="${GPUS:-8}" \
  --ntasks-per-node="${GPUS_PER_NODE:-8}" \
  --cpus-per-task="${CPUS_PER_TASK:-5}" \
  --kill-on-bad-exit=1 \
  ${SRUN_ARGS:-} \
  "${PYTHON:-python}" -u "$TOOLS/train.py" "$CONFIG" --work-dir "$WORK_DIR" --launcher slurm "${@:5}"
