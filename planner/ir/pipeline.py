"""What a plan says of its pipeline."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planner.ir.mesh import MeshSpec
from planner.names import nearest
from planner.yaml_data import names_of, whole_number

__all__ = [
    "MICROBATCH", "PipelineSpec", "inner_mesh", "layout_mesh", "on_axis"
]

MICROBATCH = "microbatch"
"""The axis of a layout that stands for the micro-batches of a step."""

_KEYS = ("axis", "schedule", "microbatches", "chunks", "cuts",
         "batch_statistics")

_STATISTICS = ("exact", "microbatch")


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineSpec:
    """Stages over one mesh axis, and in which order they work.

    Parameters
    ----------
    axis : str
        The mesh axis whose ranks hold the stages.
    schedule : str
        A named schedule, ``auto``, the path of a schedule's text, or the
        text itself, which has a line for each rank and ends in a newline.
    microbatches : int
        Parts into which a batch is cut.
    chunks : int
        Stages of each rank.
    cuts : tuple of str
        The block with which each stage but the first begins, or
        ``BLOCK:CALL`` where it begins inside of one; empty: stages of about
        equal time are chosen.
    batch_statistics : {"exact", "microbatch"}
        What is computed from a whole batch and its parameters (batch norm,
        losses that balance experts): refused, since micro-batches would
        change it, or computed from each micro-batch.
    """

    axis: str = "pp"
    schedule: str = "1f1b"
    microbatches: int = 4
    chunks: int = 1
    cuts: tuple[str, ...] = ()
    batch_statistics: str = "exact"

    def __post_init__(self) -> None:
        for name in ("microbatches", "chunks"):
            if getattr(self, name) < 1:
                raise ValueError(f"pipeline: {name} must be at least 1, got "
                                 f"{getattr(self, name)}")
        if self.batch_statistics not in _STATISTICS:
            raise ValueError("pipeline: batch_statistics must be "
                             f"{' or '.join(map(repr, _STATISTICS))}, got "
                             f"{self.batch_statistics!r}")

    @property
    def is_exact(self) -> bool:
        """Whether a step is the same, however many micro-batches."""
        return self.batch_statistics == "exact"

    @property
    def label(self) -> str:
        """The schedule's name in one word."""
        return "schedule" if "\n" in self.schedule else self.schedule

    def to_data(self) -> dict[str, Any]:
        """As plain data, for YAML."""
        return {
            "axis": self.axis,
            "schedule": self.schedule,
            "microbatches": self.microbatches,
            "chunks": self.chunks,
            "cuts": list(self.cuts),
            "batch_statistics": self.batch_statistics,
        }

    @staticmethod
    def from_data(data: Mapping[str, Any], where: str) -> PipelineSpec:
        """Read what :meth:`to_data` gives.

        Raises
        ------
        ValueError
            For unknown keys and impossible values.
        """
        for key in data:
            if key not in _KEYS:
                raise ValueError(f"{where}: unknown key {key!r}; "
                                 f"{nearest(str(key), _KEYS)}")
        return PipelineSpec(
            axis=str(data.get("axis", "pp")),
            schedule=str(data.get("schedule", "1f1b")),
            microbatches=whole_number(data.get("microbatches", 4),
                                      f"{where}: microbatches"),
            chunks=whole_number(data.get("chunks", 1), f"{where}: chunks"),
            cuts=names_of(data.get("cuts"), f"{where}: cuts"),
            batch_statistics=str(data.get("batch_statistics", "exact")))


def inner_mesh(mesh: MeshSpec, axis: str) -> MeshSpec:
    """The mesh of one stage's ranks; a single rank is ``dp=1``."""
    kept = {n: s for n, s in zip(mesh.names, mesh.sizes) if n != axis}
    kept = kept or {"dp": 1}
    return MeshSpec(tuple(kept), tuple(kept.values()))


def on_axis(pipeline: PipelineSpec, mesh: MeshSpec) -> PipelineSpec:
    """The pipeline over its axis of a mesh, or over the only one.

    Raises
    ------
    ValueError
        When the mesh has no such axis.
    """
    if len(mesh.names) == 1:
        return dataclasses.replace(pipeline, axis=mesh.names[0])
    mesh.index(pipeline.axis)
    return pipeline


def layout_mesh(mesh: MeshSpec, pipeline: PipelineSpec | None) -> MeshSpec:
    """The axes that a plan's layouts are over.

    Without a pipeline the mesh; with one, those of a stage, then the
    micro-batches.
    """
    if pipeline is None:
        return mesh
    inner = inner_mesh(mesh, pipeline.axis)
    return MeshSpec((*inner.names, MICROBATCH),
                    (*inner.sizes, pipeline.microbatches))
