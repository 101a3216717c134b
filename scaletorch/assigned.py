"""Parameters to whose ``data`` something was assigned.

``p.data = x`` changes the tensor that a DTensor is on the outside, and not the
part of it that its rank holds and computes with. It is found out at the next
call: the outside has another storage then.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.distributed.tensor import DTensor
from torch.multiprocessing.reductions import StorageWeakRef

__all__ = ["AssignedData"]

_REFUSED = (
    "something was assigned to the data of {0} since the last call, which a "
    "DTensor ignores: the model would go on with the old values. Write into "
    "the parameter instead, under torch.no_grad(): p.copy_(x), where x is a "
    "DTensor (as p.data.clamp(-1, 1) is); load a whole tensor by "
    "load_state_dict({{\"{0}\": x}}, strict=False)")


@dataclass(frozen=True, slots=True)
class _Seen:
    """What a DTensor was. Its outside has no memory of its own; held here, its
    address is no other's."""

    tensor: DTensor
    outside: torch.UntypedStorage
    inside: StorageWeakRef

    @staticmethod
    def of(tensor: DTensor) -> _Seen:
        return _Seen(tensor, tensor.untyped_storage(),
                     StorageWeakRef(_inside(tensor)))

    def is_outside_of(self, tensor: DTensor) -> bool:
        return tensor.untyped_storage()._cdata == self.outside._cdata

    def is_inside_of(self, tensor: DTensor) -> bool:
        """Whether the part of this rank is still that of then."""
        return self.inside == StorageWeakRef(_inside(tensor))


class AssignedData:
    """Looks at a module's parameters and buffers before each call."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def check(self, places: Mapping[str, tuple[dict[str, Any], str]]) -> None:
        """Refuse those whose ``data`` were assigned since the last time.

        A parameter that is another one now, or was cast, is looked at anew.

        Parameters
        ----------
        places : mapping of str to (dict, str)
            Where each stands, by its global name.

        Raises
        ------
        RuntimeError
            Naming the first.
        """
        for name, (table, key) in places.items():
            tensor, seen = table[key], self._seen.get(name)
            if seen is not None and tensor is seen.tensor:
                if seen.is_outside_of(tensor):
                    continue
                if seen.is_inside_of(tensor):
                    raise RuntimeError(_REFUSED.format(name.partition(":")[2]))
            if isinstance(tensor, DTensor):
                self._seen[name] = _Seen.of(tensor)


def _inside(tensor: DTensor) -> torch.UntypedStorage:
    with torch.no_grad():
        return tensor.to_local().untyped_storage()
