"""The problem that every layout search ends in: a sum of table factors.

Minimise ``sum(f(x[scope of f]) for f in factors)`` over discrete variables
`x`. A variable is a choice (an operator's option, a value's layout), a
factor is what a combination of choices costs, and ``+inf`` marks a
combination that is not legal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

__all__ = ["Factor", "FactorGraph", "GAP_TOLERANCE", "Solution", "Variable"]

GAP_TOLERANCE = 1e-6
"""A solution whose relative gap is no larger is called optimal."""

_TINY = 1e-300


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice among states ``0 .. size - 1``.

    Raises
    ------
    ValueError
        When there is no state to choose.
    """

    name: str
    size: int

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"variable {self.name!r} has {self.size} states; "
                             "it needs at least one")


@dataclass(frozen=True, slots=True, eq=False)
class Factor:
    """A table over some variables; ``+inf`` marks what is not legal.

    Parameters
    ----------
    scope : tuple of str
        Names of the variables, one per axis of `table`, without repeats.
        An empty scope is a constant.
    table : array of float64
        Kept as a read-only view.

    Raises
    ------
    ValueError
        When scope and table do not fit, or the table holds NaN or -inf.
    """

    scope: tuple[str, ...]
    table: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        table = np.asarray(self.table, dtype=np.float64).view()
        table.flags.writeable = False
        object.__setattr__(self, "scope", tuple(self.scope))
        object.__setattr__(self, "table", table)
        if table.ndim != len(self.scope):
            raise ValueError(f"factor over {self.scope} has a table of shape "
                             f"{table.shape}; it needs one axis a variable")
        if len(set(self.scope)) != len(self.scope):
            raise ValueError(f"factor over {self.scope} names a variable "
                             "twice; take the table's diagonal")
        # The minimum is NaN where any entry is, and NaN compares false.
        if table.size and not np.minimum.reduce(table, axis=None) > -np.inf:
            raise ValueError(f"factor over {self.scope} holds NaN or -inf; "
                             "entries are finite or +inf")

    def over(self, scope: tuple[str, ...]) -> Factor:
        """The same table over other variables.

        Raises
        ------
        ValueError
            When they are not as many, or one is named twice.
        """
        if not len(scope) == len(set(scope)) == len(self.scope):
            raise ValueError(f"a table over {self.scope} does not fit {scope}")
        found = object.__new__(Factor)
        object.__setattr__(found, "scope", scope)
        object.__setattr__(found, "table", self.table)
        return found


@dataclass(frozen=True, slots=True, eq=False)
class FactorGraph:
    """Variables and the factors whose sum is to be minimised.

    Raises
    ------
    ValueError
        When a name is taken twice, or a factor names an unknown variable
        or has the wrong shape.

    Examples
    --------
    >>> graph = FactorGraph(
    ...     (Variable("a", 2), Variable("b", 2)),
    ...     (Factor(("a",), [0.0, 1.0]), Factor(("a", "b"), [[5, 6], [7, 2]])))
    >>> graph.value({"a": 1, "b": 1})
    3.0
    """

    variables: tuple[Variable, ...]
    factors: tuple[Factor, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "variables", tuple(self.variables))
        object.__setattr__(self, "factors", tuple(self.factors))
        sizes = self.sizes
        if len(sizes) != len(self.variables):
            names = [v.name for v in self.variables]
            twice = sorted(n for n in sizes if names.count(n) > 1)
            raise ValueError(f"variable {twice[0]!r} is given twice; names "
                             "are unique")
        for factor in self.factors:
            _check(factor, sizes)

    @property
    def sizes(self) -> dict[str, int]:
        """States of each variable, by name."""
        return {v.name: v.size for v in self.variables}

    def value(self, assignment: Mapping[str, int]) -> float:
        """The sum of all factors at one state per variable.

        Raises
        ------
        ValueError
            When a variable has no state or one that does not exist.
        """
        for variable in self.variables:
            state = assignment.get(variable.name, -1)
            if not 0 <= state < variable.size:
                raise ValueError(
                    f"the assignment gives {variable.name!r} the state "
                    f"{assignment.get(variable.name)}; it has states 0 to "
                    f"{variable.size - 1}")
        return float(
            sum([
                f.table.item(*[assignment[n] for n in f.scope])
                for f in self.factors
            ]))


def _check(factor: Factor, sizes: Mapping[str, int]) -> None:
    if factor.table.shape == tuple(map(sizes.get, factor.scope)):
        return
    unknown = [n for n in factor.scope if n not in sizes]
    if unknown:
        raise ValueError(f"factor over {factor.scope} names {unknown[0]!r}, "
                         "which is no variable of the graph")
    want = tuple(sizes[n] for n in factor.scope)
    raise ValueError(f"factor over {factor.scope} has a table of shape "
                     f"{factor.table.shape}; its variables have {want} "
                     "states")


@dataclass(frozen=True, slots=True, kw_only=True)
class Solution:
    """An assignment, what it is worth, and what is proven about it.

    Parameters
    ----------
    value : float
        ``graph.value(assignment)``, in the unit of the tables. ``+inf``
        where a relaxation led to no legal assignment.
    bound : float
        No assignment is below it.
    seconds : float
        Wall time of the search.
    assignment : mapping of str to int
        A state for each variable.
    method : str
        What found it: ``"elimination"``, ``"relaxation"``, ``"milp"``, or
        several with a plus between.
    visited : int
        Table entries computed (elimination) plus branch-and-bound nodes.
    width : int
        Variables in the largest table, less one; -1 where unknown.
    """

    value: float
    bound: float
    seconds: float
    assignment: Mapping[str, int]
    method: str
    visited: int = 0
    width: int = -1

    def __post_init__(self) -> None:
        frozen = MappingProxyType(dict(self.assignment))
        object.__setattr__(self, "assignment", frozen)

    @property
    def gap(self) -> float:
        """``(value - bound) / |value|``, never negative."""
        if math.isinf(self.value):
            return math.inf
        gap = (self.value - self.bound) / max(abs(self.value), _TINY)
        return max(gap, 0.0)

    @property
    def is_optimal(self) -> bool:
        """Whether the gap is within :data:`GAP_TOLERANCE`."""
        return self.gap <= GAP_TOLERANCE

    def __str__(self) -> str:
        status = "optimal" if self.is_optimal else f"gap {self.gap:.2%}"
        return (f"{self.value:.6g} ({status}, bound {self.bound:.6g}, "
                f"{self.method}, {self.seconds:.3f} s)")
