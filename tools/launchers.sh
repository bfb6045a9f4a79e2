# Sourced by dist_*.sh and slurm_*.sh: starts a tool of this folder on several devices.

TOOLS=$(cd "$(dirname "$0")" && pwd)
PYTHON=${PYTHON:-python}
export PYTHONPATH="$TOOLS/..${PYTHONPATH:+:$PYTHONPATH}"

source "$TOOLS/usage.sh"

# need COUNT ARGUMENTS...: with fewer arguments than COUNT, or with --help, print the usage and exit.
need() {
  help_if_asked "${@:2}"
  if [ $# -le "$1" ]; then
    print_usage >&2
    exit 2
  fi
}

# refuse MESSAGE: print an error and exit.
refuse() {
  echo "error: $1" >&2
  exit 2
}

# check_config CONFIG: refuse a config that is no file, which each process would report.
check_config() {
  [ -f "$1" ] || refuse "CONFIG=$1: there is no such file"
}

# launch_distributed GPUS TOOL ARGUMENTS...
launch_distributed() {
  [[ "$1" =~ ^([1-9][0-9]*|auto|gpu|cpu)$ ]] || refuse "GPUS=$1 must be a whole number, 1 or more: the processes on this machine"
  check_config "$3"
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
  [[ "${GPUS:-8}" =~ ^[1-9][0-9]*$ ]] || refuse "GPUS=${GPUS:-8} must be a whole number, 1 or more"
  check_config "$4"
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
