"""What one published run says, in the words of the cost model."""

from __future__ import annotations

from dataclasses import dataclass

from planner.cluster.spec import ClusterSpec
from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.transformer import Transformer

__all__ = ["Case", "Unreadable"]


class Unreadable(ValueError):
    """A row that the model cannot express; the text says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A row, ready to be priced.

    Parameters
    ----------
    id, source : str
    preset : str
        Of the devices.
    cluster : ClusterSpec
    model : Transformer
    plan : Configurations
        Plain numbers.
    dtype : str
    measured_s, measured_bytes : float or None
    last_rank : bool
        Whether the memory is that of the last pipeline rank and not the
        largest of all.
    reserved : bool
        Whether the memory is what the process took from the device and not
        what its tensors took from the allocator.
    allocator : bool
        Whether what was taken is what the allocator says, without what lies
        outside of it.
    stated : bool
        Whether nothing that matters had to be assumed.
    one_step : bool
        Whether the time is that of a single step, an early one.
    utilisation : float or None
        Share of the devices' peak that the model's flops are.
    """

    id: str
    source: str
    preset: str
    cluster: ClusterSpec
    model: Transformer
    plan: Configurations
    dtype: str
    measured_s: float | None
    measured_bytes: float | None
    last_rank: bool
    reserved: bool
    allocator: bool
    stated: bool
    one_step: bool
    utilisation: float | None
