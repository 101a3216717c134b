"""The table of sharding rules: what an operator can do over one mesh axis.

A rule is a function from an :class:`OpCall` to a list of
:class:`Option`; it is written for one axis and knows nothing of the axis'
size. Options compose over axes by taking one per axis. Rules write ``R``
for an operand that is held whole; :func:`options` turns it into ``V``
where the operator is otherwise sharded (its gradient is then partial),
adds the two options that every operator has (all ``R`` and all ``V``),
and drops what does not divide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from planner.hashed import HashedOnce
from planner.ir.layout import Placement, R, V

__all__ = [
    "Arg", "OpCall", "Option", "TensorSpec", "adds_up", "divides", "has_rule",
    "options", "register", "registered_ops", "with_partial_gradients"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec(HashedOnce):
    """Shape (global), dtype and differentiability of one tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    requires_grad: bool = False

    __hash__ = HashedOnce.__hash__

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def numel(self) -> int:
        n = 1
        for size in self.shape:
            n *= size
        return n

    @property
    def size_bytes(self) -> int:
        return self.numel * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class Arg:
    """Stands for tensor input number `index` inside an OpCall's args."""

    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpCall:
    """One operator call with its tensors taken out.

    Parameters
    ----------
    target : OpOverload
        The ATen (or custom) operator.
    args, kwargs
        As in the graph, each tensor replaced by ``Arg(i)``, also inside
        lists.
    inputs, outputs : tuple of TensorSpec
        Tensor inputs in the order of their ``Arg`` index, and tensor
        outputs in order (a None output is left out).
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def arg(self, position: int, name: str, default: Any = None) -> Any:
        """The argument at `position` or called `name`, else `default`."""
        if len(self.args) > position:
            return self.args[position]
        return self.kwargs.get(name, default)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Option(HashedOnce):
    """One way to run an operator over one mesh axis.

    Parameters
    ----------
    inputs, outputs : tuple of Placement
        One per tensor input and output of the call.
    lowering : str or None
        None: the operator itself runs on the local tensors, its size
        arguments replaced by local sizes. Else the name of a function in
        ``passes.lowerings`` that computes the local outputs.
    units : int
        How many indivisible units (groups of channels) the sharded dim
        holds; the axis' size must divide it. 0: the dim's size alone
        decides. No part of the option's identity.

    Attributes
    ----------
    is_sharded : bool
        Whether the work is divided among the ranks of the axis.
    """

    inputs: tuple[Placement, ...]
    outputs: tuple[Placement, ...]
    lowering: str | None = None
    units: int = field(default=0, compare=False)
    is_sharded: bool = field(init=False, compare=False)

    __hash__ = HashedOnce.__hash__

    def __post_init__(self) -> None:
        sharded = any(p.is_shard for p in self.inputs + self.outputs)
        object.__setattr__(self, "is_sharded", sharded)

    def __str__(self) -> str:
        text = (f"{','.join(map(str, self.inputs))}"
                f"->{','.join(map(str, self.outputs))}")
        return f"{text} [{self.lowering}]" if self.lowering else text

    __repr__ = __str__


Rule = Callable[[OpCall], Iterable[Option]]
_RULES: dict[Any, Rule] = {}


def register(*targets: Any) -> Callable[[Rule], Rule]:
    """Register a rule for operators; a second rule for one is an error.

    Parameters
    ----------
    *targets : OpOverload, str or torch.Tag
        The operators; the name (``"library::op"``, with ``".overload"``
        where it isn't the default one) of an operator that may not be
        loaded yet; or a tag, for all operators that have it and no rule
        of their own.

    Raises
    ------
    ValueError
        When one already has a rule.
    """

    def add(rule: Rule) -> Rule:
        for target in targets:
            if target in _RULES:
                raise ValueError(f"{target} already has a rule: "
                                 f"{_RULES[target].__name__}")
            _RULES[target] = rule
        return rule

    return add


def _rule_for(target: Any) -> Rule | None:
    if target in _RULES:
        return _RULES[target]
    if isinstance(target, torch._ops.OpOverload):
        for key in (target.name(), *target.tags):
            if key in _RULES:
                return _RULES[key]
    return None


def has_rule(target: Any) -> bool:
    """Whether an own rule is registered for `target`."""
    return _rule_for(target) is not None


def registered_ops() -> tuple[Any, ...]:
    """All operators, names and tags that have an own rule, by name."""
    return tuple(sorted(_RULES, key=str))


def divides(call: OpCall, option: Option, size: int) -> bool:
    """Whether every sharded dim of the option divides by `size`."""
    pairs = zip(call.inputs + call.outputs,
                option.inputs + option.outputs,
                strict=True)
    return option.units % size == 0 and all(
        not p.is_shard or (p.dim < spec.ndim and spec.shape[p.dim] > 0
                           and spec.shape[p.dim] % size == 0)
        for spec, p in pairs)


def adds_up(call: OpCall, option: Option) -> bool:
    """Whether what is partial can be reduced: truth values can't."""
    pairs = zip(call.inputs + call.outputs,
                option.inputs + option.outputs,
                strict=True)
    return not any(p.is_partial and spec.dtype == torch.bool
                   for spec, p in pairs)


def with_partial_gradients(call: OpCall, option: Option) -> Option:
    """Operands held whole by a divided operator get partial gradients."""
    whole = all(p == R for p in option.inputs + option.outputs)
    if whole:
        return option
    inputs = tuple(V if p == R and spec.requires_grad else p
                   for p, spec in zip(option.inputs, call.inputs, strict=True))
    return dataclasses.replace(option, inputs=inputs)


def _uniform(call: OpCall, placement: Placement) -> Option:
    return Option(inputs=tuple(placement if s.requires_grad else R
                               for s in call.inputs),
                  outputs=tuple(placement if s.requires_grad else R
                                for s in call.outputs))


def options(call: OpCall, size: int, *,
            fallback: Sequence[Rule] = ()) -> tuple[Option, ...]:
    """All options of a call on an axis of `size` ranks, without repeats.

    The first is always "every rank computes the whole" (all ``R``), then
    the same with partial gradients (all ``V``, where anything is
    differentiable), then the rule's own in its order.

    Parameters
    ----------
    call : OpCall
    size : int
        Ranks along the axis.
    fallback : sequence of rules
        Tried in order when no own rule is registered; the first that
        returns something is taken.
    """
    found = {_uniform(call, R): None}
    if any(s.requires_grad for s in call.outputs):
        found[_uniform(call, V)] = None
    known = _rule_for(call.target)
    for rule in fallback if known is None else (known, ):
        own = [
            o for o in rule(call)
            if divides(call, o, size) and adds_up(call, o)
        ]
        for option in own:
            found[with_partial_gradients(call, option)] = None
        if own:
            break
    return tuple(found)
