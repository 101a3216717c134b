"""The numeric meaning of an option: run it on every rank and compare.

An option claims that the operator, run by each rank on its part of the
inputs, gives the parts of the outputs, and that the gradients lie as the
placements say. Here all ranks run one after the other in one process.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.ir.layout import Placement, local_shape
from planner.rules.localize import localize
from planner.rules.parts import difference, split
from planner.rules.registry import Arg, OpCall, Option, TensorSpec

__all__ = ["Simulator", "call_of", "local_outputs", "mismatch", "run_call"]

Tensors = Sequence[torch.Tensor]

Simulator = Callable[[OpCall, Option, Sequence[Tensors]], Sequence[Tensors]]
"""All ranks of a lowering at once: each rank's inputs to its outputs."""


def call_of(
        op: Any, args: Sequence[Any],
        kwargs: Mapping[str, Any]) -> tuple[OpCall, tuple[torch.Tensor, ...]]:
    """Describe a real operator call; it is run once.

    Returns
    -------
    call : OpCall
    tensors : tuple of Tensor
        Its inputs, in the order of their ``Arg`` index.
    """
    leaves, tree = pytree.tree_flatten((tuple(args), dict(kwargs)))
    tensors = tuple(x for x in leaves if isinstance(x, torch.Tensor))
    count = iter(range(len(tensors)))
    hidden = [
        Arg(next(count)) if isinstance(x, torch.Tensor) else x for x in leaves
    ]
    own_args, own_kwargs = pytree.tree_unflatten(hidden, tree)
    outputs = _tensors(op(*args, **kwargs))
    return OpCall(target=op,
                  args=own_args,
                  kwargs=own_kwargs,
                  inputs=tuple(map(_spec, tensors)),
                  outputs=tuple(map(_spec, outputs))), tensors


def run_call(target: Any, args: Any, kwargs: Any,
             tensors: Tensors) -> list[torch.Tensor]:
    """Run an operator with its tensors put back; its tensor outputs."""

    def restore(leaf: Any) -> Any:
        return tensors[leaf.index] if isinstance(leaf, Arg) else leaf

    args, kwargs = pytree.tree_map(restore, (args, kwargs))
    return _tensors(target(*args, **kwargs))


def local_outputs(call: OpCall, tensors: Tensors, inputs: Sequence[Placement],
                  size: int) -> list[list[torch.Tensor]]:
    """Each rank's outputs when its arguments are taken as they are."""
    generator = torch.Generator().manual_seed(0)
    ranks = _split_all(tensors, inputs, size, generator)
    return [run_call(call.target, call.args, call.kwargs, r) for r in ranks]


def mismatch(call: OpCall,
             tensors: Tensors,
             option: Option,
             size: int,
             *,
             simulators: Mapping[str, Simulator] | None = None,
             values: bool = True,
             tolerance: float = 1e-9) -> str | None:
    """Say how an option differs from the operator run whole.

    Parameters
    ----------
    call : OpCall
    tensors : sequence of Tensor
        Real inputs; use float64.
    option : Option
        With ``V`` where gradients are partial, as ``options`` gives it.
    size : int
        Ranks along the axis.
    simulators : mapping, optional
        Stand-ins for lowerings by name.
    values : bool
        False to compare only shapes (random operators).
    tolerance : float
        Relative and absolute.

    Returns
    -------
    str or None
        The first difference found; None when the option is right.

    Raises
    ------
    ValueError
        When the option's lowering has no simulator.
    """
    generator = torch.Generator().manual_seed(0)
    whole_inputs = [_leaf(x) for x in tensors]
    whole = run_call(call.target, call.args, call.kwargs, whole_inputs)
    ranks = _split_all(whole_inputs, option.inputs, size, generator)
    try:
        local = _run_ranks(call, option, ranks, size, simulators or {})
    except RuntimeError as error:
        return f"a rank fails: {error}"
    if not values:
        return _shape_difference(call, option, local, size)
    for i, (one,
            placement) in enumerate(zip(whole, option.outputs, strict=True)):
        parts = [rank[i].detach() for rank in local]
        text = difference(parts, one.detach(), placement, tolerance)
        if text:
            return f"output {i} ({placement}): {text}"
    return _gradient_mismatch(option, (whole_inputs, whole), (ranks, local),
                              generator, tolerance)


def _tensors(result: Any) -> list[torch.Tensor]:
    return [
        x for x in pytree.tree_leaves(result) if isinstance(x, torch.Tensor)
    ]


def _spec(tensor: torch.Tensor) -> TensorSpec:
    return TensorSpec(shape=tuple(tensor.shape),
                      dtype=tensor.dtype,
                      requires_grad=tensor.requires_grad)


