"""Buffers that a forward pass writes, such as running means."""

from __future__ import annotations

import torch

from scaletorch.module import ParallelModule

__all__ = ["WrittenBuffers"]


class WrittenBuffers:
    """Takes back what a forward pass that came to nothing has written."""

    def __init__(self, module: ParallelModule) -> None:
        named = dict(module.named_buffers())
        names = (n.partition(":")[2] for n in module.program.mutations)
        self._buffers = [named[n] for n in names if n in named]
        self._values: list[torch.Tensor] = []
        self.keep()

    def keep(self) -> None:
        """What there is now is right."""
        self._values = [b.detach().clone() for b in self._buffers]

    @torch.no_grad()
    def take_back(self) -> None:
        """As they were when they were kept."""
        for buffer, value in zip(self._buffers, self._values, strict=True):
            buffer.copy_(value)
