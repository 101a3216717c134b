"""The numeric meaning of an option: run it on every rank and compare.

An option claims that the operator, run by each rank on its part of the
inputs, gives the parts of the outputs, and that the gradients lie as the
placements say. Options of several axes, one each, claim the same of their
product. Here all ranks run one after the other in one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.ir.layout import (Layout, P, Placement, R, format_layout,
                               local_shape)
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

    Parameters
    ----------
    op : OpOverload or callable
    args : sequence
        With real tensors, also nested.
    kwargs : mapping

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
    ranks = _split_all(tensors, [(p, ) for p in inputs], (size, ), generator)
    return [run_call(call.target, call.args, call.kwargs, r) for r in ranks]


def mismatch(call: OpCall,
             tensors: Tensors,
             options: Sequence[Option],
             sizes: Sequence[int],
             *,
             simulators: Mapping[str, Simulator] | None = None,
             values: bool = True,
             tolerance: float = 1e-9) -> str | None:
    """Say how options, one per mesh axis, differ from the operator run whole.

    Parameters
    ----------
    call : OpCall
    tensors : sequence of Tensor
        Real inputs; use float64.
    options : sequence of Option
        With ``V`` where gradients are partial, as ``options`` gives them.
    sizes : sequence of int
        Ranks along each axis.
    simulators : mapping, optional
        Stand-ins for lowerings by name; only on a single axis.
    values : bool
        False to compare only shapes (random operators).
    tolerance : float
        Relative and absolute.

    Returns
    -------
    str or None
        The first difference found; None when the options are right.

    Raises
    ------
    ValueError
        When a lowering has no simulator.
    """
    generator = torch.Generator().manual_seed(0)
    inputs, outputs = _layouts(options)
    whole_inputs = [_leaf(x) for x in tensors]
    whole = run_call(call.target, call.args, call.kwargs, whole_inputs)
    ranks = _split_all(whole_inputs, inputs, sizes, generator)
    try:
        local = _run_ranks(call, options, ranks, sizes, simulators or {})
    except RuntimeError as error:
        return f"a rank fails: {error}"
    if not values:
        return _shape_difference(call, outputs, local, sizes)
    for i, (one, layout) in enumerate(zip(whole, outputs, strict=True)):
        parts = [rank[i].detach() for rank in local]
        text = difference(parts, one.detach(), layout, sizes, tolerance)
        if text:
            return f"output {i} ({format_layout(layout)}): {text}"
    wanted = _Gradients(layouts=inputs,
                        seeds=outputs,
                        sizes=tuple(sizes),
                        shared=any(o.lowering for o in options),
                        tolerance=tolerance)
    return _gradient_mismatch(wanted, (whole_inputs, whole), (ranks, local),
                              generator)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gradients:
    """How gradients lie.

    Parameters
    ----------
    layouts, seeds : tuple of Layout
        Of the inputs and of the outputs, whose gradients are fed.
    sizes : tuple of int
    shared : bool
        Whether a lowering's ranks are simulated in one autograd graph, in
        which whole outputs that ranks computed together would count once
        per rank.
    tolerance : float
    """

    layouts: tuple[Layout, ...]
    seeds: tuple[Layout, ...]
    sizes: tuple[int, ...]
    shared: bool
    tolerance: float


def _layouts(
    options: Sequence[Option]
) -> tuple[tuple[Layout, ...], tuple[Layout, ...]]:
    """One layout per input and per output."""
    return (tuple(zip(*(o.inputs for o in options), strict=True)),
            tuple(zip(*(o.outputs for o in options), strict=True)))


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


def _split_all(tensors: Tensors, layouts: Sequence[Layout],
               sizes: Sequence[int],
               generator: torch.Generator) -> list[list[torch.Tensor]]:
    """Each rank's inputs, as leaves of its own."""
    parts = [
        split(t.detach(), layout, sizes, generator)
        for t, layout in zip(tensors, layouts, strict=True)
    ]
    return [[
        p[r].clone().requires_grad_(t.requires_grad)
        for p, t in zip(parts, tensors, strict=True)
    ] for r in range(math.prod(sizes))]


def _run_ranks(call: OpCall, options: Sequence[Option],
               ranks: Sequence[Tensors], sizes: Sequence[int],
               simulators: Mapping[str, Simulator]) -> Sequence[Tensors]:
    lowering = options[0].lowering if len(options) == 1 else None
    if lowering is not None and lowering in simulators:
        return simulators[lowering](call, options[0], ranks)
    for option in options:
        if option.lowering is not None:
            raise ValueError(f"{call.target}: no simulator for the lowering "
                             f"{option.lowering!r}; pass one")
    _, outputs = _layouts(options)
    shapes = [
        local_shape(s.shape, layout, sizes)
        for s, layout in zip(call.outputs, outputs, strict=True)
    ]
    args, kwargs = localize(call, shapes)
    return [run_call(call.target, args, kwargs, rank) for rank in ranks]


def _shape_difference(call: OpCall, outputs: Sequence[Layout],
                      local: Sequence[Tensors],
                      sizes: Sequence[int]) -> str | None:
    for i, (spec, layout) in enumerate(zip(call.outputs, outputs,
                                           strict=True)):
        expected = local_shape(spec.shape, layout, sizes)
        found = {tuple(rank[i].shape) for rank in local}
        if found != {expected}:
            return (f"output {i} ({format_layout(layout)}) has local shapes "
                    f"{sorted(found)}")
    return None


def _gradient_mismatch(wanted: _Gradients, whole: tuple[Tensors, Tensors],
                       ranks: tuple[Sequence[Tensors], Sequence[Tensors]],
                       generator: torch.Generator) -> str | None:
    inputs, outputs = whole
    seeds = [
        torch.randn(out.shape, dtype=torch.float64,
                    generator=generator).to(out.dtype) for out in outputs
    ]
    expected = _gradients([(outputs, seeds)], inputs)
    laid = [
        _split_seed(seed, layout, wanted, generator)
        for seed, layout in zip(seeds, wanted.seeds, strict=True)
    ]
    fed = [(out, [s[r] for s in laid]) for r, out in enumerate(ranks[1])]
    found = _gradients(fed, [x for rank in ranks[0] for x in rank])
    for i, layout in enumerate(wanted.layouts):
        want = expected[i]
        if want is None:
            continue
        parts = [p for p in found[i::len(inputs)] if p is not None]
        text = difference(parts, want, _of_gradient(layout), wanted.sizes,
                          wanted.tolerance)
        if text:
            return f"gradient of input {i} ({format_layout(layout)}): {text}"
    return None


def _of_gradient(layout: Layout) -> Layout:
    """The gradient's layout, in terms of values."""
    turned = {"V": P, "P": R}
    return tuple(turned.get(p.kind, p) for p in layout)


def _split_seed(seed: torch.Tensor, layout: Layout, wanted: _Gradients,
                generator: torch.Generator) -> list[torch.Tensor]:
    """An output's gradient for each rank, laid out as it would arrive."""
    parts = split(seed, _of_gradient(layout), wanted.sizes, generator)
    if wanted.shared and layout[0] == R:
        return [p / wanted.sizes[0] for p in parts]
    return parts


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
