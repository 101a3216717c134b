"""Every block of a program as a stage of its own.

Which values are computed before the micro-batches, what a block takes and
what it computes again follow from how the batch is cut, which is the same for
most cells; so that is found once, and layouts over the axes of a cell are put
in its place.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from planner.cost.calls import KnownCalls
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.ir.values import value_of
from planner.pipeline.early_values import EarlySplit
from planner.pipeline.stage_cost import KnownByClass
from planner.pipeline.stages import Cut, Stage

__all__ = ["Apart", "BlocksApart"]


@dataclass(frozen=True, kw_only=True)
class Apart:
    """The blocks of a program in some layouts.

    Parameters
    ----------
    main : Program
        What a micro-batch runs.
    kind : array of int
        Which blocks have the same program, with what they compute again of
        earlier ones.
    alike : array of int
        Which of these also bring what they take from others from the same
        layouts.
    stages : tuple of Stage
        One block of all that are alike.
    own_bytes : array
        By block, sizes of its parameters with a gradient, divided by all
        ranks, without those that an earlier block reads as well.
    handed : tuple of tuple of bool
        By block, which of the values that it takes are made by the one just
        before, in the order of its stage's.
    """

    main: Program
    kind: NDArray[np.int64]
    alike: NDArray[np.int64]
    stages: tuple[Stage, ...]
    own_bytes: NDArray[np.float64]
    handed: tuple[tuple[bool, ...], ...]

    def by_kind(self) -> list[Stage]:
        """One block of each kind."""
        _, first = np.unique(self.kind, return_index=True)
        return [self.stages[n] for n in self.alike[first].tolist()]


class BlocksApart:
    """The blocks of a program, in any layouts.

    Parameters
    ----------
    program : Program
    calls : KnownCalls
        Of the program.

    Attributes
    ----------
    known : KnownByClass
        The calls of its classes, and of those that stages have besides.
    """

    def __init__(self, program: Program, calls: KnownCalls) -> None:
        self._program = program
        self.known: KnownByClass = {
            id(program.classes[name]): found
            for name, found in calls.items()
        }
        self._cuts: dict[Hashable, _BatchCut] = {}

    def of(self, layout: ProgramLayout, *, exact: bool) -> Apart:
        """In layouts over the axes of a stage and the micro-batches.

        Parameters
        ----------
        layout : ProgramLayout
        exact : bool
            Whether no micro-batch may stand for the whole batch.

        Raises
        ------
        LayoutError
            When some value would have to move between micro-batches.
        """
        key = (exact, layout.mesh.sizes[-1] == 1, _over_batch(layout))
        if key not in self._cuts:
            self._cuts[key] = _BatchCut(self._program, layout, exact=exact)
        return self._cuts[key].laid(layout)


class _BatchCut:
    """The blocks apart, where the batch is cut in one way."""

    def __init__(self, program: Program, layout: ProgramLayout, *,
                 exact: bool) -> None:
        self._split = EarlySplit(program, layout, exact=exact)
        self._split.sources()
        self._main = self._split.main()
        blocks = self._main.blocks
        self._cut = Cut(self._main, {b.name: i for i, b in enumerate(blocks)})
        keys = [(b.block_class, len(self._cut.part(i).classes))
                for i, b in enumerate(blocks)]
        kinds = list(dict.fromkeys(keys))
        self._kind = np.array([kinds.index(k) for k in keys])
        self._taken = _taken(self._main)
        self._handed = tuple(
            tuple(made == number - 1 for made in taken.values())
            for number, taken in enumerate(self._cut.taken))

    def laid(self, layout: ProgramLayout) -> Apart:
        """In layouts that cut it so."""
        laid = self._split.laid(layout)
        taken = [
            tuple(laid.classes[c].hubs[label] for c, label in each)
            for each in self._taken
        ]
        keys = list(zip(self._kind.tolist(), taken, strict=True))
        every = list(dict.fromkeys(keys))
        return Apart(main=self._main,
                     kind=self._kind,
                     alike=np.array([every.index(k) for k in keys]),
                     stages=tuple(
                         self._cut.stage(keys.index(k), laid) for k in every),
                     own_bytes=self._own_bytes(layout.mesh),
                     handed=self._handed)

    def _own_bytes(self, mesh: MeshSpec) -> NDArray[np.float64]:
        specs, ranks = self._main.specs, mesh.world_size // mesh.sizes[-1]
        return np.array([
            sum(specs[n].size_bytes / ranks for n in own) for own in self._own
        ],
                        dtype=np.float64)

    @functools.cached_property
    def _own(self) -> list[list[str]]:
        """By block, parameters with a gradient that it is the first to read.
        """
        seen, found = set[str](), []
        for number in range(len(self._main.blocks)):
            program = self._cut.part(number)
            own = [
                n for n in program.params
                if program.specs[n].requires_grad and n not in seen
            ]
            seen.update(own)
            found.append(own)
        return found


def _taken(program: Program) -> list[list[tuple[str, str]]]:
    """Of each block, what it takes from others: class and label."""
    made = {
        name: (block.block_class, value_of(node).label)
        for block, node, name in program.makes()
    }
    return [[made[n] for n in b.operands if n in made] for b in program.blocks]


def _over_batch(layout: ProgramLayout) -> Hashable:
    """Layouts over the micro-batches alone."""
    classes = tuple(
        (name, tuple((n, c.options[-1]) for n, c in cls.calls.items()),
         tuple((n, lay[-1]) for n, lay in cls.hubs.items()))
        for name, cls in layout.classes.items())
    return classes, tuple((n, lay[-1]) for n, lay in layout.at_rest.items())
