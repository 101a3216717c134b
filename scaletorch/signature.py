"""What a captured program depends on, read off a call."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from planner.capture.autocast import autocast_devices
from planner.capture.entry import Call
from planner.ir.layouts import ProgramLayout

__all__ = ["call_signature", "state_signature", "whole_call"]


def call_signature(call: Call,
                   modes: Sequence[bool],
                   settings: int,
                   *,
                   fixed: Iterable[int] = ()) -> tuple[Any, ...]:
    """What all ranks share.

    Parameters
    ----------
    call : Call
        With tensors of the global shapes.
    modes : sequence of bool
        Of each module, whether it trains.
    settings : int
        Number of the present values of the modules' attributes.
    fixed : iterable of int
        Leaves whose values count too.

    Raises
    ------
    ValueError
        When such a leaf is known by its shape alone.
    """
    leaves = tuple((tuple(x.shape), x.dtype,
                    x.requires_grad) if isinstance(x, torch.Tensor) else (
                        type(x).__name__, repr(x)) for x in call.leaves)
    values = tuple(_values(call, i) for i in fixed)
    return (call.paths, leaves, _autocast(), tuple(modes), ("settings",
                                                            settings), *values)


def _values(call: Call, leaf: int) -> tuple[Any, ...]:
    value, path = call.leaves[leaf], call.paths[leaf]
    if not isinstance(value, torch.Tensor):
        return path, None
    if value.is_meta:
        raise ValueError(
            f"shapes follow from the values of {path}, which no rank knows "
            'of the whole batch with inputs="local": pass the global batch')
    return path, str(value.tolist())


def _autocast() -> tuple[tuple[str, str], ...]:
    return tuple((kind, str(torch.get_autocast_dtype(kind)))
                 for kind in autocast_devices()
                 if torch.is_autocast_enabled(kind))


def state_signature(state: Iterable[torch.Tensor | None]) -> tuple[Any, ...]:
    """What is of one rank: its parameters and buffers."""
    return tuple((t.dtype, t.requires_grad) for t in state if t is not None)


def whole_call(call: Call, layout: ProgramLayout, axes: int, *,
               rank: int) -> Call:
    """The global shapes of a call whose tensors are local shards.

    Parameters
    ----------
    call : Call
    layout : ProgramLayout
        Says how inputs are sharded.
    axes : int
        How many of the mesh's axes shard what a rank passes.
    rank : int
        Position in the layout's mesh, row-major.
    """
    divisors = layout.divisors(rank)[:axes]
    leaves = []
    for position, leaf in enumerate(call.leaves):
        name = f"input:{position}"
        placements = layout.at_rest.get(name, ())[:axes]
        if isinstance(leaf, torch.Tensor) and any(p.is_shard
                                                  for p in placements):
            shape = list(leaf.shape)
            for placement, size in zip(placements, divisors, strict=True):
                if placement.is_shard:
                    shape[placement.dim] = round(shape[placement.dim] * size)
            leaf = torch.empty(shape,
                               dtype=leaf.dtype,
                               device="meta",
                               requires_grad=leaf.requires_grad)
        leaves.append(leaf)
    return dataclasses.replace(call, leaves=tuple(leaves))
