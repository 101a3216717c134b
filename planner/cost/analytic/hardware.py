"""Rates and links as arrays, one entry per plan."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch

from planner.cluster.axis import AxisInfo, axis_link
from planner.cluster.device import DeviceKind
from planner.cluster.spec import ClusterSpec
from planner.cost.analytic.configurations import Configurations
from planner.cost.collective import COLLECTIVES, tiered_all_reduce_time_s
from planner.cost.queue import QUEUE_ORDER

__all__ = ["AxisArrays", "Hardware", "LinkArrays", "Rates"]

Number = Any


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkArrays:
    """Links as the formulas of collectives read them."""

    latency_s: Number
    overhead_s: Number
    segment_s: Number
    rate_bytes_per_s: Number
    switch_reduction: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class AxisArrays:
    """The groups of one axis, of every plan."""

    size: Number
    link: LinkArrays
    exchange: LinkArrays
    point: LinkArrays
    inner: LinkArrays
    num_units: Number
    num_islands: Number

    @classmethod
    def of(cls, axes: Sequence[AxisInfo]) -> Self:
        """From what :func:`axis_link` says of each plan."""
        return cls(size=np.array([a.size for a in axes], dtype=float),
                   link=_links(axes, lambda a: a.link),
                   exchange=_links(axes, lambda a: a.exchange or a.link),
                   point=_links(axes, lambda a: a.point or a.link),
                   inner=_links(axes, lambda a: a.inner or a.link),
                   num_units=np.array(
                       [a.num_units if a.inner else 0 for a in axes]),
                   num_islands=np.array([a.num_islands for a in axes]))

    def time_s(self, kind: str, buffer_bytes: Number) -> Number:
        """As :func:`planner.cost.collective.collective_time_s`."""
        link = {"all_to_all": self.exchange, "send": self.point}.get(kind)
        time_s = COLLECTIVES[kind](buffer_bytes, self.size, link or self.link)
        if kind != "all_reduce" or not np.any(self.num_units):
            return time_s
        tiered = tiered_all_reduce_time_s(buffer_bytes, self.size, self.link,
                                          self.inner,
                                          np.maximum(self.num_units, 1))
        return np.where(self.num_units > 0, np.minimum(time_s, tiered), time_s)

    def slowed(self, share: float, *, point: float) -> Self:
        """As :meth:`planner.cluster.axis.AxisInfo.slowed`."""
        shares = {
            "link": share,
            "exchange": share,
            "point": point,
            "inner": share
        }
        return dataclasses.replace(
            self, **{
                name: _slowed(getattr(self, name), part)
                for name, part in shares.items()
            })

    def distinct_islands(self, copies: Number) -> Number:
        """Share of the bytes to other islands that is left when a row goes
        once to each, and `copies` of it are spread evenly."""
        units = np.maximum(self.num_islands, 1)
        reached = (units - 1) * (1 - (1 - 1 / units)**copies)
        plain = np.maximum(copies * (units - 1) / units, 1e-9)
        return np.where(units > 1, np.minimum(reached / plain, 1.0), 1.0)


def _slowed(link: LinkArrays, share: float) -> LinkArrays:
    return dataclasses.replace(link,
                               rate_bytes_per_s=link.rate_bytes_per_s * share)


def _links(axes: Sequence[AxisInfo], choose: Callable[[AxisInfo],
                                                      Any]) -> LinkArrays:
    chosen = [choose(a) for a in axes]
    return LinkArrays(
        **{
            field.name: np.array(
                [getattr(link, field.name) for link in chosen])
            for field in fields(LinkArrays)
        })


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """What a device reaches, by the calibrated numbers of its kind.

    Parameters
    ----------
    matmul_flops_per_s : float
    attention_flops_per_s : float
        Of fused attention that is written for the kind of device.
    first_attention_flops_per_s, second_attention_flops_per_s : float
        Of FlashAttention and FlashAttention-2, which are written for the
        instructions of the A100.
    linear8_flops_per_s, linear4_flops_per_s : float
        Of linear layers in 8 and in 4 bits.
    misaligned : float
        Share by which a product gets slower each time the power of two
        that divides its width halves, from 64 elements on.
    unaligned_flops_per_s : float
        Of products of many small matrices whose rows are no multiple of 16
        bytes: the units for matrices cannot load these, and those for
        numbers of 32 bits make the product.
    wave_elements : float
        Of a product's result that all units of a device make at a time.
    memory_bytes_per_s : float
    launch_s, dispatch_s : float
        What each kernel costs on the device, and on the host.
    queue_order : float
        How well the host's launches hide behind the device's work; see
        :func:`planner.cost.queue.queued_s`.
    exposed : float
        Share of the shorter of compute and memory that is not hidden.
    attention_backward : float
        Rate of fused attention's backward, as a share of its forward's.
    half_keys : float
        Of how many keys for a query fused attention has half of its rate:
        kernels fill and drain for each block of queries.
    exponentials : float
        Which share of fused attention's time goes with the exponentials and
        not with the products, of heads of 128 elements.
    interference : float
        Share of overlapped communication by which compute gets slower.
    """

    matmul_flops_per_s: Number
    attention_flops_per_s: Number
    first_attention_flops_per_s: Number
    second_attention_flops_per_s: Number
    linear8_flops_per_s: Number
    linear4_flops_per_s: Number
    misaligned: Number
    unaligned_flops_per_s: Number
    wave_elements: Number
    memory_bytes_per_s: Number
    launch_s: Number
    dispatch_s: Number
    queue_order: Number
    exposed: Number
    interference: Number
    attention_backward: Number = 1.0
    half_keys: Number = 0.0
    exponentials: Number = 0.0

    @classmethod
    def of(cls,
           device: DeviceKind,
           dtype: torch.dtype = torch.bfloat16) -> Self:
        """Of a kind of device, for products in `dtype`."""
        peak = device.peak(dtype)
        peaks = dict(device.peak_flops_per_s)
        matmul = peak * device.efficiency("matmul")
        eight = peaks.get("float8_e4m3fn", 0.0) * device.efficiency("matmul8")
        four = peaks.get("float4_e2m1fn_x2",
                         0.0) * device.efficiency("matmul4")
        attention = device.efficiency("attention")
        shares = {c.name: c.value for c in device.efficiencies}
        plain = peaks.get("float32", 0.0) * shares.get("unaligned", 0.0)
        first, second = (shares.get(f"{name}_attention", attention)
                         for name in ("first", "second"))
        return cls(matmul_flops_per_s=matmul,
                   attention_flops_per_s=peak * attention,
                   first_attention_flops_per_s=peak * first,
                   second_attention_flops_per_s=peak * second,
                   linear8_flops_per_s=eight or matmul,
                   linear4_flops_per_s=four or eight or matmul,
                   misaligned=device.coefficient("misaligned", 0.0),
                   unaligned_flops_per_s=plain or matmul,
                   wave_elements=device.coefficient("wave_elements", 0.0),
                   memory_bytes_per_s=(device.memory_bandwidth_bytes_per_s *
                                       device.efficiency("memory")),
                   launch_s=device.launch_overhead_s,
                   dispatch_s=device.coefficient("dispatch_s",
                                                 device.launch_overhead_s),
                   queue_order=device.coefficient("queue_order", QUEUE_ORDER),
                   exposed=device.coefficient("exposed", 0.0),
                   interference=device.coefficient("interference", 0.0),
                   attention_backward=device.coefficient(
                       "attention_backward", 1.0),
                   half_keys=device.coefficient("half_keys", 0.0),
                   exponentials=device.coefficient("exponentials", 0.0))


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """Rates, and the links of each axis."""

    rates: Rates
    tp: AxisArrays
    cp: AxisArrays
    ep: AxisArrays
    pp: AxisArrays
    data: AxisArrays
    """``dp`` and ``cp`` together: who has the same parameters."""
    shard: AxisArrays
    """Those of `data` who share what is sharded."""

    @classmethod
    def of(cls,
           cluster: ClusterSpec,
           plans: Configurations,
           *,
           dtype: torch.dtype = torch.bfloat16) -> Self:
        """Of plans on one cluster, tp innermost and pp outermost."""
        shape = np.broadcast(plans.tp, plans.cp, plans.dp, plans.pp, plans.ep,
                             plans.shards, plans.micro_batch).shape
        tp, cp, dp, pp, ep, shards = (np.broadcast_to(
            n, shape).ravel().astype(int) for n in (plans.tp, plans.cp,
                                                    plans.dp, plans.pp,
                                                    plans.ep, plans.shards))
        # Experts take ranks of dp and cp, and those of tp where more are
        # wanted than there are of these.
        inside = np.where(ep <= cp * dp, tp, 1)
        at = functools.partial(_axis_arrays, cluster, tp * cp * dp * pp)
        device = cluster.weakest()
        plain = cls(rates=Rates.of(device, dtype),
                    tp=at(tp, np.ones_like(tp)),
                    cp=at(cp, tp),
                    ep=at(ep, inside),
                    data=at(dp * cp, tp),
                    shard=at(shards, tp),
                    pp=at(pp, tp * cp * dp))
        return plain.slowed(device.coefficient("collective_share", 1.0),
                            point=device.coefficient("point_share", 1.0))

    def slowed(self, share: float, *, point: float) -> Self:
        """The same with slower links, see
        :func:`planner.cluster.axis.step_link`."""
        axes = {
            name: getattr(self, name).slowed(share, point=point)
            for name in ("tp", "cp", "ep", "pp", "data", "shard")
        }
        return dataclasses.replace(self, **axes)


def _axis_arrays(cluster: ClusterSpec, devices: np.ndarray, size: np.ndarray,
                 stride: np.ndarray) -> AxisArrays:
    # One number tells an axis: many plans share few axes.
    base = int(max(devices.max(), 1)) + 1
    found, where = np.unique((devices * base + size) * base + stride,
                             return_inverse=True)
    known = [(n // base**2, n // base % base, n % base)
             for n in found.tolist()]
    axes = [_axis(cluster, *numbers) for numbers in known]
    few = AxisArrays.of(axes)
    return AxisArrays(size=few.size[where],
                      num_units=few.num_units[where],
                      num_islands=few.num_islands[where],
                      **{
                          name: _taken(getattr(few, name), where)
                          for name in ("link", "exchange", "point", "inner")
                      })


def _taken(link: LinkArrays, where: np.ndarray) -> LinkArrays:
    return LinkArrays(
        **{
            field.name: getattr(link, field.name)[where]
            for field in fields(LinkArrays)
        })


@functools.lru_cache(maxsize=4096)
def _axis(cluster: ClusterSpec, devices: int, size: int,
          stride: int) -> AxisInfo:
    outer = max(devices // (size * stride), 1)
    return axis_link(cluster, (outer, size, stride), 1)
