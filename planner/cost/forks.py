"""Sums of gradients where a value has several readers.

Each reader's derivative gives a gradient, and all are added before the
derivative of what made the value runs: an addition for each reader but the
first, which no call of the forward stands for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from fractions import Fraction

from planner.cluster.device import DeviceKind
from planner.cost.block_order import BlockOrder, Called, Moved
from planner.cost.calls import KnownCall
from planner.cost.memory_estimate import local_spec
from planner.cost.roofline import memory_time_s
from planner.ir.layout import Layout
from planner.ir.layouts import ProgramLayout
from planner.ir.program import BlockClass
from planner.ir.values import Value, value_of
from planner.rules.registry import TensorSpec

__all__ = ["add_fork_sums", "fork_sums_s"]


def fork_sums_s(
        cls: BlockClass,
        calls: Sequence[KnownCall],
        layout: ProgramLayout,
        device: DeviceKind,
        divisors: Sequence[int | Fraction] | None = None) -> dict[str, float]:
    """Seconds of the additions of one run of a block, by value.

    Two gradients are read and their sum is written. Those of readers that
    take the value in one layout are added in it, since it is brought there
    once for all of them; then those of all layouts are, as it is held.

    Parameters
    ----------
    cls : BlockClass
    calls : sequence of KnownCall
        Of the class, in order.
    layout : ProgramLayout
    device : DeviceKind
    divisors : sequence of int or Fraction, optional
        What divides values along each axis; the sizes of the axes if left
        out.
    """
    chosen = layout.classes[cls.name]
    returned = {value_of(node) for node in cls.results}
    sizes = divisors or layout.mesh.sizes
    found = {}
    for value, readers in _readers(calls).items():
        if len(readers) < 2 and value not in returned:
            continue
        if not value.spec.requires_grad or value.label not in chosen.hubs:
            continue
        wanted = {
            call.label: chosen.calls[call.label].input(number)
            for call, number in reversed(readers)
            if any(v.spec.requires_grad for v in call.outputs)
        }
        groups = Counter(wanted.values())
        additions = groups - Counter(groups.keys())
        additions[chosen.hubs[value.label]] += max(
            len(groups) + (value in returned) - 1, 0)
        if additions.total():
            found[value.label] = sum(
                count * _addition_s(value.spec, held, sizes, device)
                for held, count in additions.items())
    return found


def _readers(
        calls: Sequence[KnownCall]
) -> dict[Value, list[tuple[KnownCall, int]]]:
    """Every value to the calls that read it, and as which operand."""
    found: dict[Value, list[tuple[KnownCall, int]]] = {}
    for call in calls:
        for number, value in enumerate(call.operands):
            found.setdefault(value, []).append((call, number))
    return found


def _addition_s(spec: TensorSpec, layout: Layout,
                sizes: Sequence[int | Fraction], device: DeviceKind) -> float:
    own = local_spec(spec, layout, sizes)
    return (memory_time_s(3 * own.size_bytes, device) +
            device.launch_overhead_s)


def add_fork_sums(order: BlockOrder, cls: BlockClass,
                  sums_s: Mapping[str, float]) -> None:
    """Put them where the backward runs them."""
    taken = [Value(n).label for n in cls.placeholders]
    events: list[Called | Moved] = [
        _summed(label, sums_s[label]) for label in taken if label in sums_s
    ]
    for event in order.events:
        events.append(event)
        if isinstance(event, Called):
            events += [
                _summed(label, sums_s[label])
                for label in sorted(event.makes & sums_s.keys())
            ]
    order.events[:] = events


def _summed(label: str, time_s: float) -> Moved:
    return Moved(value=label, made=False, backward_s=time_s)
