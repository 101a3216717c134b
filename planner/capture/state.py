"""What the forward pass assigns to modules, written back to buffers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from planner.ir.errors import CaptureError

__all__ = ["AssignedState", "computed_before"]


def computed_before(hooks: Iterable[Any]) -> set[str]:
    """Attributes that one of these hooks computes anew before each call.

    ``nn.utils.weight_norm`` and ``nn.utils.spectral_norm`` do.
    """
    return {
        hook.name
        for hook in hooks
        if type(hook).__name__ in ("WeightNorm", "SpectralNorm")
    }


class AssignedState:
    """Remembers tensors on modules before a call, and settles after it.

    ``self.mean = 0.9 * self.mean + ...`` gives a buffer a new tensor;
    tracing sees only what is written in place.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(model.named_modules())
        self.buffers = {
            (path, name): tensor
            for path, module in self.modules.items()
            for name, tensor in module._buffers.items() if tensor is not None
        }
        self.attributes = {
            (path, name): value
            for path, module in self.modules.items()
            for name, value in module.__dict__.items()
            if isinstance(value, torch.Tensor)
            and name not in computed_before(module._forward_pre_hooks.values())
        }

    def settle(self) -> None:
        """Copy what was assigned into the buffers themselves.

        Raises
        ------
        CaptureError
            When a buffer changes its shape, or when a tensor that is no
            buffer is replaced: the next call would see it.
        """
        for (path, name), old in self.buffers.items():
            table = self.modules[path]._buffers
            new = table.get(name)
            if new is not old:
                self._copy(f"{path}.{name}".lstrip("."), old, new)
                table[name] = old
        for (path, name), old in self.attributes.items():
            if self.modules[path].__dict__.get(name) is not old:
                full = f"{path}.{name}".lstrip(".")
                raise CaptureError(
                    f"the forward pass assigns to the tensor {full}, which "
                    "is no buffer, so that the next call depends on this "
                    "one; register it with register_buffer")

    def _copy(self, full: str, old: torch.Tensor,
              new: torch.Tensor | None) -> None:
        if new is None or new.shape != old.shape or new.dtype != old.dtype:
            found = "None" if new is None else \
                f"{tuple(new.shape)} of {new.dtype}"
            raise CaptureError(
                f"the forward pass changes the buffer {full} from "
                f"{tuple(old.shape)} of {old.dtype} to {found}; a program "
                "has fixed shapes: keep the buffer's shape and dtype")
        with torch.no_grad():
            old.copy_(new.detach())
