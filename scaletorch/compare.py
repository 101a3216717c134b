"""Outputs and gradients of two programs, held against each other."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils import _pytree as pytree

from planner.capture.copies import copied
from planner.capture.entry import Call
from planner.capture.opaque.eager import steady_parts
from planner.ir.program import Program
from planner.ir.values import calls_of, outputs_of
from planner.steady import steady_draws
from scaletorch.module import ParallelModule
from scaletorch.rounding import magnitude
from scaletorch.rounding import rounding as rounding_of

__all__ = [
    "VerifyReport", "backward_of", "coarsest", "compare_on_mesh",
    "expectation", "held", "observed", "observed_on_mesh", "program_of",
    "reference", "report"
]

_TOLERANCE = {
    torch.float64: 1e-6,
    torch.float32: 2e-4,
    torch.bfloat16: 5e-2,
    torch.float16: 2e-2,
    torch.complex128: 1e-6,
    torch.complex64: 2e-4
}
"""Relative; models in double may compute norms and rotations in float32."""

_HALF = (torch.bfloat16, torch.float16)

_ROUNDINGS = 8
"""Of how many times a run's rounding two others may differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """What was compared and the first thing that differs.

    Parameters
    ----------
    equal : bool
    worst_error : float
        Largest difference of any output or gradient, relative to its
        largest entry, or to its rounding where that is larger.
    first_difference : str
        Name of the first output or parameter that differs, or "".
    compared : int
        How many tensors were compared.
    """

    equal: bool
    worst_error: float
    first_difference: str
    compared: int


def compare_on_mesh(model: nn.Module, module: ParallelModule, call: Call,
                    loss_fn: Callable[..., Any] | None) -> None:
    """Compare on the ranks of a running job; raise where they differ.

    Buffers and parameters that the forward pass writes to are put back.

    Raises
    ------
    ValueError
        On every rank, naming the first output or parameter that differs on
        some rank, or when there are no real values to compare.
    """
    if any(t.is_meta
           for t in call.tensors) or any(p.is_meta
                                         for p in model.parameters()):
        raise ValueError("verify=True needs real parameters and example "
                         "inputs, not meta tensors")
    args, kwargs, targets = pytree.tree_unflatten(list(call.leaves), call.tree)
    expected, rounded = expectation(model, call, loss_fn, program_of(module))
    expected = held(expected, module)
    written = [
        *module.buffers(), *(p for n, p in module.named_parameters()
                             if f"param:{n}" in program_of(module).written)
    ]
    kept = [t.detach().clone() for t in written]
    found = observed_on_mesh(module, (*args, *targets), kwargs)
    with torch.no_grad():
        for tensor, before in zip(written, kept, strict=True):
            tensor.copy_(before)
    module.zero_grad(set_to_none=True)
    # A rank may hold what the others do not; the verdict is everybody's.
    results = module.agreement.gather(
        report(expected, found, computed_in=coarsest(module),
               rounding=rounded))
    for rank, result in zip(module.agreement.ranks, results, strict=True):
        if not result.equal:
            raise ValueError(
                f"the parallel program differs from the single-device one, "
                f"first at {result.first_difference} on rank {rank} (relative "
                f"error {result.worst_error:.2e}); does the model draw random "
                "numbers by other means than torch's operators? If not, "
                "please report the model and the plan")


def expectation(
        model: nn.Module, call: Call, loss_fn: Callable[..., Any] | None,
        program: Program) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """What the single-device program gives, and how it is rounded.

    Parameters
    ----------
    model : nn.Module
        The original; a copy of it is run.
    call : Call
    loss_fn : callable, optional
    program : Program
        Whose draws a mesh repeats.

    Returns
    -------
    expected : dict of str to Tensor
        Outputs and gradients, by name.
    rounded : dict of str to float
        As :func:`scaletorch.rounding.rounding` finds it, by name.
    """

    def observe() -> dict[str, torch.Tensor]:
        return reference(model, call, loss_fn, program=program)

    expected = observe()
    return expected, rounding_of(observe, expected)


def reference(model: nn.Module,
              call: Call,
              loss_fn: Callable[..., Any] | None,
              *,
              program: Program | None = None) -> dict[str, torch.Tensor]:
    """Outputs and gradients of the single-device program.

    Random numbers are such that a mesh can draw the same; those that are
    not torch's as parts of `program` do that are not captured.
    """
    single = copied(model)
    # A model may write to its inputs.
    leaves = [
        x.detach().clone().requires_grad_(x.requires_grad) if isinstance(
            x, torch.Tensor) else x for x in call.leaves
    ]
    args, kwargs, targets = pytree.tree_unflatten(leaves, call.tree)
    with contextlib.ExitStack() as stack:
        stack.enter_context(steady_draws())
        if program is not None:
            stack.enter_context(steady_parts(single, program))
        output = single(*args, **kwargs)
        if loss_fn is not None:
            output = loss_fn(output, *targets)
        return observed(single, output)


def observed_on_mesh(module: ParallelModule, args: tuple[Any, ...],
                     kwargs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Outputs and gradients of the parallel program."""
    with module.steady_draws():
        return observed(module, module(*args, outputs="global", **kwargs))


