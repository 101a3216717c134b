"""State and time of optimizers, as those of torch.optim keep and take it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from planner.cluster.device import DeviceKind
from planner.names import nearest
from planner.rules.registry import TensorSpec

__all__ = ["ADAMW_PASSES", "OPTIMIZERS", "optimizer_bytes", "optimizer_s"]

ADAMW_PASSES = 7
"""Tensors that a step passes over: the parameter, its gradient and two
moments are read, all but the gradient written."""
_PLAIN_PASSES = 3
"""Of a step without state: the parameter twice, its gradient once."""
_COPIES = {
    "adagrad": 1,
    "adam": 2,
    "adamw": 2,
    "rmsprop": 1,
    "sgd-momentum": 1
}

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


def optimizer_s(name: str,
                param_bytes: float,
                device: DeviceKind,
                *,
                num_params: int = 0) -> float:
    """Seconds of a step over `param_bytes` of parameters.

    A fused step is bound by the memory: it reads and writes the parameter
    and every tensor like it that it keeps, and reads the gradient. The
    profile's coefficient ``adamw_fused_share`` says what share of the
    memory's bandwidth it reaches, and ``adamw_fused_parameter_s`` what the
    host takes for each tensor.

    Parameters
    ----------
    name : str
        A key of :data:`OPTIMIZERS`.
    param_bytes : float
        Of the trained parameters as they lie at rest on one device.
    device : DeviceKind
    num_params : int
        How many tensors these are.

    Examples
    --------
    >>> from planner.cluster.load import load_cluster
    >>> optimizer_s("adamw", 0.0, load_cluster("h100-sxm").device)
    0.0
    """
    if not param_bytes:
        return 0.0
    passes = _PLAIN_PASSES + 2 * _COPIES.get(name, 0)
    rate = (
        device.memory_bandwidth_bytes_per_s *
        device.coefficient("adamw_fused_share", device.efficiency("memory")))
    each_s = device.coefficient("adamw_fused_parameter_s", 0.0)
    return (passes * param_bytes / rate + num_params * each_s +
            device.launch_overhead_s)
