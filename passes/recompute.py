"""Pass: a block's forward runs again in its backward.

A block class that the plan marks saves its operands only; the backward
computes the forward's values once more. A random call keeps its name, and
with it its stream, so that it draws what it drew. Source: Chen et al.,
Training Deep Nets with Sublinear Memory Cost, 2016.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from torch import fx

__all__ = ["recompute_of"]


def recompute_of(block_class: str,
                 recomputed: Collection[str]) -> Callable[[fx.Node], bool]:
    """Which forward nodes of a class the backward computes again.

    Parameters
    ----------
    block_class : str
    recomputed : collection of str
        The block classes whose forward runs again.

    Returns
    -------
    callable
        What :func:`passes.split_backward.split_backward` asks of a node.
        Collectives run again as well: keeping what they gathered would
        keep most of what recomputation frees.
    """
    again = block_class in recomputed
    return lambda node: again
