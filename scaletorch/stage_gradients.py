"""Gradients that know that other stages hold others.

A rank of a pipeline has the gradients of its own stages, while a loop clips
by the norm of all. So that torch's own ``clip_grad_norm_``, ``get_total_norm``
and ``GradScaler`` find what one device finds, gradients of a pipeline are
DTensors of a class of their own: a norm of all their norms is taken over all
stages, and so is the search for infinities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.distributed.tensor import DTensor, Replicate
from torch.utils import _pytree as pytree

from scaletorch.grad_norm import PartNorm, reduced, sharded_axes, total_norm
from scaletorch.pipeline_share import PipelineShare, share_of
from scaletorch.sharding import from_local

__all__ = ["StageGradient", "StageNorms", "follow_gradients", "stage_gradient"]

_NORMS = (torch.linalg.vector_norm, torch.linalg.norm, torch.norm,
          torch.Tensor.norm, torch._foreach_norm)
_UNSCALE = torch._amp_foreach_non_finite_check_and_unscale_


class StageGradient(DTensor):
    """The gradient of a parameter of one stage.

    What is computed from it of the same shape is one too.

    Attributes
    ----------
    share : PipelineShare
        The parameter's.
    """

    share: PipelineShare

    def __deepcopy__(self, memo: dict[int, Any]) -> DTensor:
        return stage_gradient(_plain(self).clone(), self.share)

    @classmethod
    def __torch_function__(cls,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is _UNSCALE:
            return _unscale(*args, **kwargs)
        order = _order_of_all(func, args, kwargs)
        if order is not None and func is torch._foreach_norm:
            return tuple(StageNorms.of(g, order) for g in args[0])
        if order is not None:
            return StageNorms.of(args[0], order)
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **kwargs)
        return _marked(found, args)


class StageNorms(torch.Tensor):
    """Norms of gradients of this rank, not added up yet over its mesh.

    A norm of them all is that of the gradients of all stages. For whatever
    else is done with them they are added up, as norms of single gradients.

    Parameters
    ----------
    parts : sequence of (PartNorm, PipelineShare)
    order : float
        Of the norms.
    stacked : bool
        Whether they are a vector, or a single one, a scalar.
    """

    parts: Sequence[tuple[PartNorm, PipelineShare]]
    order: float
    stacked: bool

    @staticmethod
    def __new__(cls,
                parts: Sequence[tuple[PartNorm, PipelineShare]],
                order: float,
                stacked: bool = False) -> StageNorms:
        """Without data, which nothing may read."""
        value = parts[0][0].value
        made = torch.Tensor._make_wrapper_subclass(
            cls, (len(parts), ) if stacked else (),
            dtype=value.dtype,
            device=value.device)
        made.parts, made.order, made.stacked = parts, order, stacked
        return made

    @classmethod
    def of(cls, grad: StageGradient, order: float) -> StageNorms:
        """Of one gradient, as it is now."""
        return cls([(PartNorm.of(grad, order), grad.share)], order)

    @classmethod
    def __torch_function__(cls,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.stack and len(args) == 1 and not kwargs:
            parts = args[0]
            if all(
                    isinstance(n, cls) and n.order == parts[0].order
                    and not n.stacked for n in parts):
                every = [part for n in parts for part in n.parts]
                return StageNorms(every, parts[0].order, stacked=True)
        if isinstance(args[0], cls):
            if func is torch.Tensor.to and args[1:] == (
                    args[0].parts[0][0].value.device, ):
                return args[0]
            order = _order_of_all(func, args, kwargs)
            if args[0].stacked and order == args[0].order:
                return _norm_of_all_stages(args[0].parts, order)
        args, kwargs = pytree.tree_map_only(cls, cls.computed, (args, kwargs))
        return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        args, kwargs = pytree.tree_map_only(cls, cls.computed,
                                            (args, kwargs or {}))
        return func(*args, **kwargs)

    def computed(self) -> torch.Tensor:
        """As tensors of the mesh of a stage."""
        norms = [
            _replicated(total_norm([part], self.order, like=part.value), part)
            for part, _ in self.parts
        ]
        return torch.stack(norms) if self.stacked else norms[0]


def stage_gradient(grad: DTensor, share: PipelineShare | None) -> DTensor:
    """A gradient that knows its parameter's share, if there is one."""
    if share is None:
        return grad
    made = StageGradient(grad.to_local(), grad._spec, requires_grad=False)
    made.share = share
    return made