def held(expected: Mapping[str, torch.Tensor],
         module: nn.Module) -> dict[str, torch.Tensor]:
    """Without gradients of parameters that only other ranks hold."""
    elsewhere = {
        f"gradient of {n}"
        for n in getattr(module, "elsewhere", frozenset())
    }
    return {n: t for n, t in expected.items() if n not in elsewhere}


def observed(module: nn.Module, output: Any) -> dict[str, torch.Tensor]:
    """Outputs and gradients by name; runs the backward."""
    leaves = [
        x for x in pytree.tree_leaves(_sorted(output))
        if isinstance(x, torch.Tensor)
    ]
    found = {f"output {i}": x.detach() for i, x in enumerate(leaves)}
    backward_of(output)
    for name, parameter in module.named_parameters():
        grad = parameter.grad
        if grad is not None:
            found[f"gradient of {name}"] = _full(grad).detach()
    return found


def _sorted(output: Any) -> Any:
    """With what has names in their order of first mention in the class.

    An object may be filled in another order than it is made anew.
    """
    if isinstance(output, Mapping):
        fields = getattr(output, "__dataclass_fields__", output)
        names = sorted(output, key=[*fields, *output].index)
        return [_sorted(output[n]) for n in names]
    if isinstance(output, (tuple, list)):
        return [_sorted(x) for x in output]
    return output


def backward_of(output: Any) -> None:
    """Backward from the loss, or from the sum of all outputs."""
    loss = getattr(output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    if loss is None:
        parts = [
            x.double().sum() for x in pytree.tree_leaves(output)
            if isinstance(x, torch.Tensor) and x.requires_grad
        ]
        loss = torch.stack(parts).sum() if parts else None
    if loss is not None and loss.requires_grad:
        loss.backward()


def _full(x: torch.Tensor) -> torch.Tensor:
    return x.full_tensor() if isinstance(x, DTensor) else x


def report(expected: Mapping[str, torch.Tensor],
           found: Mapping[str, torch.Tensor],
           *,
           computed_in: torch.dtype | None = None,
           rounding: Mapping[str, float] | None = None) -> VerifyReport:
    """The first and the largest difference, in the order of `expected`.

    Parameters
    ----------
    expected, found : mapping of str to Tensor
    computed_in : dtype, optional
        A dtype of fewer bits than the tensors', in which they were
        computed (autocast). Half precision loosens the tolerance.
    rounding : mapping of str to float, optional
        How large the rounding of each value is (``scaletorch.rounding``);
        a few times as much is no difference.
    """
    worst, first = 0.0, ""
    names = [*expected, *(n for n in found if n not in expected)]
    largest = max((magnitude(t)
                   for n, t in expected.items() if n.startswith("gradient")),
                  default=0.0)
    least = _TOLERANCE[computed_in] if computed_in in _HALF else 0.0
    for name in names:
        a, b = expected.get(name), found.get(name)
        present = a if a is not None else b
        assert present is not None
        tolerance = max(_TOLERANCE.get(present.dtype, 0.0), least)
        noise = (_noise(present.dtype, computed_in) / tolerance *
                 largest if name.startswith("gradient") else 0.0)
        if rounding is not None and tolerance:
            noise = max(noise,
                        _ROUNDINGS * rounding.get(name, 0.0) / tolerance)
        error = _error(a, b, noise)
        if not error <= tolerance and not first:
            first = name
        worst = max(worst, error)
    return VerifyReport(equal=not first,
                        worst_error=worst,
                        first_difference=first,
                        compared=len(names))


def program_of(module: nn.Module) -> Program:
    """The program that a parallel module runs."""
    program = getattr(module, "program", None)
    assert isinstance(program, Program)
    return program


def coarsest(module: nn.Module) -> torch.dtype | None:
    """The floating dtype of fewest bits that its program computes in."""
    dtypes = {
        value.spec.dtype
        for block in program_of(module).classes.values()
        for node in calls_of(block.graph)
        for value in outputs_of(node) if value.spec.dtype.is_floating_point
    }
    known = [d for d in _TOLERANCE if d in dtypes]
    return max(known, key=lambda d: torch.finfo(d).eps, default=None)


def _noise(dtype: torch.dtype, computed_in: torch.dtype | None) -> float:
    """Rounding of a sum that would be zero, relative to its terms."""
    return max(4 * torch.finfo(d).eps for d in (dtype, computed_in)
               if d is not None)


def _error(a: torch.Tensor | None, b: torch.Tensor | None,
           noise: float) -> float:
    """Largest difference relative to the largest value; a gradient that
    is missing on one side counts as zero."""
    if a is None or b is None:
        present = a if a is not None else b
        assert present is not None
        return magnitude(present)
    if a.shape != b.shape:
        return float("inf")
    if not a.numel():
        return 0.0
    if not a.dtype.is_floating_point and not a.dtype.is_complex:
        return 0.0 if torch.equal(a, b) else float("inf")
    precise = torch.complex128 if a.dtype.is_complex else torch.float64
    a, b = a.to(precise).cpu(), b.to(precise).cpu()
    if not torch.equal(torch.isnan(a), torch.isnan(b)):
        return float("inf")
    a, b = a.nan_to_num(), b.nan_to_num()
    scale = max(magnitude(a), noise, 1e-12)
    return magnitude(a - b) / scale
