"""Time of one forward call and of its backward, by the roofline.

These are the prices that the search compares; :mod:`planner.cost.graph`
prices the finished program without them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from planner.cluster.spec import DeviceKind
from planner.cost.experts import expert_sizes
from planner.cost.flops import (Contraction, attention_flops, contraction,
                                op_name)
from planner.cost.opaque import BACKWARD_RUNS, opaque_sizes
from planner.cost.saved import Saved, is_view, saved
from planner.rules.registry import OpCall

__all__ = [
    "Parts", "WHOLE", "Work", "attention_flops_per_s", "bytes_moved",
    "function_name", "memory_time_s", "overlapped_s", "passes_gradient",
    "roofline_s", "time_s", "unfilled_flops", "work"
]

Parts = tuple[float, ...]
"""Of a call's results, see :meth:`planner.cost.calls.KnownCall.made`."""
WHOLE: Parts = ()

_FUNCTIONS = {
    "gelu": ("gelu", "erf", "mish"),
    "silu": ("silu", "sigmoid", "tanh", "exp", "log", "sin", "cos", "softplus",
             "pow", "logsigmoid"),
    "softmax":
    ("softmax", "_softmax", "log_softmax", "_log_softmax", "logsumexp"),
    "layer_norm": ("layer_norm", "group_norm", "batch_norm",
                   "native_layer_norm", "native_group_norm"),
    "rms_norm": ("rms_norm", "_fused_rms_norm"),
    "cross_entropy": ("cross_entropy_loss", ),
}
_FUNCTION_OF = {op: name for name, ops in _FUNCTIONS.items() for op in ops}

_FREE_BACKWARD = frozenset(
    "add cat stack sum mean clone contiguous alias detach view_as_real "
    "view_as_complex lift_fresh".split())
_COPYING_VIEW_BACKWARD = frozenset(
    "slice select narrow split split_with_sizes chunk unbind expand "
    "expand_as broadcast_to diagonal unfold tensor_split".split())
