"""What a plan must be for unequal shares of the batch over an axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from planner.ir.convert import Move, conversion_steps
from planner.ir.invariants import Invariant, check
from planner.ir.layout import Layout, format_layout, local_shape
from planner.ir.layouts import ProgramLayout
from planner.ir.program import Program, value_kind
from planner.ir.shares import rank_shares
from planner.ir.values import call_of
from planner.ir.verify import Planned, edges, hub_of, place_of, values_of
from planner.rules.registry import TensorSpec

__all__ = ["INVARIANTS", "divided_values", "verify_shares"]

_LOWERINGS = (None, "arange_shard", "cross_entropy_partial",
              "cross_entropy_vocab", "mean_partial", "sync_batch_norm")
"""Those that weigh what a rank has by its share."""

_MOVES = ("none", "all_gather", "all_reduce", "mask", "pad", "reduce_scatter",
          "slice")


def verify_shares(program: Program, layout: ProgramLayout) -> None:
    """Check layouts with unequal shares; nothing where all are equal.

    Raises
    ------
    LayoutError
        Naming the invariant, the place and what to try.
    """
    if any(rank_shares(layout.shares, layout.mesh)):
        check(INVARIANTS, Planned(program=program, layout=layout))


def _axes(planned: Planned) -> list[int]:
    """The axes of unequal shares."""
    mesh = planned.layout.mesh
    return [
        i for i, parts in enumerate(rank_shares(planned.layout.shares, mesh))
        if parts
    ]


def _cut_parameters(planned: Planned) -> Iterator[str]:
    for block in planned.program.blocks:
        cls = planned.program.class_of(block)
        hubs = planned.layout.classes[cls.name].hubs
        for node, name in zip(cls.placeholders, block.operands, strict=True):
            hub = hubs[node.meta["label"]]
            if value_kind(name) == "param" and any(hub[a].is_shard
                                                   for a in _axes(planned)):
                yield f"{name} is used as {format_layout(hub)}"


def _even_lowerings(planned: Planned) -> Iterator[str]:
    for node, chosen in planned.calls():
        for axis in _axes(planned):
            option = chosen.options[axis]
            if option.lowering not in _LOWERINGS:
                yield f"{place_of(node)} runs {option}"


def _even_moves(planned: Planned) -> Iterator[str]:
    axes = _axes(planned)
    for what, spec, source, target in edges(planned):
        steps = conversion_steps(
            source, target, differentiable=spec.requires_grad) or ()
        for step in steps:
            moves = [step.forward]
            if spec.requires_grad:
                moves.append(step.backward)
            if step.axis in axes and not all(map(_is_known, moves)):
                yield (f"{what} from {format_layout(source)} to "
                       f"{format_layout(target)}")


def _is_known(move: Move) -> bool:
    return (move.kind in _MOVES
            and not (move.source_parts or move.target_parts))


def _broken_shapes(planned: Planned) -> Iterator[str]:
    every = _every_divisors(planned)
    for what, spec, layout in divided_values(planned, _axes(planned)):
        if not all(_divides(spec, layout, divisors) for divisors in every):
            shares = ", ".join(f"{n}: {':'.join(map(str, s))}"
                               for n, s in planned.layout.shares.items())
            yield (f"{what} of shape {spec.shape} as {format_layout(layout)} "
                   f"does not divide in shares of {shares}")


def _every_divisors(planned: Planned) -> list[tuple[int | Fraction, ...]]:
    ranks = range(planned.layout.mesh.world_size)
    return sorted({planned.layout.divisors(r) for r in ranks})


def divided_values(
        planned: Planned,
        axes: Sequence[int]) -> Iterator[tuple[str, TensorSpec, Layout]]:
    """Inputs and what is computed, where one of some axes divides it."""
    for what, spec, layout in _held(planned):
        if any(layout[a].is_shard for a in axes):
            yield what, spec, layout


def _held(planned: Planned) -> Iterator[tuple[str, TensorSpec, Layout]]:
    for name, spec in planned.program.specs.items():
        if value_kind(name) == "input":
            yield name, spec, planned.layout.at_rest[name]
    for node, chosen in planned.calls():
        call = call_of(node)
        for i, spec in enumerate(call.inputs):
            yield f"{place_of(node)} operand {i}", spec, chosen.input(i)
        for i, spec in enumerate(call.outputs):
            yield f"{place_of(node)} result {i}", spec, chosen.output(i)
    for cls, layout in planned.classes():
        for value in values_of(cls):
            yield f"{cls.name}: {value}", value.spec, hub_of(layout, value)


def _divides(spec: TensorSpec, layout: Layout,
             divisors: Sequence[int | Fraction]) -> bool:
    try:
        local_shape(spec.shape, layout, divisors)
    except ValueError:
        return False
    return True


INVARIANTS = (
    Invariant(name="parameters are whole in use over an axis of unequal "
              "shares",
              broken=_cut_parameters,
              hint="let the axis divide nothing but the batch, as ddp() and "
              "fsdp() do"),
    Invariant(name="what a call does over an axis of unequal shares is "
              "weighed by them",
              broken=_even_lowerings,
              hint="choose equal shares, or another option over that axis"),
    Invariant(name="shards of unequal shares are only cut, summed and "
              "gathered",
              broken=_even_moves,
              hint="choose equal shares, or keep the dim that the axis "
              "divides"),
    Invariant(name="divided dims divide by the shares",
              broken=_broken_shapes,
              hint="choose shares whose sum divides the batch"),
)
"""Rows in the order in which they are checked."""
