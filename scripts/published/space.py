"""Every way that a published run's devices could have run its batch."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from planner.cost.analytic.configurations import (DDP, FSDP, FULL, NONE,
                                                  SELECTIVE, ZERO1,
                                                  Configurations)
from planner.cost.analytic.transformer import Transformer
from scripts.published.case import Case

__all__ = ["VARIED", "configurations"]

VARIED = ("tp", "cp", "dp", "pp", "ep", "expert_tp", "chunks", "micro_batch",
          "num_microbatches", "sequence_parallel", "sharding", "recompute",
          "shard_group")
"""What a search may choose; the rest is the authors' software."""

_CHUNKS = (1, 2, 4, 8)
_LARGEST_MICRO_BATCH = 64


def configurations(case: Case) -> Configurations:
    """The authors' configuration, then all others, as arrays.

    The devices, the model, and the sequences of a step stay. Layers are
    divided evenly over stages, heads over tp and experts over ep.

    Parameters
    ----------
    case : Case
    """
    own = tuple(int(getattr(case.plan, name)) for name in VARIED)
    devices = int(case.plan.devices)
    batch = int(case.plan.micro_batch * case.plan.num_microbatches *
                case.plan.dp)
    rows = [own, *_all(case.model, devices, batch)]
    columns = np.array(rows).T
    return dataclasses.replace(case.plan,
                               **dict(zip(VARIED, columns, strict=True)))


def _all(model: Transformer, devices: int,
         batch: int) -> Iterator[tuple[int, ...]]:
    for pp, tp, cp in itertools.product(_divisors(devices), repeat=3):
        dp = devices // (pp * tp * cp)
        if (not dp or pp * tp * cp * dp != devices or model.layers % pp
                or model.heads % tp or model.seq % cp or batch % dp):
            continue
        shardings = (DDP, ZERO1, FSDP) if dp * cp > 1 else (DDP, )
        sequence = sorted({False, tp > 1 and not model.seq % tp})
        choices = itertools.product(_experts(model, dp * cp, tp),
                                    _batches(model, batch // dp, pp), sequence,
                                    shardings, (NONE, SELECTIVE, FULL))
        for experts, batches, *others in choices:
            yield (tp, cp, dp, pp, *experts, *batches, *others, 0)


def _experts(model: Transformer, data: int, tp: int) -> list[tuple[int, int]]:
    """Sizes of ep, and ranks of tp that divide an expert."""
    if not model.experts:
        return [(1, 1)]
    sizes = [n for n in _divisors(int(model.experts)) if not data % n]
    return [(ep, divided) for ep in sizes for divided in sorted({1, tp})]


def _batches(model: Transformer, share: int,
             pp: int) -> list[tuple[int, int, int]]:
    """Chunks, sequences of a micro-batch, and micro-batches."""
    sizes = [
        m for m in (2**n for n in range(_LARGEST_MICRO_BATCH.bit_length()))
        if not share % m
    ]
    return [(chunks, micro, share // micro) for chunks in _CHUNKS
            for micro in sizes
            if chunks == 1 or (pp > 1 and not model.layers %
                               (pp * chunks) and not share // micro % pp)]


def _divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if not n % d]
