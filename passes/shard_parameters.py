"""Pass: how parameters get from rest to use, and their gradients back.

Parameter movements are actions of the executor, not nodes of a block's
graph: so they can be bucketed over parameters, started before their block
and waited for after it, whichever of data, fully sharded or tensor
parallelism asks for them.
"""

from __future__ import annotations

from dataclasses import dataclass

from planner.ir.convert import Step, conversion_steps
from planner.ir.errors import LayoutError
from planner.ir.layout import Layout, format_layout
from planner.rules.registry import TensorSpec

__all__ = ["ParameterMove", "parameter_move"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterMove:
    """One parameter on its way into one or more blocks.

    Parameters
    ----------
    source : str
        Global name of the parameter at rest.
    steps : tuple of Step
        Applied in order to the local part; their adjoints in reverse order
        to the gradient.
    regather : bool
        Whether the backward moves it in again instead of keeping it.
    """

    source: str
    spec: TensorSpec
    steps: tuple[Step, ...]
    regather: bool

    @property
    def moves_forward(self) -> bool:
        """Whether the value in use differs from the value at rest."""
        return any(s.forward.kind != "none" for s in self.steps)


def parameter_move(name: str, spec: TensorSpec, rest: Layout, use: Layout, *,
                   regather: bool) -> ParameterMove | None:
    """The movement of a parameter; None where it is used as it rests.

    Raises
    ------
    LayoutError
        When there is no conversion.
    """
    steps = conversion_steps(rest, use, differentiable=spec.requires_grad)
    if steps is None:
        raise LayoutError(
            f"{name} rests as {format_layout(rest)} and can't be used as "
            f"{format_layout(use)}: an inner axis shards the same dim; let "
            "it rest along another dim")
    if not steps:
        return None
    return ParameterMove(source=name,
                         spec=spec,
                         steps=steps,
                         regather=regather)
