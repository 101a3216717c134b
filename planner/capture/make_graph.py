"""Trace with ``make_fx``: the second way, for what ``torch.export`` refuses.

``make_fx`` minds only operators, not the Python around them. What it
records is then exported, which makes it functional. Module paths are lost
on the way, so that the program is one block.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import fx, nn
from torch._export.utils import _compiling_state_context
from torch.fx.experimental.proxy_tensor import make_fx

from planner.capture.entry import Entry
from planner.capture.export import trace_by_export
from planner.capture.traced import Traced

__all__ = ["trace_by_make_fx"]


def trace_by_make_fx(entry: Entry, fakes: tuple[torch.Tensor, ...]) -> Traced:
    """Trace the entry as one functional forward graph, without paths.

    Parameters and results as for `trace_by_export`.
    """
    params = dict(entry.named_parameters())
    buffers = dict(entry.named_buffers())
    names = [*params, *buffers]

    def run(*flat: torch.Tensor) -> tuple[torch.Tensor, ...]:
        state = dict(zip(names, flat))
        return torch.func.functional_call(entry, state, flat[len(names):])

    # Libraries ask whether they are compiled, and then avoid .item().
    with _compiling_state_context():
        recorded = make_fx(run, pre_dispatch=True)(*params.values(),
                                                   *buffers.values(), *fakes)
    _drop_gradient_modes(recorded)
    traced = trace_by_export(_Replay(entry, recorded, names), fakes)
    note = ("torch.export refuses the model: traced with make_fx, as one "
            "block without module paths")
    return dataclasses.replace(traced, notes=(*traced.notes, note))


def _drop_gradient_modes(recorded: fx.GraphModule) -> None:
    """What has no gradients says so by detach, see `gradients`."""
    for node in list(recorded.graph.nodes):
        if getattr(node.target, "__name__", "") == "_set_grad_enabled":
            recorded.graph.erase_node(node)
    recorded.recompile()


class _Replay(Entry):
    """The entry's state, run through what was recorded of it."""

    def __init__(self, entry: Entry, recorded: fx.GraphModule,
                 names: list[str]) -> None:
        nn.Module.__init__(self)
        self.model = entry.model
        self.loss_fn = entry.loss_fn
        self.call = entry.call
        # No submodule: its constants are no state of the model.
        self.__dict__["recorded"] = recorded
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        params, buffers = dict(self.named_parameters()), dict(
            self.named_buffers())
        state = [params[n] if n in params else buffers[n] for n in self.names]
        return self.__dict__["recorded"](*state, *tensors)
