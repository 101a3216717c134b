"""The factor graph of a bound on steps in which messages overlap.

Its variables are the choices over one or two axes at once
(`planner.search.overlap_mesh`).
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from planner.cost.lowering import (lowering_moves, lowering_time_s,
                                   moving_lowerings)
from planner.cost.rerun import Rerun, rerun
from planner.cost.roofline import memory_time_s
from planner.cost.timeline import Streams
from planner.ir.layout import Layout, Placement, R, S, V
from planner.ir.layouts import CallLayout
from planner.ir.program import value_kind
from planner.ir.values import Value
from planner.rules.registry import Option, TensorSpec
from planner.search.draft import FactorDraft
from planner.search.facts import CallFacts, ClassFacts, Facts
from planner.search.fan_out import FanOut, Reader
from planner.search.overlap_mesh import (Domain, OverlapMesh, Prices,
                                         layout_numbers)
from planner.search.overlap_state import StateTimes, Uses, uses_of
from planner.search.overlap_sums import OverlapSums
from planner.search.overlap_tables import layout_of
from planner.search.placed import Numbers

__all__ = ["Ends", "OverlapDraft"]

_Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """What the end of a backward counts in a mean of three bounds.

    Parameters
    ----------
    after : float
        Of the bound in which all that is left when the backward is over is
        done by itself.
    both : float
        Of that in which the first two blocks' gradients are on their way by
        themselves, and the first block's backward is nothing.
    first : float
        Of that in which the first block's are, and of its backward no more
        than messages is known.
    """

    after: float
    both: float
    first: float


class OverlapDraft:
    """The graph on its way.

    Parameters
    ----------
    facts : Facts
    mesh : OverlapMesh
    state : StateTimes
    ends : Ends
    recompute : collection of str
        Block classes that run again in the backward.

    Attributes
    ----------
    draft : FactorDraft
    constant_s : float
        What no choice changes.
    """

    def __init__(self,
                 facts: Facts,
                 mesh: OverlapMesh,
                 state: StateTimes,
                 ends: Ends,
                 recompute: Collection[str] = ()) -> None:
        self.facts, self.mesh, self.ends = facts, mesh, ends
        self.hidden = Streams.of(mesh.device).interference
        self.draft = FactorDraft[Domain]()
        self.state = state
        self._sums = OverlapSums(facts=facts, mesh=mesh, hidden=self.hidden)
        self._again: dict[str, Rerun] = {
            n: rerun(tuple(facts.classes[n].calls.values()))
            for n in recompute
        }
        blocks = facts.program.blocks
        first = blocks[0].block_class
        alone = len(blocks) > 1 and facts.counts[first] == 1
        self._early = first if alone and first not in recompute else ""
        self._uses = uses_of(facts, self._early)
        self._add_variables()
        self._add_charges()
        self.constant_s = (mesh.device.coefficient("call_s", 0.0) +
                           self._sums_s() - (1 - ends.after) * state.left_s)

    def layout_of(self, number: int) -> Layout:
        """Over the axes that are chosen for."""
        return layout_of(number, len(self.mesh.sizes))

    def _add_variables(self) -> None:
        for name, spec in self.facts.program.specs.items():
            if (self.facts.rest_of[name] == name
                    and value_kind(name) == "input"):
                every = (R, ) if spec.requires_grad else (
                    R, *(S(d) for d in range(spec.ndim)))
                self._place(f"rest {name}", spec,
                            [every] * len(self.mesh.sizes))
        for name, facts in self.facts.classes.items():
            for label, call in facts.calls.items():
                self.draft.call(f"call {name} {label}", self.mesh.domain(call))
            for value in facts.placeholders:
                self._hub(name, facts, value)
            for label, call in facts.calls.items():
                for number, value in enumerate(call.outputs):
                    if facts.has_hub(value):
                        made = self.draft.calls[f"call {name} {label}"]
                        self._hub(name, facts, value, made.outputs[number])

    def _hub(self, name: str, facts: ClassFacts, value: Value, *made:
             Numbers) -> None:
        asked = [
            self.draft.calls[f"call {name} {label}"].inputs[number]
            for label, number in facts.readers.get(value, ())
        ]
        every: list[set[Placement]] = [{R} for _ in self.mesh.sizes]
        for number in {n for some in (*asked, *made) for n in some.tolist()}:
            for own, placement in zip(every, self.layout_of(number)):
                own.add(R if placement == V and not value.spec.requires_grad
                        else placement)
        self._place(f"hub {name} {value.label}", value.spec,
                    [sorted(own, key=lambda p: p.fields) for own in every])

    def _place(self, variable: str, spec: TensorSpec,
               every: Sequence[Sequence[Placement]]) -> None:
        self.draft.place(
            variable,
            layout_numbers([
                lay for lay in itertools.product(*every)
                if _divides(spec, lay, self.mesh.sizes)
            ]))

    def _add_charges(self) -> None:
        for name, facts in self.facts.classes.items():
            for value in facts.placeholders:
                self._read(name, facts, value)
            for label, call in facts.calls.items():
                self._compute(name, call)
                for number, value in enumerate(call.outputs):
                    self._made(name, facts, label, number, value)
        self._add_state()
        self._add_edges()

    def _priced(self,
                divided: bool,
                forward: float,
                name: str,
                backward: float | None = None) -> Prices:
        """What a value of a class takes; in the first block messages of
        the backward have less to hide behind."""
        backward = self.hidden if backward is None else backward
        if name and name == self._early:
            backward = self.ends.after * backward + self.ends.first
        return self.mesh.prices(divided, forward, backward)

    def _fan_out(self, prices: Prices, spec: TensorSpec, source: str,
                 made: Numbers, count: int) -> FanOut:
        return FanOut(problem=prices,
                      draft=self.draft,
                      kind="value",
                      spec=spec,
                      source=source,
                      made=made,
                      layout=(),
                      count=count)

    def _readers(self, name: str, facts: ClassFacts,
                 value: Value) -> list[Reader]:
        return [
            Reader(f"call {name} {label}",
                   self.draft.calls[f"call {name} {label}"].inputs[number], ())
            for label, number in facts.readers.get(value, ())
        ]

    def _read(self, name: str, facts: ClassFacts, value: Value) -> None:
        """From a hub to its readers, who wait for it."""
        hub = f"hub {name} {value.label}"
        again = self._reads_again(name, facts, value)
        out = self._fan_out(
            self._priced(value.bound_kind != "param", 1.0 + again, name),
            value.spec, hub, self.draft.placed[hub], self.facts.counts[name])
        out.charge(self._readers(name, facts, value),
                   held_elsewhere=value in facts.results)

    def _reads_again(self, name: str, facts: ClassFacts, value: Value) -> bool:
        """Whether a value is brought to its readers once more."""
        if name not in self._again or value.bound_kind == "param":
            return False
        return all(label in self._again[name].calls
                   for label, _ in facts.readers.get(value, ()))

    def _made(self, name: str, facts: ClassFacts, label: str, number: int,
              value: Value) -> None:
        """From the call that makes a value to where it is held, or read."""
        source, count = f"call {name} {label}", self.facts.counts[name]
        made = self.draft.calls[source].outputs[number]
        if not facts.has_hub(value):
            again = self._reads_again(name, facts, value)
            out = self._fan_out(self._priced(True, 1.0 + again, name),
                                value.spec, source, made, count)
            out.charge(self._readers(name, facts, value), held_elsewhere=False)
            return
        waits = _is_read_next(facts, label, value)
        forward = 1.0 if waits else self.hidden
        if name in self._again and label in self._again[
                name].calls and value in self._again[name].reads:
            forward *= 2
        to = f"hub {name} {value.label}"
        backward = self.hidden if _hides_behind(facts, label) else 1.0
        prices = self._priced(True, forward, name, backward)
        self._fan_out(prices, value.spec, source, made,
                      count).charge([Reader(to, self.draft.placed[to], ())],
                                    held_elsewhere=False)
        self._read(name, facts, value)

    def _compute(self, name: str, call: CallFacts) -> None:
        variable = f"call {name} {call.label}"
        forward = 1.0 + (name in self._again
                         and call.label in self._again[name].calls)
        backward = self.ends.after if name == self._early else 1.0
        cuts = list(self._data_cuts(call))
        known: dict[object, float] = {}
        found = []
        for options in self.draft.calls[variable].legal:
            key = tuple((o.is_sharded, call.cut_by(o)) for o in options)
            if key not in known:
                known[key] = min(
                    forward * f + backward * b
                    for f, b in self._times_s(call, options, cuts))
            found.append(known[key] + self._inside_s(call, options))
        self.draft.add((variable, ), self.facts.counts[name] * np.array(found))

    def _data_cuts(
            self, call: CallFacts) -> Collection[tuple[int, tuple[bool, ...]]]:
        """What data parallelism may divide: by how much the work, and
        whether each result of a product."""
        size = self.mesh.data_size
        if self.mesh.data_axis < 0:
            return {(1, ())}
        params = [
            i for i, v in enumerate(call.operands) if v.bound_kind == "param"
        ]
        return {
            (size if o.is_sharded else 1, call.cut_by(o)): None
            for o in call.options(size).options
            if not any(o.inputs[i].is_shard for i in params)
        }

    def _times_s(
        self, call: CallFacts, options: Sequence[Option],
        cuts: Sequence[tuple[int, tuple[bool, ...]]]
    ) -> Iterator[tuple[float, float]]:
        share = CallLayout(options=tuple(options)).share(self.mesh.sizes)
        made = call.made(options, self.mesh.sizes)
        for ranks, is_cut in cuts:
            parts = tuple(p / (ranks if cut else 1)
                          for p, cut in zip(made, is_cut or [False] * 9))
            yield call.times_s(self.mesh.device, share / ranks, parts)

    def _inside_s(self, call: CallFacts, options: Sequence[Option]) -> float:
        """Messages of lowerings."""
        if not any(o.lowering in moving_lowerings() for o in options):
            return 0.0
        return sum(
            lowering_time_s(
                move, self.mesh.divided_cost, axis, options=options) *
            (self.hidden if move.direction == "backward" else 1.0)
            for axis in range(len(options)) for move in lowering_moves(
                call.call, options, self.mesh.sizes, axis))

    def _add_state(self) -> None:
        for (name, value), uses in self._uses.items():
            variable = f"hub {name} {value.label}"
            self.draft.add((variable, ), [
                self._state_s(name, value, self.layout_of(number), uses)
                for number in self.draft.placed[variable].tolist()
            ])

    def _state_s(self, name: str, value: Value, use: Layout,
                 uses: Uses) -> float:
        """With the gradient summed over data parallelism on its way to rest,
        or before, or with nothing to be summed."""
        best = self._weighted_s(value.spec, self.mesh.joined(use, V), uses)
        if self.mesh.data_axis < 0:
            return best
        whole = self._weighted_s(value.spec, self.mesh.joined(use, R), uses)
        backward = self._priced(False, 1.0, name).tables.backward
        return min(
            best,
            whole + uses.all * self._sums.summed_s(name, value, use, backward))

    def _weighted_s(self, spec: TensorSpec, use: Layout, uses: Uses) -> float:
        return float((self.state.of(spec, use, uses) @ self._weights).min())

    @functools.cached_property
    def _weights(self) -> tuple[float, ...]:
        """Of the parts of what parameters take."""
        ends, seen = self.ends, 1 - self.hidden
        return (1.0, self.hidden, ends.after, seen,
                seen * (ends.both + ends.first), seen * ends.both, ends.after)

    def rest_of(self, name: str, value: Value, use: Layout) -> Layout:
        """The layout at rest with which a parameter that is used so takes
        least."""
        uses = self._uses[name, value]
        ways = self.state.of(value.spec, self.mesh.joined(use, V), uses)
        rests = self.state.rests(value.spec, self.mesh.joined(use, V))
        return rests[int((ways @ self._weights).argmin())]

    def _add_edges(self) -> None:
        """Between blocks all is waited for."""
        self.draft.place("whole",
                         layout_numbers([(R, ) * len(self.mesh.sizes)]))
        for edge, count in self.facts.value_edges.items():
            source = edge.source
            if source not in self.draft.placed:
                rest = self.facts.rest_of[source.partition(" ")[2]]
                source = f"rest {rest}"
            if source in self.draft.placed:
                out = self._fan_out(self.mesh.prices(True, 1.0,
                                                     1.0), edge.spec, source,
                                    self.draft.placed[source], count)
                out.charge([
                    Reader(t, self.draft.placed[t], ()) for t in edge.targets
                ],
                           held_elsewhere=False)

    def _sums_s(self) -> float:
        """Of gradients where values have several readers, divided evenly."""
        device, ranks = self.mesh.device, self.mesh.mesh.world_size
        found = 0.0
        for name, facts in self.facts.classes.items():
            if name == self._early:
                continue
            for value, readers in facts.readers.items():
                if value.spec.requires_grad and facts.has_hub(value):
                    own = {
                        label
                        for label, _ in readers
                        if any(v.spec.requires_grad
                               for v in facts.calls[label].outputs)
                    }
                    more = max(len(own) + (value in facts.results) - 1, 0)
                    found += more * self.facts.counts[name] * (memory_time_s(
                        3 * value.spec.size_bytes / ranks,
                        device,
                        kernels=10**6) + device.launch_overhead_s)
        return found


def _divides(spec: TensorSpec, layout: Layout, sizes: Sequence[int]) -> bool:
    ranks = Counter[int]()
    for placement, size in zip(layout, sizes, strict=True):
        if placement.is_shard:
            ranks[placement.dim] = max(ranks[placement.dim], 1) * size
    return all(spec.shape[dim] % n == 0 for dim, n in ranks.items())


def _is_read_next(facts: ClassFacts, label: str, value: Value) -> bool:
    """Whether nothing is computed between a value and its first reader."""
    order = list(facts.calls)
    readers = [order.index(n) for n, _ in facts.readers.get(value, ())]
    return min(readers, default=-1) == order.index(label) + 1


def _hides_behind(facts: ClassFacts, label: str) -> bool:
    """Whether the backward may have put off gradients of weights before it
    comes to a call, to compute them while it waits for what goes there."""
    order = list(facts.calls.values())
    return any(c.work.forward_flops and any(v.bound_kind == "param"
                                            for v in c.operands[:2])
               for c in order[order.index(facts.calls[label]) + 1:])
