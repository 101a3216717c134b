"""Time and launches of operators on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from planner.cost.analytic.configurations import FIRST, SECOND, Configurations
from planner.cost.analytic.hardware import Rates
from planner.cost.analytic.operators import HEAD_WIDTH, Operator
from planner.cost.roofline import attention_longer, overlapped_s
from planner.cost.tiles import unfilled_flops

__all__ = ["kernels", "time_s"]

Number = Any


def kernels(operators: Sequence[Operator], *, backward: bool) -> Number:
    """Launches of a list of operators."""
    return sum(o.in_backward[2] if backward else o.kernels for o in operators)


def time_s(operators: Sequence[Operator], rates: Rates, plan: Configurations,
           *, backward: bool) -> Number:
    """Time of operators on the device, one after the other.

    Parameters
    ----------
    operators : sequence of Operator
    rates : Rates
    plan : Configurations
    backward : bool
        Whether their backward is meant, of products half where weights are
        frozen.

    Returns
    -------
    number or array
        Seconds of one micro-batch.
    """
    flops_per_s = _flops_per_s(rates, plan, backward=backward)
    total_s: Number = 0.0
    for operator in operators:
        flops, size_bytes, count = (operator.in_backward if backward else
                                    (operator.flops, operator.size_bytes,
                                     operator.kernels))
        summed = operator.backward_summed if backward else operator.summed
        flops = flops + unfilled_flops(flops, summed, rates.wave_elements)
        halved = np.where(plan.frozen, 0.5,
                          1.0) if (backward and operator.weighted) else 1.0
        rate = np.where(operator.unaligned, rates.unaligned_flops_per_s,
                        flops_per_s[operator.kind])
        longer = (_attention_longer(operator, rates, plan)
                  if operator.kind == "attention" else 1.0)
        total_s = total_s + halved * (
            overlapped_s(flops / rate *
                         (1 + rates.misaligned * operator.halvings) * longer,
                         size_bytes / rates.memory_bytes_per_s,
                         exposed=rates.exposed) + count * rates.launch_s)
    return total_s


def _flops_per_s(rates: Rates, plan: Configurations, *,
                 backward: bool) -> dict[str, Number]:
    """The rate of each kind of operator."""
    bits, kernel = plan.linear_bits, plan.attention_kernel
    linear = np.select([np.less_equal(bits, 4),
                        np.less_equal(bits, 8)],
                       [rates.linear4_flops_per_s, rates.linear8_flops_per_s],
                       rates.matmul_flops_per_s)
    attention = np.select([
        np.equal(kernel, FIRST),
        np.equal(kernel, SECOND)
    ], [rates.first_attention_flops_per_s, rates.second_attention_flops_per_s],
                          rates.attention_flops_per_s)
    return {
        "linear": linear,
        "matmul": rates.matmul_flops_per_s,
        "attention":
        attention * (rates.attention_backward if backward else 1.0),
        "memory": rates.matmul_flops_per_s
    }


def _attention_longer(operator: Operator, rates: Rates,
                      plan: Configurations) -> Number:
    """How many times as long attention takes as with many keys, heads of
    128 elements and 16 bits: in 8 bits its products take half as long, of
    narrow heads it has more exponentials for as many flops."""
    products = np.where(np.less(plan.attention_bits, 16), 0.5, 1.0)
    exponentials = HEAD_WIDTH / operator.head_width
    return attention_longer(operator.keys, rates.half_keys) * (
        (1 - rates.exponentials) * products +
        rates.exponentials * exponentials)
