"""``auto_parallelize``: the one call that a user makes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

from planner.capture.capture import capture_call
from planner.capture.entry import (bind_inputs, default_example_inputs,
                                   split_example)
from planner.cluster.spec import ClusterSpec
from planner.constraints import Constraints
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.planning import Planning, factorisations
from planner.recipes import Recipe
from planner.search.policy import Policy
from scaletorch.cluster import cluster_of
from scaletorch.module import ParallelModule

__all__ = ["auto_parallelize"]


def auto_parallelize(
    model: nn.Module,
    mesh: DeviceMesh | int,
    *,
    example_inputs: Any = None,
    loss_fn: Callable[..., Any] | None = None,
    cluster: str | Path | ClusterSpec | None = None,
    plan: Plan | Recipe | str | Path | None = None,
    constraints: Any = None,
    optimizer: str = "adamw",
    memory_limit_bytes: int | None = None,
    compile: bool = False,
    tune: int = 0,
    verify: bool = False,
) -> ParallelModule:
    """Spread a single-device model over a mesh; the loop stays as it is.

    Parameters
    ----------
    model : nn.Module
        Any module that ``torch.export`` takes; it is not changed.
    mesh : DeviceMesh or int
        Named axes fix the factorisation (``dp``, ``tp``, ``cp`` carry
        their usual meaning); a mesh of one unnamed axis, or the number of
        ranks, leaves it to the search.
    example_inputs : tuple or dict of Tensor, optional
        One global batch. Left out: ``model.example_inputs()`` or a
        Hugging Face model's ``dummy_inputs``.
    loss_fn : callable, optional
        ``loss_fn(output, *targets)``; left out, the model returns a
        scalar or something with ``.loss``, or the loop computes its own.
    cluster : str, Path or ClusterSpec, optional
        Preset name or YAML file; None: the preset nearest to the devices
        we run on.
    plan : Plan, Recipe, str or Path, optional
        Run exactly this, without a search.
    constraints : optional
        Of ``planner.constraints``: ``pin``, ``forbid``, ``limit``.
    optimizer : str
        Whose state is budgeted.
    memory_limit_bytes : int, optional
        Per rank; the device's memory if left out.
    compile : bool
        Run the blocks through ``torch.compile``.
    tune : int
        Run the best `tune` plans for a few steps and keep the quickest.
    verify : bool
        Compare with the single-device model on the example inputs before
        returning.

    Returns
    -------
    ParallelModule

    Raises
    ------
    CaptureError
        When the model can't be captured.
    InfeasiblePlan
        When no plan fits memory and constraints.
    LayoutError
        When `plan` is not legal for the model.
    ValueError
        When the mesh does not fit the job, or for unknown options.
    """
    _check_device(model)
    device_mesh, flat = _device_mesh(mesh)
    args, kwargs = (default_example_inputs(model) if example_inputs is None
                    else split_example(example_inputs))
    call = bind_inputs(model, args, kwargs, loss_fn)
    program = capture_call(model, call, loss_fn=loss_fn)
    planning = Planning(
        program, cluster_of(cluster, device_mesh.size(),
                            device_mesh.device_type),
        constraints=Constraints(constraints or ()), optimizer=optimizer,
        memory_limit_bytes=memory_limit_bytes)
    chosen, policies = _choose(planning, plan, _spec_of(device_mesh),
                               flat=flat)
    chosen = _from_first_rank(chosen, device_mesh)
    layout = chosen.resolve(program)
    device_mesh = _shaped(device_mesh, chosen.mesh)
    module = ParallelModule(
        model, device_mesh, call, program, layout, loss_fn=loss_fn,
        replan=_Replan(planning, policies, chosen), compile=compile)
    object.__setattr__(module, "plan", chosen)
    if tune:
        raise ValueError(
            "tune is not available yet: measured tuning of the best plans "
            "comes with the joint search; leave tune=0")
    if verify:
        from scaletorch.verify import compare_on_mesh
        compare_on_mesh(model, module, call, loss_fn)
    return module


class _Replan:
    """Layouts for other input shapes, with the state at rest kept."""

    def __init__(self, planning: Planning, policies: tuple[Policy, ...],
                 plan: Plan) -> None:
        self.planning = planning
        self.policies = policies
        self.plan = plan
        self.fixed = {n: lay for n, lay in plan.resolve(
            planning.program).at_rest.items() if n.startswith("param:")}

    def __call__(self, program: Program) -> ProgramLayout:
        again = Planning(program, self.planning.cluster,
                         constraints=self.planning.constraints,
                         optimizer=self.planning.optimizer)
        candidate = again.candidate(self.plan.mesh, self.policies,
                                    fixed_rest=self.fixed)
        return candidate.layout


def _check_device(model: nn.Module) -> None:
    kinds = {str(p.device) for p in model.parameters()}
    if len(kinds) > 1:
        raise ValueError(
            f"the model's parameters are on several devices ({', '.join(sorted(kinds))}): "
            "move it to one device, or build it on meta")


def _device_mesh(mesh: DeviceMesh | int) -> tuple[DeviceMesh, bool]:
    """The device mesh, and whether its factorisation is open."""
    if not dist.is_initialized():
        raise ValueError(
            "there is no process group: start the program with torchrun and "
            "call torch.distributed.init_process_group first (to plan "
            "without devices use python -m planner.explain)")
    if isinstance(mesh, int):
        if mesh != dist.get_world_size():
            raise ValueError(
                f"a mesh of {mesh} ranks was asked for, but the job has "
                f"{dist.get_world_size()}; start torchrun with "
                f"--nproc-per-node {mesh} or pass a DeviceMesh")
        return init_device_mesh(_device_type(), (mesh, )), True
    if not isinstance(mesh, DeviceMesh):
        raise TypeError(f"mesh must be a DeviceMesh or an int, got "
                        f"{type(mesh).__name__}")
    return mesh, mesh.mesh_dim_names is None and mesh.ndim == 1


def _device_type() -> str:
    backend = dist.get_backend()
    if backend in ("gloo", "threaded", "fake"):
        return "cpu"
    accelerator = torch.accelerator.current_accelerator()
    return accelerator.type if accelerator is not None else "cpu"


def _spec_of(mesh: DeviceMesh) -> MeshSpec:
    names = mesh.mesh_dim_names or tuple(
        f"axis{i}" for i in range(mesh.ndim))
    return MeshSpec(tuple(names), tuple(mesh.mesh.shape))


def _choose(planning: Planning, plan: Plan | Recipe | str | Path | None,
            mesh: MeshSpec, *, flat: bool
            ) -> tuple[Plan, tuple[Policy, ...]]:
    if isinstance(plan, (str, Path)):
        plan = Plan.load(plan)
    if isinstance(plan, Recipe):
        candidate = planning.from_recipe(plan, mesh)
        return planning.plan_of(candidate), candidate.policies
    if isinstance(plan, Plan):
        if math.prod(plan.mesh.sizes) != mesh.world_size:
            raise ValueError(
                f"the plan is for {plan.mesh} = {plan.mesh.world_size} ranks, "
                f"the mesh has {mesh.world_size}")
        return plan, tuple(Policy() for _ in plan.mesh.names)
    if plan is not None:
        raise TypeError(f"plan must be a Plan, a recipe or a path, got "
                        f"{type(plan).__name__}")
    meshes = factorisations(mesh.world_size) if flat else [mesh]
    best, _ = planning.best(meshes)
    return planning.plan_of(best), best.policies


def _from_first_rank(plan: Plan, mesh: DeviceMesh) -> Plan:
    """Every rank takes the first one's plan."""
    texts = [plan.to_yaml()]
    source = int(mesh.mesh.flatten()[0])
    ranks = mesh.mesh.flatten().tolist()
    group = None if len(ranks) == dist.get_world_size() else dist.new_group(
        ranks)
    dist.broadcast_object_list(texts, src=source, group=group,
                               device=torch.device("cpu") if
                               mesh.device_type == "cpu" else None)
    return Plan.from_yaml(texts[0])


def _shaped(mesh: DeviceMesh, wanted: MeshSpec) -> DeviceMesh:
    """The ranks of a mesh, arranged as the plan wants them."""
    names = mesh.mesh_dim_names
    if names == wanted.names and tuple(mesh.mesh.shape) == wanted.sizes:
        return mesh
    return DeviceMesh(mesh.device_type,
                      mesh.mesh.reshape(wanted.sizes).tolist(),
                      mesh_dim_names=wanted.names)
