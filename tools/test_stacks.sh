#!/usr/bin/env bash
# Build the oldest and the newest stacks that are supported, each in an environment of its own, and run every test on each.
#   bash tools/test_stacks.sh [FOLDER]      needs python3.10, python3.11 and python3.13; 5 GB and 10 minutes a stack
set -euo pipefail
cd "$(dirname "$0")/.."
FOLDER=${1:-$(mktemp -d)}
TESTS=(pytest scikit-learn matplotlib)

# test_stack NAME PYTHON REQUIREMENT...
test_stack() {
  local python="$FOLDER/$1/bin/python"
  "$2" -m venv "$FOLDER/$1"
  "$python" -m pip install --quiet --disable-pip-version-check "${@:3}" "${TESTS[@]}"
  "$python" -m pip install --quiet --disable-pip-version-check --no-deps --editable .
  if "$python" -m pytest -p no:cacheprovider >"$FOLDER/$1.log" 2>&1; then
    results+=("passed  $1: $(tail -n 1 "$FOLDER/$1.log")")
  else
    results+=("FAILED  $1: see $FOLDER/$1.log")
  fi
  echo "${results[-1]}"
}

results=()
test_stack oldest python3.10 'torch==2.1.2' 'torchvision==0.16.2' 'numpy<2' 'opencv-python<4.11' 'mmengine==0.10.7' \
  'mmcv-lite==2.1.0' mmpretrain 'setuptools<81'
test_stack newest python3.11 torch torchvision mmengine mmcv-lite mmpretrain 'setuptools<81'
test_stack newest-python python3.13 torch torchvision mmengine mmcv-lite mmpretrain 'setuptools<81'
test_stack forks python3.11 torch torchvision onedl-mmengine onedl-mmcv onedl-mmpretrain 'setuptools<81'
printf '%s\n' '' "${results[@]}"
case "${results[*]}" in *FAILED*) exit 1 ;; esac
