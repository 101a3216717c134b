"""Bytes of optimizer state, as the optimizers of torch.optim keep it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from planner.cluster.names import nearest
from planner.rules.registry import TensorSpec

__all__ = ["OPTIMIZERS", "optimizer_bytes"]

_STEP_BYTES = 4


def _whole(copies: int, *, step: bool) -> Callable[[TensorSpec], int]:
    """`copies` tensors like the parameter, and a float32 step count."""

    def size_bytes(param: TensorSpec) -> int:
        return copies * param.size_bytes + (_STEP_BYTES if step else 0)

    return size_bytes


def _factored(param: TensorSpec) -> int:
    """Adafactor: one row and one column of second moments."""
    shape = param.shape
    if len(shape) < 2:
        return param.size_bytes + _STEP_BYTES
    batch = math.prod(shape[:-2])
    kept = batch * (shape[-2] + shape[-1])
    return kept * param.dtype.itemsize + _STEP_BYTES


OPTIMIZERS: Mapping[str, Callable[[TensorSpec], int]] = MappingProxyType({
    "adafactor":
    _factored,
    "adagrad":
    _whole(1, step=True),
    "adam":
    _whole(2, step=True),
    "adamw":
    _whole(2, step=True),
    "rmsprop":
    _whole(1, step=True),
    "sgd":
    _whole(0, step=False),
    "sgd-momentum":
    _whole(1, step=False),
})


def optimizer_bytes(name: str, params: Iterable[TensorSpec]) -> int:
    """Bytes of state for `params` (local shapes, as they lie at rest).

    Parameters
    ----------
    name : str
        A key of :data:`OPTIMIZERS`.
    params : iterable of TensorSpec

    Raises
    ------
    ValueError
        For an unknown name.

    Examples
    --------
    >>> import torch
    >>> weight = TensorSpec(shape=(4, 8), dtype=torch.float32)
    >>> optimizer_bytes("sgd-momentum", [weight])
    128
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"the state of optimizer {name!r} is not known; "
                         f"{nearest(name, OPTIMIZERS)}")
    return sum(OPTIMIZERS[name](param) for param in params)
