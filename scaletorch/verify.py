"""Compare a parallel program with the single-device one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from planner.capture.entry import Call, bind_inputs, split_example
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from scaletorch.module import ParallelModule
from scaletorch.runtime.ranks import run_ranks

__all__ = ["VerifyReport", "compare_on_mesh", "verify"]

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4,
              torch.bfloat16: 5e-2, torch.float16: 2e-2}


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was compared and the first thing that differs.

    Parameters
    ----------
    equal : bool
    worst_error : float
        Largest relative difference of any output or gradient.
    first_difference : str
        Name of the first output or parameter that differs, or "".
    compared : int
        How many tensors were compared.
    """

    equal: bool
    worst_error: float
    first_difference: str
    compared: int


def verify(model: nn.Module, mesh_or_plan: int | tuple[int, ...] | MeshSpec
           | Plan, example_inputs: Any = None, *,
           loss_fn: Callable[..., Any] | None = None,
           plan: Any = None) -> VerifyReport:
    """Run a plan over simulated ranks in this process and compare.

    Loss, outputs and every gradient are compared with the single-device
    program. No process group may be initialised.

    Parameters
    ----------
    model : nn.Module
        With real parameters.
    mesh_or_plan : int, tuple of int, MeshSpec or Plan
        Number of ranks, or a mesh to plan for, or a plan to run.
    example_inputs : tuple or dict of Tensor
    loss_fn : callable, optional
    plan : Plan or Recipe, optional
        What to run on the given mesh, instead of the search's choice.

    Returns
    -------
    VerifyReport
    """
    if isinstance(mesh_or_plan, Plan):
        mesh, plan = mesh_or_plan.mesh, mesh_or_plan
    elif isinstance(mesh_or_plan, MeshSpec):
        mesh = mesh_or_plan
    else:
        sizes = (mesh_or_plan, ) if isinstance(
            mesh_or_plan, int) else tuple(mesh_or_plan)
        mesh = MeshSpec(tuple(f"axis{i}" for i in range(len(sizes))), sizes)
    inputs = _example(model, example_inputs)
    args, kwargs = split_example(inputs)
    call = bind_inputs(model, args, kwargs, loss_fn)
    expected = _reference(model, call, loss_fn)
    flat = isinstance(mesh_or_plan, int)

    def work(rank: int) -> dict[str, torch.Tensor]:
        del rank
        from scaletorch.api import auto_parallelize
        device_mesh = mesh.sizes[0] if flat else init_device_mesh(
            "cpu", mesh.sizes, mesh_dim_names=mesh.names)
        module = auto_parallelize(model, device_mesh, example_inputs=inputs,
                                  loss_fn=loss_fn, plan=plan)
        return _observed(module, module(*args, **kwargs))

    reports = [_report(expected, found)
               for found in run_ranks(mesh.world_size, work)]
    return min(reports, key=lambda r: (r.equal, -r.worst_error))


def _example(model: nn.Module, example_inputs: Any) -> Any:
    from planner.capture.entry import default_example_inputs
    if example_inputs is not None:
        return example_inputs
    args, kwargs = default_example_inputs(model)
    return kwargs or args


def compare_on_mesh(model: nn.Module, module: ParallelModule, call: Call,
                    loss_fn: Callable[..., Any] | None) -> None:
    """Compare on the ranks of a running job; raise where they differ.

    Raises
    ------
    ValueError
        Naming the first output or parameter that differs.
    """
    if any(t.is_meta for t in call.tensors) or any(
            p.is_meta for p in model.parameters()):
        raise ValueError("verify=True needs real parameters and example "
                         "inputs, not meta tensors")
    args, kwargs, targets = pytree.tree_unflatten(list(call.leaves),
                                                  call.tree)
    expected = _reference(model, call, loss_fn)
    names = dict(kwargs)
    found = _observed(module, module(*args, *targets, **names))
    report = _report(expected, found)
    module.zero_grad(set_to_none=True)
    if not report.equal:
        raise ValueError(
            f"the parallel program differs from the single-device one, "
            f"first at {report.first_difference} (relative error "
            f"{report.worst_error:.2e}); please report the model and the "
            "plan")


def _reference(model: nn.Module, call: Call,
               loss_fn: Callable[..., Any] | None
               ) -> dict[str, torch.Tensor]:
    """Outputs and gradients of the single-device program."""
    single = copy.deepcopy(model)
    args, kwargs, targets = pytree.tree_unflatten(list(call.leaves),
                                                  call.tree)
    output = single(*args, **kwargs)
    if loss_fn is not None:
        output = loss_fn(output, *targets)
    return _observed(single, output)


def _observed(module: nn.Module, output: Any) -> dict[str, torch.Tensor]:
    """Outputs and gradients by name; runs the backward."""
    leaves = [x for x in pytree.tree_leaves(output)
              if isinstance(x, torch.Tensor)]
    found = {f"output {i}": x.detach() for i, x in enumerate(leaves)}
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    if loss is None:
        parts = [x.sum() for x in leaves if x.requires_grad]
        loss = torch.stack([p.double() for p in parts]).sum() \
            if parts else None
    if loss is not None and loss.requires_grad:
        loss.backward()
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        if grad is not None:
            found[f"gradient of {name}"] = _full(grad).detach()
    return found


def _full(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def _report(expected: Mapping[str, torch.Tensor],
            found: Mapping[str, torch.Tensor]) -> VerifyReport:
    worst, first = 0.0, ""
    names = [*expected, *(n for n in found if n not in expected)]
    for name in names:
        error = _error(expected.get(name), found.get(name))
        dtype = (expected.get(name) if name in expected
                 else found[name]).dtype  # type: ignore[union-attr]
        if not error <= _TOLERANCE.get(dtype, 0.0) and not first:
            first = name
        worst = max(worst, error)
    return VerifyReport(equal=not first, worst_error=worst,
                        first_difference=first, compared=len(names))


def _error(a: torch.Tensor | None, b: torch.Tensor | None) -> float:
    """Largest difference relative to the largest value; a gradient that
    is missing on one side counts as zero."""
    if a is None or b is None:
        present = a if a is not None else b
        assert present is not None
        return float(present.double().abs().max()) if present.numel() else 0.0
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    if not a.dtype.is_floating_point:
        return 0.0 if torch.equal(a, b) else float("inf")
    scale = a.double().abs().max().clamp_min(1e-12)
    difference = (a.double() - b.double()).abs().max() / scale
    both_nan = torch.isnan(a) & torch.isnan(b)
    if both_nan.any() and torch.equal(torch.isnan(a), torch.isnan(b)):
        return 0.0
    return float(difference)
