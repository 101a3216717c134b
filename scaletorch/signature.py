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


def call_signature(call: Call, modes: Sequence[bool],
                   settings: int) -> tuple[Any, ...]:
    """What all ranks share.

    Parameters
    ----------
    call : Call
        With tensors of the global shapes.
    modes : sequence of bool
        Of each module, whether it trains.
    settings : int
        Number of the present values of the modules' attributes.
    """
    leaves = tuple((tuple(x.shape), x.dtype,
                    x.requires_grad) if isinstance(x, torch.Tensor) else (
                        type(x).__name__, repr(x)) for x in call.leaves)
    return (call.paths, leaves, _autocast(), tuple(modes), ("settings",
                                                            settings))


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
        if isinstance(leaf, torch.Tensor) and name in layout.at_rest:
            shape = list(leaf.shape)
            for placement, size in zip(layout.at_rest[name][:axes],
                                       divisors,
                                       strict=True):
                if placement.is_shard:
                    shape[placement.dim] = round(shape[placement.dim] * size)
            leaf = torch.empty(shape,
                               dtype=leaf.dtype,
                               device="meta",
                               requires_grad=leaf.requires_grad)
        leaves.append(leaf)
    return dataclasses.replace(call, leaves=tuple(leaves))
