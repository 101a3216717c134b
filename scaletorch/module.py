"""The parallel module: a drop-in for the single-device one."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any, NoReturn

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from planner.capture.capture import capture_call
from planner.capture.entry import Call, bind_inputs
from planner.ir.layouts import ProgramLayout
from planner.ir.pipeline import PipelineSpec
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.pipeline.cuts import cuts_by_parameters
from planner.pipeline.fewer import with_fewer
from planner.pipeline.means import count_ahead
from planner.pipeline.refine import has_cuts
from planner.steady import STEADY
from scaletorch.adopted import AdoptedModule
from scaletorch.assigned import AssignedData
from scaletorch.mesh import mesh_device, mesh_rank
from scaletorch.rewritten import refuse_in_stages, rewrite
from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.call import run_call
from scaletorch.runtime.compiled import TRACING, Compiled, compiled
from scaletorch.runtime.guard import digest
from scaletorch.runtime.pipeline.call import run_pipeline_call
from scaletorch.runtime.pipeline.compiled import pipeline_program
from scaletorch.runtime.pipeline.program import PipelineProgram
from scaletorch.sharding import shard_state, take_whole
from scaletorch.signature import call_signature, state_signature, whole_call
from scaletorch.stages import (join_stages, names_elsewhere, rest_layouts,
                               stage_mesh)
from scaletorch.structure import Absent, on_meta, skeleton, with_own_tensors
from scaletorch.whole_values import ask_whole

__all__ = ["ParallelModule"]

Planner = Callable[..., ProgramLayout]


class ParallelModule(AdoptedModule):
    """A model spread over a mesh; made by ``scaletorch.auto_parallelize``.

    Parameters are DTensors under the original names, in modules of the
    original classes. ``forward`` takes the global batch on every rank and
    returns on every rank what the single-device model returns. A call whose
    shapes, dtypes, train/eval modes, autocast, frozen parameters or module
    attributes were not seen before is captured and lowered once more with the same layouts at
    rest; it takes seconds, once.

    Attributes
    ----------
    plan : Plan
        The plan that runs.
    """

    plan: Plan

    def __init__(self,
                 model: nn.Module,
                 mesh: DeviceMesh,
                 call: Call,
                 program: Program,
                 layout: ProgramLayout,
                 *,
                 loss_fn: Callable[..., Any] | None,
                 replan: Planner,
                 plan: Plan | None = None,
                 agreement: Agreement | None = None,
                 seed: int = 0,
                 compile: bool = False,
                 opaque: bool = True) -> None:
        super().__init__()
        self._mesh = mesh
        # A loss that is a module is none of the model's modules.
        object.__setattr__(self, "_loss_fn", loss_fn)
        self._replan = replan
        self._compile = compile
        self._opaque = opaque
        self._steady = False
        self._agreement = agreement or Agreement(mesh)
        self.plan = plan or Plan.of(program, layout,
                                    dict.fromkeys(layout.mesh.names, "given"))
        with self._agreement.together("lowering the plan"), TRACING:
            self._first = self._lowered(program, layout, "global", "global")
        structure = skeleton(model)
        elsewhere = names_elsewhere(self._first, structure)
        state_mesh = stage_mesh(mesh, self.plan.pipeline)
        ask_whole(state_mesh)
        shard_state(structure,
                    model,
                    state_mesh,
                    rest_layouts(self._first),
                    seed=seed,
                    elsewhere=elsewhere)
        self._hold(structure, elsewhere)
        self._fixed = set(program.fixed)
        shared, self._own = self._signature(call)
        self._compiled: dict[Hashable, Compiled | PipelineProgram] = {
            ("global", "global", *shared, *self._own): self._first
        }
        self._compared: set[Hashable] = set()

    def _lowered(self, program: Program, layout: ProgramLayout, inputs: str,
                 outputs: str) -> Compiled | PipelineProgram:
        if self.plan.pipeline is None:
            return compiled(program,
                            layout,
                            self._mesh,
                            compile=self._compile,
                            inputs=inputs,
                            outputs=outputs)
        refuse_in_stages(program)
        if outputs == "sharded":
            raise ValueError(
                'outputs="sharded" is not for pipelines: ask for "global" or '
                '"loss"')
        return pipeline_program(program,
                                layout,
                                self._pipeline(program, layout),
                                self._mesh,
                                compile=self._compile,
                                local_inputs=inputs == "local")

    def _pipeline(self, program: Program,
                  layout: ProgramLayout) -> PipelineSpec:
        """The plan's pipeline, for as many micro-batches as the layout has;
        in a program of other blocks (as under autocast) stages follow their
        parameters."""
        pipeline, first = self.plan.pipeline, self.__dict__.get("_first")
        assert pipeline is not None
        pipeline = with_fewer(pipeline, self.plan.mesh.size(pipeline.axis),
                              layout.mesh.sizes[-1])
        if not isinstance(first, PipelineProgram) or has_cuts(
                program, pipeline.cuts):
            return pipeline
        return dataclasses.replace(pipeline,
                                   cuts=cuts_by_parameters(
                                       program, first.stage_params))

    def _hold(self, structure: nn.Module, elsewhere: Collection[str]) -> None:
        """The structure's modules and tensors, but for those elsewhere."""
        self._absent = Absent(structure, elsewhere)
        self._adopt(structure)
        self._assigned = AssignedData()
        self._assigned.check(self._places)
        if isinstance(self._first, PipelineProgram):
            join_stages(self._first, [
                table[key] for table, key in map(self._places.__getitem__,
                                                 self._first.state)
            ])
        self.register_load_state_dict_pre_hook(take_whole)

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise TypeError(
            "a ParallelModule holds process groups and can't be pickled: save "
            "its state_dict() (with torch.distributed.checkpoint); for a "
            "second module, copy.deepcopy it or call auto_parallelize once "
            "more")

    def __deepcopy__(self, memo: dict[int, Any]) -> ParallelModule:
        """Parameters and buffers of its own, the same mesh and plan."""
        with self._absent.restored():
            structure = with_own_tensors(self._structure)
        made = type(self).__new__(type(self))
        nn.Module.__init__(made)
        for name in ("_mesh", "_loss_fn", "_replan", "_compile", "_opaque",
                     "_steady", "_agreement", "_first", "_own", "plan"):
            object.__setattr__(made, name, getattr(self, name))
        made._fixed, made._compared = set(self._fixed), set()
        made._compiled = dict(self._compiled)
        made._hold(structure, self._absent.names)
        memo[id(self)] = made
        return made

    @property
    def mesh(self) -> DeviceMesh:
        """The device mesh that the module runs on."""
        return self._mesh

    @property
    def device(self) -> torch.device:
        """The device this rank computes on."""
        return mesh_device(self._mesh)

    @property
    def agreement(self) -> Agreement:
        """How the ranks of the mesh agree with each other."""
        return self._agreement

    @property
    def elsewhere(self) -> frozenset[str]:
        """Names of parameters and buffers that only other stages hold."""
        return self._absent.names

    @property
    def program(self) -> Program:
        """The captured program of the example inputs."""
        return self._first.program

    @property
    def layout(self) -> ProgramLayout:
        """The layouts of the example inputs' program."""
        return self._first.layout

    def forward(self,
                *args: Any,
                inputs: Any = "global",
                outputs: Any = None,
                **kwargs: Any) -> Any:
        """Run the model on a batch.

        Parameters
        ----------
        *args, **kwargs
            What the single-device model takes (then the loss function's
            targets). Arguments of its own that are called `inputs` or
            `outputs` are told from the options by being no strings.
        inputs : {"global", "local"}
            Whether each rank passes the whole batch, or only its shard of
            it as the plan lays the inputs out.
        outputs : {"global", "sharded", "loss"}, optional
            Whether outputs beside the loss (logits, ...) are gathered, so
            that every rank returns what the single-device model returns,
            or stay as they are computed, as DTensors of the global shape:
            nothing is sent for what the loop does not look at. ``loss``
            is for pipelines: every rank gets the loss, and other outputs
            can't be used. Left out: ``global``, but ``loss`` where a
            pipeline trains.

        Raises
        ------
        TypeError
            When the arguments do not fit the model.
        ValueError
            When ranks pass inputs of different shapes or are in different
            modes, or for an unknown `inputs` or `outputs`.
        """
        if not isinstance(inputs, str):
            kwargs["inputs"], inputs = inputs, "global"
        if outputs is not None and not isinstance(outputs, str):
            kwargs["outputs"], outputs = outputs, None
        if outputs is None:
            outputs = "global" if self.plan.pipeline is None else "loss"
        given, call, signature, own = self._described(args, kwargs, inputs,
                                                      outputs)
        shared, signature = signature, (*signature, *own)
        known = self._compiled.get(signature)
        # Ranks of a pipeline hold different parameters.
        agreed = signature if self.plan.pipeline is None else shared
        agreement = self._agreement.start((*agreed, torch.is_grad_enabled()),
                                          draws=known is not None
                                          and known.draws)
        is_compared = inputs == "local" or signature in self._compared
        # A call like earlier ones waits only before its first collective.
        waits = not (isinstance(known, Compiled) and is_compared
                     and not known.draws and not known.program.written)
        seed = agreement.settle() if waits else 0
        if known is None:
            known = self._capture(call, inputs, outputs)
            # Its shapes may follow from the values of more inputs.
            *_, signature, own = self._described(args, kwargs, inputs, outputs)
            signature = (*signature, *own)
            self._compiled[signature] = known
            if known.draws:
                seed = self._agreement.check("seed", draws=True)
        if inputs == "global" and signature not in self._compared:
            self._compare_values(call)
            self._compared.add(signature)
        device = self.device
        rewrite(known.program, self._places)
        state = [
            table[key]
            for table, key in map(self._places.__getitem__, known.state)
        ]
        tensors = [t.to(device, non_blocking=True) for t in given.tensors]
        if self._steady:
            seed = STEADY
        if isinstance(known, PipelineProgram):
            return run_pipeline_call(known,
                                     state,
                                     tensors,
                                     seed,
                                     outputs=outputs)
        return run_call(known, state, tensors, seed, agreement.settle)

    @contextlib.contextmanager
    def steady_draws(self) -> Iterator[None]:
        """Calls inside draw the same numbers on any mesh.

        Dropout keeps everything; `planner.steady` tells of the rest.
        """
        self._steady = True
        try:
            yield
        finally:
            self._steady = False

    def _compare_values(self, call: Call) -> None:
        """Refuse batches that differ between ranks, once per signature.

        Each rank would compute its shard of another batch.
        """
        self._agreement.check(
            ("values", digest(call.tensors)),
            what="pass batches of different values",
            remedy="every rank passes the same global batch (seed samplers "
            'alike); to pass each rank its own shard, use inputs="local"')

    def _described(
            self, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: str,
            outputs: str
    ) -> tuple[Call, Call, tuple[Any, ...], tuple[Any, ...]]:
        """The call as given, that of the whole batch, and its signature:
        what all ranks share, and what is of this one.

        What fails on this rank is told to the others, which else would
        wait for it.
        """
        try:
            if inputs not in ("global", "local"):
                raise ValueError('inputs must be "global" or "local", got '
                                 f"{inputs!r}")
            self._check_outputs(outputs)
            self._assigned.check(self._places)
            given = bind_inputs(self._structure, args, kwargs, self._loss_fn)
            # Micro-batches, a pipeline's last axis, are cut from the shard.
            axes = len(self.layout.mesh.sizes) - (self.plan.pipeline
                                                  is not None)
            call = whole_call(
                given,
                self.layout,
                axes,
                rank=mesh_rank(self._mesh),
            ) if inputs == "local" else given
            shared, own = self._signature(call)
            if self.plan.pipeline is not None:
                # One program serves both, and "loss" may turn to "global".
                outputs = "global"
                self._check_own(own)
            return given, call, (inputs, outputs, *shared), own
        except Exception as error:
            try:
                self._agreement.check(f"{type(error).__name__}: {error}")
            except ValueError:
                pass
            raise

    def _check_outputs(self, outputs: str) -> None:
        known = (("global", "sharded") if self.plan.pipeline is None else
                 ("global", "loss"))
        if outputs not in known:
            raise ValueError(
                f"outputs must be {' or '.join(map(json.dumps, known))}"
                f"{' in a pipeline' if self.plan.pipeline else ''}, got "
                f"{outputs!r}")
        if outputs == "sharded" and self.layout.shares:
            raise ValueError(
                'outputs="sharded" is not for plans with unequal shares of '
                "the batch, whose shards no DTensor describes: ask for "
                '"global", or use equal shares')

    def _check_own(self, own: tuple[Any, ...]) -> None:
        if own != self._own:
            raise ValueError(
                "parameters of a pipeline were frozen, thawed or cast after "
                "auto_parallelize, which other stages can't see: do so "
                "before, and call it again")

    def _signature(self,
                   call: Call) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Whatever the captured program depends on, and of it the part
        that is of this rank's state."""
        shared = call_signature(call, [m.training for m in self._parts],
                                self._settings.number(),
                                fixed=sorted(self._fixed))
        return shared, state_signature(table[key]
                                       for table, key in self._places.values())

    def _capture(self, call: Call, inputs: str,
                 outputs: str) -> Compiled | PipelineProgram:
        if self._settings.number() and self._agreement.is_first:
            warnings.warn(
                "attributes of the model's modules have changed, so that it "
                "is captured again, which takes seconds for each new value; "
                "make what changes often a buffer or an input",
                stacklevel=3)
        # What is made here must serve training too.
        with self._agreement.together(
                "capturing the model for new inputs"), TRACING, \
                torch.inference_mode(False):
            with self._absent.restored(), on_meta(self._structure) as model:
                program = capture_call(model,
                                       call,
                                       loss_fn=self._loss_fn,
                                       opaque=self._opaque)
            self._fixed |= set(program.fixed)
            if self.plan.pipeline is not None:
                program = count_ahead(program)
            layout = self._replan(program, keep_inputs=inputs == "local")
            return self._lowered(program, layout, inputs, outputs)