_EXPERT_KERNELS = 12
"""Launches of a forward: sorting, counting, two products, gate, sums."""
_PRODUCT_VIEWS = 3
"""Rows joined, a weight transposed, rows parted again."""
_GATHERS = frozenset("embedding index_select gather index".split())


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one call does, whole, without any sharding.

    Parameters
    ----------
    kind : str
        Which efficiency the flops have: ``matmul``, ``attention``,
        ``convolution``; ``memory`` when only bytes matter.
    forward_flops, backward_flops : float
        Of products only, as PyTorch's flop counter counts (except that
        what a causal kernel skips is not counted).
    forward_bytes, backward_bytes : int
        Read from and written to memory.
    forward_kernels, backward_kernels : int
        Launches.
    saved : Saved
        What the backward keeps, by position.
    saved_bytes : int
        Bytes of that.
    function : str
        What is evaluated at every element, see :func:`function_name`.
    forward_views, backward_views : int
        Operators that only make another view; each costs the coefficient
        ``view_s``, which is nothing where a host runs ahead of its device.
    factors : tuple of int
        Which tensors a product multiplies.
    results : tuple of int
        Elements of what its kernels make: of the product, then of the
        gradient of each factor, 0 for one that has none.
    """

    kind: str = "memory"
    forward_flops: float = 0.0
    forward_bytes: int = 0
    forward_kernels: int = 0
    backward_flops: float = 0.0
    backward_bytes: int = 0
    backward_kernels: int = 0
    saved: Saved = Saved()
    saved_bytes: int = 0
    function: str = ""
    forward_views: int = 0
    backward_views: int = 0
    factors: tuple[int, ...] = ()
    results: tuple[int, ...] = ()


def function_name(call: OpCall) -> str:
    """What a call evaluates at every element; empty where it only moves.

    A processor without units for it takes longer over an exponential than
    over the bytes. The profile measures one of each name; the coefficients
    ``gelu_s_per_byte``, ``gelu_backward_s_per_byte``, ... are the seconds
    that a byte takes besides being moved.
    """
    return _FUNCTION_OF.get(op_name(call.target), "")


def bytes_moved(call: OpCall) -> int:
    """Bytes that the forward reads and writes; 0 for views."""
    if is_view(call):
        return 0
    written = sum(spec.size_bytes for spec in call.outputs)
    read = sum(spec.size_bytes for spec in call.inputs)
    name = op_name(call.target)
    if name in _GATHERS:
        # Only the rows that are asked for are read from the table.
        indices = sum(s.size_bytes for s in call.inputs
                      if not s.dtype.is_floating_point)
        read = min(read, written + indices)
    if name == "cross_entropy_loss":
        # log_softmax writes its result and nll_loss reads it.
        read += 2 * call.inputs[0].size_bytes
    return read + written


def work(call: OpCall) -> Work:
    """The work of a forward call and of its backward.

    Parameters
    ----------
    call : OpCall
        Over whole tensors; inputs that need a gradient are marked in
        their specs. Unknown operators count as the bytes they move.
    """
    if op_name(call.target) == "scaled_dot_product_attention":
        return _attention(call)
    if op_name(call.target) == "experts":
        return _experts(call)
    if op_name(call.target) == "opaque":
        return _opaque(call)
    product = contraction(call)
    if product is not None:
        return _product(call, product)
    return _memory_bound(call)


def _gradient_bytes(call: OpCall) -> tuple[int, int]:
    """Bytes of the gradients that the backward takes, and gives."""
    taken = sum(s.size_bytes for s in call.outputs if s.requires_grad)
    given = sum(s.size_bytes for s in call.inputs if s.requires_grad)
    return taken, given if taken else 0


def _attention(call: OpCall) -> Work:
    forward_flops, backward_flops = attention_flops(call)
    taken, given = _gradient_bytes(call)
    kept = saved(call)
    kept_bytes = kept.size_bytes(call)
    return Work(kind="attention",
                forward_flops=forward_flops,
                forward_bytes=bytes_moved(call),
                forward_kernels=1,
                backward_flops=backward_flops if taken else 0.0,
                backward_bytes=kept_bytes + taken + given if taken else 0,
                backward_kernels=1 if taken else 0,
                saved=kept,
                saved_bytes=kept_bytes)


def _experts(call: OpCall) -> Work:
    """Two products, and rows picked, gated and summed around them."""
    sizes = expert_sizes(call)
    taken, given = _gradient_bytes(call)
    kept = saved(call)
    kept_bytes = kept.size_bytes(call)
    matrices = sum(s.size_bytes for s in call.inputs[3:])
    return Work(kind="matmul",
                forward_flops=sizes.flops,
                forward_bytes=matrices + sizes.moved_bytes,
                forward_kernels=_EXPERT_KERNELS,
                backward_flops=2 * sizes.flops if taken else 0.0,
                backward_bytes=kept_bytes + given +
                2 * sizes.moved_bytes if taken else 0,
                backward_kernels=2 * _EXPERT_KERNELS if taken else 0,
                saved=kept,
                saved_bytes=kept_bytes)


def _opaque(call: OpCall) -> Work:
    sizes = opaque_sizes(call)
    runs = BACKWARD_RUNS if any(s.requires_grad for s in call.outputs) else 0
    kept = saved(call)
    return Work(kind="matmul",
                forward_flops=float(sizes.flops),
                forward_bytes=sizes.moved_bytes,
                forward_kernels=sizes.kernels,
                backward_flops=float(runs * sizes.flops),
                backward_bytes=runs * sizes.moved_bytes,
                backward_kernels=runs * sizes.kernels,
                saved=kept,
                saved_bytes=kept.size_bytes(call))


def _product(call: OpCall, product: Contraction) -> Work:
    taken, given = _gradient_bytes(call)
    kept = saved(call)
    kept_bytes = kept.size_bytes(call)
    gradients = sum(call.inputs[i].requires_grad
                    for i in product.operands) if taken else 0
    factors = [call.inputs[i] for i in product.operands]
    # The gradient of what is added is a sum of its own over all rows.
    sums = sum(s.requires_grad and s.numel < call.outputs[0].numel
               for i, s in enumerate(call.inputs)
               if i not in product.operands) if taken else 0
    return Work(kind=product.kind,
                forward_flops=float(product.flops),
                forward_bytes=bytes_moved(call),
                forward_kernels=1,
                backward_flops=float(gradients * product.flops),
                backward_bytes=(gradients + sums) * taken + kept_bytes + given,
                backward_kernels=gradients + sums,
                saved=kept,
                saved_bytes=kept_bytes,
                factors=product.operands,
                results=(call.outputs[0].numel,
                         *(s.numel if taken and s.requires_grad else 0
                           for s in factors)),
                forward_views=_PRODUCT_VIEWS,
                backward_views=_PRODUCT_VIEWS * gradients)


def _memory_bound(call: OpCall) -> Work:
    kept = saved(call)
    kept_bytes = kept.size_bytes(call)
    backward = _memory_bound_backward_bytes(call, kept_bytes)
    forward = bytes_moved(call)
    # Of a log-softmax and of what picks from it.
    kernels = 2 if op_name(call.target) == "cross_entropy_loss" else 1
    view = not forward
    taken, _ = _gradient_bytes(call)
    return Work(forward_bytes=forward,
                forward_kernels=kernels if forward else 0,
                backward_bytes=backward,
                backward_kernels=kernels if backward else 0,
                saved=kept,
                saved_bytes=kept_bytes,
                function=function_name(call),
                forward_views=1 if view else 0,
                backward_views=1 if view and taken else 0)


def _memory_bound_backward_bytes(call: OpCall, kept_bytes: int) -> int:
    taken, given = _gradient_bytes(call)
    name = op_name(call.target)
    if not taken or passes_gradient(call):
        return 0
    if name == "cross_entropy_loss":
        # The gradient of the log-softmax is written, and read again.
        taken += 2 * call.inputs[0].size_bytes
    return taken + given + kept_bytes


def passes_gradient(call: OpCall) -> bool:
    """Whether the gradient of a call's input is that of its output.

    Or a view of it: the backward computes nothing and allocates nothing.
    """
    name = op_name(call.target)
    return (is_view(call)
            and name not in _COPYING_VIEW_BACKWARD) or (name in _FREE_BACKWARD)


def overlapped_s(compute_s: Any, memory_s: Any, *, exposed: Any) -> Any:
    """Time of a kernel that computes while it moves bytes.

    Parameters
    ----------
    compute_s, memory_s : float or array
        Each alone.
    exposed : float or array
        Share of the shorter that is not hidden behind the longer: 0 is the
        roofline. Products with little to compute per byte are the further
        from their peak, the nearer both times are.
    """
    return (np.maximum(compute_s, memory_s) +
            exposed * np.minimum(compute_s, memory_s))


def unfilled_flops(flops: Any, summed: Any, wave_elements: Any) -> Any:
    """Flops that units could do while the last tiles of products are made.

    Half a wave of tiles on average for each product, and never more than
    the product itself, which is divided into smaller tiles then.

    Parameters
    ----------
    flops : float or array
    summed : float or array
        Length of the sums that products make, each product's added up: half
        of the flops of one element.
    wave_elements : float or array
        That all units make at a time.
    """
    return np.minimum(summed * wave_elements, flops)


def attention_flops_per_s(device: DeviceKind, dtype: torch.dtype, *,
                          backward: bool) -> float:
    """The rate of PyTorch's own fused attention, FlashAttention-2.

    Where a device has no ``second_attention``, it is that of its
    ``attention``. The backward has the share ``attention_backward`` of it.
    """
    known = {c.name for c in device.efficiencies}
    name = "second_attention" if "second_attention" in known else "attention"
    share = (device.coefficient("attention_backward", 1.0)
             if backward else 1.0)
    return device.peak(dtype) * device.efficiency(name, dtype) * share


def memory_time_s(size_bytes: float,
                  device: DeviceKind,
                  *,
                  kernels: int = 1,
                  function: str = "") -> float:
    """Time in which kernels read and write `size_bytes`.

    Where the device has the coefficients ``cache_bytes`` and
    ``cache_bytes_per_s``, the first bytes of each kernel move at the rate
    of its cache: what is smaller never leaves it.

    Parameters
    ----------
    size_bytes : float
        Of all kernels together.
    device : DeviceKind
    kernels : int
        Among which the bytes are spread evenly.
    function : str
        What is evaluated meanwhile, see :func:`function_name`; its
        derivative where ``_backward`` follows.
    """
    return (_moved_s(size_bytes, device, kernels) +
            size_bytes * device.coefficient(f"{function}_s_per_byte", 0.0))


def _moved_s(size_bytes: float, device: DeviceKind, kernels: int) -> float:
    rate = (device.memory_bandwidth_bytes_per_s * device.efficiency("memory"))
    cache_bytes = device.coefficient("cache_bytes", 0.0)
    if not cache_bytes:
        return size_bytes / rate
    near_bytes = min(size_bytes, cache_bytes * max(kernels, 1))
    near_rate = device.coefficient("cache_bytes_per_s", rate)
    return near_bytes / near_rate + (size_bytes - near_bytes) / rate


def roofline_s(flops: float,
               size_bytes: float,
               kernels: int,
               device: DeviceKind,
               dtype: torch.dtype,
               *,
               kind: str = "matmul",
               function: str = "",
               backward: bool = False) -> float:
    """Time of kernels that do `flops` and move `size_bytes`.

    Parameters
    ----------
    flops, size_bytes : float
    kernels : int
        Launches; each costs the device's overhead.
    device : DeviceKind
    dtype : torch.dtype
        Of the product's operands.
    kind : str
        Name of the efficiency of the flops.
    function : str
        As :func:`memory_time_s` takes it.
    backward : bool
        Which way attention is.
    """
    compute_s = 0.0
    if flops and kind == "attention":
        compute_s = flops / attention_flops_per_s(
            device, dtype, backward=backward)
    elif flops:
        compute_s = flops / (device.peak(dtype) *
                             device.efficiency(kind, dtype))
    memory_s = memory_time_s(size_bytes,
                             device,
                             kernels=kernels,
                             function=function)
    exposed = device.coefficient("exposed", 0.0)
    return float(overlapped_s(compute_s, memory_s, exposed=exposed)) \
        + kernels * device.launch_overhead_s


@functools.lru_cache(maxsize=2**16)
def time_s(work: Work,
           device: DeviceKind,
           dtype: torch.dtype,
           *,
           share: float = 1.0,
           made: Parts = WHOLE) -> tuple[float, float]:
    """Forward and backward time of a call on one device.

    Parameters
    ----------
    work : Work
        Of the whole call.
    device : DeviceKind
    dtype : torch.dtype
        Of the operands.
    share : float
        Part of the work that this device does, ``1 / n`` when `n` ranks
        divide it. Launches are not divided.
    made : tuple of float
        Part of each of the work's results that this device makes; all of
        them where left out.

    Examples
    --------
    >>> from planner.cluster.load import load_cluster
    >>> one = Work(kind="matmul", forward_flops=165e9, forward_kernels=1)
    >>> time_s(one, load_cluster("cpu-gloo").device, torch.float32)
    (1.000004, 0.0)
    """
    forward_more, backward_more = _unfilled(work, device, share, made)
    forward_s = roofline_s(work.forward_flops * share + forward_more,
                           work.forward_bytes * share,
                           work.forward_kernels,
                           device,
                           dtype,
                           kind=work.kind,
                           function=work.function)
    backward_s = roofline_s(work.backward_flops * share + backward_more,
                            work.backward_bytes * share,
                            work.backward_kernels,
                            device,
                            dtype,
                            kind=work.kind,
                            function=f"{work.function}_backward",
                            backward=True)
    view_s = device.coefficient("view_s", 0.0)
    return (forward_s + work.forward_views * view_s,
            backward_s + work.backward_views * view_s)


def _unfilled(work: Work, device: DeviceKind, share: float,
              made: Parts) -> tuple[float, float]:
    """What a device could do besides, in the forward and the backward."""
    wave = device.coefficient("wave_elements", 0.0)
    if not wave or not work.results:
        return 0.0, 0.0
    flops = work.forward_flops * share
    parts = made or (1.0, ) * len(work.results)
    forward, *backward = (
        float(unfilled_flops(flops, flops /
                             (2 * count * part), wave)) if count else 0.0
        for count, part in zip(work.results, parts, strict=True))
    return forward, sum(backward)
