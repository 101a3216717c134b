"""Memory of one rank for a plan, by kind, from its layouts.

Parameters, gradients and optimizer state are exact. Saved activations are
the distinct tensors that the backward of each call keeps; the transient
peak is the liveness of one block's forward (and twice that for the
backward, which holds values and gradients). A block class that is
recomputed keeps the values that come into its blocks, and its backward
holds for a while what one block would have kept. What the model returns is
whole on every rank.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from planner.cost.calls import KnownCall, KnownCalls, known_calls
from planner.cost.optimizer import optimizer_bytes
from planner.cost.rerun import rerun
from planner.ir.layout import Layout, R, local_shape
from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.program import Program, value_kind
from planner.ir.values import Value, value_of
from planner.rules.registry import TensorSpec

__all__ = ["MemoryEstimate", "estimate_memory", "local_spec"]

_STATE = ("param", "buffer", "const")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one rank, by kind."""

    parameters: int
    gradients: int
    optimizer: int
    saved: int
    gathered: int
    transient: int
    outputs: int = 0

    @property
    def total(self) -> int:
        return (self.parameters + self.gradients + self.optimizer +
                self.saved + self.gathered + self.transient + self.outputs)

    def by_kind(self) -> dict[str, int]:
        """The parts by name, largest first."""
        parts = {
            "parameters": self.parameters,
            "gradients": self.gradients,
            "optimizer": self.optimizer,
            "activations": self.saved,
            "gathered parameters": self.gathered,
            "transient": self.transient,
            "outputs": self.outputs
        }
        return dict(sorted(parts.items(), key=lambda kv: (-kv[1], kv[0])))


def estimate_memory(program: Program,
                    layout: ProgramLayout,
                    *,
                    optimizer: str = "adamw",
                    calls: KnownCalls | None = None) -> MemoryEstimate:
    """Estimate one rank's memory in a training step.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    optimizer : str
        Whose state is counted, a key of ``planner.cost.optimizer``.
    calls : KnownCalls, optional
        Of the program, when they are at hand.
    """
    sizes = layout.mesh.sizes
    params = [n for n in program.params]
    local = {
        n: local_spec(program.specs[n], layout.at_rest[n], sizes)
        for n in program.specs
    }
    trained = [local[n] for n in params if program.specs[n].requires_grad]
    blocks = Counter(b.block_class for b in program.blocks)
    calls = calls or known_calls(program)
    kept, transient = _operands_kept(program, layout, calls), 0
    for name, own in calls.items():
        values = _saved_values(own, layout.classes[name], sizes)
        extra = _extra_bytes(own, layout.classes[name], sizes)
        once = sum(values.values()) + extra
        peak = 2 * _live_peak(own, layout.classes[name], sizes, set(values))
        if name in layout.recompute:
            peak += once
        else:
            kept += blocks[name] * once
        transient = max(transient, peak)
    return MemoryEstimate(parameters=sum(local[n].size_bytes
                                         for n in program.specs
                                         if value_kind(n) in _STATE),
                          gradients=sum(s.size_bytes for s in trained),
                          optimizer=optimizer_bytes(optimizer, trained),
                          saved=kept,
                          transient=transient,
                          gathered=_gathered(program, layout),
                          outputs=_outputs(program))


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
               sizes: Iterable[int]) -> TensorSpec:
    """What each rank holds of a value."""
    return replace(spec, shape=local_shape(spec.shape, layout, tuple(sizes)))


def _saved_values(calls: Sequence[KnownCall], layout: ClassLayout,
                  sizes: tuple[int, ...]) -> dict[tuple[Value, Layout], int]:
    """Local bytes of the distinct activations that the backward keeps."""
    found: dict[tuple[Value, Layout], int] = {}
    for known in calls:
        keeps = known.work.saved
        chosen = layout.calls[known.label]
        pairs = [(known.operands[i], chosen.input(i)) for i in keeps.inputs]
        pairs += [(known.outputs[i], chosen.output(i)) for i in keeps.outputs]
        for value, lay in pairs:
            if value.bound_kind == "value":
                plain = tuple(R if p.is_replicated else p for p in lay)
                if (value, plain) not in found:
                    found[value, plain] = local_spec(value.spec, plain,
                                                     sizes).size_bytes
    return found


def _operands_kept(program: Program, layout: ProgramLayout,
                   calls: KnownCalls) -> int:
    """Values that come into recomputed blocks, each tensor once."""
    reads = {name: rerun(calls[name]).reads for name in layout.recompute}
    found: dict[tuple[str, Layout], int] = {}
    for block, node, name in program.uses():
        value = Value(node)
        if (value_kind(name) == "value"
                and value in reads.get(block.block_class, ())):
            hub = layout.classes[block.block_class].hubs[value.label]
            plain = tuple(R if p.is_replicated else p for p in hub)
            found[name, plain] = local_spec(value.spec, plain,
                                            layout.mesh.sizes).size_bytes
    return sum(found.values())


def _extra_bytes(calls: Sequence[KnownCall], layout: ClassLayout,
                 sizes: tuple[int, ...]) -> int:
    """What is kept besides values: statistics, masks, log-probabilities."""
    total = 0
    for known in calls:
        share = math.prod(size for size, option in zip(
            sizes, layout.calls[known.label].options, strict=True)
                          if option.is_sharded)
        total += known.work.saved.extra_bytes // share
    return total


def _live_peak(calls: Sequence[KnownCall], layout: ClassLayout,
               sizes: tuple[int, ...], kept: set[tuple[Value, Layout]]) -> int:
    """Largest total of live values of the forward that are not kept."""
    last: dict[Value, int] = {}
    for number, known in enumerate(calls):
        for value in (*known.operands, *known.outputs):
            last[value] = number
    held = {value for value, _ in kept}
    live: dict[Value, int] = {}
    peak = 0
    for number, known in enumerate(calls):
        chosen = layout.calls[known.label]
        for i, value in enumerate(known.outputs):
            if value not in held:
                live[value] = local_spec(value.spec, chosen.output(i),
                                         sizes).size_bytes
        peak = max(peak, sum(live.values()))
        for value in [v for v in live if last[v] <= number]:
            del live[value]
    return peak


def _gathered(program: Program, layout: ProgramLayout) -> int:
    """Whole copies of sharded parameters: all that are kept until the
    backward, and of those gathered again the largest block's."""
    sizes = layout.mesh.sizes
    kept: dict[str, int] = {}
    again: dict[str, int] = {}
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
            again[block.name] = again.get(block.name, 0) + size
        else:
            kept[name] = size
    return sum(kept.values()) + max(again.values(), default=0)
