"""A program is cut into the stages of a pipeline.

Needs a program in which nothing moves between micro-batches. Leaves one
program for each stage: its blocks, the values that it takes from earlier
stages and those it gives to later ones. Any cut that no value crosses
backwards will do. Values that depend on the batch alone (masks, rotary
tables) are computed where they are used instead of being sent.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from planner.ir.errors import LayoutError
from planner.ir.layouts import ProgramLayout
from planner.ir.program import Block, Program
from planner.ir.verify import held_at, makers
from planner.pipeline.slices import Slice, slice_layouts, slice_of

__all__ = ["Cut", "Stage", "split_stages", "stages_of_blocks"]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a pipeline.

    Parameters
    ----------
    program : Program
        Its outputs are what it gives to later stages and to the caller.
    layout : ProgramLayout
    takes : dict of str to int
        Values from earlier stages, with the stage that makes each.
    gives : dict of str to tuple of int
        Values for later stages, with the stages that take each.
    outputs : dict of int to str
        Output leaves of the whole program that it makes.
    """

    program: Program
    layout: ProgramLayout
    takes: Mapping[str, int]
    gives: Mapping[str, tuple[int, ...]]
    outputs: Mapping[int, str]

    @property
    def params(self) -> tuple[str, ...]:
        """Global names of the parameters it reads."""
        return self.program.params


def stages_of_blocks(program: Program, cuts: Sequence[str]) -> dict[str, int]:
    """The stage of each block, where stages are runs of blocks.

    Parameters
    ----------
    program : Program
    cuts : sequence of str
        The first block of each stage but the first.

    Raises
    ------
    LayoutError
        When a cut names no block or comes before an earlier one.
    """
    names = [b.name for b in program.blocks]
    for cut in cuts:
        if cut not in names:
            raise LayoutError(f"pipeline: no block is named {cut!r}; the "
                              f"blocks are {', '.join(names)}")
    places = [names.index(cut) for cut in cuts]
    if places != sorted(set(places)) or 0 in places:
        raise LayoutError(
            f"pipeline: cuts {', '.join(cuts)} are not in the order of the "
            f"program, {', '.join(names)}, each after the first block")
    return {
        name: sum(place <= i for place in places)
        for i, name in enumerate(names)
    }


def split_stages(program: Program, layout: ProgramLayout,
                 stage_of: Mapping[str, int]) -> tuple[Stage, ...]:
    """Cut a program.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    stage_of : mapping of str to int
        Every block's stage; all numbers from 0 are taken.

    Raises
    ------
    LayoutError
        When a value would go to an earlier stage, naming it.
    """
    return Cut(program, stage_of).stages(layout)


