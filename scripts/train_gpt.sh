#!/usr/bin/env bash
# Sets up the environment where there is none, then trains a small GPT on
# four ranks of this machine; options go to examples/train_gpt.py.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
exec torchrun --nproc-per-node 4 examples/train_gpt.py "$@"
