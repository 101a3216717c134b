"""From a lowered graph to a function: groups and random streams bound."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from passes.routed_experts import AXES_POSITION
from passes.split_backward import SplitBlock
from scaletorch.runtime.expert_counts import (CountedCall, ExpertCounts,
                                              is_counted)
from scaletorch.runtime.groups import Groups
from scaletorch.runtime.lost import Watched
from scaletorch.runtime.pieces import compiled_pieces
from scaletorch.runtime.random import SeededCall, mix
from scaletorch.runtime.seeded_op import seeded_op
from scaletorch.runtime.started import (GROUP_POSITION, StartedCall,
                                        is_overwritable, wait)

__all__ = ["BoundKernel", "bind"]

Kernel = Callable[..., tuple[Any, ...]]


class BoundKernel:
    """A kernel's forward and backward as Python functions.

    ``forward(seed, *operands)`` gives results, then saved values;
    ``backward(seed, *saved, *tangents)`` gives one gradient per operand.
    Where the split leaves gradients of weights out, ``backward`` gives None
    for these, then what they need besides; `weight_reads` says what
    :meth:`weights` takes of what the backward takes and gives.
    """

    def __init__(self,
                 split: SplitBlock,
                 groups: Groups,
                 *,
                 compile: bool = False,
                 counts: ExpertCounts | None = None) -> None:
        self.results = split.results
        self.tangents = split.tangents
        self.saved_operands = split.saved_operands
        self.draws = any(_stream(n) for n in split.forward.nodes)
        self.sends = any(
            n.target in GROUP_POSITION or n.target in AXES_POSITION
            for n in split.forward.nodes)
        self.forward = bind(split.forward,
                            groups,
                            compile=compile,
                            counts=counts)
        self.backward: Kernel | None = None
        self._tangents: list[torch.Tensor] = []
        self.weight_reads: tuple[int, ...] | None = None
        self._weights: Kernel | None = None
        if split.weight_gradient is not None:
            self.weight_reads = split.weight_reads
            self._weights = bind(split.weight_gradient,
                                 groups,
                                 compile=compile)
        if split.backward is not None:
            self.backward = bind(split.backward, groups, compile=compile)
            self._tangents = [
                n.meta["val"] for n in split.backward.nodes
                if n.op == "placeholder" and "tangent" in n.meta
            ]

    def weights(self, seed: int, number: int,
                reads: Sequence[Any]) -> tuple[Any, ...]:
        """The gradients that the backward left out, by operand."""
        assert self._weights is not None
        return self._weights(mix(seed, number), *reads)

    def filled(self,
               given: Sequence[torch.Tensor | None]) -> list[torch.Tensor]:
        """The tangents as the backward was recorded: dense, none missing."""
        return [
            torch.zeros(m.shape, dtype=m.dtype, device=m.device)
            if g is None else g.contiguous()
            for g, m in zip(given, self._tangents, strict=True)
        ]


def bind(graph: fx.Graph,
         groups: Groups,
         *,
         compile: bool = False,
         counts: ExpertCounts | None = None) -> Kernel:
    """Make a graph callable.

    Parameters
    ----------
    graph : fx.Graph
    groups : Groups
    compile : bool
        Whether to run it through ``torch.compile``.
    counts : ExpertCounts, optional
        Where calls of experts note how many tokens each got.

    Returns
    -------
    callable
        Of a seed, then what the graph takes.
    """
    bound = fx.Graph()
    seed = bound.placeholder("seed")
    made: dict[fx.Node, Any] = {}
    for node in graph.nodes:
        made[node] = bound.node_copy(node, lambda n: made[n])
        if node.target in GROUP_POSITION:
            _bind_group(made[node], node, groups, compile)
        elif node.target is torch.ops._c10d_functional.wait_tensor.default:
            made[node].target = node.target if compile else wait
        elif _stream(node) is not None:
            _bind_stream(made[node], seed, groups, compile)
        if node.target in AXES_POSITION:
            _bind_axes(made[node], groups)
        elif not compile and isinstance(made[node].target,
                                        torch._ops.OpOverload):
            made[node].target = _direct(made[node].target)
        if counts is not None and is_counted(node):
            made[node].target = CountedCall(node, counts)
    if not compile:
        kernel: Kernel = fx.GraphModule(torch.nn.Module(), bound).forward
    else:
        draws = bool(seed.users)
        if not draws:
            bound.erase_node(seed)
        kernel = _compiled(fx.GraphModule(torch.nn.Module(), bound), draws)
    return _watched(kernel, graph, groups, compile)


def _watched(kernel: Kernel, graph: fx.Graph, groups: Groups,
             compile: bool) -> Kernel:
    """Name lost ranks where exchanges do not go through `StartedCall`."""
    axes = {
        groups.named(str(name))
        for node in graph.nodes
        for name in _unwatched(node, compile)
    }
    if not axes:
        return kernel
    watched = Watched("an exchange inside of the model",
                      *(groups.groups[a] for a in sorted(axes)))

    def run(*args: Any) -> tuple[Any, ...]:
        with watched:
            return kernel(*args)

    return run


def _unwatched(node: fx.Node, compile: bool) -> Sequence[Any]:
    """The axes over which a node exchanges something, unless it is started
    as a call of its own."""
    if node.target in AXES_POSITION:
        return node.args[AXES_POSITION[node.target]]
    if compile and node.target in GROUP_POSITION:
        return (node.args[GROUP_POSITION[node.target]], )
    return ()


def _direct(operator: torch._ops.OpOverload) -> Callable[..., Any]:
    """The operator without the Python around it, which takes as long as a
    view does."""
    call: Any = functools.partial(operator._op)
    name = str(operator).replace(".", "_").replace("::", "_")
    # What fx prints in the code of a graph.
    call.__name__ = call.__qualname__ = name
    call.__module__ = __name__
    return call


def _compiled(module: fx.GraphModule, draws: bool) -> Kernel:
    """Through torch.compile; a seed that is a number would be a constant
    of the code, so that every step compiled anew."""
    run = compiled_pieces(module, _runs_apart)

    def kernel(seed: int, *operands: torch.Tensor) -> tuple[Any, ...]:
        return (run(torch.tensor(seed), *operands) if draws else run(
            *operands))

    return kernel


def _runs_apart(node: fx.Node) -> bool:
    return node.target in AXES_POSITION or isinstance(node.target, CountedCall)


def _bind_axes(made: fx.Node, groups: Groups) -> None:
    """Experts that are spread over ranks find their groups by name."""
    position = AXES_POSITION[made.target]
    names = [
        groups.axes[groups.named(str(n))].name for n in made.args[position]
    ]
    made.args = (*made.args[:position], names, *made.args[position + 1:])


def _bind_group(made: fx.Node, node: fx.Node, groups: Groups,
                compile: bool) -> None:
    position = GROUP_POSITION[node.target]
    axis = groups.named(node.args[position])
    if compile:
        args = list(made.args)
        args[position] = groups.axes[axis].name
        made.args = tuple(args)
        return
    operand = node.args[0]
    assert isinstance(operand, fx.Node)
    made.target = StartedCall(node,
                              groups.groups[axis],
                              in_place=is_overwritable(operand))
    made.args = made.args[:1]


def _stream(node: fx.Node) -> tuple[str, tuple[str, ...]] | None:
    """The random stream of a node that draws numbers."""
    tags = getattr(node.target, "tags", ())
    if torch.Tag.nondeterministic_seeded not in tags:
        return None
    return (node.meta.get("custom") or {}).get("random")


def _bind_stream(node: fx.Node, seed: fx.Node, groups: Groups,
                 compile: bool) -> None:
    """Where the call is sharded each rank draws its own numbers."""
    stream = _stream(node)
    assert stream is not None
    label, axes = stream
    place = ",".join(f"{a}={groups.axes[groups.named(a)].coordinate}"
                     for a in axes)
    text = f"{label}|{node.name}|{place}".encode()
    salt = int.from_bytes(hashlib.sha256(text).digest()[:7], "big")
    if compile:
        node.target = seeded_op(node.target)
        node.args = (seed, salt, *node.args)
    else:
        node.target = SeededCall(node.target, salt)
        node.args = (seed, *node.args)
