"""Gradient clipping over parameters that lie differently on a mesh."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch.distributed.tensor import DTensor

from scaletorch.runtime.lost import Watched

__all__ = ["PipelineShare", "clip_grad_norm_", "mark_pipeline"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineShare:
    """That a parameter is held by one stage of several.

    Parameters
    ----------
    group : ProcessGroup
        Of the ranks with the same place in the other stages.
    counts : bool
        Whether its gradient counts here; of a parameter that several
        stages hold, on the first of them.
    """

    group: torch.distributed.ProcessGroup
    counts: bool


def mark_pipeline(parameter: torch.Tensor, share: PipelineShare) -> None:
    """Note on a parameter that other stages hold others."""
    parameter._scaletorch_pipeline = share  # type: ignore[attr-defined]


def _share_of(parameter: torch.Tensor) -> PipelineShare | None:
    return getattr(parameter, "_scaletorch_pipeline", None)


@torch.no_grad()
def clip_grad_norm_(parameters: torch.Tensor | Iterable[torch.Tensor],
                    max_norm: float,
                    norm_type: float = 2.0,
                    *,
                    error_if_nonfinite: bool = False) -> torch.Tensor:
    """Scale gradients so that their total norm is at most `max_norm`.

    As ``torch.nn.utils.clip_grad_norm_``, for DTensors of any mix of
    placements over one mesh. torch's own returns a wrong norm for some
    mixes (parameters sharded over two axes beside others) and a partial
    value for infinite norms. Gradients are reduced together: one
    all-reduce for each set of mesh axes that shards some gradient, and one
    over the stages of a pipeline, where a tied parameter counts once.

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
    shares = [s for s in map(_share_of, parameters) if s is not None]
    if not grads and not shares:
        return torch.tensor(0.0)
    norm_type = float(norm_type)
    counted = [
        p.grad for p in parameters
        if p.grad is not None and getattr(_share_of(p), "counts", True)
    ]
    power = (_total_power(counted, norm_type) if counted else torch.zeros(
        (), dtype=parameters[0].dtype, device=_local(parameters[0]).device))
    if shares:
        power = _reduced(power.double(), shares[0].group,
                         norm_type).to(power.dtype)
    total = power if math.isinf(norm_type) else power.pow(1.0 / norm_type)
    if error_if_nonfinite and not bool(torch.isfinite(total)):
        raise RuntimeError(
            f"the gradients' total norm of order {norm_type} is "
            f"{float(total)}, so they can't be clipped; pass "
            "error_if_nonfinite=False to scale them all the same")
    scale = (max_norm / (total + 1e-6)).clamp(max=1.0)
    for grad in grads:
        _local(grad).mul_(scale.to(_local(grad).dtype))
    return total


def _total_power(grads: list[torch.Tensor], norm_type: float) -> torch.Tensor:
    """The sum of powers, before the root; for an infinite norm the norm."""
    parts: dict[tuple[int, ...], list[torch.Tensor]] = {}
    for grad in grads:
        norm = torch.linalg.vector_norm(_local(grad), norm_type)
        parts.setdefault(_sharded_axes(grad), []).append(norm)
    mesh = next((g.device_mesh for g in grads if isinstance(g, DTensor)), None)
    sums = []
    for axes, norms in sorted(parts.items(), key=lambda item: item[0]):
        value = _combined(norms, norm_type)
        for axis in axes:
            assert mesh is not None
            value = _reduced(value, mesh.get_group(axis), norm_type)
        sums.append(value)
    if math.isinf(norm_type):
        return torch.stack(sums).max()
    return torch.stack(sums).sum()


def _combined(norms: list[torch.Tensor], norm_type: float) -> torch.Tensor:
    stacked = torch.stack([n.to(norms[0].dtype) for n in norms])
    if math.isinf(norm_type):
        return stacked.max()
    return stacked.pow(norm_type).sum()


def _reduced(value: torch.Tensor, group: torch.distributed.ProcessGroup,
             norm_type: float) -> torch.Tensor:
    kind = (torch.distributed.ReduceOp.MAX
            if math.isinf(norm_type) else torch.distributed.ReduceOp.SUM)
    with Watched("adding up the gradients' norms", group):
        torch.distributed.all_reduce(value, kind, group=group)
    return value


def _sharded_axes(grad: torch.Tensor) -> tuple[int, ...]:
    if not isinstance(grad, DTensor):
        return ()
    return tuple(i for i, p in enumerate(grad.placements) if p.is_shard())


def _local(grad: torch.Tensor) -> torch.Tensor:
    return grad.to_local() if isinstance(grad, DTensor) else grad
