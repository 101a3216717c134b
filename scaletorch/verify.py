"""Hold a plan against the single-device program, in one process."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from planner.capture.entry import (Call, bind_inputs, default_example_inputs,
                                   split_example)
from planner.cluster.spec import ClusterSpec
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.recipes import Recipe
from scaletorch.api import auto_parallelize
from scaletorch.compare import (VerifyReport, coarsest, expectation, held,
                                observed_on_mesh, program_of, report)
from scaletorch.runtime.ranks import run_ranks

__all__ = ["VerifyReport", "verify"]


def verify(model: nn.Module,
           mesh_or_plan: int | tuple[int, ...] | MeshSpec
           | Plan,
           example_inputs: Any = None,
           *,
           loss_fn: Callable[..., Any] | None = None,
           plan: Plan | Recipe | str | Path | None = None,
           cluster: str | Path | ClusterSpec = "cpu-gloo") -> VerifyReport:
    """Run a plan over simulated ranks in this process and compare.

    Loss, outputs and every gradient are compared with the single-device
    program. No process group may be initialised. Meanwhile random
    operators draw what does not depend on the mesh (`planner.steady`):
    dropout, which draws other numbers on a mesh, keeps everything.

    Parameters
    ----------
    model : nn.Module
        With real parameters on the CPU; it is not changed.
    mesh_or_plan : int, tuple of int, MeshSpec or Plan
        Number of ranks, or a mesh to plan for, or a plan to run.
    example_inputs : tuple or dict of Tensor, optional
        Left out: the model's own, as for ``auto_parallelize``.
    loss_fn : callable, optional
    plan : Plan, Recipe, str or Path, optional
        What to run on the given mesh, instead of the search's choice.
    cluster : str, Path or ClusterSpec
        What the search plans for.

    Returns
    -------
    VerifyReport
        Of the rank that differs most.

    Raises
    ------
    ValueError
        When a process group is live, or for meta tensors.
    """
    if dist.is_initialized():
        raise ValueError(
            "verify simulates its ranks in one process, but a process group "
            "is initialised: call it in a process of its own, or pass "
            "verify=True to auto_parallelize")
    if isinstance(mesh_or_plan, Plan):
        plan = mesh_or_plan
    mesh = _mesh(mesh_or_plan)
    args, kwargs = (default_example_inputs(model) if example_inputs is None
                    else split_example(example_inputs))
    call = bind_inputs(model, args, kwargs, loss_fn)
    if any(t.is_meta for t in (*call.tensors, *model.parameters())):
        raise ValueError("verify needs real parameters and example inputs, "
                         "not meta tensors")
    flat = isinstance(mesh_or_plan, int)
    single = _Single(model, call, loss_fn)

    def work(rank: int) -> VerifyReport:
        del rank
        devices = mesh.world_size if flat else init_device_mesh(
            "cpu", mesh.sizes, mesh_dim_names=mesh.names)
        module = auto_parallelize(model,
                                  devices,
                                  example_inputs=kwargs or args,
                                  loss_fn=loss_fn,
                                  plan=plan,
                                  cluster=cluster)
        expected, rounded = single.expectation(program_of(module))
        found = observed_on_mesh(module, args, kwargs)
        return report(held(expected, module),
                      found,
                      computed_in=coarsest(module),
                      rounding=rounded)

    reports = run_ranks(mesh.world_size, work)
    return min(reports, key=lambda r: (r.equal, -r.worst_error))


@dataclass(slots=True)
class _Single:
    """The single-device program, run by the first rank that asks."""

    model: nn.Module
    call: Call
    loss_fn: Callable[..., Any] | None
    once: threading.Lock = field(default_factory=threading.Lock)
    known: tuple[dict[str, torch.Tensor], dict[str, float]] | None = None

    def expectation(
            self, program: Program
    ) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
        with self.once:
            if self.known is None:
                self.known = expectation(self.model, self.call, self.loss_fn,
                                         program)
            return self.known


def _mesh(given: int | tuple[int, ...] | MeshSpec | Plan) -> MeshSpec:
    if isinstance(given, Plan):
        return given.mesh
    if isinstance(given, MeshSpec):
        return given
    sizes = (given, ) if isinstance(given, int) else tuple(given)
    return MeshSpec(tuple(f"axis{i}" for i in range(len(sizes))), sizes)
