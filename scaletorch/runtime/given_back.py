"""Memory of buffers that were sent, given back at once.

A backend's thread holds what it sends until it next gets a turn of the
interpreter, which is later the busier the machine is. What a step holds at
most would depend on that.
"""

from __future__ import annotations

import torch

__all__ = ["give_back"]


def give_back(buffer: torch.Tensor) -> None:
    """Free a tensor's memory, whoever still holds the tensor.

    Parameters
    ----------
    buffer : Tensor
        Which nothing reads any more, and whose memory nothing shares.
    """
    buffer.untyped_storage().resize_(0)
