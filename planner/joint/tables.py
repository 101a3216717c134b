"""What each block costs, by how the ranks of a stage share its work.

A block's layouts over the axes ``ep``, ``cp`` and ``tp`` depend on how many
rows of the batch come at once, and on nothing else that the joint search
varies: stages only say where a block runs, data parallelism only what its
parameters cost to move. So every distinct block is laid out and priced once
for each cell, as a stage of its own, and thousands of combinations are sums
over these tables.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from planner.choices import role_policies
from planner.cluster.spec import DeviceKind
from planner.cost.conversion import ConversionCost
from planner.cost.optimizer import optimizer_bytes
from planner.ir.errors import InfeasiblePlan
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Program
from planner.joint.apart import Apart, BlocksApart
from planner.joint.space import Cell
from planner.pipeline.cuts import call_times_s
from planner.pipeline.microbatch import with_microbatches
from planner.pipeline.stage_cost import (KnownByClass, stage_cost,
                                         stage_cost_again, stage_forward_s,
                                         taken_bytes, wire_bytes)
from planner.pipeline.stages import Stage

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["BlockTable", "BlockTimes", "TOLERANCE", "block_table"]

Array = NDArray[np.float64]

TOLERANCE = 5e-4
"""By what part of its compute a cell's layouts may take longer than the best
over an axis, where these take long to find."""

_TIMES = ("forward_s", "input_s", "weight_s", "sums_s", "rerun_s", "once_s")

_COLUMNS = (*_TIMES, "saved_bytes", "kept_bytes", "transient_bytes",
            "rerun_bytes", "parameter_bytes", "gradient_bytes",
            "resting_bytes", "state_bytes", "taken_bytes", "forward_launches",
            "backward_launches", "again_s", "made_by")


@dataclass(frozen=True, kw_only=True)
class BlockTimes:
    """What of a `BlockTable` depends on the kind of device."""

    forward_s: Array
    input_s: Array
    weight_s: Array
    sums_s: Array
    rerun_s: Array
    once_s: Array

    @property
    def work_s(self) -> Array:
        """All of a micro-batch's work but its sums, by block."""
        return self.forward_s + self.input_s + self.weight_s


@dataclass(frozen=True, kw_only=True)
class BlockTable:
    """Arrays over the blocks of a program, for one micro-batch.

    Parameters
    ----------
    cell : Cell
        How many ranks share the work, and rows in a micro-batch.
    blocks : tuple of str
        Their names.
    call_times_s : mapping of str to sequence of float
        Compute of each call of each class, on one rank.
    forward_s, input_s, weight_s : array
        Compute and communication over the axes of the cell; nothing for what
        a stage computes again of earlier ones.
    sums_s : array
        Adding gradients to those of the micro-batches before.
    rerun_s : array
        What the backward computes once more where the block is recomputed.
    once_s : array
        What is moved over them once a step.
    saved_bytes, kept_bytes : array
        Kept for the backward: all, or what is where the block is recomputed;
        without what a stage takes.
    transient_bytes, rerun_bytes : array
        Peak beside that, and where the block is recomputed beside all that
        is saved then.
    parameter_bytes, gradient_bytes : array
        Local, whole along data parallelism: parameters, and their gradients
        before they are reduced.
    resting_bytes, state_bytes : array
        Parameters and the optimizer's state, divided evenly.
    taken_bytes : array
        What comes in from blocks before.
    handed_bytes : array
        Of that, what the block just before makes.
    forward_launches, backward_launches : array
        Kernels, the same for any cell; messages are launched besides.
    again_s : array
        What a stage that begins with the block computes again of earlier
        ones.
    made_by : array
        The number of the last of these.
    kind : array of int
        Which blocks are alike.
    trained_bytes : tuple of array
        By kind, sizes of the parameters with a gradient, divided evenly.
    own_bytes : array
        Of those parameters, without what an earlier block reads as well.
    times_on : mapping of DeviceKind to BlockTimes
        Where devices are of several kinds, on each that a stage may be on.
        The times above are those on the weakest.
    counting_s : float
        Of the last block, what a program without stages is without: the
        counts of its losses are split off.
    is_exact : bool
        Whether no micro-batch stands for the whole batch.
    layout : ProgramLayout, optional
        Over the axes of the cell and the micro-batches.
    """

    cell: Cell
    blocks: tuple[str, ...]
    call_times_s: Mapping[str, Sequence[float]]
    forward_s: Array
    input_s: Array
    weight_s: Array
    sums_s: Array
    rerun_s: Array
    once_s: Array
    saved_bytes: Array
    kept_bytes: Array
    transient_bytes: Array
    rerun_bytes: Array
    parameter_bytes: Array
    gradient_bytes: Array
    resting_bytes: Array
    state_bytes: Array
    taken_bytes: Array
    handed_bytes: Array
    kind: NDArray[np.int64]
    trained_bytes: tuple[Array, ...]
    own_bytes: Array
    forward_launches: Array
    backward_launches: Array
    again_s: Array
    made_by: Array
    times_on: Mapping[DeviceKind, BlockTimes] = field(default_factory=dict)
    counting_s: float = 0.0
    is_exact: bool = True
    layout: ProgramLayout | None = None

    @property
    def work_s(self) -> Array:
        """All of a micro-batch's work but its sums, by block."""
        return self.forward_s + self.input_s + self.weight_s

    def at_least(self) -> BlockTable:
        """The same whether losses' counts are split off or not."""
        lower_s = self.uncounted_forward_s
        return dataclasses.replace(self,
                                   counting_s=0.0,
                                   forward_s=lower_s(self),
                                   times_on={
                                       d:
                                       dataclasses.replace(
                                           t, forward_s=lower_s(t))
                                       for d, t in self.times_on.items()
                                   })

    def uncounted_forward_s(self, times: BlockTable | BlockTimes) -> Array:
        """Of a program whose losses' counts are not split off."""
        forward_s = times.forward_s.copy()
        forward_s[-1] = max(0.0, forward_s[-1] - self.counting_s)
        return forward_s

    def on(self, device: DeviceKind) -> BlockTable | BlockTimes:
        """The times on a kind of device."""
        return self.times_on.get(device, self)


