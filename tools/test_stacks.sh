#!/usr/bin/env bash
# Build the supported stacks, each in a separate virtual environment, run all tests on each, and print a table of results.
#   bash tools/test_stacks.sh [FOLDER [STACK...]]
# Needs python3.10, python3.11, python3.13 and a C++ compiler; 5 GB and 20 minutes per stack.
# If FOLDER is from an earlier start, its environments are reused. FOLDER/NAME.log is the output of the tests of a stack.
set -euo pipefail
source "$(dirname "$0")/usage.sh"
help_if_asked "$@"
cd "$(dirname "$0")/.."
case "${1:-}" in -*) echo "error: there is no flag $1; see --help" >&2 && exit 2 ;; esac
FOLDER=${1:-$(mktemp -d)}
ALL=(oldest full-mmcv newest newest-python forks)
TESTS=(pytest scikit-learn matplotlib 'grad-cam<1.5' onnx onnxruntime)
OLD_TORCH=('torch==2.1.2' 'torchvision==0.16.2' 'numpy<2' 'opencv-python<4.11' 'mmengine==0.10.7' 'setuptools<81')
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_QUIET=1
export OMP_NUM_THREADS=1 # So that stacks may be tested in parallel on one machine.

# build_stack NAME PYTHON REQUIREMENT...
build_stack() {
  "$2" -m venv "$FOLDER/$1"
  "$FOLDER/$1/bin/python" -m pip install "${@:3}" "${TESTS[@]}"
}

# test_stack NAME: install this package into a stack, run the tests, and add a row to the table.
test_stack() {
  local python="$FOLDER/$1/bin/python" result=passed
  "$python" -m pip install --no-deps --editable .
  "$python" -m pytest -p no:cacheprovider >"$FOLDER/$1.log" 2>&1 || result=FAILED
  rows+=("$("$python" - "$1" "$result" "$FOLDER/$1.log" <<'PYTHON'
import datetime, importlib.metadata, pathlib, platform, re, sys

name, result, log = sys.argv[1:]
versions = {package.metadata['Name']: package.version for package in importlib.metadata.distributions()}
mmcv = next(package for package in ('mmcv', 'mmcv-lite', 'onedl-mmcv') if package in versions)
fork = 'onedl-' if mmcv == 'onedl-mmcv' else ''
counts = re.findall(r'\d+ (?:passed|failed|error|skipped)\w*', pathlib.Path(log).read_text()[-300:])
cells = [name, platform.python_version(), versions['torch'], versions['torchvision']]
cells += [f'{package} {versions[package]}' for package in (f'{fork}mmengine', mmcv, f'{fork}mmpretrain')]
print('|', ' | '.join([*cells, f'{result}: {", ".join(counts)}', str(datetime.date.today())]), '|')
PYTHON
)")
  echo "${rows[-1]}"
}

build() {
  case $1 in
    oldest) build_stack "$1" python3.10 "${OLD_TORCH[@]}" 'mmcv-lite==2.1.0' mmpretrain ;;
    full-mmcv)
      build_stack "$1" python3.10 "${OLD_TORCH[@]}" mmpretrain wheel ninja psutil
      MMCV_WITH_OPS=1 "$FOLDER/$1/bin/python" -m pip install --no-build-isolation 'mmcv==2.1.0'
      ;;
    newest) build_stack "$1" python3.11 torch torchvision mmengine mmcv-lite mmpretrain 'setuptools<81' ;;
    newest-python) build_stack "$1" python3.13 torch torchvision mmengine mmcv-lite mmpretrain 'setuptools<81' ;;
    forks) build_stack "$1" python3.11 torch torchvision onedl-mmengine onedl-mmcv onedl-mmpretrain 'setuptools<81' ;;
    *) echo "There is no stack $1; the stacks are ${ALL[*]}" >&2 && return 1 ;;
  esac
}

STACKS=("${@:2}")
[ $# -ge 2 ] || STACKS=("${ALL[@]}")
rows=()
for stack in "${STACKS[@]}"; do
  build "$stack"
  test_stack "$stack"
done
printf '%s\n' '' '| stack | Python | torch | torchvision | mmengine | mmcv | mmpretrain | tests | date |' \
  '| --- | --- | --- | --- | --- | --- | --- | --- | --- |' "${rows[@]}"
case "${rows[*]}" in *FAILED*) exit 1 ;; esac
