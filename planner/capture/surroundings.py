"""What is different around the model while it is traced, and put back.

Capture is device-neutral. Parameters, buffers and inputs are replaced by
fake CPU tensors while the model is traced, whatever device (also meta) they
live on, so that nothing is computed and no device kernel is baked in.
"""

from __future__ import annotations

import contextlib
import gc
import io
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from planner.capture.attributes import Attributes
from planner.capture.autocast import autocast_devices
from planner.capture.checkpointed import inlined_checkpoints
from planner.capture.checks import checks_pass
from planner.capture.experts import whole_experts
from planner.capture.fakes import fake_leaf
from planner.capture.functions import kept_functions
from planner.capture.module_dtypes import modules_stay
from planner.capture.names import any_name
from planner.capture.sizes import unknown_sizes_are_large

__all__ = ["prepared"]

# Ranks may be threads of one process, and torch is patched meanwhile.
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def prepared(
    model: nn.Module,
    mode: FakeTensorMode,
    tells: Callable[[torch.Tensor], bool] = lambda tensor: False
) -> Iterator[list[str]]:
    """Everything a trace needs around it.

    Parameters
    ----------
    model : nn.Module
    mode : FakeTensorMode
    tells : callable, optional
        Whether the model's code may ask for the values of a traced tensor.

    Yields
    ------
    notes : list of str
        What was replaced that a reader of the plan should know of.
    """
    notes: list[str] = []
    with contextlib.ExitStack() as stack:
        stack.enter_context(_ONE_AT_A_TIME)
        stack.enter_context(_no_collection())
        stack.enter_context(_quiet())
        stack.enter_context(_kept_attributes(model))
        stack.enter_context(whole_experts(model, notes))
        stack.enter_context(_fake_state(model, mode))
        stack.enter_context(inlined_checkpoints(model, notes))
        stack.enter_context(kept_functions(notes))
        stack.enter_context(modules_stay(model))
        stack.enter_context(_masks_unread())
        stack.enter_context(_masks_as_called(tells))
        stack.enter_context(_tensors_of_tensors())
        stack.enter_context(any_name())
        stack.enter_context(checks_pass(notes))
        stack.enter_context(_distributions_unchecked())
        stack.enter_context(unknown_sizes_are_large())
        stack.enter_context(_no_ambient_autocast())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield notes


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A trace makes millions of objects and keeps most: a seventh faster."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Export prints the whole graph where it fails; we say it shorter."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), \
                contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


@contextlib.contextmanager
def _kept_attributes(model: nn.Module) -> Iterator[None]:
    """Put back what the forward pass stores on modules.

    Caches, counters, hooks that libraries install at the first call; also
    what is put into dicts and lists that hang on a module.
    """
    attributes = Attributes(model)
    try:
        yield
    finally:
        attributes.restore()


@contextlib.contextmanager
def _fake_state(model: nn.Module, mode: FakeTensorMode) -> Iterator[None]:
    """Swap every parameter and buffer for a fake one, tied ones alike."""
    made: dict[int, torch.Tensor] = {}
    saved: list[tuple[dict[str, Any], dict[str, Any]]] = []
    for module in model.modules():
        for table in (module._parameters, module._buffers):
            saved.append((table, dict(table)))
            for name, tensor in table.items():
                if tensor is None:
                    continue
                if id(tensor) not in made:
                    made[id(tensor)] = fake_leaf(tensor, mode)
                table[name] = made[id(tensor)]
    try:
        yield
    finally:
        for table, before in saved:
            table.clear()
            table.update(before)


@contextlib.contextmanager
def _distributions_unchecked() -> Iterator[None]:
    """Checks of their arguments' values are no part of a program."""
    kind = torch.distributions.Distribution
    checked = kind._validate_args
    kind.set_default_validate_args(False)
    try:
        yield
    finally:
        kind.set_default_validate_args(checked)


@contextlib.contextmanager
def _masks_as_called(tells: Callable[[torch.Tensor], bool]) -> Iterator[None]:
    """While a model is exported Hugging Face makes masks that hide nothing.

    An export may be for other lengths. This trace is for the shapes that it
    sees, so that the model goes the way that it goes when it is called: some
    can't take another mask than none. So where a mask is traced whose values
    are known, as those of one that the model makes itself are.
    """
    module: Any = sys.modules.get("transformers.masking_utils")
    names = "is_torchdynamo_exporting", "is_tracing"
    if not all(hasattr(module, n) for n in names):
        yield
        return
    originals = [getattr(module, n) for n in names]

    def is_tracing(tensor: Any = None) -> bool:
        told = isinstance(tensor, torch.Tensor) and tells(tensor)
        return not told and bool(originals[1](tensor))

    module.is_torchdynamo_exporting = lambda: False
    module.is_tracing = is_tracing
    try:
        yield
    finally:
        for name, original in zip(names, originals, strict=True):
            setattr(module, name, original)


@contextlib.contextmanager
def _masks_unread() -> Iterator[None]:
    """``nn.TransformerEncoder`` asks whether a mask's values are causal.

    It only saves work, and what a mask hides is found out later.
    """
    module: Any = torch.nn.modules.transformer
    original = module._detect_is_causal_mask

    def as_told(mask: Any,
                is_causal: bool | None = None,
                size: Any = None) -> bool:
        del mask, size
        return is_causal is True

    module._detect_is_causal_mask = as_told
    try:
        yield
    finally:
        module._detect_is_causal_mask = original


@contextlib.contextmanager
def _tensors_of_tensors() -> Iterator[None]:
    """``torch.tensor(x)`` of a traced value is a copy, and no constant.

    Also where `x` is an array to the model, which a part that is not traced
    returns.
    """
    tensor, from_numpy = torch.tensor, torch.from_numpy

    def copy_of(data: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not isinstance(data, torch.Tensor):
            return tensor(data, *args, **kwargs)
        requires_grad = kwargs.pop("requires_grad", False)
        copy = data.detach().to(*args, copy=True, **kwargs)
        return copy.requires_grad_() if requires_grad else copy

    def of_array(array: Any) -> torch.Tensor:
        return array if isinstance(array, torch.Tensor) else from_numpy(array)

    torch.tensor = copy_of
    torch.from_numpy = of_array
    try:
        yield
    finally:
        torch.tensor = tensor
        torch.from_numpy = from_numpy


@contextlib.contextmanager
def _no_ambient_autocast() -> Iterator[None]:
    """The entry enters the ambient one itself, so that it is recorded."""
    with contextlib.ExitStack() as stack:
        for device in autocast_devices():
            if torch.is_autocast_enabled(device):
                stack.enter_context(torch.autocast(device, enabled=False))
        yield
