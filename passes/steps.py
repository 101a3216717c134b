"""What lowering leaves: kernels, and the steps of one rank that run them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from passes.shard_parameters import ParameterMove
from passes.split_backward import SplitBlock
from planner.ir.layout import Layout, format_layout

__all__ = ["Kernel", "RankProgram", "RankStep"]


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """A block class or a conversion, lowered for training and inference."""

    name: str
    train: SplitBlock
    infer: SplitBlock


@dataclass(frozen=True, slots=True, kw_only=True)
class RankStep:
    """One run of a kernel on named local values.

    `moves` are the operands that are parameters on their way into use, by
    operand name.
    """

    name: str
    kernel: str
    operands: tuple[str, ...]
    results: tuple[str, ...]
    moves: Mapping[str, ParameterMove] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RankProgram:
    """What one rank runs.

    Parameters
    ----------
    kernels : mapping of str to Kernel
    steps : tuple of RankStep
        In forward order.
    outputs : tuple of str or None
        Local value of each output leaf of the program, replicated.
    mutations : mapping of str to str
        Buffer to the local value written back.
    tangents : tuple of int
        Output leaves that take a gradient.
    layouts : mapping of str to Layout
        In which each local value lies.
    takes : tuple of str
        Values that the caller gives.
    is_stage : bool
        Whether it is a stage of a pipeline, whose outputs leave as they are
        held: another stage goes on with them.
    """

    kernels: Mapping[str, Kernel]
    steps: tuple[RankStep, ...]
    outputs: tuple[str | None, ...]
    mutations: Mapping[str, str]
    tangents: tuple[int, ...]
    layouts: Mapping[str, Layout]
    takes: tuple[str, ...] = ()
    is_stage: bool = False

    def __str__(self) -> str:
        lines = []
        for step in self.steps:
            lines.append(f"{step.name}: run {step.kernel}")
            lines += [
                f"  {name} moved from {move.source}"
                for name, move in step.moves.items()
            ]
            lines += [
                f"  gives {r} : {format_layout(self.layouts[r])}"
                for r in step.results
            ]
        outputs = ", ".join(str(name) for name in self.outputs)
        return "\n".join([*lines, f"return {outputs}"])
