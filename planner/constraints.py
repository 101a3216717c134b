"""Constraints on plans: pins, bans and limits, by glob and by axis; and what
a search is allowed besides.

Examples
--------
>>> from planner.ir.layout import S
>>> rules = Constraints(pin("layers.*.q_proj.weight", tp=S(0)),
...                     limit(tp=8))
>>> rules.allows("tp", "layers.3.q_proj.weight", S(1))
False
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.distributed.tensor import Replicate, Shard

from planner.ir.errors import InfeasiblePlan
from planner.ir.layout import Placement, R, S, parse_placement
from planner.ir.mesh import MeshSpec
from planner.names import nearest
from planner.rules.registry import TensorSpec

__all__ = [
    "BATCH_STATISTICS", "OPAQUE", "RECOMPUTE", "Allow", "Ban", "Constraints",
    "Item", "Limit", "Pin", "allow", "forbid", "limit", "pin"
]

RECOMPUTE = "recompute"
"""What :func:`forbid` calls running blocks again in the backward."""

OPAQUE = "opaque"
"""What :func:`forbid` calls running whole what can't be captured."""

BATCH_STATISTICS = "batch_statistics"
"""What :func:`allow` calls micro-batches that stand for the whole batch."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Parameters that match `pattern` lie as `placements` says."""

    pattern: str
    placements: tuple[tuple[str, Placement], ...]

    def __str__(self) -> str:
        where = ", ".join(f"{a}={p}" for a, p in self.placements)
        return f"pin({self.pattern!r}, {where})"


@dataclass(frozen=True, slots=True)
class Ban:
    """What must not be used: a recipe, recomputation, opaque modules, or a
    placement by pattern."""

    what: str
    placements: tuple[tuple[str, Placement], ...] = ()

    def __str__(self) -> str:
        where = "".join(f", {a}={p}" for a, p in self.placements)
        return f"forbid({self.what!r}{where})"


@dataclass(frozen=True, slots=True)
class Limit:
    """Largest size of an axis."""

    axis: str
    size: int

    def __str__(self) -> str:
        return f"limit({self.axis}={self.size})"


@dataclass(frozen=True, slots=True)
class Allow:
    """What may be used although a step is not the same with it."""

    what: str

    def __post_init__(self) -> None:
        if self.what != BATCH_STATISTICS:
            raise ValueError(f"{self} names nothing that can be allowed; "
                             f"{nearest(self.what, [BATCH_STATISTICS])}")

    def __str__(self) -> str:
        return f"allow({self.what!r})"


Item = Pin | Ban | Limit | Allow


def _placement(value: Any) -> Placement:
    if isinstance(value, Placement):
        return value
    if isinstance(value, Shard):
        return S(value.dim)
    if isinstance(value, Replicate):
        return R
    if isinstance(value, str):
        return parse_placement(value)
    raise TypeError(f"{value!r} is no placement; use Shard(dim), Replicate() "
                    "or their short text S(dim), R")


def _even(shape: Sequence[int], size: int) -> list[Placement]:
    """Whole, and by each dim that an axis divides evenly."""
    return [R, *(S(d) for d, n in enumerate(shape) if not n % size)]


def pin(pattern: str, **axes: Any) -> Pin:
    """Parameters whose name matches the glob lie so over these axes.

    Those of blocks that are alike lie alike, so that a pin on one of them is
    on all.
    """
    if not axes:
        raise ValueError(f"pin({pattern!r}) names no axis: write "
                         f"pin({pattern!r}, tp=S(0))")
    return Pin(pattern, tuple((a, _placement(v)) for a, v in axes.items()))


def forbid(what: str, **axes: Any) -> Ban:
    """Exclude a recipe by name, ``"recompute"``, ``"opaque"``, or placements
    of matching parameters."""
    return Ban(what, tuple((a, _placement(v)) for a, v in axes.items()))


def allow(what: str) -> Allow:
    """``"batch_statistics"``: where what is computed from a batch and its
    parameters (batch norm, losses that balance experts) can't be found from
    micro-batches, each of them may stand for the batch, as in
    ``pipeline(batch_statistics="microbatch")``."""
    return Allow(what)


def limit(**axes: int) -> tuple[Limit, ...]:
    """Axes are at most this large."""
    if not axes:
        raise ValueError("limit() names no axis: write limit(tp=8)")
    for axis, size in axes.items():
        if not isinstance(size, int) or size < 1:
            raise ValueError(f"limit({axis}={size!r}): write a whole number "
                             "from 1 on")
    return tuple(Limit(a, n) for a, n in axes.items())