def block_table(planning: Planning,
                cell: Cell,
                *,
                devices: Collection[DeviceKind] = (),
                exact: bool = True,
                alone: Mapping[str, ProgramLayout | None] | None = None,
                like: ProgramLayout | None = None,
                settled: bool = False,
                blocks: BlocksApart | None = None) -> BlockTable:
    """Lay out and price the blocks.

    Parameters
    ----------
    planning : Planning
        Of a program with the counts of its losses split off.
    cell : Cell
        Whose rows divide the captured batch.
    devices : collection of DeviceKind
        Of stages, where there are several kinds.
    exact : bool
        Whether no micro-batch may stand for the whole batch.
    alone : mapping of str to ProgramLayout, optional
        Layouts over single axes to start from, by name, where they are
        known: those of cells with as many rows.
    like : ProgramLayout, optional
        Layouts over the same axes, for other rows, which are a better start.
    settled : bool
        Whether these are known to be the best.
    blocks : BlocksApart, optional
        Of the program, the same for all of its cells.

    Raises
    ------
    InfeasiblePlan
        When constraints leave nothing.
    LayoutError
        When the program can't be cut into micro-batches.
    """
    layout = _layout(planning,
                     cell,
                     exact=exact,
                     alone=alone or {},
                     like=like,
                     settled=settled)
    blocks = blocks or BlocksApart(planning.program,
                                   planning.facts.known_calls)
    known, apart = blocks.known, blocks.of(layout, exact=exact)
    cost = planning.tables(layout.mesh).cost

    def rows_on(device: DeviceKind) -> Array:
        return _rows(planning, apart, cost.on(device), known)[:, apart.alike]

    return BlockTable(cell=cell,
                      blocks=tuple(b.name for b in apart.main.blocks),
                      call_times_s=call_times_s(planning.facts, layout,
                                                cost.device),
                      kind=apart.kind,
                      is_exact=exact,
                      layout=layout,
                      trained_bytes=tuple(map(_trained_bytes,
                                              apart.by_kind())),
                      own_bytes=apart.own_bytes,
                      handed_bytes=_handed_bytes(apart),
                      times_on={
                          d: BlockTimes(**dict(zip(_TIMES, rows_on(d))))
                          for d in devices
                      },
                      **dict(zip(_COLUMNS, rows_on(cost.device), strict=True)))


def _handed_bytes(apart: Apart) -> Array:
    """What each block takes of the one just before."""
    sizes = [[wire_bytes(s, name) for name in s.takes] for s in apart.stages]
    return np.array([
        sum(size for size, is_next in zip(sizes[stage], handed) if is_next)
        for stage, handed in zip(apart.alike.tolist(), apart.handed)
    ],
                    dtype=np.float64)


def _rows(planning: Planning, apart: Apart, cost: ConversionCost,
          known: KnownByClass) -> Array:
    """A row for each of the columns of a table, of blocks that differ."""
    again: dict[tuple[int, ...], float] = {}
    return np.array([
        _row(planning, apart.main, s, cost, known, again) for s in apart.stages
    ]).T


def _mesh(cell: Cell) -> MeshSpec:
    sizes = {"ep": cell.ep, "cp": cell.cp, "tp": cell.tp}
    kept = {n: s for n, s in sizes.items() if s > 1} or {"dp": 1}
    return MeshSpec(tuple(kept), tuple(kept.values()))


