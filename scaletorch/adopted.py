"""A module in another's place."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

import torch
from torch import nn

from scaletorch.outside import explained
from scaletorch.runtime.guard import Settings
from scaletorch.structure import places_of

__all__ = ["AdoptedModule"]


class AdoptedModule(nn.Module):
    """Has the modules, tensors and attributes of another as its own.

    The other stays behind it, as its structure: what is read and written
    here and is not this class's own is read and written there.
    """

    def _adopt(self, structure: nn.Module) -> None:
        """Hold a structure's modules and tensors under their names."""
        object.__setattr__(self, "_structure", structure)
        for table in ("_modules", "_parameters", "_buffers",
                      "_non_persistent_buffers_set"):
            object.__setattr__(self, table, getattr(structure, table))
        self.training = structure.training
        self._places = places_of(structure)
        self._parts = tuple(structure.modules())
        self._settings = Settings(structure)

    def _tensors(self, names: Iterable[str]) -> list[torch.Tensor]:
        """Parameters and buffers, by their global names."""
        return [
            table[key] for table, key in map(self._places.__getitem__, names)
        ]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            structure = self.__dict__.get("_structure")
            if structure is None or not hasattr(structure, name):
                raise
            return explained(getattr(structure, name), structure)

    def __setattr__(self, name: str, value: Any) -> None:
        structure = self.__dict__.get("_structure")
        if (structure is not None and name not in self.__dict__
                and name in structure.__dict__):
            setattr(structure, name, value)  # the program reads it there
        else:
            super().__setattr__(name, value)

    def train(self, mode: bool = True) -> Self:
        """Set training mode, as ``nn.Module.train``."""
        self._structure.train(mode)
        self.training = self._structure.training
        return self
