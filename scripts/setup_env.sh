#!/usr/bin/env bash
# Makes a virtual environment with the project in it, and enters it.
# Sourced by the other scripts; on its own it only installs.
#
# SCALETORCH_VENV: where it lies (default .venv in the project's root)
# PYTHON: the interpreter to make it with (default python3)
set -euo pipefail

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
venv="${SCALETORCH_VENV:-$root/.venv}"
python="${PYTHON:-python3}"
stamp="$venv/.scaletorch-installed"

if ! "$python" -c "import sys; sys.exit(sys.version_info < (3, 11))"; then
    echo "setup_env.sh: $python is older than 3.11; set PYTHON to a newer" \
        "interpreter" >&2
    exit 1
fi
if [[ ! -e "$stamp" || "$root/setup.py" -nt "$stamp" ]]; then
    "$python" -m venv "$venv"
    pip=("$venv/bin/python" -m pip install --quiet
        --disable-pip-version-check)
    # First, and pinned: else a dependency may bring another build of torch.
    "${pip[@]}" torch==2.13.0
    "${pip[@]}" --editable "$root[test,dev]"
    touch "$stamp"
fi
export PATH="$venv/bin:$PATH" VIRTUAL_ENV="$venv"
