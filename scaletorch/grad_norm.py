"""Gradient clipping over parameters that lie differently on a mesh."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from scaletorch.pipeline_share import share_of
from scaletorch.runtime.lost import Watched

__all__ = [
    "PartNorm", "clip_grad_norm_", "reduced", "sharded_axes", "total_norm"
]


@torch.no_grad()
def clip_grad_norm_(parameters: torch.Tensor | Iterable[torch.Tensor],
                    max_norm: float,
                    norm_type: float = 2.0,
                    *,
                    error_if_nonfinite: bool = False) -> torch.Tensor:
    """Scale gradients so that their total norm is at most `max_norm`.

    As ``torch.nn.utils.clip_grad_norm_``, for DTensors of any mix of
    placements over one mesh, with fewer messages. Gradients are reduced
    together: one all-reduce for each set of mesh axes that shards some
    gradient, and one over the stages of a pipeline, where a tied parameter
    counts once.

    Parameters
    ----------
    parameters : Tensor or iterable of Tensor
        Those without a gradient are passed over.
    max_norm : float
    norm_type : float
        Positive; ``inf`` for the largest magnitude.
    error_if_nonfinite : bool

    Returns
    -------
    Tensor
        The norm before clipping, the same plain scalar on every rank.

    Raises
    ------
    RuntimeError
        With `error_if_nonfinite`, when the norm is infinite or NaN.
    """
    if isinstance(parameters, torch.Tensor):
        parameters = [parameters]
    parameters = list(parameters)
    grads = [p.grad for p in parameters if p.grad is not None]
    shares = [s for s in map(share_of, parameters) if s is not None]
    if not grads and not shares:
        return torch.tensor(0.0)
    norm_type = float(norm_type)
    counted = [
        PartNorm.of(p.grad, norm_type) for p in parameters
        if p.grad is not None and getattr(share_of(p), "counts", True)
    ]
    total = total_norm(counted,
                       norm_type,
                       shares[0].group if shares else None,
                       like=_local(parameters[0]))
    if error_if_nonfinite and not bool(torch.isfinite(total)):
        raise RuntimeError(
            f"the gradients' total norm of order {norm_type} is "
            f"{float(total)}, so they can't be clipped; pass "
            "error_if_nonfinite=False to scale them all the same")
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for grad in grads:
        _local(grad).mul_(scale.to(_local(grad).dtype))
    return total


@dataclass(frozen=True, slots=True, kw_only=True)
class PartNorm:
    """The norm of what this rank has of a gradient.

    Parameters
    ----------
    value : Tensor
        A scalar.
    mesh : DeviceMesh or None
    axes : tuple of int
        Of the mesh, over which ranks have other parts.
    """

    value: torch.Tensor
    mesh: DeviceMesh | None
    axes: tuple[int, ...]

    @staticmethod
    def of(grad: torch.Tensor, norm_type: float) -> PartNorm:
        """Of a gradient; nothing is sent."""
        value = torch.linalg.vector_norm(_local(grad), norm_type)
        mesh = grad.device_mesh if isinstance(grad, DTensor) else None
        return PartNorm(value=value, mesh=mesh, axes=sharded_axes(grad))


def total_norm(parts: Sequence[PartNorm],
               norm_type: float,
               group: torch.distributed.ProcessGroup | None = None,
               *,
               like: torch.Tensor) -> torch.Tensor:
    """The norm of gradients over the mesh, and over the stages of a pipeline.

    Parameters
    ----------
    parts : sequence of PartNorm
        Of the gradients that count on this rank, if any.
    norm_type : float
        Positive.
    group : ProcessGroup, optional
        Of the ranks with the same place in other stages.
    like : Tensor
        Of the dtype and device of the norm where no gradient counts here.
    """
    power = (_total_power(parts, norm_type) if parts else torch.zeros(
        (), dtype=like.dtype, device=like.device))
    if group is not None:
        power = reduced(power.double(), group, norm_type).to(power.dtype)
    return power if math.isinf(norm_type) else power.pow(1.0 / norm_type)


def _total_power(parts: Sequence[PartNorm], norm_type: float) -> torch.Tensor:
    """The sum of powers, before the root; for an infinite norm the norm."""
    alike: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for part in parts:
        alike.setdefault(part.axes, []).append(part.value)
    mesh = next((p.mesh for p in parts if p.mesh is not None), None)
    sums = []
    for axes, norms in sorted(alike.items(), key=lambda item: item[0]):
        value = _combined(norms, norm_type)
        for axis in axes:
            assert mesh is not None
            value = reduced(value, mesh.get_group(axis), norm_type)
        sums.append(value)
    if math.isinf(norm_type):
        return torch.stack(sums).max()
    return torch.stack(sums).sum()


def _combined(norms: list[torch.Tensor], norm_type: float) -> torch.Tensor:
    stacked = torch.stack([n.to(norms[0].dtype) for n in norms])
    if math.isinf(norm_type):
        return stacked.max()
    return stacked.pow(norm_type).sum()


def reduced(value: torch.Tensor, group: torch.distributed.ProcessGroup,
            norm_type: float) -> torch.Tensor:
    """Powers of norms added up over a group; largest magnitudes compared."""
    kind = (torch.distributed.ReduceOp.MAX
            if math.isinf(norm_type) else torch.distributed.ReduceOp.SUM)
    with Watched("adding up the gradients' norms", group):
        torch.distributed.all_reduce(value, kind, group=group)
    return value


def sharded_axes(grad: torch.Tensor) -> tuple[int, ...]:
    """The mesh axes over which ranks hold different parts."""
    if not isinstance(grad, DTensor):
        return ()
    return tuple(i for i, p in enumerate(grad.placements) if p.is_shard())


def _local(grad: torch.Tensor) -> torch.Tensor:
    return grad.to_local() if isinstance(grad, DTensor) else grad
