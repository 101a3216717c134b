"""The same program on another mesh: a new plan, and what moves."""

from __future__ import annotations

import contextlib
import dataclasses
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from planner.capture.capture import capture_call
from planner.capture.entry import (bind_inputs, default_example_inputs,
                                   split_example)
from planner.capture.refuse import unwrap
from planner.choices import free_policies
from planner.cluster.spec import ClusterSpec
from planner.constraints import Constraints
from planner.ir.errors import InfeasiblePlan, LayoutError, ScheduleError
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import inner_mesh
from planner.ir.plan import Plan
from planner.moves import Moves, moves_between
from planner.objective import Work, step_work
from planner.pipeline.candidate import pipeline_candidate
from planner.planning import Candidate, Planning
from planner.units import format_bytes, format_time
from scaletorch.choose import Replan, searched_meshes
from scaletorch.cluster import cluster_of
from scaletorch.mesh import spec_of
from scaletorch.module import ParallelModule
from scaletorch.runtime.compiled import TRACING
from scaletorch.structure import skeleton

__all__ = ["Replanned", "replan"]

_WIDTH = 96


@dataclass(frozen=True, slots=True, kw_only=True)
class Replanned:
    """A plan for another mesh, and the way there.

    Parameters
    ----------
    plan : Plan
        To be given to ``auto_parallelize``.
    moves : Moves
        What each rank has to receive.
    step_s : float
        Predicted, under the new plan.
    work : Work
        Of a step, as it was.
    """

    plan: Plan
    moves: Moves
    step_s: float
    work: Work

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        moves = self.moves
        yield f"{self.plan.model}: from {moves.before} to {moves.after}"
        yield (f"as before: {self.work.count} {self.work.unit} a step, and "
               "what a step computes")
        yield f"a step takes {format_time(self.step_s)} (predicted)"
        most = max(moves.received_bytes, default=0)
        yield (f"moves {format_bytes(moves.total_bytes)} of parameters and "
               f"optimizer state in all, at most {format_bytes(most)} to a "
               "rank")
        for name, count, move in moves.folded():
            times = f" ({count})" if count > 1 else ""
            yield from textwrap.wrap(
                f"{name}{times}: {move.before} -> {move.after}, "
                f"{format_bytes(move.size_bytes)}",
                _WIDTH,
                initial_indent="  ",
                subsequent_indent="    ")


def replan(
    plan: ParallelModule | Plan | str | Path,
    new_mesh: DeviceMesh | MeshSpec | int,
    *,
    model: nn.Module | None = None,
    example_inputs: Any = None,
    loss_fn: Callable[..., Any] | None = None,
    cluster: str | Path | ClusterSpec | None = None,
    constraints: Any = None,
    optimizer: str | None = None,
    memory_limit_bytes: int | None = None,
) -> Replanned:
    """Plan a program that runs already for another mesh.

    The global batch and what a step computes stay; mesh axes, layouts,
    stages, micro-batches and recomputation may change. Nothing runs and
    nothing is moved: save a checkpoint under the old plan and load it under
    the new one.

    Parameters
    ----------
    plan : ParallelModule, Plan, str or Path
        What runs now. Of a module all else is known; with a plan, or its
        file, the model and its example inputs are needed.
    new_mesh : DeviceMesh, MeshSpec or int
        A number leaves the factorisation to the search.
    model : nn.Module, optional
    example_inputs : tuple or dict of Tensor, optional
        The same global batch as before.
    loss_fn : callable, optional
    cluster : str, Path or ClusterSpec, optional
        Left out: that of the module, with as many devices as are needed,
        or what is found for this machine.
    constraints : optional
    optimizer : str, optional
        Whose state is budgeted and moves; ``adamw``, or the module's.
    memory_limit_bytes : int, optional
        Per rank.

    Returns
    -------
    Replanned

    Raises
    ------
    TypeError
        Without a model where one is needed.
    ValueError
        When the plan's file can't be read or is no plan.
    InfeasiblePlan
        When nothing fits on the new mesh, or none computes the same.
    LayoutError
        When the plan is not of the model.

    Examples
    --------
    >>> from torch import nn
    >>> model, x = nn.Linear(8, 8), torch.zeros(4, 8)
    >>> old = Plan(model="Linear", mesh=MeshSpec(("dp", ), (4, )),
    ...            axes={"dp": "fsdp"}, at_rest={"weight": "S(0)"},
    ...            regather=(), blocks={"Linear": {}})
    >>> new = replan(old, 2, model=model, example_inputs=(x, x),
    ...              loss_fn=nn.functional.mse_loss, cluster="h100-sxm")
    >>> new.work.count, new.plan.mesh.world_size
    (4, 2)
    """
    mesh = _mesh(new_mesh)
    if isinstance(plan, ParallelModule):
        source, plan = plan._replan, plan.plan
        assert isinstance(source, Replan)  # as auto_parallelize makes it
        planning = source.planning
        spec = (cluster_of(cluster, mesh.world_size, _device_type(new_mesh))
                if cluster is not None else _resized(planning.cluster,
                                                     mesh.world_size))
    else:
        plan = _read(plan)
        spec = cluster_of(cluster, mesh.world_size, _device_type(new_mesh))
        planning = _captured(model, example_inputs, loss_fn, spec, constraints)
    planning = Planning(planning.program,
                        spec,
                        constraints=(planning.constraints if constraints
                                     is None else Constraints(constraints)),
                        optimizer=optimizer or planning.optimizer,
                        memory_limit_bytes=memory_limit_bytes,
                        facts=planning.facts,
                        expert_imbalance=planning.expert_imbalance)
    best = _best(planning, plan, mesh, flat=isinstance(new_mesh, int))
    found = planning.plan_of(best)
    return Replanned(plan=found,
                     moves=moves_between(planning.program,
                                         plan,
                                         found,
                                         optimizer=planning.optimizer),
                     step_s=best.time_s,
                     work=step_work(planning.program))


