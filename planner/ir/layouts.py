"""The layouts of a whole program: what the search decides.

For every call one option per mesh axis; for every value the layout it is
held in once computed (its *hub*: where a value has several consumers it is
brought there once, and what they need differently is converted from
there); for every parameter, buffer and input the layout at rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from planner.ir.layout import Layout
from planner.ir.mesh import MeshSpec
from planner.ir.shares import Shares, divisors
from planner.rules.registry import Option

__all__ = ["CallLayout", "ClassLayout", "ProgramLayout"]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLayout:
    """The options of one call, one per mesh axis."""

    options: tuple[Option, ...]

    def input(self, number: int) -> Layout:
        return tuple([o.inputs[number] for o in self.options])

    def output(self, number: int) -> Layout:
        return tuple([o.outputs[number] for o in self.options])

    def share(self, sizes: Sequence[int | Fraction]) -> float:
        """What part of the call one rank computes, for axes' sizes."""
        share = 1.0
        for option, size in zip(self.options, sizes, strict=True):
            share /= float(size) if option.is_sharded else 1
        return share


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLayout:
    """Layouts of one block class.

    Parameters
    ----------
    calls : mapping of str to CallLayout
        By node label.
    hubs : mapping of str to Layout
        By value label; also of every placeholder. A value that is missing
        is held as its producer makes it.
    """

    calls: Mapping[str, CallLayout]
    hubs: Mapping[str, Layout]


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLayout:
    """Layouts of a program on a mesh.

    Parameters
    ----------
    mesh : MeshSpec
    classes : mapping of str to ClassLayout
    at_rest : mapping of str to Layout
        By global name: parameters, buffers, constants and inputs.
    regather : frozenset of str
        Parameters that are gathered again for the backward pass instead
        of being kept whole in between.
    recompute : frozenset of str
        Block classes whose forward runs again in the backward instead of
        saving what it computed.
    shares : mapping of str to tuple of int
        By axis, in which proportions its ranks divide the batch, where
        that is not evenly.
    """

    mesh: MeshSpec
    classes: Mapping[str, ClassLayout]
    at_rest: Mapping[str, Layout]
    regather: frozenset[str] = frozenset()
    recompute: frozenset[str] = frozenset()
    shares: Shares = field(default_factory=dict)

    def divisors(self, rank: int) -> tuple[int | Fraction, ...]:
        """What divides the dims of one rank's values, along each axis."""
        return divisors(self.mesh, self.shares, self.mesh.coordinate(rank))