def _leaf(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _split_all(tensors: Tensors, placements: Sequence[Placement], size: int,
               generator: torch.Generator) -> list[list[torch.Tensor]]:
    """Each rank's inputs, as leaves of its own."""
    parts = [
        split(t.detach(), p, size, generator)
        for t, p in zip(tensors, placements, strict=True)
    ]
    return [[
        p[r].clone().requires_grad_(t.requires_grad)
        for p, t in zip(parts, tensors, strict=True)
    ] for r in range(size)]


def _run_ranks(call: OpCall, option: Option, ranks: Sequence[Tensors],
               size: int, simulators: Mapping[str,
                                              Simulator]) -> Sequence[Tensors]:
    if option.lowering is not None:
        if option.lowering not in simulators:
            raise ValueError(f"{call.target}: no simulator for the lowering "
                             f"{option.lowering!r}; pass one")
        return simulators[option.lowering](call, option, ranks)
    shapes = [
        local_shape(s.shape, (p, ), (size, ))
        for s, p in zip(call.outputs, option.outputs, strict=True)
    ]
    args, kwargs = localize(call, shapes)
    return [run_call(call.target, args, kwargs, rank) for rank in ranks]


def _shape_difference(call: OpCall, option: Option, local: Sequence[Tensors],
                      size: int) -> str | None:
    for i, (spec,
            p) in enumerate(zip(call.outputs, option.outputs, strict=True)):
        expected = local_shape(spec.shape, (p, ), (size, ))
        found = {tuple(rank[i].shape) for rank in local}
        if found != {expected}:
            return f"output {i} ({p}) has local shapes {found}"
    return None


def _gradient_mismatch(option: Option, whole: tuple[Tensors, Tensors],
                       ranks: tuple[Sequence[Tensors], Sequence[Tensors]],
                       generator: torch.Generator,
                       tolerance: float) -> str | None:
    inputs, outputs = whole
    seeds = [
        torch.randn(out.shape, dtype=torch.float64,
                    generator=generator).to(out.dtype) for out in outputs
    ]
    expected = _gradients([(outputs, seeds)], inputs)
    size = len(ranks[0])
    laid = [
        _split_seed(seed, p, size, generator, shared=bool(option.lowering))
        for seed, p in zip(seeds, option.outputs, strict=True)
    ]
    fed = [(out, [s[r] for s in laid]) for r, out in enumerate(ranks[1])]
    every = [x for rank in ranks[0] for x in rank]
    found = _gradients(fed, every)
    for i, placement in enumerate(option.inputs):
        want = expected[i]
        if want is None:
            continue
        parts = found[i::len(inputs)]
        text = _gradient_difference(parts, want, placement, tolerance)
        if text:
            return f"gradient of input {i} ({placement}): {text}"
    return None


def _split_seed(seed: torch.Tensor, placement: Placement, size: int,
                generator: torch.Generator, *,
                shared: bool) -> list[torch.Tensor]:
    """An output's gradient for each rank, laid out as it would arrive.

    A lowering's ranks are simulated in one autograd graph (`shared`), in
    which whole outputs that ranks computed together would count once per
    rank.
    """
    if placement.kind == "V":
        return split(seed, Placement("P"), size, generator)
    if placement.is_shard:
        return split(seed, placement, size, generator)
    alone = shared and placement.is_replicated
    return [seed / size if alone else seed] * size


def _gradients(fed: Sequence[tuple[Tensors, Tensors]],
               inputs: Tensors) -> list[torch.Tensor | None]:
    """Gradients of all inputs; zeros where one is not reached."""
    pairs = [(o, g) for outs, seeds in fed
             for o, g in zip(outs, seeds, strict=True) if o.requires_grad]
    wanted = [x for x in inputs if x.requires_grad]
    if not pairs or not wanted:
        return [None] * len(inputs)
    grads = iter(
        torch.autograd.grad([o for o, _ in pairs],
                            wanted, [g for _, g in pairs],
                            allow_unused=True,
                            materialize_grads=True))
    return [next(grads) if x.requires_grad else None for x in inputs]


def _gradient_difference(parts: Sequence[torch.Tensor | None],
                         whole: torch.Tensor, placement: Placement,
                         tolerance: float) -> str | None:
    known = [p for p in parts if p is not None]
    if len(known) != len(parts):
        return "a rank gets none"
    layout = {"V": Placement("P"), "P": Placement("R")}
    return difference(known, whole, layout.get(placement.kind, placement),
                      tolerance)
