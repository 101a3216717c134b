"""Price many published runs at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.hardware import Hardware
from planner.cost.analytic.memory import (StepMemory, reserved_bytes,
                                          step_memory)
from planner.cost.analytic.stack import stack
from planner.cost.analytic.step import StepTime, step_time
from planner.cost.analytic.transformer import Transformer
from scripts.published.case import Case

__all__ = ["Batch", "product_dtype"]


def product_dtype(preset: str) -> torch.dtype:
    """Of products on a device: the wider range where it has both."""
    return torch.float16 if preset.startswith("v100") else torch.bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Cases as arrays."""

    cases: tuple[Case, ...]
    models: Transformer
    plans: Configurations
    hardware: Hardware

    @classmethod
    def of(cls, cases: Sequence[Case]) -> Batch:
        """Stack cases."""
        return cls(cases=tuple(cases),
                   models=stack([c.model for c in cases]),
                   plans=stack([c.plan for c in cases]),
                   hardware=stack([
                       Hardware.of(c.cluster,
                                   c.plan,
                                   dtype=product_dtype(c.preset))
                       for c in cases
                   ]))

    def times(self) -> StepTime:
        """Step times, by part."""
        return step_time(self.models, self.plans, self.hardware)

    def memory(self) -> StepMemory:
        """Peak memory of tensors on the rank that a row measured: the last,
        or that of the first and the last that has most."""
        first, last = (step_memory(self.models, self.plans, last_stage=stage)
                       for stage in (False, True))
        only = np.array([c.last_rank for c in self.cases])
        chosen = only | (last.total_bytes > first.total_bytes)
        return StepMemory(
            **{
                f.name:
                np.where(chosen, getattr(last, f.name), getattr(first, f.name))
                for f in fields(StepMemory)
            })

    def peak_bytes(self) -> np.ndarray:
        """Peak memory, of the kind and on the rank that a row measured."""
        reserved = np.array([c.reserved for c in self.cases])
        memory = self.memory()
        context = np.array([not c.allocator for c in self.cases])
        return np.asarray(
            np.where(reserved, reserved_bytes(memory, context=context),
                     memory.total_bytes))
