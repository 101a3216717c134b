"""Hold a plan against the single-device program, over simulated ranks."""

from __future__ import annotations

import copy
import os
import unittest
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from planner.capture.capture import capture_call
from planner.capture.entry import Call, bind_inputs, split_example
from planner.cluster import load_cluster
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES, Recipe
from scaletorch.module import ParallelModule
from scaletorch.runtime.ranks import run_ranks
from tests.model_zoo import MODELS, Example, eager_output

__all__ = [
    "FEW", "MOST", "PLANS", "SOME", "Case", "Subject", "check_model",
    "check_subject", "same", "same_losses", "train"
]

STEPS = 3
_MOST_RANKS = 4


@dataclass(frozen=True)
class Case:
    """A recipe (None: the planner's choice) on a mesh."""

    recipe: Recipe | None
    mesh: MeshSpec


def _case(recipe: Recipe | None, **axes: int) -> Case:
    return Case(recipe, MeshSpec(tuple(axes), tuple(axes.values())))


_DDP, _FSDP, _ZERO1 = RECIPES["ddp"], RECIPES["fsdp"], RECIPES["zero1"]
_TP, _ULYSSES, _KV = (RECIPES["megatron"], RECIPES["ulysses"],
                      RECIPES["gather_kv"])
PLANS = {
    "auto":
    _case(None, dp=2),
    "auto 2x2":
    _case(None, dp=2, tp=2),
    "ddp":
    _case(_DDP(), dp=2),
    "fsdp":
    _case(_FSDP(), dp=2),
    "zero1":
    _case(_ZERO1(), dp=2),
    "megatron":
    _case(_TP(), tp=2),
    "megatron sp":
    _case(_TP(sequence_parallel=True), tp=2),
    "ulysses":
    _case(_ULYSSES(), cp=2),
    "gather_kv":
    _case(_KV(), cp=2),
    "fsdp x megatron":
    _case(_FSDP() * _TP(), dp=2, tp=2),
    "ddp x megatron sp":
    _case(_DDP() * _TP(sequence_parallel=True), dp=2, tp=2),
    "fsdp x ulysses x megatron sp":
    _case(_FSDP() * _ULYSSES() * _TP(sequence_parallel=True), dp=2, cp=2,
          tp=2),
}
_NIGHTLY = os.environ.get("SCALETORCH_NIGHTLY") == "1"
FEW = tuple(PLANS) if _NIGHTLY else ("auto", "ddp", "megatron",
                                     "fsdp x megatron")
"""Plans for the models that are like another one; all of them nightly."""
SOME = tuple(PLANS) if _NIGHTLY else ("auto", "auto 2x2", "ddp", "fsdp",
                                      "zero1", "megatron sp", "ulysses",
                                      "fsdp x megatron")
"""Each way to divide, once; all plans nightly."""
MOST = tuple(p for p in PLANS
             if _NIGHTLY or PLANS[p].mesh.world_size <= _MOST_RANKS)
"""All but those of many ranks; all of them nightly."""


class Subject:
    """A model, captured once, and what training it alone gives."""

    def __init__(self, name: str | Callable[[], Example]) -> None:
        build = MODELS[name] if isinstance(name, str) else name
        model, inputs, self.loss_fn = build()
        self.dtype = torch.float64
        self.model = model.to(self.dtype)
        self.inputs = _cast(inputs, self.dtype)
        args, kwargs = split_example(self.inputs)
        self.args, self.kwargs = args, kwargs
        self.call: Call = bind_inputs(model, args, kwargs, self.loss_fn)
        self.program: Program = capture_call(self.model,
                                             self.call,
                                             loss_fn=self.loss_fn)
        self.losses, self.grads, self.state = train(
            copy.deepcopy(self.model),
            lambda m: eager_output(m, self.inputs, self.loss_fn))

    def layout(self, case: Case) -> ProgramLayout:
        """The plan's layouts, once through its text."""
        planning = Planning(self.program, load_cluster("cpu-gloo").resized(8))
        if case.recipe is None:
            chosen, _ = planning.best([case.mesh])
        else:
            chosen = planning.from_recipe(case.recipe, case.mesh)
        text = planning.plan_of(chosen).to_yaml()
        return Plan.from_yaml(text).resolve(self.program)

    def run(self, case: Case) -> list[tuple[Any, ...]]:
        """Losses, first gradients and final state on every rank."""
        layout = self.layout(case)

        def work(rank: int) -> tuple[Any, ...]:
            del rank
            mesh = init_device_mesh("cpu",
                                    layout.mesh.sizes,
                                    mesh_dim_names=layout.mesh.names)
            module = ParallelModule(self.model,
                                    mesh,
                                    self.call,
                                    self.program,
                                    layout,
                                    loss_fn=self.loss_fn,
                                    replan=lambda program: layout)
            return train(module, lambda m: m(*self.args, **self.kwargs))

        return run_ranks(layout.mesh.world_size, work)


