"""Options of an operator that nobody wrote a rule for, found by running it.

Every assignment of placements to the inputs is tried: the operator runs on
each rank's part, and what comes out is compared with the whole result, in
the forward and in the backward direction.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree as pytree

from planner.ir.layout import P, Placement, R, S
from planner.rules.numeric import call_of, local_outputs, mismatch, run_call
from planner.rules.registry import (OpCall, Option, TensorSpec, divides,
                                    with_partial_gradients)

__all__ = ["discover"]


def discover(op: Callable[..., Any],
             args: Sequence[Any],
             kwargs: Mapping[str, Any] | None = None,
             *,
             size: int = 2,
             most: int = 4096) -> tuple[Option, ...]:
    """Find out how an operator can be sharded over one mesh axis.

    Parameters
    ----------
    op : callable
        An operator, a custom one too, that gives the same result for the
        same inputs.
    args, kwargs
        One example call. Take small tensors whose dims divide by `size`,
        and random values: what holds for zeros need not hold in general.
        Floating inputs are taken as differentiable where `op` is.
    size : int
        Ranks to try.
    most : int
        Assignments of placements that may be tried.

    Returns
    -------
    tuple of Option
        Those that are right and divide work or pass partial sums on;
        a rule for calls with the same number of tensors and dims.

    Raises
    ------
    ValueError
        When there are more assignments than `most`.

    Examples
    --------
    >>> import torch
    >>> x = torch.randn(4, 6, dtype=torch.float64)
    >>> [str(o) for o in discover(torch.cumsum, (x, 1))]
    ['S(0)->S(0)', 'P->P']
    """
    call, tensors = _described(op, args, kwargs or {})
    choices = [_choices(spec, size) for spec in call.inputs]
    count = 1
    for c in choices:
        count *= len(c)
    if count > most:
        raise ValueError(
            f"{op}: {len(choices)} tensors can lie in {count} ways, more than "
            f"{most}; give tensors with fewer dims that divide by {size}, or "
            "raise `most`")
    found: list[Option] = []
    for inputs in itertools.product(*choices):
        if any(p != R for p in inputs):
            found += _right(call, tensors, inputs, size)
    return tuple(found)


def _described(
        op: Any, args: Sequence[Any],
        kwargs: Mapping[str, Any]) -> tuple[OpCall, tuple[torch.Tensor, ...]]:
    """The call with differentiable inputs, if the operator has a gradient."""

    def copied(differentiable: bool) -> tuple[Any, Any]:

        def copy(leaf: Any) -> Any:
            if not isinstance(leaf, torch.Tensor):
                return leaf
            real = leaf.is_floating_point() or leaf.is_complex()
            return leaf.detach().clone().requires_grad_(differentiable
                                                        and real)

        return pytree.tree_map(copy, (tuple(args), dict(kwargs)))

    call, tensors = call_of(op, *copied(True))
    if _has_gradient(call, tensors):
        return call, tensors
    return call_of(op, *copied(False))


def _has_gradient(call: OpCall, tensors: Sequence[torch.Tensor]) -> bool:
    outputs = [
        x for x in run_call(call.target, call.args, call.kwargs, tensors)
        if x.requires_grad
    ]
    if not outputs:
        return False
    try:
        torch.autograd.grad([x.abs().sum() for x in outputs],
                            [x for x in tensors if x.requires_grad],
                            allow_unused=True)
    except RuntimeError:
        return False
    return True


def _choices(spec: TensorSpec, size: int) -> list[Placement]:
    """Whole, every dim that divides, and partial sums of real numbers."""
    dims = [S(d) for d, n in enumerate(spec.shape) if n and n % size == 0]
    sums = [P] if spec.dtype.is_floating_point else []
    return [R, *dims, *sums]


def _right(call: OpCall, tensors: Sequence[torch.Tensor],
           inputs: Sequence[Placement], size: int) -> Iterator[Option]:
    """The right options with these input placements, at most one."""
    shapes = _local_shapes(call, tensors, inputs, size)
    if shapes is None:
        return
    ways = [
        _outcomes(spec, shape, size)
        for spec, shape in zip(call.outputs, shapes, strict=True)
    ]
    for outputs in itertools.product(*ways):
        option = with_partial_gradients(
            call, Option(inputs=tuple(inputs), outputs=outputs))
        if not divides(call, option, size):
            continue
        if mismatch(call, tensors, (option, ), (size, )) is None:
            yield option
            return


def _local_shapes(call: OpCall, tensors: Sequence[torch.Tensor],
                  inputs: Sequence[Placement],
                  size: int) -> list[tuple[int, ...]] | None:
    """Shapes of one rank's outputs; None where the ranks can't run it."""
    try:
        local = local_outputs(call, tensors, inputs, size)
    except Exception:  # noqa: B902 (an operator may refuse in any way)
        return None
    shapes = [[tuple(x.shape) for x in rank] for rank in local]
    if any(s != shapes[0]
           for s in shapes) or len(shapes[0]) != len(call.outputs):
        return None
    return shapes[0]


def _outcomes(spec: TensorSpec, local: tuple[int, ...],
              size: int) -> list[Placement]:
    """What an output of this local shape may be."""
    if local == spec.shape:
        return [R, P] if spec.dtype.is_floating_point else [R]
    return [
        S(d) for d, n in enumerate(spec.shape)
        if local == (*spec.shape[:d], n // size, *spec.shape[d + 1:])
    ]
