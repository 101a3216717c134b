"""Memory of one rank for a plan, by kind, from its layouts.

Parameters, gradients and optimizer state are exact. Saved activations are
the distinct tensors that the backward of each call keeps; what else a block
takes is the liveness of its values, and of their gradients. A block class
that is recomputed keeps the values that come into its blocks, and its backward
holds for a while what one block would have kept. What the model returns is
whole on every rank. :mod:`planner.cost.peak` says when all of it is most.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from planner.cost.calls import KnownCall, KnownCalls, known_calls
from planner.cost.flops import op_name
from planner.cost.optimizer import optimizer_bytes
from planner.cost.peak import (BlockPeaks, StepPeak, backward_peak,
                               forward_peak, step_peak)
from planner.cost.rerun import rerun
from planner.cost.saved import is_view
from planner.cost.state_moves import BUCKET_BYTES
from planner.ir.convert import conversion_steps
from planner.ir.layout import Layout, R, local_shape
from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.pipeline import MICROBATCH
from planner.ir.program import Program, value_kind
from planner.ir.values import Value, value_of
from planner.rules.registry import TensorSpec

__all__ = ["MemoryEstimate", "Moments", "estimate_memory", "local_spec"]

_STATE = ("param", "buffer", "const")

Divisors = tuple[int | Fraction, ...]
"""What divides values along each axis."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one rank, by kind.

    Each kind is given at its largest, which they are not all at once:
    `peak` is the most that there is at any moment of a step, where it is
    known; else the kinds are added up. `trained` is what the optimizer steps
    over, among the parameters, and `num_trained` in how many tensors.
    """

    parameters: int
    gradients: int
    optimizer: int
    saved: int
    gathered: int
    transient: int
    outputs: int = 0
    trained: int = 0
    num_trained: int = 0
    peak: StepPeak | None = None

    @property
    def total(self) -> int:
        """The most at once."""
        return self.kinds if self.peak is None else self.peak.total

    @property
    def kinds(self) -> int:
        """All kinds at their largest."""
        return (self.parameters + self.gradients + self.optimizer +
                self.saved + self.gathered + self.transient + self.outputs)

    def of_share(self, share: int) -> int:
        """What a batch of one part in `share` takes, at most."""
        grows = self.saved + self.transient + self.outputs
        steady = (self.kinds -
                  grows if self.peak is None else self.peak.steady)
        return min(self.total, steady + -(-grows // share))

    def by_kind(self) -> dict[str, int]:
        """The parts by name, largest first; together at least the total."""
        gathered, unreduced = self.gathered, 0
        if self.peak is not None:
            gathered = self.peak.gathered
            unreduced = max(0, self.peak.gradients - self.gradients)
        parts = {
            "parameters": self.parameters,
            "gradients": self.gradients,
            "unreduced gradients": unreduced,
            "optimizer": self.optimizer,
            "activations": self.saved,
            "gathered parameters": gathered,
            "transient": self.transient,
            "outputs": self.outputs
        }
        return dict(sorted(parts.items(), key=lambda kv: (-kv[1], kv[0])))


@dataclass(frozen=True, slots=True, kw_only=True)
class Moments:
    """Bytes of a block whose forward and backward each run once.

    Parameters
    ----------
    once : int
        Kept from one to the other.
    forward, backward : int
        Most at once in each, beside that.
    gradients : int
        Of its parameters, among the backward's.
    """

    once: int
    forward: int
    backward: int
    gradients: int


def estimate_memory(
        program: Program,
        layout: ProgramLayout,
        *,
        optimizer: str = "adamw",
        calls: KnownCalls | None = None,
        divisors: Sequence[int | Fraction] | None = None,
        moments: dict[str, Moments] | None = None) -> MemoryEstimate:
    """Estimate one rank's memory in a training step.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    optimizer : str
        Whose state is counted, a key of ``planner.cost.optimizer``.
    calls : KnownCalls, optional
        Of the program, when they are at hand.
    divisors : sequence of int or Fraction, optional
        What divides this rank's values along each axis, where its share of
        the batch is not even (:mod:`planner.ir.shares`).
    moments : dict of str to Moments, optional
        By block class, filled with what is found: the same for layouts that
        only differ in what runs again.
    """
    own = tuple(divisors or layout.mesh.sizes)
    local = {
        n:
        local_spec(program.specs[n], layout.at_rest[n],
                   own if value_kind(n) == "input" else layout.mesh.sizes)
        for n in program.specs
    }
    trained = [
        local[n] for n in program.params if program.specs[n].requires_grad
    ]
    calls = calls or known_calls(program)
    peaks, needs = _by_class(program, layout, calls, own,
                             {} if moments is None else moments)
    blocks = Counter(b.block_class for b in program.blocks)
    operands = _operands_kept(program, layout, calls, own)
    outputs = _outputs(program)
    parameters = sum(local[n].size_bytes for n in program.specs
                     if value_kind(n) in _STATE)
    finished = sum(s.size_bytes for s in trained)
    state = optimizer_bytes(optimizer, trained)
    gathered = _gathered_by_block(program, layout, calls)
    return MemoryEstimate(
        parameters=parameters,
        gradients=finished,
        optimizer=state,
        saved=operands + sum(p.kept * blocks[n] for n, p in peaks.items()),
        transient=max(needs.values(), default=0),
        gathered=_gathered(gathered),
        outputs=outputs,
        trained=finished,
        num_trained=len(trained),
        peak=_peak(program,
                   layout,
                   peaks,
                   gathered,
                   base=parameters + state + operands + outputs,
                   grown=operands + outputs,
                   finished=finished))


def _by_class(
    program: Program, layout: ProgramLayout, calls: KnownCalls,
    sizes: Divisors,
    moments: dict[str,
                  Moments]) -> tuple[dict[str, BlockPeaks], dict[str, int]]:
    """What blocks of each class keep and need, and what one needs besides
    what is kept."""
    # Gradients of a micro-batch are there beside the sums of those before.
    sums = MICROBATCH in layout.mesh.names and layout.mesh.size(MICROBATCH) > 1
    peaks, needs = dict[str, BlockPeaks](), dict[str, int]()
    for name, known in calls.items():
        if name not in moments:
            results = map(value_of, program.classes[name].results)
            moments[name] = _moments(known, layout.classes[name], sizes,
                                     frozenset(results))
        peaks[name], needs[name] = _block(moments[name],
                                          again=name in layout.recompute,
                                          sums=sums)
    return peaks, needs


def _peak(program: Program, layout: ProgramLayout,
          peaks: Mapping[str, BlockPeaks], gathered: Sequence[_Gathered], *,
          base: int, grown: int, finished: int) -> StepPeak:
    """The most at any moment, of blocks in the order of the program."""
    return step_peak([
        replace(peaks[b.block_class],
                gathered=g.once,
                unread=g.unread,
                regathered=g.again)
        for b, g in zip(program.blocks, gathered, strict=True)
    ],
                     base=base,
                     grown=grown,
                     packed=_packed(program, layout),
                     finished=finished,
                     unit_bytes=BUCKET_BYTES)


def _moments(calls: Sequence[KnownCall], layout: ClassLayout, sizes: Divisors,
             results: Collection[Value]) -> Moments:
    values = _saved_values(calls, layout, sizes)
    backward, gradients = backward_peak(calls, layout, sizes, results)
    return Moments(
        once=sum(values.values()) + _extra_bytes(calls, layout, sizes),
        forward=forward_peak(calls, layout, sizes, {v
                                                    for v, _ in values}),
        backward=backward,
        gradients=gradients)


def _block(of: Moments, *, again: bool, sums: bool) -> tuple[BlockPeaks, int]:
    """What blocks of a class keep and need, and what one needs besides what
    is kept; gradients are counted elsewhere where there are no sums."""
    backward = max(of.forward, of.backward) + of.once if again else of.backward
    peaks = BlockPeaks(kept=0 if again else of.once,
                       forward=of.forward,
                       backward=backward,
                       gradients=of.gradients)
    return peaks, max(of.forward + (of.once if again else 0),
                      backward - (0 if sums else of.gradients))


def _outputs(program: Program) -> int:
    """What the blocks return to the user, whole."""
    found: dict[str, int] = {}
    for block in program.blocks:
        results = program.class_of(block).results
        for node, name in zip(results, block.results, strict=True):
            if name in program.outputs:
                found[name] = value_of(node).spec.size_bytes
    return sum(found.values())


def local_spec(spec: TensorSpec, layout: Layout,
               sizes: Iterable[int | Fraction]) -> TensorSpec:
    """What each rank holds of a value.

    Parameters
    ----------
    spec : TensorSpec
        Of the whole.
    layout : Layout
    sizes : iterable of int or Fraction
        Of the axes, as :func:`planner.ir.layout.local_shape` takes them.

    Raises
    ------
    ValueError
        When a sharded dim is not divisible by its axes.
    """
    return _local_spec(spec, layout, tuple(sizes))


@functools.lru_cache(maxsize=65536)
def _local_spec(spec: TensorSpec, layout: Layout,
                sizes: tuple[int | Fraction, ...]) -> TensorSpec:
    """Layers share their shapes and layouts."""
    return replace(spec, shape=local_shape(spec.shape, layout, sizes))


def _saved_values(calls: Sequence[KnownCall], layout: ClassLayout,
                  sizes: Divisors) -> dict[tuple[Value, Layout], int]:
    """Local bytes of the distinct activations that the backward keeps."""
    found: dict[tuple[Value, Layout], int] = {}
    bases = _bases(calls, layout, sizes)
    for known in calls:
        keeps = known.work.saved
        chosen = layout.calls[known.label]
        pairs = [(known.operands[i], chosen.input(i)) for i in keeps.inputs]
        pairs += [(known.outputs[i], chosen.output(i)) for i in keeps.outputs]
        for value, lay in pairs:
            local = value, _plain(lay)
            local = bases.get(local, local)
            if local[0].bound_kind == "value" and local not in found:
                found[local] = local_spec(local[0].spec, local[1],
                                          sizes).size_bytes
    return found


def _bases(
        calls: Sequence[KnownCall], layout: ClassLayout,
        sizes: Divisors) -> dict[tuple[Value, Layout], tuple[Value, Layout]]:
    """What views of all of a tensor are views of."""
    found: dict[tuple[Value, Layout], tuple[Value, Layout]] = {}
    for known in calls:
        if not is_view(known.call):
            continue
        chosen = layout.calls[known.label]
        base = known.operands[0], _plain(chosen.input(0))
        view = known.outputs[0], _plain(chosen.output(0))
        whole, part = (local_spec(v.spec, lay, sizes).size_bytes
                       for v, lay in (base, view))
        if whole == part:
            found[view] = found.get(base, base)
    return found


def _plain(layout: Layout) -> Layout:
    """Of the value, whatever its gradient is."""
    return tuple(R if p.is_replicated else p for p in layout)


def _operands_kept(program: Program, layout: ProgramLayout, calls: KnownCalls,
                   sizes: Divisors) -> int:
    """Values that come into recomputed blocks, each tensor once."""
    reads = {name: rerun(calls[name]).reads for name in layout.recompute}
    found: dict[tuple[str, Layout], int] = {}
    for block, node, name in program.uses():
        value = Value(node)
        if (value_kind(name) == "value"
                and value in reads.get(block.block_class, ())):
            hub = layout.classes[block.block_class].hubs[value.label]
            found[name, _plain(hub)] = local_spec(value.spec, _plain(hub),
                                                  sizes).size_bytes
    return sum(found.values())


def _extra_bytes(calls: Sequence[KnownCall], layout: ClassLayout,
                 sizes: Divisors) -> int:
    """What is kept besides values: statistics, masks, log-probabilities."""
    total = 0
    for known in calls:
        share = math.prod(size for size, option in zip(
            sizes, layout.calls[known.label].options, strict=True)
                          if option.is_sharded)
        total += known.work.saved.extra_bytes // share
    return total


@dataclass(slots=True)
class _Gathered:
    """Of a block, bytes of whole copies of sharded parameters: those that
    are kept from their first use, of these those that no backward reads, and
    those that are gathered again."""

    once: int = 0
    unread: int = 0
    again: int = 0


def _gathered_by_block(program: Program, layout: ProgramLayout,
                       calls: KnownCalls) -> list[_Gathered]:
    sizes = layout.mesh.sizes
    found = {b.name: _Gathered() for b in program.blocks}
    tables = {(name, value)
              for name, known in calls.items()
              for value in _only_tables(known)}
    read = {
        name
        for block, node, name in program.uses()
        if (block.block_class, Value(node)) not in tables
    }
    seen: set[str] = set()
    for block, node, name in program.uses():
        if value_kind(name) != "param":
            continue
        rest = layout.at_rest[name]
        use = layout.classes[block.block_class].hubs[Value(node).label]
        spec = program.specs[name]
        size = local_spec(spec, use, sizes).size_bytes
        if size <= local_spec(spec, rest, sizes).size_bytes:
            continue
        if name in layout.regather:
            found[block.name].again += size
        elif name not in seen:
            seen.add(name)
            found[block.name].once += size
            found[block.name].unread += size * (name not in read)
    return list(found.values())


def _only_tables(calls: Sequence[KnownCall]) -> set[Value]:
    """Values that are looked up in only, for whose gradient they are not
    read."""
    found, others = set[Value](), set[Value]()
    for known in calls:
        for number, value in enumerate(known.operands):
            is_table = number == 0 and op_name(
                known.call.target) == "embedding"
            (found if is_table else others).add(value)
    return found - others


def _gathered(by_block: Sequence[_Gathered]) -> int:
    """All that are kept, and of those gathered again the largest block's."""
    return (sum(g.once for g in by_block) + max(
        (g.again for g in by_block), default=0))


def _packed(program: Program, layout: ProgramLayout) -> frozenset[str]:
    """The collectives by which gradients get back to rest."""
    sizes = layout.mesh.sizes
    ways = {(layout.at_rest[name],
             layout.classes[block.block_class].hubs[Value(node).label])
            for block, node, name in program.uses()
            if value_kind(name) == "param"}
    kinds = {
        step.backward.kind
        for rest, use in ways
        for step in conversion_steps(rest, use, differentiable=True) or ()
        if sizes[step.axis] > 1
    }
    return frozenset(kinds & {"all_reduce", "reduce_scatter"})
