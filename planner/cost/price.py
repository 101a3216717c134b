"""The price of a whole plan, from its layouts alone.

Walks blocks, calls and conversions as the passes will emit them. It shares
the primitives (roofline, collective time, the conversion table) with the
search but none of its tables, and so checks them: the search's objective
must equal this sum.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Sequence
from fractions import Fraction

from planner.cluster.spec import DeviceKind
from planner.cost.block_order import BlockOrder, Called, Moved
from planner.cost.calls import KnownCall, KnownCalls, known_calls
from planner.cost.conversion import ConversionCost
from planner.cost.forks import add_fork_sums, fork_sums_s
from planner.cost.lowering import unevenness
from planner.cost.plan_price import (BlockCompute, PlanPrice, RepeatedWork,
                                     StageTime, StepTime)
from planner.cost.priced_moves import BOTH, PricedMoves
from planner.cost.rerun import rerun
from planner.cost.stage_time import stage_time
from planner.cost.state_moves import StateMoves
from planner.cost.step import step_time
from planner.cost.timeline import Streams
from planner.ir.layout import Layout, R
from planner.ir.layouts import CallLayout, ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Block, BlockClass, Program, value_kind
from planner.ir.values import Value, value_of

__all__ = ["price", "stage_times"]

_AGAIN = ("recompute", )


def price(program: Program,
          layout: ProgramLayout,
          cost: ConversionCost,
          device: DeviceKind,
          *,
          calls: KnownCalls | None = None,
          stage: bool = False,
          divisors: Sequence[int | Fraction] | None = None) -> PlanPrice:
    """Price one step of a program in given layouts.

    Where the layouts have an axis of micro-batches, a step is all of them,
    one after the other; what brings parameters into use is paid once.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    cost : ConversionCost
        Of the layout's mesh.
    device : DeviceKind
    calls : KnownCalls, optional
        Of the program, when they are at hand.
    stage : bool
        Whether the program is a stage, to be priced as one besides.
    divisors : sequence of int or Fraction, optional
        What divides this rank's values along each axis, where its share of
        the batch is not even (:mod:`planner.ir.shares`).
    """
    pricing = _Pricing(program, layout, cost, device, divisors)
    found = pricing.run(calls or known_calls(program), stage)
    own = stage_time(program, layout, cost, pricing.orders, found.collectives,
                     pricing.between_s) if stage else None
    return dataclasses.replace(found, stage=own)


def stage_times(program: Program, layout: ProgramLayout, cost: ConversionCost,
                calls: KnownCalls,
                again: Collection[str]) -> tuple[StageTime, StageTime]:
    """A stage as it is, and with the blocks of some classes run again; what
    both do is priced once.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
        In which no block runs again.
    cost : ConversionCost
        Of the layout's mesh.
    calls : KnownCalls
        Of the program.
    again : collection of str
        Block classes.
    """
    repeating = dataclasses.replace(layout, recompute=frozenset(again))
    pricing = _Pricing(program, repeating, cost, cost.device, None)
    found = pricing.run(calls, True)
    once = {n: BlockOrder(events=o.events) for n, o in pricing.orders.items()}
    plain, repeated = (stage_time(program, own, cost, orders,
                                  found.collectives, pricing.between_s)
                       for own, orders in ((layout, once), (repeating,
                                                            pricing.orders)))
    return plain, repeated


class _Pricing:

    def __init__(self, program: Program, layout: ProgramLayout,
                 cost: ConversionCost, device: DeviceKind,
                 divisors: Sequence[int | Fraction] | None) -> None:
        self.program = program
        self.layout = layout
        mesh = layout.mesh
        self.parts = (mesh.size(MICROBATCH) if MICROBATCH in mesh.names else 1)
        self.cost = cost
        self.divisors = tuple(divisors or cost.sizes)
        self.device = device
        self.forward_s = self.backward_s = 0.0
        self.recompute_s = 0.0
        self.moves = PricedMoves(layout, cost, self.divisors)
        self.orders: dict[str, BlockOrder] = {}
        self.repeated: list[RepeatedWork] = []
        self.blocks: list[BlockCompute] = []

    def run(self, calls: KnownCalls, stage: bool) -> PlanPrice:
        """The price; of a stage without what overlaps in a step of its own.
        """
        counts = Counter(b.block_class for b in self.program.blocks)
        first = {b.block_class: b for b in reversed(self.program.blocks)}
        for name, cls in self.program.classes.items():
            runs = counts[name] * self.parts
            self.orders[name] = BlockOrder()
            before = self.forward_s, self.backward_s, self.recompute_s
            self._state(cls, first[name], counts[name])
            self._class(name, calls[name], runs)
            add_fork_sums(
                self.orders[name], cls,
                fork_sums_s(cls, calls[name], self.layout, self.device,
                            self.divisors))
            if name in self.layout.recompute:
                self._again(name, calls[name], runs)
            self._block(name, before, runs)
        self.between_s = self._between()
        return PlanPrice(
            forward_s=self.forward_s,
            backward_s=self.backward_s,
            recompute_s=self.recompute_s,
            local_s=self.moves.local_s,
            collectives=tuple(self.moves.found),
            repeated=tuple(self.repeated),
            blocks=tuple(self.blocks),
            step=(self._step() if self.parts == 1 and not stage else None))

    def _step(self) -> StepTime:
        """What overlaps, of the same calls and conversions."""
        device = self.device
        trained = sum(self.program.specs[n].requires_grad
                      for n in self.program.params)
        around_s = (self.between_s + device.coefficient("call_s", 0.0) +
                    trained * device.coefficient("call_parameter_s", 0.0))
        state = StateMoves(self.program, self.layout, self.cost)
        return step_time(self.program,
                         self.layout.mesh,
                         self.orders,
                         self.moves.found,
                         state,
                         Streams.of(device),
                         around_s=around_s)

    def _block(self, name: str, before: tuple[float, float, float],
               runs: int) -> None:
        """What a class has added to the sums, for one run of a block."""
        after = self.forward_s, self.backward_s, self.recompute_s
        forward_s, backward_s, recompute_s = (
            (b - a) / runs for a, b in zip(before, after, strict=True))
        self.blocks.append(
            BlockCompute(where=name,
                         forward_s=forward_s,
                         backward_s=backward_s,
                         recompute_s=recompute_s))

    def _state(self, cls: BlockClass, block: Block, count: int) -> None:
        """Parameters, buffers and constants on their way into blocks."""
        hubs = self.layout.classes[cls.name].hubs
        for node, name in zip(cls.placeholders, block.operands, strict=True):
            if value_kind(name) not in ("param", "buffer", "const"):
                continue
            value = Value(node)
            ends = self.layout.at_rest[name], hubs[value.label]
            once = value_kind(name) == "param" and not (
                name in self.layout.regather)
            moved = self.moves.convert(cls.name,
                                       value.label,
                                       value.spec,
                                       *ends,
                                       count * (1 if once else self.parts),
                                       BOTH[:1] if not once else BOTH,
                                       state=True)
            if value_kind(name) != "param":
                self.orders[cls.name].events.append(moved)
            if not once and value_kind(name) == "param":
                self.moves.convert(cls.name,
                                   value.label,
                                   value.spec,
                                   *ends,
                                   count * self.parts, ("regather", ),
                                   state=True)
                self.moves.convert(cls.name,
                                   value.label,
                                   value.spec,
                                   *ends,
                                   count, ("backward", ),
                                   state=True)

    def _class(self, name: str, calls: Sequence[KnownCall],
               count: int) -> None:
        layout = self.layout.classes[name]
        events = self.orders[name].events
        made: dict[Value, set[Layout]] = {}
        for call in calls:
            chosen = layout.calls[call.label]
            for number, value in enumerate(call.operands):
                events += self._bring(name, value, layout.hubs[value.label],
                                      chosen.input(number), made, count)
            events += self._compute(name, call, chosen, count)
            for number, value in enumerate(call.outputs):
                own = chosen.output(number)
                made[value] = {own}
                events += self._bring(name,
                                      value,
                                      own,
                                      layout.hubs.get(value.label, own),
                                      made,
                                      count,
                                      sent=True)

    def _again(self, name: str, calls: Sequence[KnownCall],
               count: int) -> None:
        """The forward that the backward of a block runs once more.

        Parameters that are moved in for it are so for the derivatives too,
        and paid with the state: as gathered again, or not at all if kept.
        """
        layout = self.layout.classes[name]
        events = self.orders[name].again
        again = rerun(calls)
        made: dict[Value, set[Layout]] = {}
        for call in calls:
            chosen = layout.calls[call.label]
            runs = call.label in again.calls
            for number, value in enumerate(call.operands):
                if runs or number in call.work.saved.inputs:
                    events += self._bring(name, value,
                                          layout.hubs[value.label],
                                          chosen.input(number), made, count,
                                          _AGAIN)
            if not runs:
                continue
            events += self.moves.inside(name, call, chosen, count, again=True)
            forward_s, _ = call.times_s(
                self.device,
                chosen.share(self.divisors) *
                unevenness(self.cost, chosen.options),
                call.made(chosen.options, self.divisors))
            self.recompute_s += forward_s * count
            events.append(Called.of(call, forward_s, 0.0))
            for number, value in enumerate(call.outputs):
                own = chosen.output(number)
                made[value] = {own}
                if value in again.reads:
                    events += self._bring(name, value, own,
                                          layout.hubs.get(value.label, own),
                                          made, count, _AGAIN)

    def _bring(self,
               where: str,
               value: Value,
               source: Layout,
               target: Layout,
               made: dict[Value, set[Layout]],
               count: int,
               directions: tuple[str, ...] = BOTH,
               *,
               sent: bool = False) -> list[Called | Moved]:
        """A conversion inside a block, unless it was made before."""
        there = made.setdefault(value, {source})
        if target in there:
            return []
        there.add(target)
        return [
            self.moves.convert(where,
                               value.label,
                               value.spec,
                               source,
                               target,
                               count,
                               directions,
                               sent=sent)
        ]

    def _compute(self, where: str, call: KnownCall, chosen: CallLayout,
                 count: int) -> list[Called | Moved]:
        share = chosen.share(self.divisors) * unevenness(
            self.cost, chosen.options)
        made = call.made(chosen.options, self.divisors)
        inside = self.moves.inside(where, call, chosen, count)
        forward_s, backward_s = call.times_s(self.device, share, made)
        self.forward_s += forward_s * count
        self.backward_s += backward_s * count
        mesh = self.layout.mesh
        for option, axis, size in zip(chosen.options,
                                      mesh.names,
                                      mesh.sizes,
                                      strict=True):
            if not option.is_sharded and size > 1:
                part_s = sum(call.times_s(self.device, share / size, made))
                excess_s = (forward_s + backward_s - part_s) * count
                self.repeated.append(
                    RepeatedWork(where=where,
                                 call=call.label,
                                 axis=axis,
                                 time_s=(forward_s + backward_s) * count,
                                 excess_s=excess_s,
                                 count=count))
        return [*inside, Called.of(call, forward_s, backward_s)]

    def _between(self) -> float:
        """Conversions between blocks, of inputs and of outputs.

        Returns
        -------
        float
            Seconds of those that move nothing between ranks.
        """
        held = {
            n: (spec, self.layout.at_rest[n])
            for n, spec in self.program.specs.items()
        }
        done: set[tuple[str, Layout]] = set()
        before_s = self.moves.local_s

        def bring(name: str, target: Layout) -> None:
            spec, source = held[name]
            if (name, target) not in done:
                done.add((name, target))
                self.moves.convert("between blocks", name, spec, source,
                                   target, self.parts)

        whole = (R, ) * len(self.layout.mesh.sizes)
        for block in self.program.blocks:
            cls = self.program.class_of(block)
            hubs = self.layout.classes[cls.name].hubs
            for node, name in zip(cls.placeholders,
                                  block.operands,
                                  strict=True):
                if value_kind(name) not in ("param", "buffer", "const"):
                    bring(name, hubs[Value(node).label])
            for node, name in zip(cls.results, block.results, strict=True):
                value = value_of(node)
                held[name] = (value.spec, hubs[value.label])
        for out in (*self.program.outputs, *self.program.mutations.values()):
            if out is not None:
                bring(out, whole)
        return self.moves.local_s - before_s
