"""Stand in a traced graph for layers that were traced before.

``again(takes, names, like, writes, number)`` is what computes `like` from the
operands of the first such node, applied to these ones. They are `takes`, and
those that `names` names: an operand that stands for itself has an empty name
there. The last results are what the operands at `writes` hold afterwards.

``value_here(x, put)`` is `x` at that place, without a gradient. What it is
copied to has this very value where `put` is true.

Both are gone before anybody else sees the graph.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

__all__ = ["AGAIN", "VALUE_HERE"]


def _like(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(tensor.shape,
                               tensor.stride(),
                               dtype=tensor.dtype,
                               device=tensor.device)


def _results(takes: Sequence[torch.Tensor], names: Sequence[str],
             like: Sequence[torch.Tensor], writes: Sequence[int],
             number: int) -> list[torch.Tensor]:
    del takes, names, writes, number
    return [_like(t) for t in like]


def _backward(ctx: Any, *grads: Any) -> Any:
    raise AssertionError("a graph is unrolled before it is differentiated")


def _value(tensor: torch.Tensor, put: bool = False) -> torch.Tensor:
    del put
    return _like(tensor)


def _without_gradient(tensor: torch.Tensor, put: bool = False) -> torch.Tensor:
    with torch._C._AutoDispatchBelowAutograd():
        value: torch.Tensor = VALUE_HERE(tensor, put)
    return value


torch.library.define(
    "scaletorch::again", "(Tensor[] takes, str[] names, Tensor[] like, "
    "int[] writes, int number) -> Tensor[]")
torch.library.impl("scaletorch::again", "CompositeExplicitAutograd", _results)
torch.library.register_fake("scaletorch::again", _results)
torch.library.register_autograd("scaletorch::again", _backward)
torch.library.define("scaletorch::value_here",
                     "(Tensor x, bool put=False) -> Tensor")
torch.library.impl("scaletorch::value_here", "CompositeExplicitAutograd",
                   _value)
torch.library.impl("scaletorch::value_here", "Autograd", _without_gradient)
torch.library.register_fake("scaletorch::value_here", _value)

AGAIN = torch.ops.scaletorch.again.default
VALUE_HERE = torch.ops.scaletorch.value_here.default
