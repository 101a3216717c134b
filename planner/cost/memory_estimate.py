"""Memory of one rank for a plan, by kind, from its layouts.

Parameters, gradients and optimizer state are exact. Saved activations are
the distinct tensors that the backward of each call keeps; the transient
peak is the liveness of one block's forward (and twice that for the
backward, which holds values and gradients).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from planner.cost.optimizer import optimizer_bytes
from planner.cost.saved import saved
from planner.ir.layout import Layout, R, local_shape
from planner.ir.layouts import ClassLayout, ProgramLayout
from planner.ir.program import BlockClass, Program, value_kind
from planner.ir.values import (Value, call_of, calls_of, operands_of,
                               outputs_of)
from planner.rules.registry import TensorSpec

__all__ = ["MemoryEstimate", "estimate_memory"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one rank, by kind."""

    parameters: int
    gradients: int
    optimizer: int
    saved: int
    gathered: int
    transient: int

    @property
    def total(self) -> int:
        return (self.parameters + self.gradients + self.optimizer +
                self.saved + self.gathered + self.transient)

    def by_kind(self) -> dict[str, int]:
        """The parts by name, largest first."""
        parts = {"parameters": self.parameters, "gradients": self.gradients,
                 "optimizer": self.optimizer, "activations": self.saved,
                 "gathered parameters": self.gathered,
                 "transient": self.transient}
        return dict(sorted(parts.items(), key=lambda kv: (-kv[1], kv[0])))


def estimate_memory(program: Program, layout: ProgramLayout, *,
                    optimizer: str = "adamw") -> MemoryEstimate:
    """Estimate one rank's memory in a training step.

    Parameters
    ----------
    program : Program
    layout : ProgramLayout
    optimizer : str
        Whose state is counted, a key of ``planner.cost.optimizer``.
    """
    sizes = layout.mesh.sizes
    params = [n for n in program.params]
    local = {n: _local(program.specs[n], layout.at_rest[n], sizes)
             for n in program.specs}
    trained = [local[n] for n in params if program.specs[n].requires_grad]
    blocks = Counter(b.block_class for b in program.blocks)
    kept = transient = 0
    for name, cls in program.classes.items():
        values = _saved_values(cls, layout.classes[name], sizes)
        kept += blocks[name] * sum(values.values())
        transient = max(transient, _live_peak(cls, layout.classes[name],
                                              sizes, set(values)))
    return MemoryEstimate(
        parameters=sum(local[n].size_bytes for n in program.specs
                       if value_kind(n) != "input"),
        gradients=sum(s.size_bytes for s in trained),
        optimizer=optimizer_bytes(optimizer, trained),
        saved=kept, transient=2 * transient,
        gathered=_gathered(program, layout))


def _local(spec: TensorSpec, layout: Layout,
           sizes: Iterable[int]) -> TensorSpec:
    return replace(spec, shape=local_shape(spec.shape, layout, tuple(sizes)))


def _saved_values(cls: BlockClass, layout: ClassLayout,
                  sizes: tuple[int, ...]) -> dict[tuple[Value, Layout], int]:
    """Local bytes of the distinct activations that the backward keeps."""
    found: dict[tuple[Value, Layout], int] = {}
    for node in calls_of(cls.graph):
        call = call_of(node)
        if not any(s.requires_grad for s in call.outputs):
            continue
        keeps = saved(call)
        chosen = layout.calls[node.meta["label"]]
        operands, outputs = operands_of(node), outputs_of(node)
        pairs = [(operands[i], chosen.input(i)) for i in keeps.inputs]
        pairs += [(outputs[i], chosen.output(i)) for i in keeps.outputs]
        for value, lay in pairs:
            if not _is_state(value):
                plain = tuple(R if p.is_replicated else p for p in lay)
                found[value, plain] = _local(value.spec, lay,
                                             sizes).size_bytes
    return found


def _is_state(value: Value) -> bool:
    return value.node.op == "placeholder" and value_kind(
        str(value.node.meta.get("bound", ""))) != "value"


def _live_peak(cls: BlockClass, layout: ClassLayout, sizes: tuple[int, ...],
               kept: set[tuple[Value, Layout]]) -> int:
    """Largest total of live values of the forward that are not kept."""
    last: dict[Value, int] = {}
    nodes = list(calls_of(cls.graph))
    for number, node in enumerate(nodes):
        for value in (*operands_of(node), *outputs_of(node)):
            last[value] = number
    held = {value for value, _ in kept}
    live: dict[Value, int] = {}
    peak = 0
    for number, node in enumerate(nodes):
        chosen = layout.calls[node.meta["label"]]
        for i, value in enumerate(outputs_of(node)):
            if value not in held:
                live[value] = _local(value.spec, chosen.output(i),
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
        size = _local(spec, use, sizes).size_bytes
        if size <= _local(spec, rest, sizes).size_bytes:
            continue
        if name in layout.regather:
            again[block.name] = again.get(block.name, 0) + size
        else:
            kept[name] = size
    return sum(kept.values()) + max(again.values(), default=0)
