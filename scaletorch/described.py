"""A call of a parallel module, and what of it its program depends on."""

from __future__ import annotations

import json
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from planner.capture.entry import Call
from planner.ir.layouts import ProgramLayout

__all__ = ["Described", "Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How inputs are passed and outputs returned, as
    ``ParallelModule.forward`` takes them."""

    inputs: str
    outputs: str

    @staticmethod
    def of(inputs: Any, outputs: Any, arguments: dict[str, Any], *,
           staged: bool) -> Options:
        """What is no string is an argument of the model, and is put there.

        Parameters
        ----------
        inputs, outputs : object
            As they are passed.
        arguments : dict of str to object
            The model's own.
        staged : bool
            Whether this is a pipeline, which returns the loss if nothing
            is said.
        """
        if not isinstance(inputs, str):
            arguments["inputs"], inputs = inputs, "global"
        if outputs is not None and not isinstance(outputs, str):
            arguments["outputs"], outputs = outputs, None
        if outputs is None:
            outputs = "loss" if staged else "global"
        return Options(inputs=inputs, outputs=outputs)

    @property
    def are_local(self) -> bool:
        """Whether each rank passes its shard alone."""
        return self.inputs == "local"

    def check(self, layout: ProgramLayout, *, staged: bool) -> None:
        """Refuse what is unknown, or not for a plan.

        Raises
        ------
        ValueError
        """
        if self.inputs not in ("global", "local"):
            raise ValueError('inputs must be "global" or "local", got '
                             f"{self.inputs!r}")
        known = ("global", "loss") if staged else ("global", "sharded")
        if self.outputs not in known:
            raise ValueError(
                f"outputs must be {' or '.join(map(json.dumps, known))}"
                f"{' in a pipeline' if staged else ''}, got "
                f"{self.outputs!r}")
        if self.outputs == "sharded" and layout.shares:
            raise ValueError(
                'outputs="sharded" is not for plans with unequal shares of '
                "the batch, whose shards no DTensor describes: ask for "
                '"global", or use equal shares')


@dataclass(frozen=True, slots=True, kw_only=True)
class Described:
    """A call as this rank passes it, and as all ranks do.

    Parameters
    ----------
    given : Call
    whole : Call
        Of the global shapes.
    shared : tuple of hashable
        What its program depends on that all ranks share.
    own : tuple of hashable
        What is of this rank's state.
    """

    given: Call
    whole: Call
    shared: tuple[Hashable, ...]
    own: tuple[Hashable, ...]

    @property
    def signature(self) -> tuple[Hashable, ...]:
        """All that its program depends on."""
        return (*self.shared, *self.own)
