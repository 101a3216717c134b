"""The formula of a node that depends on shapes only (see `affine`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx

from planner.capture.affine import (Affine, Choice, Formula, Holds, Unknown,
                                    at_most)

__all__ = ["Formulas"]

_Rule = Callable[["Formulas", fx.Node], Formula]
_RULES: dict[str, _Rule] = {}


def _rule(*names: str) -> Callable[[_Rule], _Rule]:

    def add(rule: _Rule) -> _Rule:
        _RULES.update(dict.fromkeys(names, rule))
        return rule

    return add


class Formulas:
    """Finds and remembers the formulas of a graph's nodes."""

    def __init__(self, scalars: Mapping[fx.Node, int | float]) -> None:
        self._known: dict[fx.Node, Formula | None] = {
            node: Affine(value)
            for node, value in scalars.items()
        }

    def find(self, node: fx.Node) -> Formula | None:
        """The node's formula, or None where there is none."""
        if node not in self._known:
            self._known[node] = None
            try:
                self._known[node] = _without_ones(self._derive(node),
                                                  _shape(node))
            except (Unknown, IndexError, KeyError):
                pass
        return self._known[node]

    def _derive(self, node: fx.Node) -> Formula:
        schema = getattr(node.target, "_schema", None)
        name = schema.name.split("::")[-1] if schema else ""
        if node.op != "call_function" or name not in _RULES:
            raise Unknown
        return _RULES[name](self, node)

    def of(self, value: Any) -> Formula:
        """Of an argument: a node or a number."""
        if isinstance(value, bool):
            return Holds(never=not value)
        if isinstance(value, (int, float)):
            return Affine(value)
        found = self.find(value) if isinstance(value, fx.Node) else None
        if found is None:
            raise Unknown
        return found

    def number(self, value: Any) -> Affine:
        found = self.of(value)
        if isinstance(found, Holds) and not found.forms:
            return Affine(0 if found.never else 1)
        if not isinstance(found, Affine):
            raise Unknown
        return found

    def truth(self, value: Any) -> Holds:
        found = self.of(value)
        if isinstance(found, Affine) and not found.terms:
            return Holds(never=not found.constant)
        if isinstance(found, Choice) and bool(found.yes) != bool(found.no):
            return found.condition if found.yes else \
                found.condition.negated()
        if not isinstance(found, Holds):
            raise Unknown
        return found


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _argument(node: fx.Node, position: int, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else default


def _constant(node: fx.Node, value: int | float) -> Formula:
    if node.meta["val"].dtype is torch.bool:
        return Holds(never=not value)
    return Affine(value)


def _moved(formula: Formula, places: Callable[[int], int | None]) -> Formula:
    """Every dim moved; None where the dim is of size one and goes."""

    def form(old: Affine) -> Affine:
        terms = {}
        for dim, step in old.terms:
            place = places(dim)
            if place is None:
                raise Unknown
            terms[place] = step
        return Affine.of(old.constant, terms)

    return _mapped(formula, form)


def _mapped(formula: Formula, form: Callable[[Affine], Affine]) -> Formula:
    if isinstance(formula, Affine):
        return form(formula)
    if isinstance(formula, Holds):
        return Holds(frozenset(map(form, formula.forms)), formula.never)
    condition = _mapped(formula.condition, form)
    assert isinstance(condition, Holds)
    return Choice(condition, formula.yes, formula.no)


def _without_ones(formula: Formula, shape: tuple[int, ...]) -> Formula:
    """Along a dim of size one nothing varies; it may be expanded later."""
    return _mapped(
        formula, lambda f: Affine.of(f.constant, {
            d: s
            for d, s in f.terms if shape[d] != 1
        }))


@_rule("arange")
def _arange(known: Formulas, node: fx.Node) -> Formula:
    del known
    numbers = [a for a in node.args if isinstance(a, (int, float))]
    start: int | float = 0
    step: int | float = 1
    if len(numbers) > 1:
        start = numbers[0]
        step = numbers[2] if len(numbers) > 2 else 1
    return Affine.of(start, {-1: step} if _shape(node)[0] > 1 else {})


@_rule("ones", "ones_like", "new_ones")
def _ones(known: Formulas, node: fx.Node) -> Formula:
    del known
    return _constant(node, 1)


@_rule("zeros", "zeros_like", "new_zeros")
def _zeros(known: Formulas, node: fx.Node) -> Formula:
    del known
    return _constant(node, 0)


@_rule("full", "full_like", "scalar_tensor", "new_full")
def _full(known: Formulas, node: fx.Node) -> Formula:
    del known
    position = {
        "new_full": 2,
        "scalar_tensor": 0
    }.get(node.target._schema.name.split("::")[-1], 1)
    return _constant(node, node.args[position])


@_rule("clone", "alias", "detach", "contiguous", "expand", "lift_fresh_copy")
def _same(known: Formulas, node: fx.Node) -> Formula:
    return known.of(node.args[0])


@_rule("_to_copy", "to")
def _cast(known: Formulas, node: fx.Node) -> Formula:
    old, dtype = node.args[0].meta["val"].dtype, node.meta["val"].dtype
    formula = known.of(node.args[0])
    if old == dtype:
        return formula
    if dtype is torch.bool:
        return known.truth(node.args[0])
    if dtype in (torch.int32, torch.int64) and not old.is_floating_point:
        return known.number(node.args[0])
    if isinstance(formula, Affine) and formula.terms:
        raise Unknown
    if isinstance(formula, Holds):
        return (known.number(node.args[0]) if not formula.forms else Choice(
            formula, 1.0, 0.0))
    return formula


@_rule("unsqueeze")
def _unsqueeze(known: Formulas, node: fx.Node) -> Formula:
    dim = node.args[1]
    new = dim if dim < 0 else dim - len(_shape(node))
    return _moved(known.of(node.args[0]), lambda d: d - 1 if d <= new else d)


@_rule("view", "reshape", "_unsafe_view", "squeeze")
def _view(known: Formulas, node: fx.Node) -> Formula:
    """Dims of size one come and go; others stay in order."""
    before, after = _shape(node.args[0]), _shape(node)
    formula = known.of(node.args[0])
    old = [i - len(before) for i, n in enumerate(before) if n != 1]
    new = [i - len(after) for i, n in enumerate(after) if n != 1]
    if [before[i] for i in old] != [after[i] for i in new]:
        return _moved(formula, lambda d: None)
    return _moved(formula, dict(zip(old, new, strict=True)).get)


@_rule("permute", "transpose", "t")
def _permute(known: Formulas, node: fx.Node) -> Formula:
    count = len(_shape(node))
    order = list(range(count))
    if len(node.args) == 3:
        a, b = node.args[1] % count, node.args[2] % count
        order[a], order[b] = b, a
    else:
        order = [d % count for d in _argument(node, 1, order[::-1])]
    places = {old - count: new - count for new, old in enumerate(order)}
    return _moved(known.of(node.args[0]), places.get)


@_rule("slice")
def _slice(known: Formulas, node: fx.Node) -> Formula:
    size = _shape(node.args[0])
    dim = _argument(node, 1, 0) % len(size)
    start = _argument(node, 2, None) or 0
    start = max(0, start + size[dim]) if start < 0 else start
    step = _argument(node, 4, 1)
    return _along(known.of(node.args[0]), dim - len(size), start, step)


@_rule("select")
def _select(known: Formulas, node: fx.Node) -> Formula:
    size = _shape(node.args[0])
    dim = node.args[1] % len(size) - len(size)
    fixed = _along(known.of(node.args[0]), dim, node.args[2] % size[dim], 0)
    return _moved(fixed, lambda d: d + 1 if d < dim else d)


def _along(formula: Formula, dim: int, start: int, step: int) -> Formula:
    """Index `dim` replaced by ``start + step * index``."""

    def form(old: Affine) -> Affine:
        terms = dict(old.terms)
        slope = terms.get(dim, 0)
        terms[dim] = slope * step
        return Affine.of(old.constant + slope * start, terms)

    return _mapped(formula, form)


@_rule("add", "sub", "rsub")
def _sum(known: Formulas, node: fx.Node) -> Formula:
    left, right = known.number(node.args[0]), known.number(node.args[1])
    alpha = node.kwargs.get("alpha", _argument(node, 2, 1))
    name = node.target._schema.name
    if name.endswith("rsub"):
        left, right = right, left
    return left.plus(right, alpha if name.endswith("add") else -alpha)


@_rule("mul")
def _product(known: Formulas, node: fx.Node) -> Formula:
    left, right = known.number(node.args[0]), known.number(node.args[1])
    if left.terms and right.terms:
        raise Unknown
    return (left.times(right.constant)
            if left.terms else right.times(left.constant))


@_rule("neg")
def _negative(known: Formulas, node: fx.Node) -> Formula:
    return known.number(node.args[0]).times(-1)


@_rule("le", "lt", "ge", "gt")
def _compare(known: Formulas, node: fx.Node) -> Formula:
    left, right = known.number(node.args[0]), known.number(node.args[1])
    name = node.target._schema.name.split("::")[-1]
    if name in ("ge", "gt"):
        left, right = right, left
    form = left.plus(right, -1)
    strict = name in ("lt", "gt")
    return at_most(form.plus(Affine(1)) if strict else form, _shape(node))


@_rule("eq", "ne")
def _equal(known: Formulas, node: fx.Node) -> Formula:
    left, right = known.number(node.args[0]), known.number(node.args[1])
    form = left.plus(right, -1)
    low, high = form.bounds(_shape(node))
    if low < 0 < high or (low != high and 0 in (low, high)):
        raise Unknown
    same = low == high == 0
    wanted = node.target._schema.name.endswith("eq")
    return Holds(never=same != wanted)


@_rule("__and__", "bitwise_and", "logical_and")
def _both(known: Formulas, node: fx.Node) -> Formula:
    return known.truth(node.args[0]).both(known.truth(node.args[1]))


@_rule("__or__", "bitwise_or", "logical_or")
def _either(known: Formulas, node: fx.Node) -> Formula:
    return known.truth(node.args[0]).either(known.truth(node.args[1]))


@_rule("bitwise_not", "logical_not")
def _negated(known: Formulas, node: fx.Node) -> Formula:
    return known.truth(node.args[0]).negated()


@_rule("tril", "triu")
def _triangle(known: Formulas, node: fx.Node) -> Formula:
    """Keeps where ``column - row <= diagonal`` (or >=), else zero."""
    name = node.target._schema.name.split("::")[-1]
    beyond = Affine.of(-_argument(node, 1, 0), {-1: 1, -2: -1})
    shape = _shape(node)
    kept = at_most(beyond if name == "tril" else beyond.times(-1), shape)
    formula = known.of(node.args[0])
    if isinstance(formula, Holds):
        return formula.both(kept)
    if not isinstance(formula, Affine) or formula.terms:
        raise Unknown
    return Choice(kept, float(formula.constant), 0.0)


@_rule("where")
def _where(known: Formulas, node: fx.Node) -> Formula:
    condition = known.truth(node.args[0])
    yes, no = known.number(node.args[1]), known.number(node.args[2])
    if yes.terms or no.terms:
        raise Unknown
    return Choice(condition, float(yes.constant), float(no.constant))


@_rule("masked_fill")
def _masked_fill(known: Formulas, node: fx.Node) -> Formula:
    formula, filled = known.of(node.args[0]), known.truth(node.args[1])
    value = known.number(node.args[2])
    if value.terms or not isinstance(formula, Affine) or formula.terms:
        raise Unknown
    return Choice(filled, float(value.constant), float(formula.constant))


@_rule("index")
def _gathered(known: Formulas, node: fx.Node) -> Formula:
    """A tensor of one value everywhere has it at any index."""
    formula = known.of(node.args[0])
    indices = node.args[1]
    if len(indices) != len(_shape(node.args[0])) or None in indices:
        return _moved(formula, lambda d: None)
    places = [known.number(i) for i in indices]

    def form(old: Affine) -> Affine:
        new = Affine(old.constant)
        for dim, step in old.terms:
            if places[dim].bounds(_shape(node))[0] < 0:
                raise Unknown
            new = new.plus(places[dim], step)
        return new

    return _mapped(formula, form)


@_rule("diff")
def _difference(known: Formulas, node: fx.Node) -> Formula:
    tensor, dim = known.number(node.args[0]), _argument(node, 2, -1)
    size = len(_shape(node))
    dim = dim % size - size
    step = dict(tensor.terms).get(dim, 0)
    before = _argument(node, 3, None)
    if _argument(node, 1, 1) != 1 or _argument(node, 4, None) is not None:
        raise Unknown
    if before is not None:
        first = _along(tensor, dim, 0, 0)
        assert isinstance(first, Affine)
        if first.plus(known.number(before), -1) != Affine(step):
            raise Unknown
    return Affine(step)


@_rule("cumsum")
def _running_sum(known: Formulas, node: fx.Node) -> Formula:
    tensor, size = known.number(node.args[0]), len(_shape(node))
    if tensor.terms:
        raise Unknown
    return Affine.of(tensor.constant,
                     {node.args[1] % size - size: tensor.constant})
