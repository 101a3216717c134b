"""What the software of a published run does otherwise than this library.

The search prices a plan as this library runs it. What the run's own software
adds to that, or saves, is what the formulas say of both.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from planner.cost.analytic.configurations import FSDP, Configurations
from planner.cost.analytic.hardware import Rates
from planner.cost.analytic.step import step_time
from scripts.published.batch import Batch
from scripts.published.case import Case

__all__ = ["as_here", "otherwise_bytes", "otherwise_s"]

_MOMENTS_BYTES = 4
"""Of both of a parameter's, as wide as it is."""
_GRADIENT_BYTES = 2
_LOSS_BYTES = 14
"""Of each logit: itself, in 32 bits, its log-softmax and its gradient."""


def as_here(plan: Configurations) -> Configurations:
    """The plan as this library runs it.

    Recomputation stops where the backward has what it reads, sums over tp
    run beside gradients of weights, gradients are added up in one pass and
    scattered, they and moments are as wide as parameters; in parts of a
    batch they are reduced after the last, else beside the backward. The loss
    is that of eager kernels.

    Examples
    --------
    >>> here = as_here(Configurations(tp=2, num_microbatches=4))
    >>> here.stops_early, here.backward_overlap, here.overlap
    (True, True, False)
    """
    parts = plan.num_microbatches > 1 or plan.pp > 1
    return replace(plan,
                   stops_early=True,
                   backward_overlap=plan.tp > 1,
                   tensor_overlap=False,
                   copied_accumulation=False,
                   fused_accumulation=False,
                   whole_sums=False,
                   exchange_overlap=False,
                   whole_tensors=False,
                   copied_gathers=False,
                   fused_kernels=True,
                   host_factor=1.0,
                   step_host_s=0.0,
                   master_bytes=_MOMENTS_BYTES,
                   gradient_bytes=_GRADIENT_BYTES,
                   held_gradient_bytes=0,
                   fresh_gradient_bytes=_GRADIENT_BYTES,
                   bucket_bytes=0,
                   loss_bytes=_LOSS_BYTES,
                   whole_logits=False,
                   overlap=plan.sharding == FSDP or not parts)


def otherwise_s(case: Case) -> float:
    """By how many seconds a run's step is longer for its software.

    Parameters
    ----------
    case : Case
    """
    own, other = _both(case)
    hardware = replace(other.hardware, rates=_aligned(other.hardware.rates))
    plain_s = step_time(other.models, other.plans, hardware).time_s
    return float((own.times().time_s - plain_s)[0])


def otherwise_bytes(case: Case) -> float:
    """By how many bytes a run's software takes more than tensors do here.

    Parameters
    ----------
    case : Case
        Of a process, its context and its allocator's gaps are among them.
    """
    own, other = _both(case)
    return float(
        np.ravel(own.peak_bytes() - other.memory().total_bytes).item())


def _both(case: Case) -> tuple[Batch, Batch]:
    """A run as it was, and as it would be here."""
    here = replace(case, plan=as_here(case.plan))
    return Batch.of([case]), Batch.of([here])


def _aligned(rates: Rates) -> Rates:
    """Rates of products of any width, as the search has them."""
    return replace(rates,
                   misaligned=0.0 * rates.misaligned,
                   unaligned_flops_per_s=rates.matmul_flops_per_s)
