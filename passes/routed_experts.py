"""Experts that are spread over ranks: tokens go to them and come back.

The pair of operators ``scaletorch::experts_routed_forward`` and
``experts_routed_backward``. How many rows a rank gets is known only when
they run, so that all that has such a size stays inside of them or goes from
the one to the other; graphs around them have the shapes of the tokens.

Where several axes hold experts rows take one hop over each, outermost
first: the experts' dim is cut in this order. Rows are sorted by expert
before a hop, so that counts say what a message holds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import _resolve_process_group

from planner.ops.experts import (REQUIRED, Experts, Settings, combined,
                                 combined_backward, counted, laid_out)

__all__ = ["AXES_POSITION", "ROUTED", "Route", "routed_experts"]

Tensors = Sequence[torch.Tensor]

_ROUTE = ("int experts, str[] axes, int[] sizes, int[] coordinates, "
          "bool[] moved")
_EXPERTS = ("Tensor gate_up, Tensor down, Tensor? gate_up_bias, "
            "Tensor? down_bias")
_SETTINGS = "str activation, str gate, bool transposed, float[] constants"
_KEPT = ("Tensor rows, Tensor inner, Tensor scale, Tensor places, "
         "Tensor splits, Tensor ends")


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The axes that shard the experts, outermost first.

    Parameters
    ----------
    experts : int
        Of all ranks.
    axes : tuple of str
        Names of their process groups.
    sizes, coordinates : tuple of int
    moved : tuple of bool
        Whether an axis shards the tokens as well, so that they are sent
        along it; else each of its ranks has all and takes its own.
    """

    experts: int
    axes: tuple[str, ...]
    sizes: tuple[int, ...]
    coordinates: tuple[int, ...]
    moved: tuple[bool, ...]

    @property
    def hops(self) -> list[tuple[str, int]]:
        """Axes along which rows move, with their sizes."""
        return [(a, n) for a, n, m in zip(self.axes, self.sizes, self.moved)
                if m]

    @property
    def local(self) -> int:
        """Experts on one rank."""
        return self.experts // math.prod(self.sizes)

    def targets(self,
                index: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Which choices concern this rank's peers, sorted by target.

        Returns
        -------
        places, targets : Tensor
            Of each kept choice its place in `index`, and its target: the
            ranks along the hops and the expert there, as one number.
        """
        width, rest = self.experts, index
        target = torch.zeros_like(index)
        mine = torch.ones_like(index, dtype=torch.bool)
        for size, coordinate, moved in zip(self.sizes, self.coordinates,
                                           self.moved):
            width //= size
            digit, rest = rest // width, rest % width
            if moved:
                target = target * size + digit
            else:
                mine &= digit == coordinate
        target = target * self.local + rest
        if all(self.moved):
            order = torch.argsort(target, stable=True)
        else:
            kept = mine.nonzero().squeeze(1)
            order = kept[torch.argsort(target[kept], stable=True)]
        return order, target[order]


@dataclass(frozen=True, slots=True)
class _Hop:
    """One exchange that has been agreed upon, and the order after it."""

    group: dist.ProcessGroup
    gives: list[int]
    takes: list[int]
    order: torch.Tensor

    def ahead(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """To the experts, sorted there."""
        found = _exchanged(self.group, self.gives, self.takes, tensors)
        return [x[self.order] for x in found]

    def back(self, *tensors: torch.Tensor) -> list[torch.Tensor]:
        """To the tokens, in the order in which they were sent."""
        sorted_back = []
        for x in tensors:
            out = torch.empty_like(x)
            out[self.order] = x
            sorted_back.append(out)
        return _exchanged(self.group, self.takes, self.gives, sorted_back)


def _exchanged(group: dist.ProcessGroup, gives: list[int], takes: list[int],
               tensors: Tensors) -> list[torch.Tensor]:
    """Rows to each rank; all messages are on their way at once."""
    found, works = [], []
    for x in tensors:
        out = x.new_empty((sum(takes), *x.shape[1:]))
        works.append(
            dist.all_to_all_single(out,
                                   x.contiguous(),
                                   takes,
                                   gives,
                                   group=group,
                                   async_op=True))
        found.append(out)
    for work in works:
        work.wait()
    return found


def _agreed(axis: str, size: int, targets: torch.Tensor,
            groups: int) -> tuple[_Hop, torch.Tensor, torch.Tensor]:
    """Tell each rank how much it gets: the hop, its sizes, targets there."""
    group = _resolve_process_group(axis)
    gives = counted(targets, size * groups).view(size, groups)
    takes = torch.empty_like(gives)
    dist.all_to_all_single(takes, gives, group=group)
    sizes = torch.stack([gives.sum(1), takes.sum(1)]).cpu()
    sent, got = sizes.tolist()
    kinds = torch.arange(groups, device=targets.device).repeat(size)
    there = kinds.repeat_interleave(takes.flatten(), output_size=sum(got))
    order = torch.argsort(there, stable=True)
    return _Hop(group, sent, got, order), sizes, there[order]


def _forward(hidden: torch.Tensor, index: torch.Tensor, weights: torch.Tensor,
             gate_up: torch.Tensor, down: torch.Tensor,
             gate_up_bias: torch.Tensor | None, down_bias: torch.Tensor | None,
             activation: str, gate: str, transposed: bool,
             constants: Sequence[float], experts: int, axes: Sequence[str],
             sizes: Sequence[int], coordinates: Sequence[int],
             moved: Sequence[bool]) -> tuple[torch.Tensor, ...]:
    """Output; what the backward reads; how many tokens chose each expert."""
    own = Experts(gate_up, down, gate_up_bias, down_bias,
                  Settings(activation, gate, transposed, tuple(constants)))
    route = Route(experts=experts,
                  axes=tuple(axes),
                  sizes=tuple(sizes),
                  coordinates=tuple(coordinates),
                  moved=tuple(moved))
    (tokens, k), flat = index.shape, index.flatten()
    first, targets = route.targets(flat)
    rows, scale = hidden[first // k], weights.flatten()[first]
    places, splits, hops = [first], [], []
    groups = math.prod(n for _, n in route.hops) * route.local
    for axis, size in route.hops:
        groups //= size
        hop, split, targets = _agreed(axis, size, targets, groups)
        rows, scale = hop.ahead(rows, scale)
        hops.append(hop)
        places.append(hop.order)
        splits.append(split.flatten())
    ends = counted(targets, route.local).cumsum(0).int()
    out, inner = own.forward(rows, ends)
    out = (out * scale.unsqueeze(1)).to(hidden.dtype)
    for hop in reversed(hops):
        out, = hop.back(out)
    return (combined(out, first, k, tokens), rows, inner, scale,
            torch.cat(places), _flat(splits), ends, counted(flat, experts))


def _flat(splits: Tensors) -> torch.Tensor:
    return torch.cat(list(splits)) if splits else torch.empty(
        0, dtype=torch.int64)


def _backward(grad: torch.Tensor, weights: torch.Tensor, gate_up: torch.Tensor,
              down: torch.Tensor, gate_up_bias: torch.Tensor | None,
              down_bias: torch.Tensor | None, rows: torch.Tensor,
              inner: torch.Tensor, scale: torch.Tensor, places: torch.Tensor,
              splits: torch.Tensor, ends: torch.Tensor, activation: str,
              gate: str, transposed: bool, constants: Sequence[float],
              axes: Sequence[str]) -> list[torch.Tensor]:
    """Gradients of the tokens, of their weights, and of the experts."""
    own = Experts(gate_up, down, gate_up_bias, down_bias,
                  Settings(activation, gate, transposed, tuple(constants)))
    tokens, k = weights.shape
    first, hops = _hops(axes, places, splits)
    back = combined_backward(grad, first, k)
    for hop in hops:
        back, = hop.ahead(back)
    of_rows, of_scale, rest = own.backward(back, scale.unsqueeze(1), rows,
                                           inner, ends)
    of_scale = of_scale.to(weights.dtype)
    for hop in reversed(hops):
        of_rows, of_scale = hop.back(of_rows, of_scale)
    of_weights = torch.zeros_like(weights,
                                  memory_format=torch.contiguous_format)
    of_weights.view(-1)[first] = of_scale
    return [combined(of_rows, first, k, tokens), of_weights, *rest]


def _hops(axes: Sequence[str], places: torch.Tensor,
          splits: torch.Tensor) -> tuple[torch.Tensor, list[_Hop]]:
    """The forward's hops out of what it kept."""
    groups = [_resolve_process_group(a) for a in axes]
    parts = splits.split([2 * g.size() for g in groups])
    sizes = [part.view(2, -1).tolist() for part in parts]
    if not groups:
        return places, []
    lengths = [sum(sizes[0][0]), *(sum(takes) for _, takes in sizes)]
    first, *orders = places.split(lengths)
    return first, [
        _Hop(group, gives, takes, order)
        for group, (gives, takes), order in zip(groups, sizes, orders)
    ]


def _fake_forward(hidden: torch.Tensor, index: torch.Tensor,
                  weights: torch.Tensor, gate_up: torch.Tensor,
                  down: torch.Tensor, gate_up_bias: torch.Tensor | None,
                  down_bias: torch.Tensor | None, activation: str, gate: str,
                  transposed: bool, constants: Sequence[float], experts: int,
                  axes: Sequence[str], sizes: Sequence[int],
                  coordinates: Sequence[int],
                  moved: Sequence[bool]) -> tuple[torch.Tensor, ...]:
    """Sizes as they are where all experts get alike."""
    alone = math.prod(n for n, m in zip(sizes, moved) if not m)
    hops = [n for n, m in zip(sizes, moved) if m]
    rows = index.numel() // alone
    inner = gate_up.shape[2 if transposed else 1]
    return (hidden.new_empty(hidden.shape),
            hidden.new_empty(
                (rows, hidden.shape[1])), hidden.new_empty(
                    (rows, inner)), weights.new_empty(
                        (rows, )), index.new_empty((rows * (1 + len(hops)), )),
            torch.empty(2 * sum(hops), dtype=torch.int64, device="cpu"),
            index.new_empty((gate_up.shape[0], ),
                            dtype=torch.int32), index.new_empty((experts, )))


def _fake_backward(grad: torch.Tensor, weights: torch.Tensor,
                   gate_up: torch.Tensor, down: torch.Tensor,
                   gate_up_bias: torch.Tensor | None,
                   down_bias: torch.Tensor | None, *rest:
                   object) -> list[torch.Tensor]:
    others = (weights, gate_up, down, gate_up_bias, down_bias)
    return [grad.new_empty(grad.shape)
            ] + [x.new_empty(x.shape) for x in others if x is not None]


for _name, _schema, _run, _fake in (
    ("experts_routed_forward",
     f"({REQUIRED}, {_ROUTE}) -> ({', '.join(['Tensor'] * 8)})", _forward,
     _fake_forward),
    ("experts_routed_backward",
     f"(Tensor grad, Tensor weights, {_EXPERTS}, {_KEPT}, {_SETTINGS}, "
     "str[] axes) -> Tensor[]", _backward, _fake_backward),
):
    torch.library.define(f"scaletorch::{_name}", _schema)
    torch.library.impl(f"scaletorch::{_name}", "CompositeExplicitAutograd",
                       _run)
    torch.library.register_fake(f"scaletorch::{_name}", _fake)

ROUTED = (torch.ops.scaletorch.experts_routed_forward.default,
          torch.ops.scaletorch.experts_routed_backward.default)
"""The operators that talk to other ranks."""

AXES_POSITION = {ROUTED[0]: 12, ROUTED[1]: 16}
"""Where their axes' names stand among the arguments."""


class _Routed(torch.autograd.Function):

    @staticmethod
    def forward(ctx: Any, route: Route, settings: Settings,
                hidden: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        tensors = (hidden, *rest)
        state = (settings.activation, settings.gate, settings.transposed,
                 list(settings.constants))
        out, *kept, _ = torch.ops.scaletorch.experts_routed_forward(
            *tensors, *state, route.experts, list(route.axes),
            list(route.sizes), list(route.coordinates), list(route.moved))
        ctx.save_for_backward(*tensors[2:], *kept)
        ctx.rest = (*state, [a for a, _ in route.hops])
        return out

    @staticmethod
    def backward(ctx: Any,
                 grad: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        found = torch.ops.scaletorch.experts_routed_backward(
            grad, *ctx.saved_tensors, *ctx.rest)
        return (None, None, *laid_out(found, ctx.saved_tensors[3:5]))


def routed_experts(route: Route, settings: Settings, *tensors:
                   torch.Tensor | None) -> torch.Tensor:
    """What all experts give for this rank's tokens.

    Parameters
    ----------
    route : Route
    settings : Settings
    *tensors : Tensor or None
        The seven of ``scaletorch::experts``, of which this rank has its
        tokens and its experts.

    Returns
    -------
    Tensor
        (tokens, width). Along an axis whose ranks all have the tokens, the
        part of the sum that this rank's experts give.
    """
    return _Routed.apply(route, settings, *tensors)
