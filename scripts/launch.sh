#!/usr/bin/env bash
# Trains on this machine: scripts/launch.sh config.yaml [train.lr=3e-4 ...]
#
# RANKS: processes; left out, one for each accelerator, else two.
# PYTHON: the interpreter (default python).
# What is killed (exit codes other than 0) goes on from its last checkpoint
# when the same command is given again.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [[ -z "${RANKS:-}" ]]; then
    RANKS="$("$python" -c \
        'import torch; print(torch.accelerator.device_count() or 2)')"
fi
exec "$python" -m torch.distributed.run --standalone \
    --nproc-per-node "$RANKS" -m scaletorch.train "$@"
