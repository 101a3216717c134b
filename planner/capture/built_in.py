"""Buffers of integers that are part of how a module was built.

Sizes, strides, tables of offsets: registered with ``persistent=False``, so
that no checkpoint brings others.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["built_in", "integers"]

_FEW = 64
"""Elements of a table of sizes."""


def integers(tensor: torch.Tensor) -> torch.Tensor | None:
    """The value of a tensor of integers or truths, on the CPU.

    None for others, and where there are no values, as on meta.
    """
    if type(tensor) not in (torch.Tensor, nn.Buffer) or tensor.is_meta \
            or tensor.is_floating_point() or tensor.is_complex():
        return None
    return tensor.detach().cpu()


def built_in(model: nn.Module) -> dict[str, torch.Tensor]:
    """The values of such buffers by name; tied ones have one name."""
    found = {}
    for name, buffer in model.named_buffers():
        path, _, attribute = name.rpartition(".")
        owner = model.get_submodule(path)
        value = integers(buffer)
        if value is not None and value.numel() <= _FEW \
                and attribute in owner._non_persistent_buffers_set:
            found[name] = value.clone()
    return found
