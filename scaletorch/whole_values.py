"""Values that Python asks of DTensors are those of the whole tensor.

A loop that logs ``p.grad.norm().item()`` asks a DTensor whose ranks each
hold a part of the sum. Torch 2.13 gives each rank its own part; on the meshes
of parallel modules all parts are added up first, as everywhere else. All
ranks have to ask then, as a loop that does not know of ranks does.

The private parts of torch that this needs are confined to this file;
``tests/test_scaletorch/test_whole_values.py`` notices when they change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

__all__ = ["ask_whole"]

_VALUE = torch.ops.aten._local_scalar_dense.default
_MESHES: set[DeviceMesh] = set()


def ask_whole(mesh: DeviceMesh) -> None:
    """From now on, for all DTensors on a mesh."""
    _MESHES.add(mesh)
    handlers = DTensor._op_dispatcher._custom_op_handlers
    handlers.setdefault(_VALUE, _value)


def _value(operator: Any, args: Sequence[Any], kwargs: Mapping[str,
                                                               Any]) -> Any:
    tensor: DTensor = args[0]
    if tensor.device_mesh in _MESHES:
        return operator(_whole(tensor), **kwargs)
    return operator(tensor.to_local(), **kwargs)


def _whole(tensor: DTensor) -> torch.Tensor:
    if tensor.dtype is torch.bool:
        # Whether any is true is a sum, which collectives have no bools for.
        tensor = tensor.to(torch.uint8)
    return tensor.full_tensor()
