"""What is measured: one kernel, collective or mixture of both."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["COLLECTIVE_KINDS", "Groups", "Point"]

COLLECTIVE_KINDS = ("all_reduce", "all_gather", "reduce_scatter", "all_to_all",
                    "broadcast", "send")


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """The groups of one axis of a mesh over all processes.

    Parameters
    ----------
    shape : tuple of int
        Sizes of the mesh; the last axis is innermost.
    axis : int
        Whose groups communicate.
    alone : bool
        Only the first group does, while the others wait; else all groups
        at once.
    """

    shape: tuple[int, ...]
    axis: int
    alone: bool = False

    @property
    def size(self) -> int:
        """Ranks in a group."""
        return self.shape[self.axis]

    def __str__(self) -> str:
        text = f"{'x'.join(map(str, self.shape))}/{self.axis}"
        return f"{text} alone" if self.alone else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One thing to measure.

    Parameters
    ----------
    kind : str
        A kernel of :mod:`planner.profile.operations`, a collective, or
        what :mod:`planner.profile.others` measures.
    dtype : str
    sizes : tuple of int
        Of the kernel's dims; of a collective, its bytes as
        :mod:`planner.cost.collective` counts them.
    variant : str
        Such as the layout of a product's operands.
    backward : bool
        The derivative and not the call.
    groups : Groups or None
        Of collectives. None: every process does the same by itself.
    """

    kind: str
    dtype: str = "float32"
    sizes: tuple[int, ...] = ()
    variant: str = ""
    backward: bool = False
    groups: Groups | None = None

    @property
    def torch_dtype(self) -> torch.dtype:
        found = getattr(torch, self.dtype)
        assert isinstance(found, torch.dtype)
        return found

    @property
    def kind_name(self) -> str:
        """Kind and direction."""
        return f"{self.kind} backward" if self.backward else self.kind

    @property
    def shape(self) -> str:
        """Sizes and variant as one text."""
        text = "x".join(map(str, self.sizes))
        return f"{text} {self.variant}".strip()

    @property
    def row(self) -> tuple[str, str, str, str]:
        """What tells it from other points: kind, dtype, shape, group."""
        group = "" if self.groups is None else str(self.groups)
        return self.kind_name, self.dtype, self.shape, group

    def __str__(self) -> str:
        return " ".join(part for part in self.row if part)
