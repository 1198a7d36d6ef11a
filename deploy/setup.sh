#!/usr/bin/env bash
# Makes a virtual environment: deploy/setup.sh FOLDER cpu|nvidia [train], or deploy/setup.sh FOLDER tensorflow. `make setup`,
# `make setup-train` and `make setup-tensorflow` call it when something has changed.
set -euo pipefail

venv=$1
extra=$2
extras=$extra,dev${3:+,$3}

usable() {
    command -v "$1" >/dev/null && "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    echo "Python 3.11 or newer is needed, and none of ${PYTHON:-python3, python3.13, python3.12, python3.11, python} is one." >&2
    echo "Install it (Debian, Ubuntu: apt install python3 python3-venv), or name it: make setup PYTHON=/path/to/python3" >&2
    return 1
}

# ONNX Runtime's two builds overwrite each other's files, so a change of build starts from an empty folder.
for stamp in "$venv"/.installed-*; do
    if [[ -e $stamp && $stamp != "$venv/.installed-$extra" ]]; then
        rm -rf "$venv"
    fi
done

if [[ ! -x $venv/bin/python ]]; then
    python=$(find_python)
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "$("$python" --version) lacks its venv module (Debian, Ubuntu: apt install python3-venv)." >&2
        exit 1
    fi
    echo "Making $venv with $("$python" --version)"
    "$python" -m venv "$venv"
fi

if [[ $extra == tensorflow ]]; then
    echo "Installing what deploy/tensorflow.txt pins: 1.7 GB, a minute or two"
    wanted=(--requirement deploy/tensorflow.txt)
else
    echo "Installing what pyproject.toml pins (extras: $extras); the first time takes a minute or two"
    wanted=(--constraint constraints.txt --editable ".[$extras]")
fi
if ! "$venv/bin/python" -m pip install --quiet --quiet --disable-pip-version-check --no-input "${wanted[@]}"; then
    echo "The packages could not be installed; the lines above say why. The same \`make\` tries again." >&2
    exit 1
fi
