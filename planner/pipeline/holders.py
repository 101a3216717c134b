"""Which ranks of a pipeline hold which parameters."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from planner.pipeline.stages import Stage

__all__ = ["holders_of"]


def holders_of(stages: Sequence[Stage], owner: Sequence[int],
               ranks: int) -> dict[str, tuple[int, ...]]:
    """Parameters to the ranks that hold them, in order.

    Those are the ranks of the stages that read it. A rank whose stages read
    no trained parameter holds the smallest one of the model, since optimizers
    want one, and so do loops that clip: all ranks take part in a norm.

    Parameters
    ----------
    stages : sequence of Stage
    owner : sequence of int
        The rank of each stage.
    ranks : int
        On the pipeline's axis.
    """
    specs = {n: s.program.specs[n] for s in stages for n in s.params}
    found: dict[str, set[int]] = {}
    for number, stage in enumerate(stages):
        for name in stage.params:
            found.setdefault(name, set()).add(owner[number])
    trained = {n for n in found if specs[n].requires_grad} or set(found)
    idle = set(range(ranks)).difference(*(found[n] for n in trained))
    if idle and trained:
        smallest = min(trained, key=lambda n: (prod(specs[n].shape), n))
        found[smallest] |= idle
    return {name: tuple(sorted(own)) for name, own in sorted(found.items())}