def _layout(planning: Planning, cell: Cell, *, exact: bool,
            alone: Mapping[str, ProgramLayout | None],
            like: ProgramLayout | None, settled: bool) -> ProgramLayout:
    mesh = _mesh(cell)
    kept = mesh.names
    count = planning.facts.batch_rows // cell.rows

    def laid_out(start: Mapping[str, ProgramLayout]) -> ProgramLayout:
        return with_microbatches(planning,
                                 mesh,
                                 role_policies(mesh, planning.constraints),
                                 count,
                                 exact=exact,
                                 settle=False,
                                 cut=count > 1,
                                 alone=start,
                                 tolerance=TOLERANCE,
                                 settled=settled and bool(start))

    start: dict[str, ProgramLayout] = {}
    known = {n: a for n, a in alone.items() if a is not None}
    if like is not None:
        start = {n: like for n in kept}
    elif len(kept) > 1 and known.keys() >= set(kept):
        # Three axes seldom go together; cp is the last to be laid out.
        start = {n: known[n] for n in kept if len(kept) < 3 or n != "cp"}
    if start:
        with contextlib.suppress(InfeasiblePlan):
            return laid_out(start)
    return laid_out({})


def _row(planning: Planning, main: Program, stage: Stage, cost: ConversionCost,
         known: KnownByClass, again: dict[tuple[int, ...],
                                          float]) -> tuple[float, ...]:
    """`again` is filled with what stages compute again of earlier ones."""
    *_, own = stage.program.blocks
    asked = stage, main, cost, planning.optimizer, known
    if own.block_class in planning.repeated_classes():
        priced, rerun = stage_cost_again(*asked, own.block_class)
    else:
        priced = rerun = stage_cost(*asked)
    memory, saved = priced.memory, float(priced.memory.saved)
    works = [c.work for c in known[id(stage.program.classes[own.block_class])]]
    # What a host adds is not concave in the rows, as bounds on the device's
    # time are; scores add it to these.
    computed = tuple(map(id, stage.program.blocks[:-1]))
    if computed not in again:
        again[computed] = _again_s(stage, cost, known)
    forward_s = (priced.forward_s - priced.found.forward_host_s -
                 _computed_again_s(stage, cost, known))
    input_s = max(0.0, priced.input_s - priced.found.backward_host_s)
    return (forward_s, input_s, priced.products_s, priced.sums_s,
            rerun.input_s - rerun.found.backward_host_s - input_s,
            priced.once_s, saved, float(rerun.memory.saved),
            float(memory.transient),
            max(0.0,
                float(rerun.memory.transient) - saved),
            float(memory.parameters), float(memory.gradients),
            *_evenly(planning, stage), float(taken_bytes(stage)),
            float(sum(w.forward_kernels for w in works)),
            float(sum(w.backward_kernels
                      for w in works)), again[computed], _made_by(main, stage))


def _again_s(stage: Stage, cost: ConversionCost, known: KnownByClass) -> float:
    """What a stage does once that has of earlier blocks what it computes
    again."""
    *again, _ = stage.program.blocks
    if not again:
        return 0.0
    names = {b.block_class for b in again}
    program = dataclasses.replace(
        stage.program,
        blocks=tuple(again),
        classes={n: stage.program.classes[n]
                 for n in names},
        outputs=(),
        output_constants=(),
        mutations={})
    return stage_forward_s(program, stage.layout, cost, known)


def _computed_again_s(stage: Stage, cost: ConversionCost,
                      known: KnownByClass) -> float:
    """Of that the computing, which is no part of the block's own."""
    *again, _ = stage.program.blocks
    sizes = stage.layout.mesh.sizes
    return sum(
        call.times_s(cost.device, chosen.share(sizes),
                     call.made(chosen.options, sizes))[0] for b in again
        for call in known[id(stage.program.classes[b.block_class])]
        for chosen in [stage.layout.classes[b.block_class].calls[call.label]])


def _made_by(main: Program, stage: Stage) -> float:
    """The last of the earlier blocks of which a part is computed again."""
    *again, _ = stage.program.blocks
    names = {b.name.removesuffix(".part") for b in again}
    return float(
        max((i for i, b in enumerate(main.blocks) if b.name in names),
            default=0))


def _evenly(planning: Planning, stage: Stage) -> tuple[float, float]:
    """Parameters and the optimizer's state, divided by all ranks."""
    specs = [stage.program.specs[n] for n in stage.params]
    ranks = _ranks(stage)
    trained = [s for s in specs if s.requires_grad]
    return (sum(s.size_bytes for s in specs) / ranks,
            optimizer_bytes(planning.optimizer, trained) / ranks)


def _trained_bytes(stage: Stage) -> Array:
    """Sizes of the parameters with a gradient, divided by all ranks."""
    specs, ranks = stage.program.specs, _ranks(stage)
    return np.array([
        specs[n].size_bytes / ranks
        for n in stage.params if specs[n].requires_grad
    ],
                    dtype=np.float64)


def _ranks(stage: Stage) -> int:
    mesh = stage.layout.mesh
    return mesh.world_size // mesh.size(MICROBATCH)
