"""Experts of a mixture as one operator, without dropping tokens.

``scaletorch::experts(hidden, index, weights, gate_up, down, ...)``: each
token goes through the experts that its row of `index` names, and gets the
sum of what they give, weighted by its row of `weights`.

======== ============================== ==========================
argument shape                          transposed
======== ============================== ==========================
hidden   (tokens, width)
index    (tokens, k), integers
weights  (tokens, k)
gate_up  (experts, inner * 1 or 2,      (experts, width,
         width)                         inner * 1 or 2)
down     (experts, width, inner)        (experts, inner, width)
======== ============================== ==========================

Two optional biases follow, one row per expert, and four settings; see
:class:`Settings`. Captured programs hold the operator whole; under autograd
it is the pair ``experts_forward`` and ``experts_backward``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from planner.ops.gates import ACTIVATIONS, GATES, gated, gated_backward
from planner.ops.grouped import per_group, rows_by_matrix, rows_by_rows

__all__ = [
    "ARGUMENTS", "REQUIRED", "Experts", "Settings", "combined",
    "combined_backward", "counted", "laid_out"
]

REQUIRED = ("Tensor hidden, Tensor index, Tensor weights, Tensor gate_up, "
            "Tensor down, Tensor? gate_up_bias, Tensor? down_bias, "
            "str activation, str gate, bool transposed, float[] constants")
"""The same for operators that take all of them."""

ARGUMENTS = ("Tensor hidden, Tensor index, Tensor weights, Tensor gate_up, "
             "Tensor down, Tensor? gate_up_bias=None, "
             'Tensor? down_bias=None, str activation="silu", '
             'str gate="halves", bool transposed=False, float[] constants=[]')
"""Of the operator, as a schema."""

_OPS = torch.ops.scaletorch
_NONE: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Settings:
    """The arguments that are not tensors.

    Parameters
    ----------
    activation : str
        A key of :data:`planner.ops.gates.ACTIVATIONS`.
    gate : str
        One of :data:`planner.ops.gates.GATES`.
    transposed : bool
        Whether matrices are stored input dim first.
    constants : tuple of float
        Of the gate.
    """

    activation: str = "silu"
    gate: str = "halves"
    transposed: bool = False
    constants: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.gate not in GATES:
            raise ValueError(f"experts have no gate {self.gate!r}; known are "
                             f"{', '.join(GATES)}")
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"experts have no activation {self.activation!r}; known are "
                f"{', '.join(sorted(ACTIVATIONS))}")


@dataclass(frozen=True, slots=True)
class Experts:
    """The experts of one rank, applied to rows that are sorted by expert."""

    gate_up: torch.Tensor
    down: torch.Tensor
    gate_up_bias: torch.Tensor | None
    down_bias: torch.Tensor | None
    settings: Settings

    def forward(self, rows: torch.Tensor,
                ends: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What they give, unweighted, and what the first product gave."""
        inner = rows_by_matrix(rows, self._inwards(self.gate_up), ends)
        if self.gate_up_bias is not None:
            inner += per_group(self.gate_up_bias, ends, len(rows))
        out = rows_by_matrix(self._gated(inner), self._inwards(self.down),
                             ends)
        if self.down_bias is not None:
            out += per_group(self.down_bias, ends, len(rows))
        return out, inner

    def backward(
        self, grad: torch.Tensor, scale: torch.Tensor, rows: torch.Tensor,
        inner: torch.Tensor, ends: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Gradients of the rows, of their weights, and of the experts.

        Parameters
        ----------
        grad : Tensor
            Of what the rows gave, weighted.
        scale : Tensor
            The rows' weights, (n, 1).
        rows, inner, ends : Tensor
            Of the forward.
        """
        state = self.settings
        middle = self._gated(inner)
        back = rows_by_matrix(grad, self._outwards(self.down), ends)
        weight = (middle * back).sum(-1)
        scaled = (grad * scale).to(grad.dtype)
        of_down = self._product(scaled, middle, ends)
        of_inner = gated_backward((back * scale).to(back.dtype), inner,
                                  state.activation, state.gate,
                                  state.constants)
        of_rows = rows_by_matrix(of_inner, self._outwards(self.gate_up), ends)
        found = [self._product(of_inner, rows, ends), of_down]
        if self.gate_up_bias is not None:
            found.append(_group_sums(of_inner, ends))
        if self.down_bias is not None:
            weight += (grad *
                       per_group(self.down_bias, ends, len(rows))).sum(-1)
            found.append(_group_sums(scaled, ends))
        return of_rows, weight, found

    def _gated(self, inner: torch.Tensor) -> torch.Tensor:
        return gated(inner, self.settings.activation, self.settings.gate,
                     self.settings.constants)

    def _inwards(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices if self.settings.transposed else matrices.mT

    def _outwards(self, matrices: torch.Tensor) -> torch.Tensor:
        return matrices.mT if self.settings.transposed else matrices

    def _product(self, outer: torch.Tensor, inner: torch.Tensor,
                 ends: torch.Tensor) -> torch.Tensor:
        """A matrix's gradient from its output's gradient and its input."""
        if self.settings.transposed:
            return rows_by_rows(inner, outer, ends)
        return rows_by_rows(outer, inner, ends)


def _group_sums(rows: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    groups = per_group(torch.arange(len(ends), device=rows.device), ends,
                       len(rows))
    return rows.new_zeros(
        (len(ends), rows.shape[1])).index_add(0, groups, rows)


def counted(ids: torch.Tensor, groups: int) -> torch.Tensor:
    """How often each of 0 .. groups - 1 occurs, (groups,) int64."""
    return torch.zeros(groups, dtype=torch.int64, device=ids.device).index_add(
        0, ids, torch.ones_like(ids, dtype=torch.int64))


def combined(out: torch.Tensor, places: torch.Tensor, k: int,
             tokens: int) -> torch.Tensor:
    """Sum of the rows of each token.

    Parameters
    ----------
    out : Tensor
        (n, width).
    places : Tensor
        (n,) of each row, ``token * k + choice``; what is missing is zero.
    k, tokens : int
    """
    spread = out.new_zeros((tokens * k, out.shape[1]))
    spread[places] = out
    return spread.view(tokens, k, out.shape[1]).sum(1)


def combined_backward(grad: torch.Tensor, places: torch.Tensor,
                      k: int) -> torch.Tensor:
    """Of every row its token's gradient."""
    return grad[places // k]


def _forward(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor,
             gate_up: torch.Tensor, down: torch.Tensor,
             gate_up_bias: torch.Tensor | None, down_bias: torch.Tensor | None,
             activation: str, gate: str, transposed: bool,
             constants: Sequence[float]) -> tuple[torch.Tensor, ...]:
    """Output; then what the backward reads: rows, first product, places and
    ends of the groups."""
    experts = Experts(gate_up, down, gate_up_bias, down_bias,
                      Settings(activation, gate, transposed, tuple(constants)))
    tokens, k = index.shape
    places = torch.argsort(index.flatten(), stable=True)
    ends = counted(index.flatten(), len(gate_up)).cumsum(0).int()
    rows = hidden[places // k]
    out, inner = experts.forward(rows, ends)
    scale = weights.flatten()[places].unsqueeze(1)
    result = combined(out * scale, places, k, tokens).to(hidden.dtype)
    return result, rows, inner, places, ends


def _backward(grad: torch.Tensor, weights: torch.Tensor, gate_up: torch.Tensor,
              down: torch.Tensor, gate_up_bias: torch.Tensor | None,
              down_bias: torch.Tensor | None, rows: torch.Tensor,
              inner: torch.Tensor, places: torch.Tensor, ends: torch.Tensor,
              activation: str, gate: str, transposed: bool,
              constants: Sequence[float]) -> list[torch.Tensor]:
    """Gradients of the tokens, of their weights, and of the experts."""
    experts = Experts(gate_up, down, gate_up_bias, down_bias,
                      Settings(activation, gate, transposed, tuple(constants)))
    tokens, k = weights.shape
    of_rows, of_weights, rest = experts.backward(
        combined_backward(grad, places, k),
        weights.flatten()[places].unsqueeze(1), rows, inner, ends)
    flat = torch.zeros_like(weights, memory_format=torch.contiguous_format)
    flat.view(-1)[places] = of_weights.to(weights.dtype)
    return [combined(of_rows, places, k, tokens), flat, *rest]


class _Differentiable(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, index: torch.Tensor,
                weights: torch.Tensor, gate_up: torch.Tensor,
                down: torch.Tensor, *rest: Any) -> torch.Tensor:
        out, *kept = _OPS.experts_forward(hidden, index, weights, gate_up,
                                          down, *rest)
        ctx.save_for_backward(weights, gate_up, down, *rest[:2], *kept)
        ctx.settings = rest[2:]
        return out

    @staticmethod
    def backward(ctx: Any,
                 grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = _OPS.experts_backward(grad, *ctx.saved_tensors, *ctx.settings)
        return laid_out(found, ctx.saved_tensors[3:5]) + (None, ) * 4


def laid_out(
        found: Sequence[torch.Tensor], biases: Sequence[torch.Tensor | None]
) -> tuple[torch.Tensor | None, ...]:
    """Gradients in the order of the operator's seven tensors."""
    hidden, weights, gate_up, down, *rest = found
    left = iter(rest)
    return (hidden, None, weights, gate_up, down,
            *(None if b is None else next(left) for b in biases))


def _differentiable(hidden: torch.Tensor,
                    index: torch.Tensor,
                    weights: torch.Tensor,
                    gate_up: torch.Tensor,
                    down: torch.Tensor,
                    gate_up_bias: torch.Tensor | None = None,
                    down_bias: torch.Tensor | None = None,
                    activation: str = "silu",
                    gate: str = "halves",
                    transposed: bool = False,
                    constants: Sequence[float] = _NONE) -> torch.Tensor:
    return _Differentiable.apply(hidden, index, weights, gate_up, down,
                                 gate_up_bias, down_bias, activation, gate,
                                 transposed, list(constants))


def _fake_forward(hidden: torch.Tensor, index: torch.Tensor,
                  weights: torch.Tensor, gate_up: torch.Tensor, *rest:
                  Any) -> tuple[torch.Tensor, ...]:
    rows = index.numel()
    width = gate_up.shape[2 if rest[5] else 1]
    return (hidden.new_empty(hidden.shape),
            hidden.new_empty(
                (rows, hidden.shape[1])), hidden.new_empty(
                    (rows, width)), index.new_empty((rows, )),
            index.new_empty((gate_up.shape[0], ), dtype=torch.int32))


def _fake_backward(grad: torch.Tensor, weights: torch.Tensor,
                   gate_up: torch.Tensor, down: torch.Tensor,
                   gate_up_bias: torch.Tensor | None,
                   down_bias: torch.Tensor | None, *rest:
                   Any) -> list[torch.Tensor]:
    others = (gate_up, down, gate_up_bias, down_bias)
    return [grad.new_empty(grad.shape)] + [
        x.new_empty(x.shape) for x in (weights, *others) if x is not None
    ]


_KEPT = "Tensor rows, Tensor inner, Tensor places, Tensor ends"
_SETTINGS = "str activation, str gate, bool transposed, float[] constants"

torch.library.define("scaletorch::experts", f"({ARGUMENTS}) -> Tensor")
torch.library.define(
    "scaletorch::experts_forward", f"({REQUIRED}) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)")
torch.library.define(
    "scaletorch::experts_backward",
    "(Tensor grad, Tensor weights, Tensor gate_up, Tensor down, "
    f"Tensor? gate_up_bias, Tensor? down_bias, {_KEPT}, {_SETTINGS}) "
    "-> Tensor[]")
torch.library.impl("scaletorch::experts", "CompositeImplicitAutograd",
                   _differentiable)
torch.library.impl("scaletorch::experts_forward", "CompositeExplicitAutograd",
                   _forward)
torch.library.register_fake("scaletorch::experts_forward", _fake_forward)
torch.library.impl("scaletorch::experts_backward", "CompositeExplicitAutograd",
                   _backward)
torch.library.register_fake("scaletorch::experts_backward", _fake_backward)
