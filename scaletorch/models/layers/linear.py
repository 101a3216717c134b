"""Parameters that are drawn from a normal distribution of given width.

All know how to fill themselves (``reset_parameters``), so a model of them
can be built on the meta device and be initialised piece by piece.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["Embedding", "Linear", "Table"]


class Linear(nn.Linear):
    """Weights of standard deviation `std`, biases of zero."""

    def __init__(self,
                 inputs: int,
                 outputs: int,
                 *,
                 bias: bool = False,
                 std: float = 0.02) -> None:
        self.std = std
        super().__init__(inputs, outputs, bias=bias)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)


class Embedding(nn.Embedding):
    """Rows of standard deviation `std`."""

    def __init__(self, count: int, width: int, *, std: float = 0.02) -> None:
        self.std = std
        super().__init__(count, width)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)


class Table(nn.Module):
    """A parameter that is used as it is, such as learned positions."""

    def __init__(self, *shape: int, std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.weight = nn.Parameter(torch.empty(shape))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.std)

    def forward(self) -> torch.Tensor:
        return self.weight
