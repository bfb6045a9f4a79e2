# Sourced by the scripts of this folder: the virtual environment .venv in the root of the repository.

# make_environment EXTRAS: create .venv and install this package with the named extras, unless both are up to date.
# PYTHON is the interpreter that creates it, by default python3.
make_environment() {
  local stamp=".venv/installed-${1//,/-}"
  if [ ! -x .venv/bin/python ]; then
    if ! "${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
      echo "Python 3.10 or newer is needed; set PYTHON to such an interpreter" >&2
      return 1
    fi
    "${PYTHON:-python3}" -m venv .venv
  fi
  if [ ! -f "$stamp" ] || [ setup.py -nt "$stamp" ]; then
    echo "Installing serkd-mm[$1] into .venv (torch is large: this takes minutes)"
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".[$1]"
    touch "$stamp"
  fi
}
