"""What each block costs, by tensor-parallel size and rows of a micro-batch.

A block's layouts over the tensor-parallel axis depend on how many rows of
the batch come at once, and on nothing else that the joint search varies:
stages only say where a block runs, data parallelism only what its
parameters cost to move. So every distinct block is laid out and priced once
for each pair, as a stage of its own, and thousands of combinations are sums
over these tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from planner.choices import free_policies
from planner.cost.conversion import ConversionCost
from planner.ir.mesh import MeshSpec
from planner.pipeline.build import Pipelined
from planner.pipeline.early_values import early_values
from planner.pipeline.microbatch import with_microbatches
from planner.pipeline.price import KnownByClass, stage_cost, taken_bytes
from planner.pipeline.stages import Stage, split_stages

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = ["BlockTable", "block_table"]

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class BlockTable:
    """Arrays over the blocks of a program, for one micro-batch.

    Parameters
    ----------
    tp, rows : int
        Tensor-parallel size, and rows of the batch in a micro-batch.
    forward_s, input_s, weight_s : array
        Compute and communication over ``tp``.
    saved_bytes, kept_bytes : array
        Kept for the backward: all, or what comes in where the block is
        recomputed.
    transient_bytes : array
        Peak beside that, also where the block is recomputed.
    parameter_bytes, gradient_bytes, state_bytes : array
        Local, whole along data parallelism: parameters, their gradients
        before they are reduced, and the optimizer's state.
    taken_bytes : array
        What comes in from the block before.
    """

    tp: int
    rows: int
    forward_s: Array
    input_s: Array
    weight_s: Array
    saved_bytes: Array
    kept_bytes: Array
    transient_bytes: Array
    parameter_bytes: Array
    gradient_bytes: Array
    state_bytes: Array
    taken_bytes: Array

    @property
    def work_s(self) -> Array:
        """All of a micro-batch's work, by block."""
        return self.forward_s + self.input_s + self.weight_s


def block_table(planning: Planning, tp: int, rows: int,
                batch: int) -> BlockTable:
    """Lay out and price the blocks.

    Parameters
    ----------
    planning : Planning
        Of a program with the counts of its losses split off.
    tp : int
    rows : int
        Of a micro-batch; divides `batch`.
    batch : int
        Rows of the captured batch.

    Raises
    ------
    LayoutError
        When the program can't be cut into micro-batches.
    """
    mesh = (MeshSpec(("tp", ), (tp, )) if tp > 1 else MeshSpec(("dp", ),
                                                               (1, )))
    layout = with_microbatches(planning, mesh, free_policies(mesh),
                               batch // rows)
    main, laid, prelude = early_values(planning.program, layout)
    stages = split_stages(main, laid, {
        b.name: i
        for i, b in enumerate(main.blocks)
    })
    cost = planning.tables(layout.mesh).cost
    found = Pipelined(program=main,
                      layout=laid,
                      prelude=prelude,
                      stages=stages)
    priced: dict[tuple[str, int], tuple[float, ...]] = {}
    known: KnownByClass = {}
    columns = []
    for block, stage in zip(main.blocks, stages, strict=True):
        # With what it recomputes of earlier blocks.
        key = (block.block_class, len(stage.program.classes))
        if key not in priced:
            priced[key] = _row(planning, found, stage, cost, known)
        columns.append(priced[key])
    table = np.array(columns, dtype=np.float64).T
    return BlockTable(tp=tp,
                      rows=rows,
                      forward_s=table[0],
                      input_s=table[1],
                      weight_s=table[2],
                      saved_bytes=table[3],
                      kept_bytes=table[4],
                      transient_bytes=table[5],
                      parameter_bytes=table[6],
                      gradient_bytes=table[7],
                      state_bytes=table[8],
                      taken_bytes=table[9])


def _row(planning: Planning, found: Pipelined, stage: Stage,
         cost: ConversionCost, known: KnownByClass) -> tuple[float, ...]:
    priced = stage_cost(stage, found.program, cost, planning.optimizer, known)
    taken = float(taken_bytes(stage))
    memory = priced.memory
    return (priced.forward_s, priced.input_s, priced.weight_s,
            float(priced.saved_bytes), taken, float(memory.transient),
            float(memory.parameters), float(memory.gradients),
            float(memory.optimizer), taken)
