"""Fake CPU tensors like given ones, of which a large model has thousands.

Torch's public ways run several operators for each. What is private in the
short way is confined to this file, and a test compares it with the public one.
"""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

__all__ = ["fake_leaf", "fake_like"]

_CPU = torch.device("cpu")


def fake_like(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """A fake CPU tensor of the same shape, strides and dtype."""
    if torch._C._len_torch_dispatch_stack():
        with mode:
            return _empty_like(tensor, _CPU)
    return FakeTensor(mode, _empty_like(tensor, torch.device("meta")), _CPU)


def fake_leaf(tensor: torch.Tensor, mode: FakeTensorMode) -> torch.Tensor:
    """Likewise; like a parameter it is a parameter."""
    fake = fake_like(tensor, mode)
    if isinstance(tensor, nn.Parameter):
        fake.requires_grad_(tensor.requires_grad)
        fake._is_param = True
    return fake


def _empty_like(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.empty_strided(tensor.shape,
                               tensor.stride(),
                               dtype=tensor.dtype,
                               device=device,
                               requires_grad=False)