def _mesh(mesh: DeviceMesh | MeshSpec | int) -> MeshSpec:
    if isinstance(mesh, DeviceMesh):
        return spec_of(mesh)
    if isinstance(mesh, int):
        if mesh < 1:
            raise ValueError(f"replan for {mesh} devices: give at least 1")
        return MeshSpec(("dp", ), (mesh, ))
    if isinstance(mesh, MeshSpec):
        return mesh
    raise TypeError("new_mesh must be a DeviceMesh, a MeshSpec or a number of "
                    f"devices, got {type(mesh).__name__}")


def _read(plan: Plan | str | Path) -> Plan:
    if isinstance(plan, (str, Path)):
        return Plan.load(plan)
    if isinstance(plan, Plan):
        return plan
    raise TypeError("replan takes what runs now: a ParallelModule, a Plan or "
                    f"the path of one, got {type(plan).__name__}")


def _device_type(mesh: DeviceMesh | MeshSpec | int) -> str:
    """Of the mesh, else of this machine."""
    if isinstance(mesh, DeviceMesh):
        return mesh.device_type
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else found.type


def _resized(cluster: ClusterSpec, devices: int) -> ClusterSpec:
    return (cluster
            if cluster.num_devices >= devices else cluster.resized(devices))


def _captured(model: nn.Module | None, example_inputs: Any,
              loss_fn: Callable[..., Any] | None, cluster: ClusterSpec,
              constraints: Any) -> Planning:
    if model is None:
        raise TypeError("replan needs model= and example_inputs= where it is "
                        "given a plan: a plan has no shapes; or give it the "
                        "ParallelModule that runs")
    model = unwrap(model)
    args, kwargs = (default_example_inputs(model) if example_inputs is None
                    else split_example(example_inputs))
    call = bind_inputs(model, args, kwargs, loss_fn)
    limits = Constraints(constraints or ())
    with TRACING:
        program = capture_call(skeleton(model),
                               call,
                               loss_fn=loss_fn,
                               opaque=limits.allows_opaque())
    return Planning(program, cluster, constraints=limits)


def _best(planning: Planning, old: Plan, mesh: MeshSpec, *,
          flat: bool) -> Candidate:
    """The best plan that computes the same."""
    meshes = searched_meshes(mesh, flat=flat)
    if old.pipeline is None or old.pipeline.is_exact:
        return planning.best(meshes)[0]
    # Statistics of each micro-batch: a step depends on their number.
    spec = dataclasses.replace(old.pipeline, cuts=())
    if spec.axis in mesh.names:
        inner = inner_mesh(mesh, spec.axis)
        with contextlib.suppress(LayoutError, ScheduleError):
            found = pipeline_candidate(planning, spec, free_policies(inner),
                                       mesh)
            if planning.fits(found):
                return found
    raise InfeasiblePlan(
        "the plan computes batch statistics from each of its "
        f"{spec.microbatches} micro-batches ({spec.label}), and no such "
        f"pipeline fits {mesh}; give a mesh with an axis {spec.axis!r} that "
        "has as many stages, or plan anew with other statistics")
