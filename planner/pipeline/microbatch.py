"""Micro-batches as one more axis of the layouts: data parallelism in time.

What a mesh axis does in space, a sequence of micro-batches does in time:
each computes with its part of the batch and with whole parameters, losses
are summed, and so are gradients. So the same options, layouts and search
say how a batch may be cut, and a program in which some value would have to
move between micro-batches is found out before anything runs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import fx

from planner.ir.convert import gradient_move, move
from planner.ir.errors import LayoutError
from planner.ir.layout import Layout, Placement, R, V
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Program, source_of, value_kind
from planner.ir.reached import reached_from
from planner.ir.values import (Value, calls_of, operands_of, outputs_of,
                               value_of)
from planner.pipeline.axes import extended, with_axis
from planner.pipeline.culprit import first_undivided
from planner.rules.registry import Option
from planner.search.facts import Facts
from planner.search.layouts import replicated_layout
from planner.search.policy import Policy
from planner.search.problem import AxisProblem, solve_axis

if TYPE_CHECKING:
    from planner.planning import Planning

__all__ = [
    "BY_POSITION", "Crossing", "OF_BATCH", "WITHOUT_COLLECTIVES", "crossings",
    "moves", "with_microbatches"
]

WITHOUT_COLLECTIVES = frozenset(
    {"conv_row_bias", "linear_row_bias", "mean_partial"})
"""Lowerings that compute with a shard alone."""

BY_POSITION = frozenset({"arange_shard"})
"""Lowerings that look at where in the whole their shard lies."""

OF_BATCH = frozenset({"sync_batch_norm"})
"""Lowerings that sum over the batch what parameters have a part in."""

_LOCAL = ("none", "mask")


def _policy(*, exact: bool) -> Policy:
    lowerings = WITHOUT_COLLECTIVES | BY_POSITION
    return Policy(
        name="microbatch",
        input_dim=0,
        rest="whole",
        use_shards=False,
        value_moves=frozenset() if exact else frozenset({"all_reduce"}),
        divide=True,
        sequential=True,
        lowerings=lowerings if exact else lowerings | OF_BATCH)


def with_microbatches(planning: Planning,
                      mesh: MeshSpec,
                      policies: Sequence[Policy],
                      count: int,
                      fixed_rest: Mapping[str, Layout] | None = None,
                      *,
                      exact: bool = True,
                      settle: bool = True,
                      cut: bool = True,
                      alone: Mapping[str, ProgramLayout] | None = None,
                      first: Sequence[str] = (),
                      settled: bool = False,
                      tolerance: float = 0.0,
                      whole: MeshSpec | None = None) -> ProgramLayout:
    """Layouts over the axes of a stage and, last, over the micro-batches.

    The micro-batches are cut first; then the axes of the stage are laid
    out for what is left of the batch.

    Parameters
    ----------
    planning : Planning
        Of a program whose means count ahead (`planner.pipeline.means`).
    mesh : MeshSpec
        Of a stage.
    policies : sequence of Policy
        One for each axis of the stage.
    count : int
        Micro-batches.
    fixed_rest : mapping of str to Layout, optional
        Layouts at rest that must be kept, over the axes of the stage.
    exact : bool
        Whether no micro-batch may stand for the whole batch.
    settle : bool
        Whether the cut of the batch is looked at again once the axes of
        the stage are laid out.
    cut : bool
        Whether the batch is cut at all. A single micro-batch is whole else,
        whatever the program does with its samples.
    alone : mapping of str to ProgramLayout, optional
        By the name of an axis, layouts to start from that have it.
    first : sequence of str
        Axes that are laid out beside these before all others.
    settled : bool
        Whether these stay as they are.
    tolerance, whole
        As for `planner.planning.Planning.search`.

    Raises
    ------
    InfeasiblePlan
        When these are not legal together.
    LayoutError
        When the batch does not divide or can't be cut.
    """
    facts, policy = planning.facts, _policy(exact=exact)
    start = _whole_micro_batches(planning, mesh, count, exact=exact, cut=cut)
    if cut and not settle:
        _check_divided(facts, start, policy, count)
    for name, layout in (alone or {}).items():
        start = with_axis(start, start.mesh.names.index(name), layout)
    rest = {
        n: (*lay, R)
        for n, lay in (fixed_rest or {}).items() if value_kind(n) == "param"
    }
    every = tuple(range(len(mesh.sizes) * (not settled)))
    ahead = tuple(mesh.names.index(n) for n in first)
    for axes in (*([ahead] if ahead else ()), None if settle else every):
        start = planning.search(start.mesh, (*policies, policy),
                                start=start,
                                axes=axes,
                                tolerance=tolerance,
                                whole=whole,
                                fixed_rest=rest).layout
    solved = start
    if cut:
        _check_batch(facts.program, solved, count)
        _check_divided(facts, solved, policy, count)
    return _varying(facts, solved)


def _whole_micro_batches(planning: Planning, mesh: MeshSpec, count: int, *,
                         exact: bool, cut: bool) -> ProgramLayout:
    """Layouts in which each rank of a stage computes all of its
    micro-batches."""
    facts = planning.facts
    whole = MeshSpec((*mesh.names, MICROBATCH), (*mesh.sizes, count))
    batch = (_batch_cut(planning, count, exact=exact) if cut else
             replicated_layout(facts, MeshSpec((MICROBATCH, ), (count, ))))
    return extended(facts, whole, batch)


def _batch_cut(planning: Planning, count: int, *,
               exact: bool) -> ProgramLayout:
    """Layouts over the micro-batches alone, found once for all meshes.

    What divides into single rows divides into more of them, so that one cut
    does for all numbers of micro-batches.
    """
    known, facts = planning.batch_cuts, planning.facts
    if (count, exact) not in known:
        again = bool(known) and facts.batch_rows % count == 0
        most = facts.batch_rows if again else count
        if (most, exact) not in known:
            known[most, exact] = _solved_cut(planning, most, exact=exact)
        cut = known[most, exact]
        try:
            _check_divided(facts, cut, _policy(exact=exact), most)
        except LayoutError:
            cut = _solved_cut(planning, count, exact=exact)
        known[count, exact] = dataclasses.replace(cut,
                                                  mesh=MeshSpec((MICROBATCH, ),
                                                                (count, )))
    return known[count, exact]


def _solved_cut(planning: Planning, count: int, *,
                exact: bool) -> ProgramLayout:
    mesh = MeshSpec((MICROBATCH, ), (count, ))
    alone = AxisProblem(facts=planning.facts,
                        layout=replicated_layout(planning.facts, mesh),
                        axis=0,
                        policy=_policy(exact=exact),
                        tables=planning.tables(mesh),
                        device=planning.cluster.weakest())
    return solve_axis(alone)[0]


def _check_batch(program: Program, layout: ProgramLayout, count: int) -> None:
    inputs = {n: s for n, s in program.specs.items() if n.startswith("input:")}
    if any(layout.at_rest[n][-1].is_shard for n in inputs) or not inputs:
        return
    shapes = ", ".join(
        f"{program.leaves[int(n.partition(':')[2])].path} {tuple(s.shape)}"
        for n, s in inputs.items())
    inner = MeshSpec(layout.mesh.names[:-1], layout.mesh.sizes[:-1])
    raise LayoutError(
        f"the batch can't be cut into {count} micro-batches on {inner}: no "
        f"input's first dim divides ({shapes}); pass a batch that is a "
        f"multiple, or another number of micro-batches")


def _check_divided(facts: Facts, layout: ProgramLayout, policy: Policy,
                   count: int) -> None:
    """Products of activations are divided, or nothing is gained."""
    of_batch = facts.of_inputs
    for name, cls in facts.classes.items():
        for label, call in cls.calls.items():
            option = layout.classes[name].calls[label].options[-1]
            if not call.work.forward_flops or option.is_sharded:
                continue
            if not of_batch.isdisjoint((name, v.label) for v in call.operands):
                raise _undivided(facts, call.node, policy, count)


def _undivided(facts: Facts, node: fx.Node, policy: Policy,
               count: int) -> LayoutError:
    """What to say of a product that is computed for the whole batch."""
    of_parameters, _ = reached_from(facts.program, "param")
    found = first_undivided(facts, count, policy.lowerings or (),
                            lambda name, v: (name, v.label) in of_parameters)
    node = found or node
    where = f"{node.meta['label']} at {source_of(node)}"
    if node.target is torch.ops.scaletorch.opaque.default:
        return LayoutError(
            f"{where} runs as it is written, on the whole batch, so that the "
            "step can't be cut into micro-batches: the program's notes say "
            "why it can't be captured; mend that, or run this model without "
            "a pipeline")
    if node.target.namespace != "aten" and not any(
            o.is_sharded for o in _options(facts, node, count)):
        return LayoutError(
            f"{where} is an operator ({node.target}) of which nothing is "
            "known, so that it runs on the whole batch and the step can't be "
            "cut into micro-batches; say how it may be divided by a rule "
            "(planner.rules.registry.register, for a torch.library."
            "custom_op), or run this model without a pipeline")
    return LayoutError(
        f"{where} can't be computed for a "
        "part of the batch, so that the step can't be cut into "
        "micro-batches; run this model without a pipeline, let the batch be "
        "the first dim throughout and the loss a sum or mean of the samples' "
        "own, or, where batch norm or the like is the reason, let each "
        "micro-batch stand for the batch: "
        'pipeline(batch_statistics="microbatch")')


def _options(facts: Facts, node: fx.Node, count: int) -> Iterable[Option]:
    """What a call can do over micro-batches."""
    return next(
        call.options(count).options for cls in facts.classes.values()
        for call in cls.calls.values() if call.node is node)


def _varying(facts: Facts, layout: ProgramLayout) -> ProgramLayout:
    """Parameters in use have a gradient of each micro-batch, to be summed.
    """
    classes = {}
    for name, cls in layout.classes.items():
        summed = {
            label: (*cls.hubs[label][:-1], V)
            for label in facts.trained_in[name]
        }
        classes[name] = dataclasses.replace(cls, hubs={**cls.hubs, **summed})
    return dataclasses.replace(layout, classes=classes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossing:
    """A value that is wanted otherwise than its micro-batch has it.

    Parameters
    ----------
    block_class : str
        Whose calls want it.
    value : Value
        In that class.
    target : Placement
        Over the micro-batches.
    reader : tuple of (Node, int) or None
        The call and its operand; None: the class' own placeholder, which
        is wanted as its hub says.
    """

    block_class: str
    value: Value
    target: Placement
    reader: tuple[fx.Node, int] | None


def crossings(program: Program,
              layout: ProgramLayout,
              *,
              exact: bool = True) -> Iterator[Crossing]:
    """What would move between micro-batches inside of blocks.

    Where that need not be `exact`, a sum over the batch that parameters
    have a part in stays: each micro-batch stands for the whole.

    Raises
    ------
    LayoutError
        When such a value has a gradient: the program can't be cut.
    """
    of_parameters = set() if exact else reached_from(program, "param")[0]
    for name, cls in program.classes.items():
        chosen = layout.classes[name]
        held = {
            value.label:
            chosen.hubs.get(value.label)
            or chosen.calls[node.meta["label"]].output(number)
            for node in calls_of(cls.graph)
            for number, value in enumerate(outputs_of(node))
        } | {
            Value(n).label: chosen.hubs[Value(n).label]
            for n in cls.placeholders
        }
        for node in calls_of(cls.graph):
            call = chosen.calls[node.meta["label"]]
            for number, value in enumerate(outputs_of(node)):
                check_stays(value,
                            call.output(number)[-1],
                            held[value.label][-1],
                            exact=exact)
            for number, value in enumerate(operands_of(node)):
                target = call.input(number)[-1]
                late = not exact and (name, value.label) in of_parameters
                if moves(value, held[value.label][-1], target, exact=not late):
                    yield Crossing(block_class=name,
                                   value=value,
                                   target=target,
                                   reader=(node, number))


def moves(value: Value,
          source: Placement,
          target: Placement,
          *,
          exact: bool = True) -> bool:
    """Whether a value of no gradient moves; one with gradient must not."""
    if value.spec.requires_grad:
        check_stays(value, source, target, exact=exact)
        return False
    how = move(source, target)
    if not exact and how is not None and how.kind == "all_reduce":
        return False
    is_number = value.spec.dtype.is_floating_point
    return how is None or how.kind not in (_LOCAL if is_number else ("none", ))


def check_stays(value: Value,
                source: Placement,
                target: Placement,
                *,
                exact: bool = True) -> None:
    """Raise LayoutError where a value or its gradient would move."""
    if source == target:
        return
    forward = move(source, target)
    kinds = [forward]
    if value.spec.requires_grad:
        kinds.append(gradient_move(source, target))
    allowed = _LOCAL if exact else (*_LOCAL, "all_reduce")
    if any(k is None or k.kind not in allowed for k in kinds):
        if value.bound_kind == "param" and target.is_replicated:
            return
        node = value_of(value.node).node
        raise LayoutError(
            f"{node.meta['label']} at {source_of(node)} depends on the whole "
            f"batch ({source} to {target} over the micro-batches), so that "
            "the step can't be cut into micro-batches and stay what it is; "
            "run this model without a pipeline, replace what mixes the "
            "samples of a batch (batch norm, losses that compare samples), or "
            "let each micro-batch stand for the batch: "
            'pipeline(batch_statistics="microbatch")')
