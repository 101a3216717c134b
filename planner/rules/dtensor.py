"""The next resort: what torch's own DTensor knows about an operator.

Everything private of torch that the rules use is in this file; the tests
notice when it changes. Torch's strategies are for one mesh axis and need
neither a mesh nor a process group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import TensorMeta
from torch.distributed.tensor._ops.single_dim_strategy import \
    _ShardingPlaceholder
from torch.utils import _pytree as pytree

from planner.ir.layout import Placement, R, S
from planner.rules.registry import Arg, OpCall, Option, TensorSpec

__all__ = ["dtensor_ops", "dtensor_options"]


def _strategies() -> dict[Any, Any]:
    return DTensor._op_dispatcher.sharding_propagator \
        .op_single_dim_strategy_funcs


def dtensor_ops() -> tuple[Any, ...]:
    """The operators that DTensor has a single-axis strategy for."""
    return tuple(sorted(_strategies(), key=str))


def dtensor_options(call: OpCall) -> Iterator[Option]:
    """A rule: DTensor's strategies, as far as our placements express them.

    A strategy that fails for this call counts as having no options.
    """
    strategy = _strategies().get(call.target)
    if strategy is None:
        return
    args, kwargs = pytree.tree_map(lambda leaf: _meta(call, leaf),
                                   (call.args, call.kwargs))
    try:
        rows = strategy(call.target, args, kwargs)
    except Exception:  # noqa: B902 (any failure of theirs is "unknown")
        return
    for row in rows:
        option = _translated(call, row)
        if option is not None:
            yield option


def _meta(call: OpCall, leaf: Any) -> Any:
    if not isinstance(leaf, Arg):
        return leaf
    spec = call.inputs[leaf.index]
    return TensorMeta(torch.Size(spec.shape), _strides(spec), spec.dtype)


def _strides(spec: TensorSpec) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(spec.shape):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


def _translated(call: OpCall, row: Sequence[Any]) -> Option | None:
    """Outputs come first in torch's rows; absent ones are None."""
    placements = [_placement(p) for p in row if p is not None]
    count = len(call.outputs)
    if None in placements or len(placements) != count + len(call.inputs):
        return None
    known = [p for p in placements if p is not None]
    option = Option(inputs=tuple(known[count:]), outputs=tuple(known[:count]))
    return option if _is_sound(call, option) else None


def _placement(theirs: Any) -> Placement | None:
    """Exact types: a strided shard or a masked sum is something else."""
    if type(theirs) in (Shard, _ShardingPlaceholder) and theirs.dim >= 0:
        return S(theirs.dim)
    if type(theirs) is Replicate:
        return R
    if type(theirs) is Partial and theirs.reduce_op in ("sum", "max", "min"):
        return Placement("P", reduce=theirs.reduce_op)
    return None


def _is_sound(call: OpCall, option: Option) -> bool:
    """Whether an option holds for gradients too.

    Extrema over ranks have no gradient and arise only from reductions. The
    local result of a divided operand is
    whole only where its values are not used, which says nothing of its
    gradient.
    """
    pairs = list(
        zip(call.inputs + call.outputs,
            option.inputs + option.outputs,
            strict=True))
    extrema = [p.is_partial and p.reduce != "sum" for _, p in pairs]
    if any(extrema[:len(call.inputs)]) or any(
            e and s.requires_grad
            for e, (s, _) in zip(extrema, pairs, strict=True)):
        return False
    divided = any(not p.is_replicated for p in option.inputs)
    return not (divided and any(
        p == R and s.requires_grad
        for s, p in zip(call.outputs, option.outputs, strict=True)))