def _cast(inputs: Any, dtype: torch.dtype) -> Any:

    def one(x: Any) -> Any:
        floating = isinstance(x, torch.Tensor) and x.is_floating_point()
        return x.to(dtype) if floating else x

    if isinstance(inputs, dict):
        return {k: one(v) for k, v in inputs.items()}
    return tuple(one(v) for v in inputs)


def _whole(x: torch.Tensor) -> torch.Tensor:
    return (x.full_tensor() if isinstance(x, DTensor) else x).detach().clone()


def _shard(x: torch.Tensor) -> torch.Tensor:
    return x.to_local() if isinstance(x, DTensor) else x


def _shard_of_gradient(parameter: nn.Parameter) -> torch.Tensor | None:
    if isinstance(parameter, DTensor) and parameter.grad is not None:
        assert parameter.grad.placements == parameter.placements
    return None if parameter.grad is None else _shard(parameter.grad)


def train(
    model: nn.Module, call: Callable[[nn.Module], Any]
) -> tuple[list[float], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Three AdamW steps: losses, the first gradients, the final state.

    AdamW works on elements, so that ranks step on their shards alone: what
    DTensors make of an operator over all parameters takes torch a third of
    a case's time, as it finds out in every thread and step anew.
    """
    # With the usual epsilon, what rounding leaves of a gradient that is all
    # but zero would become a whole step.
    parameters = list(model.parameters())
    shards = [nn.Parameter(_shard(p.detach())) for p in parameters]
    optimizer = torch.optim.AdamW(shards, lr=1e-2, eps=1e-6, fused=True)
    losses: list[float] = []
    grads: dict[str, torch.Tensor] = {}
    for _ in range(STEPS):
        output = call(model)
        loss = output if isinstance(output, torch.Tensor) else output.loss
        loss.backward()
        if not grads:
            grads = {
                n: _whole(p.grad)
                for n, p in model.named_parameters() if p.grad is not None
            }
        for shard, parameter in zip(shards, parameters, strict=True):
            shard.grad = _shard_of_gradient(parameter)
            parameter.grad = None
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, grads, {n: _whole(x) for n, x in model.state_dict().items()}


def check_model(test: unittest.TestCase, name: str,
                plans: Iterable[str]) -> None:
    """Assert equality of one model under several plans."""
    subject = Subject(name)
    for plan in plans:
        with test.subTest(model=name, plan=plan):
            check_subject(test, subject, PLANS[plan])


def check_subject(test: unittest.TestCase, subject: Subject,
                  case: Case) -> None:
    """Assert equality of one model under one plan."""
    # Models in double still compute norms and rotations in float32.
    close = 5e-6
    for losses, grads, state in subject.run(case):
        same_losses(test, losses, subject.losses, close)
        same(test, grads, subject.grads, close)
        same(test, state, subject.state, 200 * close)


def same_losses(test: unittest.TestCase, found: list[float],
                expected: list[float], close: float) -> None:
    for a, b in zip(found, expected, strict=True):
        test.assertLessEqual(abs(a - b), 10 * close * max(1.0, abs(b)))


def same(test: unittest.TestCase, found: dict[str, torch.Tensor],
         expected: dict[str, torch.Tensor], close: float) -> None:
    for name in sorted(set(found) | set(expected)):
        if name not in found or name not in expected:
            # A gradient that only one side has must be zero.
            only = found.get(name, expected.get(name))
            assert only is not None
            test.assertEqual(float(only.abs().max()), 0.0, name)
            continue
        a, b = found[name].double(), expected[name].double()
        scale = max(float(b.abs().max()), 1e-3)
        worst = float((a - b).abs().max()) / scale
        test.assertLessEqual(worst, close, name)
