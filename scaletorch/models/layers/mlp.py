"""Feed-forward layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.layers.linear import Linear

__all__ = ["GatedMlp", "Mlp"]


class GatedMlp(nn.Module):
    """``down(silu(gate(x)) * up(x))`` without biases.

    Gate and up are separate so that each shards by its columns. Source:
    Shazeer, "GLU Variants Improve Transformer", 2020.
    """

    def __init__(self,
                 width: int,
                 hidden_width: int,
                 *,
                 std: float = 0.02) -> None:
        super().__init__()
        self.gate = Linear(width, hidden_width, std=std)
        self.up = Linear(width, hidden_width, std=std)
        self.down = Linear(hidden_width, width, std=std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))


class Mlp(nn.Module):
    """``down(activation(up(x)))``.

    Parameters
    ----------
    width, hidden_width : int
    activation : callable
    bias : bool
    up_std, down_std : float
        Of the initial weights.
    """

    def __init__(self,
                 width: int,
                 hidden_width: int,
                 *,
                 activation: Callable[[torch.Tensor], torch.Tensor],
                 bias: bool = True,
                 up_std: float = 0.02,
                 down_std: float = 0.02) -> None:
        super().__init__()
        self.activation = activation
        self.up = Linear(width, hidden_width, bias=bias, std=up_std)
        self.down = Linear(hidden_width, width, bias=bias, std=down_std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.activation(self.up(x)))
