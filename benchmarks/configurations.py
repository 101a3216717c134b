"""How many configurations of a transformer are priced per second.

Run ``OMP_NUM_THREADS=1 python benchmarks/configurations.py``: time and
memory of all plans of a grid over 1,024 devices by formulas
(:mod:`planner.cost.analytic`), links of their axes included.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

if __package__ in (None, ""):
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from planner.cluster import load_cluster  # noqa: E402
from planner.cost.analytic.configurations import Configurations  # noqa: E402
from planner.cost.analytic.hardware import Hardware  # noqa: E402
from planner.cost.analytic.memory import step_memory  # noqa: E402
from planner.cost.analytic.step import step_time  # noqa: E402
from planner.cost.analytic.transformer import Transformer  # noqa: E402

__all__ = ["main"]

_DEVICES = 1024
_BATCH = 2048
_LLAMA_70B = Transformer(layers=80,
                         hidden=8192,
                         heads=64,
                         kv_heads=8,
                         qk_dim=128,
                         v_dim=128,
                         qkv_parameters=8192 * 128 * (64 + 2 * 8),
                         ffn=28672,
                         vocab=128256,
                         seq=8192,
                         gated=True)


def _grid() -> Configurations:
    """Every plan of powers of two, with each kind of state and memory."""
    powers = 2**np.arange(8)
    tp, pp, cp, micro, chunks, sharding, recompute, together = (
        a.ravel()
        for a in np.meshgrid(powers[:4], powers, powers[:4], powers[:5], (
            1, 2, 5), np.arange(4), np.arange(3), (False, True)))
    dp = _DEVICES // (tp * pp * cp)
    fits = (dp >= 1) & (_BATCH % np.maximum(dp * micro, 1) == 0)
    own = [
        a[fits]
        for a in (tp, pp, cp, dp, micro, chunks, sharding, recompute, together)
    ]
    tp, pp, cp, dp, micro, chunks, sharding, recompute, together = own
    return Configurations(tp=tp,
                          pp=pp,
                          cp=cp,
                          dp=dp,
                          micro_batch=micro,
                          num_microbatches=_BATCH // (dp * micro),
                          chunks=np.where(pp > 1, chunks, 1),
                          sharding=sharding,
                          recompute=recompute,
                          sequence_parallel=together)


def main() -> None:
    """Print how many configurations were priced, in what time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    cluster = load_cluster(f"h100-sxm:{_DEVICES}")
    plans = _grid()
    count = len(plans.tp)
    times_s = []
    for _ in range(repeats):
        start = time.perf_counter()
        time_s = step_time(_LLAMA_70B, plans, Hardware.of(cluster, plans))
        memory = step_memory(_LLAMA_70B, plans, last_stage=False)
        assert len(time_s.time_s) == len(memory.total_bytes) == count
        times_s.append(time.perf_counter() - start)
    print(f"{count} configurations in {min(times_s):.3f} s: "
          f"{count / min(times_s):,.0f} per second")


if __name__ == "__main__":
    main()
