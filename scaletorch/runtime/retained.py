"""Whether a backward pass keeps what its graph saved."""

from __future__ import annotations

import torch

__all__ = ["graph_is_retained"]


def graph_is_retained() -> bool:
    """Whether the running backward pass was given ``retain_graph``.

    Of torch's own functions only ``saved_tensors`` follows it; what else a
    node holds has no public way to ask.

    Returns
    -------
    bool
        For the innermost backward pass of the calling thread, in which it
        must be called.
    """
    return bool(torch._C._autograd._get_current_graph_task_keep_graph())