def follow_gradients(parameter: torch.Tensor) -> None:
    """Let a marked parameter's gradients know its share.

    Those that a pipeline hands out know it; copies, as autograd makes in
    adding up, and results of hooks would not.
    """

    def follow(owner: torch.Tensor) -> None:
        if owner.grad is None:
            return  # autograd came by without one
        if getattr(owner.grad, "share", None) is None:
            assert isinstance(owner.grad, DTensor)
            owner.grad = stage_gradient(owner.grad, share_of(owner))

    parameter.register_post_accumulate_grad_hook(follow)


def _plain(grad: DTensor) -> DTensor:
    return from_local(grad.to_local(), grad)


def _marked(found: Any, args: tuple[Any, ...]) -> Any:
    """Results with the shares of the operands that they are like."""
    if not args:
        return found
    if isinstance(found, (list, tuple)):
        if not isinstance(args[0],
                          (list, tuple)) or len(args[0]) != len(found):
            return found
        return [_marked(x, (y, )) for x, y in zip(found, args[0], strict=True)]
    if type(found) is not DTensor:
        return found
    like = (
        a for a in args
        if isinstance(a, StageGradient) and a._spec.shape == found._spec.shape)
    first = next(like, None)
    return found if first is None else stage_gradient(found, first.share)


def _order_of_all(func: Any, args: tuple[Any, ...],
                  kwargs: dict[str, Any]) -> float | None:
    """The order of a norm over all elements; None for anything else."""
    if func not in _NORMS or len(args) > 2:
        return None
    # torch.norm hands all of its defaults on.
    given = {
        k: v
        for k, v in kwargs.items() if v is not None and v is not False
    }
    if set(given) - {"ord", "p"}:
        return None
    order = [*args[1:], *given.values(), None][0]
    if func is torch.linalg.norm and order is not None and args[0].ndim > 1:
        return None  # of a matrix, another norm
    return 2.0 if order in ("fro", None) else float(order)


def _norm_of_all_stages(parts: Sequence[tuple[PartNorm, PipelineShare]],
                        order: float) -> DTensor:
    part, share = parts[0]
    _check_all("the norm", [s for _, s in parts])
    if order <= 0:
        raise ValueError(f"gradients of a pipeline have no norm of order "
                         f"{order}: it must be positive")
    total = total_norm([p for p, s in parts if s.counts],
                       order,
                       share.group,
                       like=part.value)
    return _replicated(total, part)


def _replicated(value: torch.Tensor, part: PartNorm) -> DTensor:
    assert part.mesh is not None
    return DTensor.from_local(value,
                              part.mesh, [Replicate()] * part.mesh.ndim,
                              run_check=False)


def _unscale(grads: Sequence[StageGradient], found_inf: torch.Tensor,
             inv_scale: torch.Tensor) -> None:
    """Unscale gradients and look for infinities in those of all stages."""
    share = grads[0].share
    _check_all("the gradient scaler", [g.share for g in grads])
    if len(share.held.dtypes) > 1:
        names = " and ".join(sorted(map(str, share.held.dtypes)))
        raise ValueError(
            f"the model's parameters are of {names}, which a gradient scaler "
            "looks at one after the other, while ranks of a pipeline may "
            "hold some alone; keep them in one dtype and use torch.autocast")
    _UNSCALE([g.to_local() for g in grads], found_inf, inv_scale)
    mesh = grads[0].device_mesh
    for axis in sorted({a for g in grads for a in sharded_axes(g)}):
        reduced(found_inf, mesh.get_group(axis), math.inf)
    reduced(found_inf, share.group, math.inf)


def _check_all(what: str, shares: Sequence[PipelineShare]) -> None:
    """Refuse what this rank and others may disagree on."""
    missing = shares[0].held.with_gradients() - {s.name for s in shares}
    if missing:
        name = min(missing).removeprefix("param:")
        raise ValueError(
            f"{what} was given {len(shares)} gradients of a pipeline, without "
            f"{len(missing)} more that this rank holds ({name}, ...): ranks "
            "of other stages can't know of it; pass all of "
            "model.parameters(), or clip with scaletorch.clip_grad_norm_, "
            "to which each rank passes those that count")
