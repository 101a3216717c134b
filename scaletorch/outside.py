"""Methods of a model that compute beside its forward, such as generate."""

from __future__ import annotations

import functools
import inspect
from typing import Any

from torch import nn

__all__ = ["explained"]

_MIXED = "got mixed torch.Tensor and DTensor"


def explained(value: Any, model: nn.Module) -> Any:
    """What a model has under a name; a method says why it can't compute.

    Parameters
    ----------
    value : object
    model : nn.Module
        The original module, whose parameters are distributed.

    Returns
    -------
    object
        `value`, or a function like it when it is a method of `model`, which
        raises RuntimeError with a way out where it computes with parts of
        parameters.
    """
    if not inspect.ismethod(value) or value.__self__ is not model:
        return value

    @functools.wraps(value)
    def method(*args: Any, **keys: Any) -> Any:
        try:
            return value(*args, **keys)
        except RuntimeError as error:
            if _MIXED not in str(error):
                raise
            name = f"{type(model).__name__}.{value.__name__}"
            raise RuntimeError(
                f"{name} computes with parameters that are spread over the "
                "ranks; only a call of the module itself is parallel. For "
                "anything else take the weights whole: torch.distributed."
                "checkpoint.state_dict.get_model_state_dict(module, options="
                "StateDictOptions(full_state_dict=True)) on every rank, and "
                "load them into a model that is not parallel") from error

    return method