class Cut:
    """Which stage makes what, and which stages take it.

    Parameters
    ----------
    program, stage_of
        As for :func:`split_stages`.
    """

    def __init__(self, program: Program, stage_of: Mapping[str, int]) -> None:
        self.program = program
        self.stage_of = stage_of
        self.count = 1 + max(stage_of.values())
        self.blocks: list[list[Block]] = [[] for _ in range(self.count)]
        for block in program.blocks:
            self.blocks[stage_of[block.name]].append(block)
        self.order = {n: i for i, n in enumerate(program.specs)}
        self.made = {
            name: stage_of[block.name]
            for block in program.blocks
            for name in block.results
        }
        self.makers = makers(program)
        self.specs = {n: value.spec for n, (_, value) in self.makers.items()}
        self.cheap: dict[str, bool] = {}
        self.slices: dict[tuple[str, ...], Slice] = {}
        self.again = [self._recomputed(s) for s in range(self.count)]
        self.taken = [self._taken(s) for s in range(self.count)]
        self.takers: dict[str, list[int]] = {}
        for stage, taken in enumerate(self.taken):
            for name in taken:
                self.takers.setdefault(name, []).append(stage)
        self._parts: dict[int, Program] = {}

    def _reads(self, stage: int) -> list[str]:
        """Values that a stage's own blocks take, in order."""
        names: dict[str, None] = {}
        for block in self.blocks[stage]:
            names.update(dict.fromkeys(block.operands))
        return [n for n in names if n in self.made]

    def _recomputed(self, stage: int) -> Slice:
        """What the stage computes itself instead of receiving it."""
        late = [n for n in self._reads(stage) if self.made[n] < stage]
        cheap = [n for n in late if self._is_cheap(n)]
        return self._slice(cheap) if cheap else Slice()

    def _slice(self, names: Sequence[str]) -> Slice:
        """The same one for all stages that compute the same again."""
        key = tuple(names)
        if key not in self.slices:
            self.slices[key] = slice_of(self.program, names)
        return self.slices[key]

    def _is_cheap(self, name: str) -> bool:
        if self.specs[name].requires_grad:
            return False
        if name not in self.cheap:
            part = self._slice([name])
            self.cheap[name] = not part.reads_parameters and not part.draws
        return self.cheap[name]

    def _taken(self, stage: int) -> dict[str, int]:
        own = {r for b in self.again[stage].blocks for r in b.results}
        taken = {}
        for name in self._reads(stage):
            if self.made[name] > stage:
                raise LayoutError(
                    f"pipeline: {name} is made by stage {self.made[name]} "
                    f"and read by stage {stage} before it; move the cut")
            if self.made[name] < stage and name not in own:
                taken[name] = self.made[name]
        return taken

    def stages(self, layout: ProgramLayout) -> tuple[Stage, ...]:
        """All of them, in layouts of the program."""
        return tuple(self.stage(s, layout) for s in range(self.count))

    def stage(self, stage: int, layout: ProgramLayout) -> Stage:
        """One of them."""
        return Stage(program=self.part(stage),
                     layout=self._layout(stage, layout),
                     takes=self.taken[stage],
                     gives=self._gives(stage),
                     outputs=self._outputs(stage))

    def part(self, stage: int) -> Program:
        """What a stage runs, whatever its layouts."""
        if stage not in self._parts:
            self._parts[stage] = self._program(stage)
        return self._parts[stage]

    def _gives(self, stage: int) -> dict[str, tuple[int, ...]]:
        return {
            name: tuple(self.takers[name])
            for block in self.blocks[stage]
            for name in block.results if name in self.takers
        }

    def _outputs(self, stage: int) -> dict[int, str]:
        return {
            i: name
            for i, name in enumerate(self.program.outputs)
            if name is not None and self._returns(name) == stage
        }

    def _returns(self, name: str) -> int:
        """The stage that returns an output; inputs come back from the last.
        """
        return self.made.get(name, self.count - 1)

    def _program(self, stage: int) -> Program:
        outputs = self._outputs(stage)
        again = self.again[stage]
        own = self.blocks[stage]
        names = {n for b in (*again.blocks, *own) for n in b.operands}
        names |= set(outputs.values())
        mutations = {
            b: v
            for b, v in self.program.mutations.items()
            if self.made.get(v, self.count - 1) == stage
        }
        given = (n for n in {*names, *mutations} if n in self.order)
        specs = {
            n: self.program.specs[n]
            for n in sorted(given, key=self.order.__getitem__)
        }
        specs |= {n: self.specs[n] for n in self.taken[stage]}
        returned = tuple(
            dict.fromkeys((*self._gives(stage), *outputs.values())))
        classes = {b.block_class for b in own}
        return dataclasses.replace(
            self.program,
            classes={
                **again.classes,
                **{
                    n: c
                    for n, c in self.program.classes.items() if n in classes
                }
            },
            blocks=(*again.blocks, *own),
            specs=specs,
            outputs=returned,
            output_constants=(None, ) * len(returned),
            mutations=mutations,
            loss=None)

    def _layout(self, stage: int, layout: ProgramLayout) -> ProgramLayout:
        program = self.part(stage)
        again = slice_layouts(self.again[stage], layout)
        return dataclasses.replace(
            layout,
            classes={
                n: again[n] if n in again else layout.classes[n]
                for n in program.classes
            },
            at_rest={
                n:
                layout.at_rest[n] if n in layout.at_rest else held_at(
                    layout, self.makers[n])
                for n in program.specs
            },
            regather=frozenset(n for n in layout.regather
                               if n in program.specs),
            recompute=layout.recompute & frozenset(program.classes))
