"""Compare a captured program with the model it was captured from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from unittest import TestCase

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.capture import reference
from planner.capture.capture import capture
from planner.capture.copies import copied
from planner.capture.entry import Call, Entry, bind_inputs, split_example
from planner.ir.program import Program

__all__ = ["check_capture", "doubled"]


def doubled(model: nn.Module, inputs: Any) -> tuple[nn.Module, Any]:
    """Model and inputs in float64, so that equality can be strict."""
    return model.double(), pytree.tree_map_only(
        torch.Tensor, lambda t: t.double()
        if t.is_floating_point() else t, inputs)


def check_capture(test: TestCase,
                  model: nn.Module,
                  inputs: Any,
                  loss_fn: Callable[..., Any] | None = None,
                  *,
                  tolerance: float = 1e-9) -> Program:
    """Outputs, all gradients and buffer updates are those of the model.

    Random operators are seeded alike on both sides.
    """
    args, kwargs = split_example(inputs)
    call = bind_inputs(model, args, kwargs, loss_fn)
    program = capture(model, inputs, loss_fn=loss_fn)
    ours = _captured(program, model, call)
    theirs = _eager(program, copied(model), call, loss_fn)
    for part, got, expected in zip(("output", "gradient", "buffer"),
                                   ours,
                                   theirs,
                                   strict=True):
        test.assertEqual(list(got), list(expected))
        for name, tensor in expected.items():
            _check_same(test, f"{part} {name}", got[name], tensor, tolerance)
    return program


Results = tuple[dict[str, Any], dict[str, Any], dict[str, Any]]


def _captured(program: Program, model: nn.Module, call: Call) -> Results:
    values = reference.model_values(model)
    torch.manual_seed(1)
    outputs, mutations = reference.run(program, values, call.tensors)
    named = {str(i): x for i, x in enumerate(outputs)}
    buffers = {
        name: mutations.get(name, tensor)
        for name, tensor in values.items() if name.startswith("buffer:")
    }
    return named, _gradients(program, outputs, values, call.tensors), buffers


def _eager(program: Program, model: nn.Module, call: Call,
           loss_fn: Callable[..., Any] | None) -> Results:
    entry = Entry(model, call, loss_fn)
    torch.manual_seed(1)
    tensors = iter(entry(*call.tensors))
    outputs = [
        next(tensors) if isinstance(leaf, str) and leaf == "<tensor>" else leaf
        for leaf in entry.output.leaves
    ]
    values = reference.model_values(model)
    named = {str(i): x for i, x in enumerate(outputs)}
    gradients = _gradients(program, outputs, values, call.tensors)
    return named, gradients, {
        k: v
        for k, v in values.items() if k.startswith("buffer:")
    }


def _gradients(program: Program, outputs: Sequence[Any],
               values: Mapping[str, torch.Tensor],
               inputs: Sequence[torch.Tensor]) -> dict[str, Any]:
    """Of the loss, or of a weighted sum of all outputs without a loss."""
    leaves = {n: t for n, t in values.items() if t.requires_grad}
    leaves |= {
        f"input:{i}": t
        for i, t in enumerate(inputs) if t.requires_grad
    }
    chosen = outputs if program.loss is None else [outputs[program.loss]]
    total = sum((1 + i) * x.abs().sum() for i, x in enumerate(chosen)
                if isinstance(x, torch.Tensor) and x.requires_grad)
    if not leaves or not isinstance(total, torch.Tensor):
        return {}
    for tensor in leaves.values():
        tensor.grad = None
    # Not autograd.grad: reentrant checkpointing refuses it.
    total.backward()
    found = {n: t.grad for n, t in leaves.items()}
    for tensor in leaves.values():
        tensor.grad = None
    # An operator may give zeros where nothing depends on a parameter.
    return {
        n: torch.zeros_like(leaves[n]) if g is None else g
        for n, g in found.items()
    }


def _check_same(test: TestCase, what: str, got: Any, expected: Any,
                tolerance: float) -> None:
    if not isinstance(expected, torch.Tensor):
        test.assertEqual(got, expected, what)
        return
    test.assertEqual(got.shape, expected.shape, what)
    test.assertEqual(got.dtype, expected.dtype, what)
    if expected.is_floating_point():
        torch.testing.assert_close(got,
                                   expected,
                                   rtol=tolerance,
                                   atol=tolerance,
                                   equal_nan=True,
                                   msg=lambda m: f"{what}: {m}")
    else:
        test.assertTrue(torch.equal(got, expected), what)
