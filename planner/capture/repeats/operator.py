"""Stands in a traced graph for a layer that was traced before.

``again(takes, names, like)`` is what computes `like` from the operands of the
first such node, applied to these ones. They are `takes`, and those that
`names` names: an operand that stands for itself has an empty name there. The
node is gone before anybody else sees the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["AGAIN"]


def _results(takes: Sequence[torch.Tensor], names: Sequence[str],
             like: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    del takes, names
    return [
        torch.empty_strided(t.shape,
                            t.stride(),
                            dtype=t.dtype,
                            device=t.device) for t in like
    ]


def _backward(ctx: Any, *grads: Any) -> Any:
    raise AssertionError("a graph is unrolled before it is differentiated")


torch.library.define(
    "scaletorch::again",
    "(Tensor[] takes, str[] names, Tensor[] like) -> Tensor[]")
torch.library.impl("scaletorch::again", "CompositeExplicitAutograd", _results)
torch.library.register_fake("scaletorch::again", _results)
torch.library.register_autograd("scaletorch::again", _backward)

AGAIN = torch.ops.scaletorch.again.default
"""The operator in traced graphs."""
