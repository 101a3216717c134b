"""Copies of modules, whatever a call has left on them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.capture.containers import containers, members
from planner.ir.errors import CaptureError

__all__ = ["copied"]

_Module = TypeVar("_Module", bound=nn.Module)


def copied(module: _Module, memo: Mapping[int, Any] | None = None) -> _Module:
    """A deep copy, in which results of earlier calls are detached.

    Such are the features that a hook keeps, or the weight that
    ``nn.utils.weight_norm`` computes; a plain copy refuses them. Functions
    that ``torch.jit.script`` compiled, which none can copy, are shared.

    Parameters
    ----------
    module : nn.Module
    memo : mapping of int to object, optional
        What stands for objects, by their ids.

    Raises
    ------
    CaptureError
        When something on a module can't be copied, with its name.
    """
    known = {id(t): t.detach() for t in _results(module)}
    known |= {
        id(x): x
        for x in _held(module) if isinstance(x, torch.jit.ScriptFunction)
    }
    known |= memo or {}
    try:
        return copy.deepcopy(module, dict(known))
    except Exception as error:
        name, value = _at_fault(module, known)
        raise CaptureError(
            f"{name} can't be copied (copy.deepcopy of a "
            f"{type(value).__name__}: {error}), but a parallel model is made "
            "from copies of the modules; keep it elsewhere, or let its class "
            "have a __deepcopy__") from error


def _results(module: nn.Module) -> list[torch.Tensor]:
    kept = [list(vars(m).values()) for m in module.modules()]
    return [
        x for x in pytree.tree_leaves(kept)
        if isinstance(x, torch.Tensor) and not x.is_leaf
    ]


def _held(module: nn.Module) -> Iterator[Any]:
    for part in module.modules():
        yield from vars(part).values()
    for _, container in containers(module):
        yield from members(container)


def _at_fault(module: nn.Module, known: Mapping[int, Any]) -> tuple[str, Any]:
    """The attribute that can't be copied, with its value."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            try:
                copy.deepcopy(value, dict(known))
            except Exception:
                if name != "_modules":
                    return f"{path}.{name}".removeprefix("."), value
    return type(module).__name__, module
