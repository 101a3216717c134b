"""State and time of optimizers, as those of torch.optim keep and take it.

Those whose names end in ``-master`` keep their state in float32, and a float32
copy of each parameter of lower precision, which is what they update.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import torch

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

_MASTER = "-master"
_STEP_BYTES = 4

_StateBytes = Callable[[TensorSpec], int]
"""From a parameter, as it lies at rest, to its state."""


def _whole(copies: int, *, step: bool) -> _StateBytes:
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


def _with_master(size_of: _StateBytes) -> _StateBytes:
    """The state of a float32 copy, and the copy, of what is less precise."""

    def size_bytes(param: TensorSpec) -> int:
        if param.dtype.itemsize >= torch.float32.itemsize:
            return size_of(param)
        master = dataclasses.replace(param, dtype=torch.float32)
        return size_of(master) + master.size_bytes

    return size_bytes


_PLAIN: Mapping[str, _StateBytes] = {
    "adafactor": _factored,
    "adagrad": _whole(1, step=True),
    "adam": _whole(2, step=True),
    "adamw": _whole(2, step=True),
    "rmsprop": _whole(1, step=True),
    "sgd": _whole(0, step=False),
    "sgd-momentum": _whole(1, step=False),
}

OPTIMIZERS: Mapping[str, _StateBytes] = MappingProxyType({
    **_PLAIN,
    **{
        f"{name}{_MASTER}": _with_master(size_of)
        for name, size_of in _PLAIN.items()
    }
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
                num_params: int = 0,
                state_bytes: float = 0.0) -> float:
    """Seconds of a step over `param_bytes` of parameters.

    A fused step is bound by the memory: it reads and writes the parameter
    and every tensor like it that it keeps, and reads the gradient; with
    master weights it reads these instead of the parameter. The
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
    state_bytes : float
        Of what is kept there, which counts with master weights.

    Examples
    --------
    >>> from planner.cluster.load import load_cluster
    >>> optimizer_s("adamw", 0.0, load_cluster("h100-sxm").device)
    0.0
    """
    if not param_bytes:
        return 0.0
    copies = _COPIES.get(name.removesuffix(_MASTER), 0)
    if name.endswith(_MASTER) and state_bytes > (copies + 1) * param_bytes:
        moved_bytes = 2 * param_bytes + 2 * state_bytes
    else:
        moved_bytes = param_bytes * (_PLAIN_PASSES + 2 * copies)
    rate = (
        device.memory_bandwidth_bytes_per_s *
        device.coefficient("adamw_fused_share", device.efficiency("memory")))
    each_s = device.coefficient("adamw_fused_parameter_s", 0.0)
    return (moved_bytes / rate + num_params * each_s +
            device.launch_overhead_s)
