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
from planner.ir.verify import held_values, hub_of
from planner.pipeline.axes import without_axis
from planner.pipeline.early_edits import Edit, edits_of, with_placeholders
from planner.pipeline.microbatch import (BY_POSITION, OF_BATCH,
                                         WITHOUT_COLLECTIVES, moves)
from planner.pipeline.slices import inner_name, slice_layouts, slice_of
from planner.rules.draws import draws
from planner.rules.registry import TensorSpec

__all__ = [
    "EarlyValue", "Prelude", "Rehearsal", "early_values",
    "without_early_values"
]


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
    split = _split(program, layout, exact=exact)
    return (*split.main(), split.prelude())


def without_early_values(program: Program,
                         layout: ProgramLayout,
                         *,
                         exact: bool = True) -> tuple[Program, ProgramLayout]:
    """As :func:`early_values`, the main program alone."""
    split = _split(program, layout, exact=exact)
    split.sources()
    return split.main()


def _split(program: Program, layout: ProgramLayout, *, exact: bool) -> _Split:
    for cls in program.classes.values():
        _check_lowerings(cls,
                         layout.classes[cls.name],
                         exact=exact,
                         alone=layout.mesh.sizes[-1] == 1)
    edits = edits_of(program, layout, exact=exact)
    split = _Split(program, layout, exact=exact)
    for name in sorted(edits):
        split.edit_class(name, edits[name])
    split.rename_edges()
    return split


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


class _Split:
    """The main program and the wishes for the prelude, as they grow."""

    def __init__(self, program: Program, layout: ProgramLayout, *,
                 exact: bool) -> None:
        self.program, self.layout = program, layout
        _, self.late = (set(),
                        set()) if exact else reached_from(program, "param")
        self.classes = dict(program.classes)
        self.layouts = dict(layout.classes)
        self.blocks = {b.name: b for b in program.blocks}
        self.specs: dict[str, TensorSpec] = {}
        self.at_rest: dict[str, Layout] = {}
        self.values: dict[str, EarlyValue] = {}
        self.inner: dict[str, list[Value]] = {}
        self.held = held_values(program, layout)
        self.by_position = _positions(program, layout)

    def _want(self, source: str, spec: TensorSpec, hub: Layout,
              target: Placement) -> str:
        """Note an early value; its name in the main program."""
        name = f"early:{source}@{target}"
        self.values[name] = EarlyValue(source=source, placement=target)
        self.specs[name] = dataclasses.replace(spec, requires_grad=False)
        self.at_rest[name] = (*_at_rest(hub[:-1]), target)
        return name

    def edit_class(self, name: str, edits: list[Edit]) -> None:
        """Let calls of a class read early values."""
        old, chosen = self.classes[name], self.layouts[name]
        hubs = dict(chosen.hubs)
        for edit in edits:
            hubs[edit.label] = (*hub_of(chosen, edit.value)[:-1], edit.target)
        cls = with_placeholders(old, edits)
        self.classes[name] = cls
        self.layouts[name] = dataclasses.replace(chosen, hubs=hubs)
        for block in self.program.blocks:
            if block.block_class == name:
                self._feed(block, old, chosen, edits)

    def _feed(self, block: Block, old: BlockClass, chosen: ClassLayout,
              edits: list[Edit]) -> None:
        names = dict(zip(old.placeholders, block.operands, strict=True))
        added = []
        for edit in edits:
            node = edit.value.node
            if node.op == "placeholder":
                source = names[node]
            else:
                source = inner_name(block, edit.value)
                inner = self.inner.setdefault(block.name, [])
                if edit.value not in inner:
                    inner.append(edit.value)
            added.append(
                self._want(source, edit.value.spec, hub_of(chosen, edit.value),
                           edit.target))
        current = self.blocks[block.name]
        self.blocks[block.name] = dataclasses.replace(
            current, operands=(*added, *current.operands))

    def rename_edges(self) -> None:
        """Between blocks: what a block takes otherwise than it is held."""
        for name, block in self.blocks.items():
            cls = self.classes[block.block_class]
            hubs = self.layouts[block.block_class].hubs
            operands = list(block.operands)
            for i, (node, source) in enumerate(
                    zip(cls.placeholders, block.operands, strict=True)):
                if value_kind(source) in ("param", "buffer", "const"):
                    continue
                if source not in self.held:
                    continue  # is an early value already
                hub = hubs[node.meta["label"]]
                spec, held = self.held[source]
                if (source in self.by_position
                        or moves(Value(node),
                                 held[-1],
                                 hub[-1],
                                 exact=source not in self.late)):
                    operands[i] = self._want(source, spec, held, hub[-1])
            self.blocks[name] = dataclasses.replace(block,
                                                    operands=tuple(operands))

    def main(self) -> tuple[Program, ProgramLayout]:
        """What micro-batches run."""
        specs = {**self.program.specs, **self.specs}
        rest = {**self.layout.at_rest, **self.at_rest}
        program = dataclasses.replace(self.program,
                                      classes=self.classes,
                                      blocks=tuple(self.blocks.values()),
                                      specs=specs)
        layout = dataclasses.replace(self.layout,
                                     classes=self.layouts,
                                     at_rest=rest)
        return program, layout

    def sources(self) -> tuple[list[str], list[str]]:
        """What is needed early: of the batch alone, and of parameters too.
        """
        names = sorted({v.source for v in self.values.values()})
        late = [s for s in names if self._is_late(s)]
        return [s for s in names if s not in late], late

    def prelude(self) -> Prelude:
        """What is known before micro-batches run."""
        early, late = self.sources()
        program = layout = rehearsal = None
        if early:
            whole = without_axis(self.layout, len(self.layout.mesh.sizes) - 1)
            program, layout = self._program(early, whole)
        if late:
            main, laid = self._program(late, self.layout)
            rehearsal = Rehearsal(program=main, layout=laid)
        return Prelude(program=program,
                       layout=layout,
                       values=self.values,
                       rehearsal=rehearsal)

    def _program(self, sources: list[str],
                 layout: ProgramLayout) -> tuple[Program, ProgramLayout]:
        """What makes some values, and no more."""
        part = slice_of(self.program, sources, self._own(sources))
        specs = {
            n: s
            for n, s in self.program.specs.items() if n in part.leaves
        }
        program = dataclasses.replace(self.program,
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
            for b, vs in self.inner.items()
        }

    def _is_late(self, source: str) -> bool:
        """Whether a value depends on parameters."""
        part = slice_of(self.program, [source], self._own([source]))
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
    for block in program.blocks:
        chosen = layout.classes[block.block_class]
        for node, name in zip(program.class_of(block).results,
                              block.results,
                              strict=True):
            call = chosen.calls.get(value_of(node).node.meta["label"])
            if call is not None and call.options[-1].lowering in BY_POSITION:
                found.add(name)
    return found
