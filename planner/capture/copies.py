"""Copies of modules, whatever a call has left on them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils import _pytree as pytree

__all__ = ["copied"]

_Module = TypeVar("_Module", bound=nn.Module)


def copied(module: _Module, memo: Mapping[int, Any] | None = None) -> _Module:
    """A deep copy, in which results of earlier calls are detached.

    Such are the features that a hook keeps, or the weight that
    ``nn.utils.weight_norm`` computes; a plain copy refuses them.

    Parameters
    ----------
    module : nn.Module
    memo : mapping of int to object, optional
        What stands for objects, by their ids.
    """
    known = {id(t): t.detach() for t in _results(module)}
    return copy.deepcopy(module, {**known, **(memo or {})})


def _results(module: nn.Module) -> list[torch.Tensor]:
    kept = [list(vars(m).values()) for m in module.modules()]
    return [
        x for x in pytree.tree_leaves(kept)
        if isinstance(x, torch.Tensor) and not x.is_leaf
    ]
