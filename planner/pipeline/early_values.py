"""What needs the whole batch is computed before the micro-batches.

Needs layouts over a mesh whose last axis is the micro-batches. Leaves a
main program in which no value moves between micro-batches, and a prelude:
the program of the values that would (counts of tokens, masks and positions
of the whole batch), which depend on the batch alone. The main program takes
them as it takes inputs. What depends on parameters too, but has no gradient
(how many tokens each expert gets), takes a forward pass of all micro-batches:
the program of that is the rehearsal.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from planner.ir.errors import LayoutError
from planner.ir.layout import Layout, Placement, R
from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.program import (Block, BlockClass, Program, source_of,
                                value_kind)
from planner.ir.reached import reached_from
from planner.ir.values import Value, call_of, calls_of, value_of
from planner.ir.verify import Holder, held_at, held_values, hub_of, makers
from planner.pipeline.axes import without_axis
from planner.pipeline.early_edits import Edit, edits_of, with_placeholders
from planner.pipeline.microbatch import (BY_POSITION, OF_BATCH,
                                         WITHOUT_COLLECTIVES, moves)
from planner.pipeline.slices import inner_name, slice_layouts, slice_of
from planner.rules.draws import draws
from planner.rules.registry import TensorSpec

__all__ = ["EarlySplit", "EarlyValue", "Prelude", "Rehearsal", "early_values"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyValue:
    """A value of the whole batch, as a micro-batch takes it.

    Parameters
    ----------
    source : str
        Its name in the prelude.
    placement : Placement
        Over the micro-batches: whole, or the shard that each takes.
    """

    source: str
    placement: Placement


@dataclass(frozen=True, kw_only=True)
class Rehearsal:
    """Values that a forward pass of all micro-batches finds.

    Parameters
    ----------
    program : Program
        Its outputs are sources; its blocks are cut from those of its own,
        called so with ``.part``.
    layout : ProgramLayout
        Over the axes of a stage and the micro-batches.
    """

    program: Program
    layout: ProgramLayout


@dataclass(frozen=True, kw_only=True)
class Prelude:
    """What is known before the first micro-batch.

    Parameters
    ----------
    program : Program or None
        Of the batch and buffers; its outputs are the sources of `values`.
        None where there is nothing to compute.
    layout : ProgramLayout or None
        Over the axes of a stage.
    values : dict of str to EarlyValue
        By their names in the main program.
    rehearsal : Rehearsal or None
        Of those sources that depend on parameters.
    """

    program: Program | None
    layout: ProgramLayout | None
    values: dict[str, EarlyValue]
    rehearsal: Rehearsal | None = None


def early_values(program: Program,
                 layout: ProgramLayout,
                 *,
                 exact: bool = True) -> tuple[Program, ProgramLayout, Prelude]:
    """Split off what is known before the first micro-batch.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    exact : bool
        Whether no micro-batch may stand for the whole batch.

    Raises
    ------
    LayoutError
        When a value that is drawn at random would have to move between
        micro-batches, naming it.
    """
    split = EarlySplit(program, layout, exact=exact)
    return split.main(), split.laid(layout), split.prelude()


def _check_lowerings(cls: BlockClass, layout: ClassLayout, *, exact: bool,
                     alone: bool) -> None:
    """`alone` is a micro-batch that is the whole batch."""
    known = {None, *WITHOUT_COLLECTIVES, *BY_POSITION}
    known |= set() if exact else OF_BATCH
    for node in calls_of(cls.graph):
        option = layout.calls[node.meta["label"]].options[-1]
        if not (option.is_sharded or alone) and draws(call_of(node)):
            raise LayoutError(
                f"{node.meta['label']} at {source_of(node)} draws the same "
                "random numbers for the whole batch, which micro-batches "
                "can't share; run this model without a pipeline, or draw "
                "for each sample")
        if option.lowering not in known:
            raise LayoutError(
                f"{node.meta['label']} at {source_of(node)} computes over the "
                f"whole batch ({option.lowering}), so that micro-batches "
                "would change the result; run this model without a pipeline, "
                "use a layer that treats samples apart, or let each "
                "micro-batch stand for the batch: "
                'pipeline(batch_statistics="microbatch")')


class EarlySplit:
    """The main program and the wishes for the prelude.

    Parameters
    ----------
    program, layout, exact
        As for :func:`early_values`.

    Raises
    ------
    LayoutError
        Where lowerings compute over the whole batch.
    """

    def __init__(self,
                 program: Program,
                 layout: ProgramLayout,
                 *,
                 exact: bool = True) -> None:
        for cls in program.classes.values():
            _check_lowerings(cls,
                             layout.classes[cls.name],
                             exact=exact,
                             alone=layout.mesh.sizes[-1] == 1)
        self._program, self._layout = program, layout
        _, self._late = (set(),
                         set()) if exact else reached_from(program, "param")
        self._classes = dict(program.classes)
        self._blocks = {b.name: b for b in program.blocks}
        self._specs: dict[str, TensorSpec] = {}
        self._values: dict[str, EarlyValue] = {}
        self._inner: dict[str, list[Value]] = {}
        self._makers = makers(program)
        self._holders: dict[str, Holder] = {}
        self._edits = edits_of(program, layout, exact=exact)
        for name in sorted(self._edits):
            self._edit_class(name, self._edits[name])
        self._rename_edges()

    def _want(self, source: str, spec: TensorSpec, holder: Holder,
              target: Placement) -> str:
        """Note an early value, and what says how it is held; its name in
        the main program."""
        name = f"early:{source}@{target}"
        self._values[name] = EarlyValue(source=source, placement=target)
        self._specs[name] = dataclasses.replace(spec, requires_grad=False)
        self._holders[name] = holder
        return name

    def _edit_class(self, name: str, edits: list[Edit]) -> None:
        """Let calls of a class read early values."""
        old = self._classes[name]
        self._classes[name] = with_placeholders(old, edits)
        for block in self._program.blocks:
            if block.block_class == name:
                self._feed(block, old, edits)

    def _feed(self, block: Block, old: BlockClass, edits: list[Edit]) -> None:
        names = dict(zip(old.placeholders, block.operands, strict=True))
        added = []
        for edit in edits:
            node = edit.value.node
            if node.op == "placeholder":
                source = names[node]
            else:
                source = inner_name(block, edit.value)
                inner = self._inner.setdefault(block.name, [])
                if edit.value not in inner:
                    inner.append(edit.value)
            added.append(
                self._want(source, edit.value.spec, (old.name, edit.value),
                           edit.target))
        current = self._blocks[block.name]
        self._blocks[block.name] = dataclasses.replace(
            current, operands=(*added, *current.operands))

    def _rename_edges(self) -> None:
        """Between blocks: what a block takes otherwise than it is held."""
        held = held_values(self._program, self._layout)
        by_position = _positions(self._program, self._layout)
        layouts = self.laid(self._layout).classes
        for name, block in self._blocks.items():
            cls = self._classes[block.block_class]
            hubs = layouts[block.block_class].hubs
            operands = list(block.operands)
            for i, (node, source) in enumerate(
                    zip(cls.placeholders, block.operands, strict=True)):
                if value_kind(source) in ("param", "buffer", "const"):
                    continue
                if source not in held:
                    continue  # is an early value already
                hub = hubs[node.meta["label"]]
                spec, lay = held[source]
                if (source in by_position
                        or moves(Value(node),
                                 lay[-1],
                                 hub[-1],
                                 exact=source not in self._late)):
                    holder = self._makers.get(source, source)
                    operands[i] = self._want(source, spec, holder, hub[-1])
            self._blocks[name] = dataclasses.replace(block,
                                                     operands=tuple(operands))

    def main(self) -> Program:
        """What micro-batches run."""
        return dataclasses.replace(self._program,
                                   classes=self._classes,
                                   blocks=tuple(self._blocks.values()),
                                   specs={
                                       **self._program.specs,
                                       **self._specs
                                   })

    def laid(self, layout: ProgramLayout) -> ProgramLayout:
        """The layout of that, for one of the program that is the same over
        the micro-batches."""
        classes = dict(layout.classes)
        for name, edits in self._edits.items():
            chosen = classes[name]
            early = {
                e.label: (*hub_of(chosen, e.value)[:-1], e.target)
                for e in edits
            }
            classes[name] = dataclasses.replace(chosen,
                                                hubs={
                                                    **chosen.hubs,
                                                    **early
                                                })
        rest = {
            name: (*_at_rest(held_at(layout, holder)[:-1]),
                   self._values[name].placement)
            for name, holder in self._holders.items()
        }
        return dataclasses.replace(layout,
                                   classes=classes,
                                   at_rest={
                                       **layout.at_rest,
                                       **rest
                                   })

    def sources(self) -> tuple[list[str], list[str]]:
        """What is needed early: of the batch alone, and of parameters too.
        """
        names = sorted({v.source for v in self._values.values()})
        late = [s for s in names if self._is_late(s)]
        return [s for s in names if s not in late], late

    def prelude(self) -> Prelude:
        """What is known before micro-batches run."""
        early, late = self.sources()
        program = layout = rehearsal = None
        if early:
            whole = without_axis(self._layout,
                                 len(self._layout.mesh.sizes) - 1)
            program, layout = self._part(early, whole)
        if late:
            main, laid = self._part(late, self._layout)
            rehearsal = Rehearsal(program=main, layout=laid)
        return Prelude(program=program,
                       layout=layout,
                       values=self._values,
                       rehearsal=rehearsal)

    def _part(self, sources: list[str],
              layout: ProgramLayout) -> tuple[Program, ProgramLayout]:
        """What makes some values, and no more."""
        part = slice_of(self._program, sources, self._own(sources))
        specs = {
            n: s
            for n, s in self._program.specs.items() if n in part.leaves
        }
        program = dataclasses.replace(self._program,
                                      classes=part.classes,
                                      blocks=tuple(part.blocks),
                                      specs=specs,
                                      outputs=tuple(sources),
                                      output_constants=(None, ) * len(sources),
                                      mutations={},
                                      loss=None)
        return program, dataclasses.replace(
            layout,
            classes=slice_layouts(part, layout),
            at_rest={n: layout.at_rest[n]
                     for n in specs},
            regather=layout.regather & frozenset(specs),
            recompute=frozenset())

    def _own(self, sources: list[str]) -> dict[str, list[Value]]:
        """The values inside of blocks that have these names."""
        return {
            b: [v for v in vs if f"{b}/{v.label}" in sources]
            for b, vs in self._inner.items()
        }

    def _is_late(self, source: str) -> bool:
        """Whether a value depends on parameters."""
        part = slice_of(self._program, [source], self._own([source]))
        if part.draws:
            raise LayoutError(
                f"{source} of the whole batch is needed by every micro-batch, "
                "but depends on random numbers (dropout), so that it can't be "
                "known before the first one; run this model without a "
                "pipeline, or let each micro-batch stand for the batch: "
                'pipeline(batch_statistics="microbatch")')
        return part.reads_parameters


def _at_rest(layout: Layout) -> Layout:
    """As the prelude returns it: whole or sharded."""
    return tuple(p if p.is_shard else R for p in layout)


def _positions(program: Program, layout: ProgramLayout) -> set[str]:
    """Values between blocks whose shard depends on where it lies."""
    found = set()
    for block, node, name in program.makes():
        calls = layout.classes[block.block_class].calls
        call = calls.get(value_of(node).node.meta["label"])
        if call is not None and call.options[-1].lowering in BY_POSITION:
            found.add(name)
    return found
