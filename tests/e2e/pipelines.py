"""Hold a pipeline against the single-device program, over simulated ranks.

A rank of a pipeline holds the parameters of its own stages, so that what
the ranks find is joined before it is compared.
"""

from __future__ import annotations

import math
import unittest
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.pipeline.means import count_ahead
from planner.planning import Planning
from planner.recipes import Recipe
from scaletorch.mesh import reshaped
from scaletorch.module import ParallelModule
from scaletorch.runtime.ranks import run_ranks
from tests.e2e.equality import Subject, same, same_losses, train

__all__ = ["check_pipeline", "check_planned", "joined", "run_pipeline"]

State = dict[str, torch.Tensor]


def run_pipeline(subject: Subject, axes: dict[str, int], plan: Any,
                 **options: Any) -> list[tuple[list[float], State, State]]:
    """Losses, first gradients and final state of every rank.

    Parameters
    ----------
    subject : Subject
    axes : dict of str to int
        The mesh.
    plan : Recipe, Plan or None
    **options
        For ``auto_parallelize``.
    """

    def work(rank: int) -> tuple[list[float], State, State]:
        del rank
        mesh = init_device_mesh("cpu",
                                tuple(axes.values()),
                                mesh_dim_names=tuple(axes))
        module = scaletorch.auto_parallelize(subject.model,
                                             mesh,
                                             example_inputs=subject.inputs,
                                             loss_fn=subject.loss_fn,
                                             cluster="cpu-gloo",
                                             plan=plan,
                                             **options)
        return train(module, lambda m: m(*subject.args, **subject.kwargs))

    return run_ranks(math.prod(axes.values()), work)


def joined(test: unittest.TestCase, parts: list[State]) -> State:
    """What all ranks hold; those that hold the same must agree."""
    found: State = {}
    for part in parts:
        for name, tensor in part.items():
            if name in found:
                torch.testing.assert_close(tensor, found[name])
            found[name] = tensor
    return found


def check_pipeline(test: unittest.TestCase,
                   subject: Subject,
                   plan: Plan | Recipe,
                   close: float = 5e-6,
                   **axes: int) -> None:
    """Assert that a pipeline trains as one device does."""
    _compare(test, subject, run_pipeline(subject, axes, plan), close)


def _compare(test: unittest.TestCase, subject: Subject,
             ranks: list[tuple[list[float], State,
                               State]], close: float) -> None:
    for losses, _, _ in ranks:
        same_losses(test, losses, subject.losses, close)
    same(test, joined(test, [g for _, g, _ in ranks]), subject.grads, close)
    same(test, joined(test, [s for _, _, s in ranks]), subject.state,
         200 * close)


def check_planned(test: unittest.TestCase,
                  subject: Subject,
                  recipe: Recipe,
                  close: float = 5e-6,
                  **axes: int) -> None:
    """As :func:`check_pipeline`, but captured and planned once and not on
    every rank, for tests of many plans."""
    planning = Planning(
        subject.program,
        load_cluster("cpu-gloo").resized(math.prod(axes.values())))
    mesh = MeshSpec(tuple(axes), tuple(axes.values()))
    text = planning.plan_of(planning.from_recipe(recipe, mesh)).to_yaml()
    plan = Plan.from_yaml(text)
    program = (count_ahead(subject.program)
               if plan.pipeline else subject.program)
    layout = plan.resolve(program)

    def work(rank: int) -> tuple[list[float], State, State]:
        del rank
        devices = init_device_mesh("cpu",
                                   mesh.sizes,
                                   mesh_dim_names=mesh.names)
        module = ParallelModule(subject.model,
                                reshaped(devices, plan.device_mesh),
                                subject.call,
                                program,
                                layout,
                                loss_fn=subject.loss_fn,
                                replan=lambda program: layout,
                                plan=plan)
        return train(module, lambda m: m(*subject.args, **subject.kwargs))

    _compare(test, subject, run_ranks(mesh.world_size, work), close)