class Constraints:
    """A set of constraints and what they let pass.

    Parameters
    ----------
    *items : Pin, Ban, Limit, Allow or sequence of them

    Raises
    ------
    TypeError
        For anything else.
    """

    def __init__(self, *items: Any) -> None:
        self.items: tuple[Item, ...] = tuple(_flat(items))

    @property
    def restricting(self) -> tuple[Item, ...]:
        """Those without which there are more plans."""
        return tuple(i for i in self.items if not isinstance(i, Allow))

    def allows(self, axis: str, name: str, placement: Placement) -> bool:
        """Whether a parameter may lie so at rest over an axis."""
        for item in self.items:
            if isinstance(item, Pin) and fnmatch.fnmatchcase(
                    name, item.pattern):
                if any(a == axis and p != placement
                       for a, p in item.placements):
                    return False
            if isinstance(item, Ban) and fnmatch.fnmatchcase(name, item.what):
                if any(a == axis and p == placement
                       for a, p in item.placements):
                    return False
        return True

    def allows_recipe(self, name: str) -> bool:
        """Whether a recipe may be used."""
        return not any(
            isinstance(i, Ban) and i.what == name and not i.placements
            for i in self.items)

    def allows_recompute(self) -> bool:
        """Whether blocks may run forward again in the backward."""
        return self.allows_recipe(RECOMPUTE)

    def allows_opaque(self) -> bool:
        """Whether what can't be captured may run whole on every rank."""
        return self.allows_recipe(OPAQUE)

    def allows_batch_statistics(self) -> bool:
        """Whether micro-batches may stand for the batch where they must."""
        return any(isinstance(i, Allow) for i in self.items)

    def allows_mesh(self, mesh: MeshSpec) -> bool:
        """Whether the axes keep their limits."""
        return all(
            mesh.size(i.axis) <= i.size for i in self.items
            if isinstance(i, Limit) and i.axis in mesh.names)

    def check(self, parameters: Sequence[str], recipes: Sequence[str]) -> None:
        """Refuse what names no parameter and no recipe.

        Raises
        ------
        ValueError
            With the nearest name.
        """
        for item in self.items:
            if isinstance(item, (Limit, Allow)):
                continue
            pattern = item.pattern if isinstance(item, Pin) else item.what
            if isinstance(item, Ban) and not item.placements:
                known = (*recipes, RECOMPUTE, OPAQUE)
                if pattern not in known:
                    raise ValueError(f"{item} names no recipe; "
                                     f"{nearest(pattern, known)}; to ban "
                                     "layouts of parameters add axis=S(dim)")
            elif not fnmatch.filter(parameters, pattern):
                raise ValueError(f"{item} matches no parameter of the "
                                 f"model; {nearest(pattern, parameters)}")

    def check_axes(self, axes: Collection[str]) -> None:
        """Refuse what names an axis that no mesh has.

        Raises
        ------
        ValueError
        """
        for item in self.items:
            for axis in _named(item):
                if axis not in axes:
                    raise ValueError(f"{item} names axis {axis!r}; "
                                     f"{nearest(axis, axes)}")
                if axis == "pp" and not isinstance(item, Limit):
                    raise ValueError(f"{item} names axis 'pp', over which "
                                     "stages lie and no parameters; name "
                                     "another, or limit(pp=1)")

    def check_mesh(self, mesh: MeshSpec, specs: Mapping[str,
                                                        TensorSpec]) -> None:
        """Refuse constraints that leave a parameter no layout on a mesh.

        Raises
        ------
        InfeasiblePlan
            Naming the parameter and the axis.
        """
        for name, spec in specs.items() if self.items else ():
            for axis, size in zip(mesh.names, mesh.sizes, strict=True):
                if axis != "pp":
                    self.check_placements(axis, size, name, spec.shape,
                                          _even(spec.shape, size))

    def check_alike(self, mesh: MeshSpec, specs: Mapping[str, TensorSpec],
                    alike: Iterable[Sequence[str]]) -> None:
        """Refuse constraints that would have parameters differ that lie
        alike.

        Raises
        ------
        InfeasiblePlan
            Naming the constraints that clash.
        """
        for names in alike if self.items else ():
            for axis, size in zip(mesh.names, mesh.sizes, strict=True):
                if not any(
                        all(self.allows(axis, n, p) for n in names)
                        for p in _even(specs[names[0]].shape, size)):
                    guilty = self._on(axis, names)
                    raise InfeasiblePlan(
                        f"{' and '.join(map(str, guilty))} leave {names[0]} "
                        f"and {len(names) - 1} more no layout over "
                        f"{axis}={size}: they are of blocks that are alike, "
                        "and lie alike; have all of them lie the same, or "
                        "drop a constraint",
                        variables=tuple(map(str, guilty)))

    def _on(self, axis: str, names: Collection[str]) -> list[Item]:
        """What is asked of parameters over an axis."""
        return [
            i for i in self.items
            if isinstance(i, (Pin, Ban)) and any(a == axis
                                                 for a, _ in i.placements) and
            fnmatch.filter(names, i.pattern if isinstance(i, Pin) else i.what)
        ]

    def check_placements(self, axis: str, size: int, name: str,
                         shape: Sequence[int],
                         legal: Sequence[Placement]) -> None:
        """Refuse constraints that leave a parameter no layout.

        Raises
        ------
        InfeasiblePlan
            Naming the constraints that clash.
        """
        if any(self.allows(axis, name, p) for p in legal):
            return
        guilty = self._on(axis, (name, ))
        raise InfeasiblePlan(
            f"{' and '.join(map(str, guilty))} leave {name} of shape "
            f"{tuple(shape)} no layout over {axis}={size}; it can lie as "
            f"{', '.join(map(str, legal))}: ask for one of these or drop "
            "a constraint",
            variables=tuple(map(str, guilty)))

    def on_axes(self, axes: Collection[str]) -> Constraints:
        """These constraints but those that name an axis beyond `axes`."""
        return Constraints(*(i for i in self.items
                             if set(_named(i)) <= set(axes)))

    def without(self, item: Item) -> Constraints:
        """These constraints but one."""
        return Constraints(*(i for i in self.items if i is not item))


def _named(item: Item) -> list[str]:
    """The axes that a constraint names."""
    if isinstance(item, Limit):
        return [item.axis]
    if isinstance(item, Allow):
        return []
    return [axis for axis, _ in item.placements]


def _flat(items: Any) -> list[Item]:
    found: list[Item] = []
    for item in items:
        if isinstance(item, Constraints):
            found += item.items
        elif isinstance(item, (tuple, list)):
            found += _flat(item)
        elif isinstance(item, (Pin, Ban, Limit, Allow)):
            found.append(item)
        else:
            raise TypeError(f"{item!r} is no constraint; use pin(), forbid(), "
                            "limit() and allow()")
    return found
