"""Calls for the tests of prices: an OpCall from real tensors."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.rules.registry import Arg, OpCall, TensorSpec

__all__ = ["call_of", "spec_of"]


def spec_of(tensor: torch.Tensor) -> TensorSpec:
    """Shape, dtype and differentiability of a tensor."""
    return TensorSpec(shape=tuple(tensor.shape),
                      dtype=tensor.dtype,
                      requires_grad=tensor.requires_grad)


def call_of(target: Any, *args: Any, **kwargs: Any) -> OpCall:
    """The call ``target(*args, **kwargs)``, which is run for its outputs."""
    inputs: list[torch.Tensor] = []

    def take_out(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        inputs.append(leaf)
        return Arg(len(inputs) - 1)

    bare_args, bare_kwargs = pytree.tree_map(take_out, (args, kwargs))
    outputs = [
        leaf for leaf in pytree.tree_leaves(target(*args, **kwargs))
        if isinstance(leaf, torch.Tensor)
    ]
    return OpCall(target=target,
                  args=bare_args,
                  kwargs=bare_kwargs,
                  inputs=tuple(map(spec_of, inputs)),
                  outputs=tuple(map(spec_of, outputs)))
