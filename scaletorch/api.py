"""``auto_parallelize``: the one call that a user makes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from planner.batches import best_batch, search_batches, with_rows
from planner.broken import broken_constraints
from planner.capture.autocast import ambient_autocast
from planner.capture.capture import capture_call
from planner.capture.entry import (Call, bind_inputs, default_example_inputs,
                                   split_example)
from planner.capture.refuse import check_model, unwrap
from planner.cluster.spec import ClusterSpec
from planner.constraints import Constraints
from planner.cost.optimizer import optimizer_bytes
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.objective import OBJECTIVES
from planner.planning import Planning
from planner.recipes import Recipe
from planner.undivided import undivided
from scaletorch.choose import (Chosen, Replan, choose, fingerprint,
                               searched_meshes)
from scaletorch.cluster import agreed_cluster
from scaletorch.compare import compare_on_mesh
from scaletorch.mesh import device_mesh, reshaped, spec_of
from scaletorch.module import ParallelModule
from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.compiled import TRACING
from scaletorch.runtime.ranks import made_once
from scaletorch.structure import skeleton
from scaletorch.tune import quickest

__all__ = ["auto_parallelize"]

_LOGGER = logging.getLogger("scaletorch")


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
    objective: str | None = None,
    global_batch: range | None = None,
) -> ParallelModule:
    """Spread a single-device model over a mesh; the loop stays as it is.

    Called on every rank of the mesh with the same arguments. What fails on
    one rank is raised on all.

    Parameters
    ----------
    model : nn.Module
        Any module; it is not changed. Parts that can't be captured run
        whole on every rank, with a warning that says which, why and what
        it costs; ``forbid("opaque")`` makes that an error. Built
        under ``torch.device("meta")`` it is never whole on any rank: each
        module is initialised by its ``reset_parameters`` (or the model's
        ``_init_weights``) under a seed from ``torch.manual_seed``, the
        same on any mesh and plan.
    mesh : DeviceMesh or int
        Named axes fix the factorisation (``dp``, ``tp``, ``cp`` carry
        their usual meaning); a mesh of one unnamed axis, or the number of
        ranks, leaves it to the search.
    example_inputs : tuple or dict of Tensor, optional
        One global batch; meta tensors will do. Left out:
        ``model.example_inputs()`` or a Hugging Face model's
        ``dummy_inputs``.
    loss_fn : callable, optional
        ``loss_fn(output, *targets)``; left out, the model returns a
        scalar or something with ``.loss``, or the loop computes its own.
    cluster : str, Path or ClusterSpec, optional
        Preset name or YAML file; ``"local"``: the profile of this machine
        that ``python -m planner.profile`` has made; ``"profile"``: make it
        now, briefly; None: what the environment's ``SCALETORCH_CLUSTER``
        names, else the profile, which is made now where there is none and a
        plan is searched; where that can't be, the preset nearest to the
        devices we run on. Of a profile that is there some kernels are
        measured again, for a second, and it is scaled where the machine is
        now clearly faster or slower.
    plan : Plan, Recipe, str or Path, optional
        Run exactly this, without a search.
    constraints : optional
        Of ``planner.constraints``: ``pin``, ``forbid``, ``limit``. A plan
        that is passed and breaks one runs as it is, with a warning.
    optimizer : str
        Whose state is budgeted; with ``-master`` that is in float32, with
        float32 copies of parameters of lower precision.
    memory_limit_bytes : int, optional
        Per rank; the device's memory if left out.
    compile : bool
        Run the blocks through ``torch.compile``.
    tune : int
        Run the best `tune` plans for a few steps and keep the quickest.
    verify : bool
        Compare with the single-device model on the example inputs before
        returning.
    objective : {"step-time", "throughput"}, optional
        The quickest step, or the most work per second and device; on a
        given batch both are the same. Left out: the first, or with
        `global_batch` the second.
    global_batch : range, optional
        Search the size of the batch too: the first of the range, its
        doubles and the last. The example inputs are cut or repeated;
        ``plan.prediction["global_batch"]`` says what was chosen.

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
    RuntimeError
        When only another rank failed, with its message.
    TypeError, ValueError
        When the mesh does not fit the job, the inputs do not fit the
        model, or for unknown options.
    """
    devices, flat = device_mesh(mesh)
    agreement = Agreement(devices)
    spec = agreed_cluster(cluster, devices, agreement, measure=plan is None)
    with agreement.together("planning"):
        _check_options(plan, optimizer, memory_limit_bytes, tune)
        _check_objective(objective, global_batch, plan)
        model = unwrap(model)
        inputs = (default_example_inputs(model)
                  if example_inputs is None else split_example(example_inputs))
        given = _Given(model=model,
                       inputs=inputs,
                       loss_fn=loss_fn,
                       cluster=spec,
                       constraints=Constraints(constraints or ()),
                       optimizer=optimizer,
                       memory_limit_bytes=memory_limit_bytes)
        check_model(model)
        planned = _planned(given,
                           plan,
                           spec_of(devices),
                           flat=flat,
                           count=max(tune, 1),
                           global_batch=global_batch)
        if agreement.is_first:
            _tell(planned, plan)
    agreement.check(fingerprint(planned.program, with_shapes=True),
                    what="pass different models or example inputs",
                    remedy="build the same model on every rank")
    finalists = agreement.first(planned.finalists)
    build = _Builder(given=given,
                     planned=planned,
                     devices=devices,
                     agreement=agreement,
                     seed=agreement.first(torch.initial_seed()),
                     compile=compile)
    module = (quickest(build, finalists, planned.call, agreement)
              if tune else build(finalists[0]))
    if verify:
        compare_on_mesh(model, module, planned.call, loss_fn)
    return module


@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """What the user passed, planned for a batch of any size."""

    model: nn.Module
    inputs: tuple[Any, Any]
    loss_fn: Callable[..., Any] | None
    cluster: ClusterSpec
    constraints: Constraints
    optimizer: str
    memory_limit_bytes: int | None

    def call(self, rows: int | None = None) -> Call:
        """The example inputs, with so many rows if they are given."""
        args, kwargs = (self.inputs if rows is None else with_rows(
            self.inputs, rows))
        return bind_inputs(self.model, args, kwargs, self.loss_fn)

    def planning(self, rows: int | None = None) -> Planning:
        # Tracing changes what it traces for a while, and ranks that are
        # threads may share the model.
        with TRACING:
            program = self._captured(self.call(rows))
        return Planning(program,
                        self.cluster,
                        constraints=self.constraints,
                        optimizer=self.optimizer,
                        memory_limit_bytes=self.memory_limit_bytes)

    def _captured(self, call: Call) -> Program:
        opaque = self.constraints.allows_opaque()
        return made_once((call.paths, call.tree, call.targets, opaque,
                          ambient_autocast(), torch.is_grad_enabled()),
                         (self.model, self.loss_fn, *call.leaves),
                         lambda: capture_call(skeleton(self.model),
                                              call,
                                              loss_fn=self.loss_fn,
                                              opaque=opaque))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Planned:
    """The plans to run, best first, and what they are for."""

    planning: Planning
    call: Call
    finalists: list[Chosen]

    @property
    def program(self) -> Program:
        """The model as captured."""
        return self.planning.program


@dataclass(frozen=True, slots=True, kw_only=True)
class _Builder:
    """Makes the module that runs one of the plans."""

    given: _Given
    planned: _Planned
    devices: DeviceMesh
    agreement: Agreement
    seed: int
    compile: bool

    def __call__(self, chosen: Chosen) -> ParallelModule:
        given, planned = self.given, self.planned
        form = chosen.program(planned.program)
        return ParallelModule(given.model,
                              reshaped(self.devices, chosen.plan.device_mesh),
                              planned.call,
                              form,
                              chosen.plan.resolve(form),
                              loss_fn=given.loss_fn,
                              replan=Replan(planned.planning, planned.program,
                                            chosen),
                              plan=chosen.plan,
                              agreement=self.agreement,
                              seed=self.seed,
                              compile=self.compile,
                              opaque=given.constraints.allows_opaque())


def _planned(given: _Given, plan: Plan | Recipe | str | Path | None,
             mesh: MeshSpec, *, flat: bool, count: int,
             global_batch: range | None) -> _Planned:
    """The plan that was passed, or those that the search finds.

    All of them are known to fit the program.
    """
    rows, numbers = None, {}
    if global_batch is None:
        planning = given.planning()
    else:
        sized = best_batch(
            search_batches(global_batch, given.planning,
                           searched_meshes(mesh, flat=flat)))
        planning, rows = sized.planning, sized.rows
        numbers["global_batch"] = rows
    finalists = [
        chosen.noting(**numbers)
        for chosen in choose(planning, plan, mesh, flat=flat, count=count)
    ]
    for chosen in finalists:
        chosen.plan.resolve(chosen.program(planning.program))
    return _Planned(planning=planning,
                    call=given.call(rows),
                    finalists=finalists)


def _tell(planned: _Planned, plan: Any) -> None:
    """What a user should know of the capture and of the plan."""
    for note in (*planned.program.notes, *_idle(planned, plan),
                 *_broken(planned)):
        _LOGGER.warning("%s: %s", planned.program.model_name, note)


def _idle(planned: _Planned, plan: Any) -> Iterator[str]:
    """Axes that a recipe can't use."""
    if isinstance(plan, Recipe):
        chosen = planned.finalists[0]
        form = chosen.program(planned.program)
        yield from undivided(plan, form, chosen.plan.resolve(form))


