#!/usr/bin/env bash
# Trains on several machines. Give the same command on each of them:
#
#   NODES=2 HOST=node0:29400 scripts/launch_multinode.sh config.yaml [key=value ...]
#
# NODES: machines in all.
# HOST: name and port of one of them, which all can reach; they meet there.
# RANKS: processes of a machine; left out, one for each accelerator, else two.
# JOB: a name that other jobs at the same HOST do not have.
# RESTARTS: how often torchrun starts all ranks anew when one has died; they
#   go on from the last checkpoint (default 0).
# PYTHON: the interpreter (default python).
# The folder of checkpoints must be the same on all machines.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
python="${PYTHON:-python}"
: "${NODES:?set NODES to the number of machines}"
: "${HOST:?set HOST to name:port of one machine, such as node0:29400}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
if [[ -z "${RANKS:-}" ]]; then
    RANKS="$("$python" -c \
        'import torch; print(torch.accelerator.device_count() or 2)')"
fi
exec "$python" -m torch.distributed.run \
    --nnodes "$NODES" --nproc-per-node "$RANKS" \
    --rdzv-backend c10d --rdzv-endpoint "$HOST" \
    --rdzv-id "${JOB:-scaletorch}" --max-restarts "${RESTARTS:-0}" \
    -m scaletorch.train "$@"
