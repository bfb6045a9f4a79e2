# Sourced by dist_*.sh and slurm_*.sh: starts a tool of this folder on several devices.

TOOLS=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python}
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

# need COUNT ARGUMENTS...: with fewer arguments than COUNT, print the comment at the top of the script and exit.
need() {
  if [ $# -le "$1" ]; then
    sed -n '2,/^set /{/^# /s/^# //p}' "$0" >&2
    exit 2
  fi
}

# launch_distributed GPUS TOOL ARGUMENTS...
launch_distributed() {
  exec "$PYTHON" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="${PORT:-29500}" \
    --nproc_per_node="$1" \
    "$TOOLS/$2" --launcher pytorch "${@:3}"
}

# launch_slurm PARTITION JOB_NAME TOOL ARGUMENTS...
launch_slurm() {
  # SRUN_ARGS is split into words on purpose.
  # shellcheck disable=SC2086
  exec srun -p "$1" \
    --job-name="$2" \
    --gres="gpu:${GPUS_PER_NODE:-8}" \
    --ntasks="${GPUS:-8}" \
    --ntasks-per-node="${GPUS_PER_NODE:-8}" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "$PYTHON" -u "$TOOLS/$3" --launcher slurm "${@:4}"
}
