"""The parallel module: a drop-in for the single-device one."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Hashable, Iterator
from typing import Any, NoReturn

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh

from planner.capture.capture import capture_call
from planner.capture.entry import Call, bind_inputs
from planner.ir.layouts import ProgramLayout
from planner.ir.plan import Plan
from planner.ir.program import Program
from planner.pipeline.means import count_ahead
from planner.steady import STEADY
from scaletorch.adopted import AdoptedModule
from scaletorch.assigned import AssignedData
from scaletorch.described import Described, Options
from scaletorch.lowering import Lowered, Lowering
from scaletorch.mesh import mesh_device, mesh_rank
from scaletorch.rewritten import rewrite
from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.call import run_call
from scaletorch.runtime.compiled import TRACING, Compiled
from scaletorch.runtime.guard import digest
from scaletorch.runtime.pipeline.call import run_pipeline_call
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
        # A loss that is a module is none of the model's modules.
        object.__setattr__(self, "_loss_fn", loss_fn)
        self._replan = replan
        self._opaque = opaque
        self._steady = False
        self._agreement = agreement or Agreement(mesh)
        self.plan = plan or Plan.of(program, layout,
                                    dict.fromkeys(layout.mesh.names, "given"))
        self._lowering = Lowering(plan=self.plan, mesh=mesh, compile=compile)
        with self._agreement.together("lowering the plan"), TRACING:
            self._first = self._lowering.lowered(program, layout)
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
        self._compiled: dict[Hashable, Lowered] = {
            ("global", "global", *shared, *self._own): self._first
        }
        self._compared: set[Hashable] = set()

    def _hold(self, structure: nn.Module, elsewhere: Collection[str]) -> None:
        """The structure's modules and tensors, but for those elsewhere."""
        self._absent = Absent(structure, elsewhere)
        self._adopt(structure)
        self._assigned = AssignedData()
        self._assigned.check(self._places)
        if isinstance(self._first, PipelineProgram):
            join_stages(self._first, self._tensors(self._first.state))
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
        for name in ("_lowering", "_loss_fn", "_replan", "_opaque", "_steady",
                     "_agreement", "_first", "_own", "plan"):
            object.__setattr__(made, name, getattr(self, name))
        made._fixed, made._compared = set(self._fixed), set()
        made._compiled = dict(self._compiled)
        made._hold(structure, self._absent.names)
        memo[id(self)] = made
        return made

    @property
    def mesh(self) -> DeviceMesh:
        """The device mesh that the module runs on."""
        return self._lowering.mesh

    @property
    def device(self) -> torch.device:
        """The device this rank computes on."""
        return mesh_device(self.mesh)

    @property
    def agreement(self) -> Agreement:
        """How the ranks of the mesh agree with each other."""
        return self._agreement

    @property
    def elsewhere(self) -> frozenset[str]:
        """Names of parameters and buffers that only other stages hold."""
        return self._absent.names

    @property
    def _is_staged(self) -> bool:
        return self.plan.pipeline is not None

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
        options = Options.of(inputs, outputs, kwargs, staged=self._is_staged)
        call = self._described(args, kwargs, options)
        known = self._compiled.get(call.signature)
        # Ranks of a pipeline hold different parameters.
        agreed = call.shared if self._is_staged else call.signature
        agreement = self._agreement.start((*agreed, torch.is_grad_enabled()),
                                          draws=known is not None
                                          and known.draws)
        is_compared = options.are_local or call.signature in self._compared
        # A call like earlier ones waits only before its first collective.
        waits = not (isinstance(known, Compiled) and is_compared
                     and not known.draws and not known.program.written)
        seed = agreement.settle() if waits else 0
        if known is None:
            known = self._capture(call.whole, options)
            # Its shapes may follow from the values of more inputs.
            call = self._described(args, kwargs, options)
            self._compiled[call.signature] = known
            if known.draws:
                seed = self._agreement.check("seed", draws=True)
        if not options.are_local and call.signature not in self._compared:
            self._compare_values(call.whole)
            self._compared.add(call.signature)
        return self._run(known, call.given, options,
                         STEADY if self._steady else seed, agreement.settle)

    def _run(self, known: Lowered, call: Call, options: Options, seed: int,
             settle: Callable[[], int]) -> Any:
        """Run a program on what this rank passes."""
        device = self.device
        rewrite(known.program, self._places)
        state = self._tensors(known.state)
        tensors = [t.to(device, non_blocking=True) for t in call.tensors]
        if isinstance(known, PipelineProgram):
            return run_pipeline_call(known,
                                     state,
                                     tensors,
                                     seed,
                                     outputs=options.outputs)
        return run_call(known, state, tensors, seed, settle)

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

    def _described(self, args: tuple[Any, ...], kwargs: dict[str, Any],
                   options: Options) -> Described:
        """The call as given, that of the whole batch, and its signature.

        What fails on this rank is told to the others, which else would
        wait for it.
        """
        try:
            options.check(self.layout, staged=self._is_staged)
            self._assigned.check(self._places)
            given = bind_inputs(self._structure, args, kwargs, self._loss_fn)
            whole = self._whole(given) if options.are_local else given
            shared, own = self._signature(whole)
            outputs = options.outputs
            if self._is_staged:
                # One program serves both, and "loss" may turn to "global".
                outputs = "global"
                self._check_own(own)
            return Described(given=given,
                             whole=whole,
                             shared=(options.inputs, outputs, *shared),
                             own=own)
        except Exception as error:
            try:
                self._agreement.check(f"{type(error).__name__}: {error}")
            except ValueError:
                pass
            raise

    def _whole(self, given: Call) -> Call:
        """A call of which this rank passes its shard."""
        # Micro-batches, a pipeline's last axis, are cut from the shard.
        axes = len(self.layout.mesh.sizes) - self._is_staged
        return whole_call(given, self.layout, axes, rank=mesh_rank(self.mesh))

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

    def _capture(self, call: Call, options: Options) -> Lowered:
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
            if self._is_staged:
                program = count_ahead(program)
            layout = self._replan(program, keep_inputs=options.are_local)
            return self._lowering.lowered(program,
                                          layout,
                                          inputs=options.inputs,
                                          outputs=options.outputs,
                                          first=self._first)
