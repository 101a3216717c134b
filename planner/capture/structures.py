"""Dataclasses among what a model takes and returns."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch.utils import _pytree as pytree

__all__ = ["flattened"]


def flattened(tree: Any) -> tuple[list[Any], pytree.TreeSpec]:
    """Leaves and structure of a tree, also through dataclasses.

    A dataclass that ``torch.utils._pytree`` does not know yet is
    registered, so that all others see through it as well.
    """
    while True:
        leaves, spec = pytree.tree_flatten(tree)
        unknown = {type(x): None for x in leaves if _is_structure(x)}
        if not unknown:
            return leaves, spec
        for cls in unknown:
            pytree.register_dataclass(cls)


def _is_structure(value: Any) -> bool:
    """Whether a new one can be made from the values of its fields."""
    return (dataclasses.is_dataclass(value) and not isinstance(value, type)
            and all(f.init for f in dataclasses.fields(value)))
