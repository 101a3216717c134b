"""New values of parameters, which a call gives them before all else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx
from torch.utils import _pytree as pytree

__all__ = ["Rewrites"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Rewrites:
    """What a forward pass writes to parameters, made of state alone.

    Such as ``weight.data.clamp_(-1, 1)``, or the average of parameters that
    a momentum encoder keeps. No gradient passes through it.

    Parameters
    ----------
    reads : tuple of str
        Names of the state that it is made of, one for each placeholder.
    writes : tuple of str
        Names of parameters, one for each output.
    graph : fx.Graph
        Over whole tensors.
    """

    reads: tuple[str, ...]
    writes: tuple[str, ...]
    graph: fx.Graph

    def values(self, state: Mapping[str,
                                    torch.Tensor]) -> dict[str, torch.Tensor]:
        """The new values, of whole old ones."""
        supply = iter(self.reads)
        env: dict[fx.Node, Any] = {}
        device = state[self.writes[0]].device
        with torch.no_grad():
            for node in self.graph.nodes:
                if node.op == "placeholder":
                    env[node] = state[next(supply)].detach().to(device)
                elif node.op == "call_function":
                    args, kwargs = fx.node.map_arg((node.args, node.kwargs),
                                                   env.__getitem__)
                    env[node] = node.target(
                        *args,
                        **pytree.tree_map_only(torch.device, lambda _: device,
                                               dict(kwargs)))
        made = (env[n] for n in self.graph.output_node().args[0])
        return dict(zip(self.writes, made, strict=True))