def _broken(planned: _Planned) -> Iterator[str]:
    """Constraints that a plan breaks which was given."""
    chosen = planned.finalists[0]
    for broken in broken_constraints(planned.planning.constraints,
                                     mesh=chosen.plan.mesh,
                                     layout=chosen.plan.resolve(
                                         chosen.program(planned.program)),
                                     uses=chosen.plan.axes):
        yield f"the plan that was given breaks {broken}; it runs as it is"


def _check_options(plan: Any, optimizer: str, memory_limit_bytes: int | None,
                   tune: int) -> None:
    optimizer_bytes(optimizer, ())
    if memory_limit_bytes is not None and memory_limit_bytes <= 0:
        raise ValueError("memory_limit_bytes must be positive, got "
                         f"{memory_limit_bytes}")
    if tune < 0:
        raise ValueError(f"tune must not be negative, got {tune}")
    if tune and plan is not None:
        raise ValueError("tune chooses among plans, but plan= fixes one: "
                         "leave one of them out")


def _check_objective(objective: str | None, global_batch: range | None,
                     plan: Any) -> None:
    if objective not in (None, *OBJECTIVES):
        raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, "
                         f"got {objective!r}")
    if objective == "devices":
        raise ValueError(
            "objective=\"devices\" is for planning ahead: a job runs on the "
            "ranks it has. Ask python -m planner.explain --fit, or "
            "planner.fit.fewest_devices, and start as many ranks")
    if global_batch is None:
        return
    if objective == "step-time":
        raise ValueError("with global_batch= the objective is throughput: a "
                         "smaller batch always takes a shorter step")
    if plan is not None:
        raise ValueError("global_batch= searches, but plan= fixes what runs: "
                         "leave one of them out")
