"""Models that are refused before anything is traced, and what to give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from planner.capture.batch_statistics import averages_by_count, torchs_own
from planner.ir.errors import CaptureError

__all__ = ["check_loss", "check_model", "unwrap"]

_WRAPPERS = ("DistributedDataParallel", "FullyShardedDataParallel",
             "DataParallel")


def unwrap(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` wrapped, else `model` itself."""
    original = getattr(model, "_orig_mod", None)
    return unwrap(original) if isinstance(original, nn.Module) else model


def check_model(model: nn.Module) -> None:
    """Refuse what is not a plain single-device module.

    Raises
    ------
    TypeError
        When `model` is no module, or is wrapped for several devices.
    ValueError
        When its parameters are on several devices, sparse, quantised, not
        yet initialised, or already distributed, or when hooks change its
        backward.
    CaptureError
        When a batch norm of the user's own kind averages by a count, or when
        a module was made by ``torch.jit``.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got "
                        f"{type(model).__name__}")
    for path, module in model.named_modules():
        _check_wrapper(path, module)
        _check_script(path, module)
        _check_hooks(path, module)
        _check_momentum(path, module)
    _check_devices(model)
    for name, tensor in model.named_parameters():
        _check_tensor(f"parameter {name}", tensor)
    for name, tensor in model.named_buffers():
        _check_tensor(f"buffer {name}", tensor)


def _check_wrapper(path: str, module: nn.Module) -> None:
    found = [
        c.__name__ for c in type(module).__mro__
        if c.__name__ in (*_WRAPPERS,
                          "FSDPModule") and c.__module__.startswith("torch.")
    ]
    if found:
        where = f"the submodule {path}" if path else "the model"
        raise TypeError(
            f"{where} is wrapped in {found[0]}, which already spreads it "
            "over devices; give the plain module (its .module), the plan "
            "chooses how to spread it")


def _check_script(path: str, module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        where = f"the submodule {path}" if path else "the model"
        raise CaptureError(
            f"{where} was made by torch.jit ({module.original_name}), and its "
            "parameters are not Python's, so that they can't be spread over "
            "devices; give the module that it was made from (functions made by "
            "torch.jit.script may stay)")


def _check_momentum(path: str, module: nn.Module) -> None:
    if averages_by_count(module) and not torchs_own(module):
        where = f"the submodule {path}" if path else "the model"
        raise CaptureError(
            f"{where} is a {type(module).__name__} with momentum=None and a "
            "forward of its own, whose averages are weighted by the number of "
            "batches seen: the value of a tensor, which a captured program "
            "cannot read as a number; "
            "set its momentum (0.1 is the default)")


def _check_hooks(path: str, module: nn.Module) -> None:
    """A graph would lose them, and with some the gradients as well."""
    if module._backward_hooks or module._backward_pre_hooks:
        where = f"the submodule {path}" if path else "the model"
        raise ValueError(
            f"{where} has a backward hook, which a compiled backward does "
            "not run; remove it (the handle's remove()), or do in a custom "
            "torch.autograd.Function what it does to gradients")
    for name, parameter in module.named_parameters(path, recurse=False):
        if parameter._backward_hooks or getattr(
                parameter, "_post_accumulate_grad_hooks", None):
            raise ValueError(
                f"parameter {name} has a gradient hook, which would stay on "
                "this module's parameter; remove it (the handle's remove()) "
                "and register it on the parallel module's parameter")


def _check_devices(model: nn.Module) -> None:
    first: dict[torch.device, str] = {}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        first.setdefault(tensor.device, name)
    if len(first) > 1:
        places = ", ".join(f"{name} on {device}"
                           for device, name in first.items())
        raise ValueError(
            f"the model's tensors are on several devices ({places}); put "
            "it on one (model.to(device)), or build all of it under "
            "torch.device(\"meta\")")


def _check_tensor(what: str, tensor: torch.Tensor) -> None:
    if is_lazy(tensor):
        raise ValueError(f"{what} has no shape yet (a lazy module); run the "
                         "model once on one example first")
    if tensor.layout is not torch.strided:
        raise ValueError(f"{what} is sparse ({tensor.layout}); only dense "
                         "parameters can be laid out over a mesh: use "
                         ".to_dense()")
    if tensor.is_quantized:
        raise ValueError(f"{what} is quantised ({tensor.dtype}); training "
                         "needs floating-point parameters: use "
                         ".dequantize()")
    plain = (torch.Tensor, nn.Parameter, nn.Buffer)
    if type(tensor) not in plain and type(tensor).__name__ != "FakeTensor" \
            and not type(tensor).__module__.startswith("torch.nn"):
        raise ValueError(
            f"{what} is a {type(tensor).__name__}, not a plain tensor; give "
            "the model as it was before it was distributed or quantised")


def check_loss(loss_fn: Callable[..., Any] | None) -> None:
    """Refuse a loss with parameters of its own.

    Raises
    ------
    ValueError
        They would be trained in the single-device program, and are not
        parameters of the model.
    """
    if not isinstance(loss_fn, nn.Module):
        return
    for name, tensor in loss_fn.named_parameters():
        if tensor.requires_grad:
            raise ValueError(
                f"loss_fn has a trainable parameter {name}, which is none "
                "of the model's; call the loss inside of the model's "
                "forward and return it as .loss")
