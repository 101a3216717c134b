"""The operator that runs a module whole: ``scaletorch::opaque``.

``opaque(tensors, seed, key, flops, size_bytes, kernels)`` runs the module
that `key` names on its parameters, buffers and inputs, under random numbers
drawn from `seed`; the last three say what one forward run is in work. Its
backward runs the module again, under autograd.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Sequence
from typing import Any

import torch

from planner.capture.opaque.call import OpaqueCall
from planner.capture.opaque.functions import Function

__all__ = ["OPAQUE", "opaque_call", "registered"]

_CALLS: dict[str, OpaqueCall] = {}

_SCHEMA = ("(Tensor[] tensors, Tensor seed, str key, int flops, "
           "int size_bytes, int kernels) -> Tensor[]")
_BACKWARD = ("(Tensor?[] grads, Tensor[] tensors, Tensor seed, str key, "
             "bool[] wanted, int flops) -> Tensor[]")


def registered(call: OpaqueCall, made_from: Any) -> str:
    """The key for a call; equal modules that are called alike have one.

    Parameters
    ----------
    call : OpaqueCall
    made_from : object
        Whatever decides what the call computes, besides the module.
    """
    try:
        digest = _digest(
            (call.settled.module, call.state, call.arguments, call.tree,
             call.autocast, call.leaves, call.outputs, made_from))
    except Exception:
        # Local functions, handles: what can't be compared is by itself.
        digest = str(len(_CALLS))
    module = call.settled.module
    named = module.function if isinstance(module, Function) else type(module)
    key = f"{named.__name__}.{digest}"
    _CALLS.setdefault(key, call)
    return key


class _WithoutValues(pickle.Pickler):

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.is_meta:
            return ("tensor", tuple(value.shape), value.dtype,
                    value.requires_grad)
        return None


def _digest(value: Any) -> str:
    stream = io.BytesIO()
    _WithoutValues(stream).dump(value)
    return hashlib.sha256(stream.getvalue()).hexdigest()[:16]


def opaque_call(key: str) -> OpaqueCall:
    """The call that `registered` gave this key."""
    return _CALLS[key]


def _forward(tensors: Sequence[torch.Tensor], seed: torch.Tensor, key: str,
             flops: int, size_bytes: int, kernels: int) -> list[torch.Tensor]:
    del flops, size_bytes, kernels
    like = tensors[0] if tensors else seed
    return _CALLS[key].forward(tensors, int(seed), like.device)


def _shapes(tensors: Sequence[torch.Tensor], seed: torch.Tensor, key: str,
            flops: int, size_bytes: int, kernels: int) -> list[torch.Tensor]:
    del flops, size_bytes, kernels
    like = tensors[0] if tensors else seed
    return [
        like.new_empty(spec.shape, dtype=spec.dtype)
        for spec in _CALLS[key].outputs
    ]


def _gradients(grads: Sequence[torch.Tensor | None],
               tensors: Sequence[torch.Tensor], seed: torch.Tensor, key: str,
               wanted: Sequence[bool], flops: int) -> list[torch.Tensor]:
    del flops
    return _CALLS[key].backward(grads, tensors, int(seed), wanted)


def _gradient_shapes(grads: Sequence[torch.Tensor | None],
                     tensors: Sequence[torch.Tensor], seed: torch.Tensor,
                     key: str, wanted: Sequence[bool],
                     flops: int) -> list[torch.Tensor]:
    del grads, seed, key, flops
    return [
        t.new_empty(t.shape) for t, w in zip(tensors, wanted, strict=True) if w
    ]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    del output
    tensors, seed, key, flops, *_ = inputs
    ctx.save_for_backward(*tensors, seed)
    ctx.key, ctx.flops = key, flops


def _backward(ctx: Any, grads: Sequence[torch.Tensor | None]) -> Any:
    *tensors, seed = ctx.saved_tensors
    wanted = list(ctx.needs_input_grad[0])
    found = iter(
        torch.ops.scaletorch.opaque_backward(grads, tensors, seed, ctx.key,
                                             wanted, ctx.flops))
    return ([next(found) if w else None
             for w in wanted], None, None, None, None, None)


torch.library.define("scaletorch::opaque", _SCHEMA)
torch.library.define("scaletorch::opaque_backward", _BACKWARD)
torch.library.impl("scaletorch::opaque", "CompositeExplicitAutograd", _forward)
torch.library.impl("scaletorch::opaque_backward", "CompositeExplicitAutograd",
                   _gradients)
torch.library.register_fake("scaletorch::opaque", _shapes)
torch.library.register_fake("scaletorch::opaque_backward", _gradient_shapes)
torch.library.register_autograd("scaletorch::opaque",
                                _backward,
                                setup_context=_save)

OPAQUE = torch.ops.scaletorch.opaque.default
"""The operator in captured programs."""
