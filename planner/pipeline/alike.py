"""Which stages of a pipeline cost the same, whatever their parts are called."""

from __future__ import annotations

from collections.abc import Hashable

from planner.ir.program import value_kind
from planner.pipeline.stages import Stage

__all__ = ["shape_of"]


def shape_of(stage: Stage, loss: str | None) -> Hashable:
    """What a stage is but for names: stages with one shape are priced alike.

    The stages must be of one cut, whose classes and layouts they share.

    Parameters
    ----------
    stage : Stage
    loss : str or None
        The whole program's, by its name.
    """
    program, layout = stage.program, stage.layout
    number: dict[str, int] = {}

    def numbered(names: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(number.setdefault(n, len(number)) for n in names)

    blocks = tuple(
        (id(program.classes[b.block_class]), id(layout.classes[b.block_class]),
         b.block_class in layout.recompute, numbered(b.operands),
         numbered(b.results)) for b in program.blocks)
    # What no block reads is held as well.
    numbered(tuple(program.specs))
    values = tuple((value_kind(n), program.specs.get(n), layout.at_rest.get(n),
                    n in layout.regather, n in stage.takes, n == loss)
                   for n in number)
    written = tuple(
        sorted(
            numbered((buffer, value))
            for buffer, value in program.mutations.items()))
    return blocks, values, written
