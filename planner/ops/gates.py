"""What experts compute between their two products, and its derivative.

Written out, because inside an operator nothing is recorded for autograd.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

__all__ = ["ACTIVATIONS", "GATES", "gated", "gated_backward"]

aten = torch.ops.aten


def _gelu_tanh(x: Tensor) -> Tensor:
    return aten.gelu.default(x, approximate="tanh")


def _gelu_tanh_backward(grad: Tensor, x: Tensor) -> Tensor:
    return aten.gelu_backward.default(grad, x, approximate="tanh")


def _relu_backward(grad: Tensor, x: Tensor) -> Tensor:
    return aten.threshold_backward.default(grad, x, 0)


def _relu2(x: Tensor) -> Tensor:
    return aten.relu.default(x).square()


def _relu2_backward(grad: Tensor, x: Tensor) -> Tensor:
    return 2 * grad * aten.relu.default(x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": aten.gelu.default,
    "gelu_tanh": _gelu_tanh,
    "relu": aten.relu.default,
    "relu2": _relu2,
    "silu": aten.silu.default,
}
"""Activations by name."""

_DERIVATIVES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu": aten.gelu_backward.default,
    "gelu_tanh": _gelu_tanh_backward,
    "relu": _relu_backward,
    "relu2": _relu2_backward,
    "silu": aten.silu_backward.default,
}

GATES = ("none", "halves", "pairs", "clamped_pairs")
"""How the first product holds gate and value: there is no gate; the gate is
its first half; gate and value take turns; the same, with both clamped, a
scaled sigmoid and one added to the value, as GPT-OSS does."""


def gated(inner: torch.Tensor, activation: str, gate: str,
          constants: Sequence[float]) -> torch.Tensor:
    """What the second product takes.

    Parameters
    ----------
    inner : Tensor
        Of the first product, (rows, inner dim), twice as wide with a gate.
    activation : str
        A key of :data:`ACTIVATIONS`; not looked at by ``clamped_pairs``.
    gate : str
        One of :data:`GATES`.
    constants : sequence of float
        Of ``clamped_pairs``: the sigmoid's scale and the clamp's limit.
    """
    if gate == "none":
        return ACTIVATIONS[activation](inner)
    first, second = _parts(inner, gate)
    if gate == "clamped_pairs":
        scale, limit = constants
        first = first.clamp(max=limit)
        return (second.clamp(-limit, limit) +
                1) * (first * torch.sigmoid(first * scale))
    return ACTIVATIONS[activation](first) * second


def gated_backward(grad: torch.Tensor, inner: torch.Tensor, activation: str,
                   gate: str, constants: Sequence[float]) -> torch.Tensor:
    """The gradient of `inner`, given that of :func:`gated`."""
    if gate == "none":
        return _DERIVATIVES[activation](grad, inner)
    first, second = _parts(inner, gate)
    halves = torch.empty_like(inner)
    of_first, of_second = halves.chunk(2, -1)
    if gate == "clamped_pairs":
        _clamped_backward(grad, (first, second), (of_first, of_second),
                          constants)
    else:
        of_first.copy_(_DERIVATIVES[activation](grad * second, first))
        of_second.copy_(grad * ACTIVATIONS[activation](first))
    return halves if gate == "halves" else _taking_turns(halves)


def _parts(inner: torch.Tensor, gate: str) -> tuple[torch.Tensor, ...]:
    if gate == "halves":
        return inner.chunk(2, -1)
    # Side by side: a processor takes several times as long over every
    # second number as over as many that follow each other.
    places = torch.arange(inner.shape[-1], device=inner.device)
    order = places.view(-1, 2).t().flatten()
    return inner.index_select(-1, order).chunk(2, -1)


def _taking_turns(halves: torch.Tensor) -> torch.Tensor:
    places = torch.arange(halves.shape[-1], device=halves.device)
    return halves.index_select(-1, places.view(2, -1).t().flatten())


def _clamped_backward(grad: torch.Tensor, values: tuple[torch.Tensor, ...],
                      out: tuple[torch.Tensor,
                                 ...], constants: Sequence[float]) -> None:
    (first, second), (scale, limit) = values, constants
    low = first.clamp(max=limit)
    sigmoid = torch.sigmoid(low * scale)
    slope = sigmoid * (1 + scale * low * (1 - sigmoid))
    out[0].copy_(grad * (second.clamp(-limit, limit) + 1) * slope *
                 (first <= limit))
    out[1].copy_(grad * low * sigmoid * (second.abs() <= limit))
