"""What every way of tracing hands on: one functional graph, its leaves named.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import fx

from planner.ir.rewrites import Rewrites

__all__ = ["Traced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A model as one graph of functional ATen calls.

    Parameters
    ----------
    graph : fx.Graph
        Placeholders, calls with ``meta["val"]``, and an output.
    leaves : dict of Node to str
        What each placeholder is: ``param:NAME``, ``buffer:NAME`` or
        ``const:NAME`` with the names of the entry module, or
        ``input:POSITION`` among the tensors of the call.
    outputs : tuple of Node
        The tensors that the entry returns, in order.
    mutations : dict of str to Node
        Written to a buffer (its name) at the end.
    constants : dict of str to Tensor
        By the name in ``const:NAME``.
    notes : tuple of str
        What a reader of the plan should know of.
    rewrites : Rewrites or None
        What is written to parameters before all else; in terms of `leaves`.
    """

    graph: fx.Graph
    leaves: Mapping[fx.Node, str]
    outputs: tuple[fx.Node, ...]
    mutations: Mapping[str, fx.Node]
    constants: Mapping[str, torch.Tensor]
    notes: tuple[str, ...] = ()
    rewrites: Rewrites | None = None
