"""What a cluster is made of: devices under a tree of link tiers.

Devices are numbered so that the innermost tier varies fastest: with tiers
``node`` (8 devices) and ``fabric`` (4 nodes), device 9 is the second of
the second node.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

from planner.cluster.checks import check_number
from planner.cluster.device import Coefficient, DeviceKind
from planner.cluster.link import Link, Tier
from planner.cluster.slowest import slowest_device
from planner.names import nearest

__all__ = [
    "ClusterSpec", "Coefficient", "DeviceKind", "Link", "NodeGroup", "Tier"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeGroup:
    """Some nodes of a mixed cluster that have devices of another kind."""

    num_nodes: int
    device: DeviceKind

    def __post_init__(self) -> None:
        check_number(f"nodes of {self.device.name}",
                     "num_nodes",
                     self.num_nodes,
                     minimum=1,
                     strict=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSpec:
    """A cluster.

    Parameters
    ----------
    name : str
    device : DeviceKind
        Of all nodes that `others` does not take.
    tiers : tuple of Tier
        Innermost first. Units of the innermost are called nodes.
    others : tuple of NodeGroup
        Of a mixed cluster: what the LAST nodes are made of, in order.
    price_per_device_hour : float, optional
        What an hour of one device costs, in any currency.
    """

    name: str
    device: DeviceKind
    tiers: tuple[Tier, ...]
    others: tuple[NodeGroup, ...] = ()
    price_per_device_hour: float | None = None

    def __post_init__(self) -> None:
        if self.price_per_device_hour is not None:
            check_number(f"cluster {self.name}",
                         "price_per_device_hour",
                         self.price_per_device_hour,
                         minimum=0,
                         strict=True)
        names = [tier.name for tier in self.tiers]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"cluster {self.name}: tiers need distinct "
                             f"names and at least one, got {names}")
        listed = sum(group.num_nodes for group in self.others)
        if listed > self.num_nodes:
            raise ValueError(
                f"cluster {self.name} has {self.num_nodes} nodes, but "
                f"others lists {listed}; make a tier larger or list less")

    @property
    def num_devices(self) -> int:
        return math.prod(tier.size for tier in self.tiers)

    @property
    def num_nodes(self) -> int:
        """Units of the innermost tier."""
        return self.num_devices // self.tiers[0].size

    def device_of(self, number: int) -> DeviceKind:
        """The kind of device `number`."""
        node = number // self.tiers[0].size
        start = self.num_nodes
        for group in reversed(self.others):
            start -= group.num_nodes
            if node >= start:
                return group.device
        return self.device

    def kinds(self) -> tuple[DeviceKind, ...]:
        """The distinct kinds of device, in the order of their nodes."""
        listed = sum(group.num_nodes for group in self.others)
        own = (self.device, ) if listed < self.num_nodes else ()
        return tuple(dict.fromkeys((*own, *(g.device for g in self.others))))

    @property
    def is_mixed(self) -> bool:
        """Whether there are several kinds of device."""
        return bool(self.others) and len(self.kinds()) > 1

    def weakest(self, numbers: Iterable[int] | None = None) -> DeviceKind:
        """A device that none of some devices is worse than.

        Where these do the same work in step, this is what they are
        together. It is `device` itself unless their kinds differ, or the
        devices of a kind do (``variation``): then it is the slowest of so
        many (:func:`planner.cluster.slowest.slowest`).

        Parameters
        ----------
        numbers : iterable of int, optional
            Of the devices; all of the cluster if left out.
        """
        if numbers is None:
            return slowest_device(self._worst(self.kinds()), self.num_devices)
        numbers = tuple(numbers)
        kinds = self.kinds()
        if len(kinds) > 1:
            node = self.tiers[0].size
            first = dict.fromkeys(n // node for n in numbers)
            kinds = tuple(
                dict.fromkeys(self.device_of(n * node) for n in first))
        return slowest_device(self._worst(kinds), len(numbers))

    def _worst(self, kinds: tuple[DeviceKind, ...]) -> DeviceKind:
        """Of several kinds, what has the least of all."""
        if len(kinds) == 1:
            return kinds[0]
        dtypes = [d for d, _ in kinds[0].peak_flops_per_s]
        common = [
            d for d in dtypes
            if all(d in dict(k.peak_flops_per_s) for k in kinds)
        ]
        slowest = min(kinds,
                      key=lambda k: max(dict(k.peak_flops_per_s).values()))
        if not common:
            raise ValueError(f"cluster {self.name} mixes devices without a "
                             "dtype in common; list peak_flops_per_s of "
                             "float32 for each")
        return dataclasses.replace(
            slowest,
            name=" | ".join(k.name for k in kinds),
            memory_bytes=min(k.memory_bytes for k in kinds),
            memory_bandwidth_bytes_per_s=min(k.memory_bandwidth_bytes_per_s
                                             for k in kinds),
            peak_flops_per_s=tuple(
                (d, min(dict(k.peak_flops_per_s)[d] for k in kinds))
                for d in common),
            launch_overhead_s=max(k.launch_overhead_s for k in kinds))

    def tier(self, name: str) -> Tier:
        """The tier called `name`."""
        for tier in self.tiers:
            if tier.name == name:
                return tier
        hint = nearest(name, [t.name for t in self.tiers])
        raise ValueError(f"cluster {self.name} has no tier {name!r}; {hint}")

    def unit_sizes(self) -> tuple[int, ...]:
        """Devices in one unit of each tier, innermost first."""
        sizes, devices = [], 1
        for tier in self.tiers:
            devices *= tier.size
            sizes.append(devices)
        return tuple(sizes)

    def resized(self, num_devices: int) -> ClusterSpec:
        """The same kind of cluster with `num_devices` devices.

        Nodes are filled first; tiers between them and the outermost take
        the largest number of units that divides what is left, and the
        outermost the rest.

        Raises
        ------
        ValueError
            When `num_devices` is more than one node holds and not a
            multiple of it.
        """
        check_number(f"cluster {self.name}",
                     "number of devices",
                     num_devices,
                     minimum=1,
                     strict=False)
        if len(self.tiers) == 1:
            return self.with_sizes(num_devices)
        node = min(num_devices, self.tiers[0].size)
        if num_devices % node:
            raise ValueError(
                f"cluster {self.name}: {num_devices} devices do not fill "
                f"whole units of tier {self.tiers[0].name} ({node} each); "
                f"use a multiple of {node} or give the sizes, as in "
                f"{self.name}:2x{node}")
        return self.with_sizes(num_devices // node, node)

    def with_sizes(self, *sizes: int) -> ClusterSpec:
        """The same kind of cluster with tiers of these sizes.

        Parameters
        ----------
        sizes : int
            Outermost first, so that the last is devices per node. The first
            counts units of the tier below it; where fewer sizes than tiers
            are given, those units fill the outer tiers one by one, none with
            more devices than it has here.

        Raises
        ------
        ValueError
            For more sizes than tiers, and for a mixed cluster.
        """
        if self.others:
            raise ValueError(
                f"cluster {self.name} lists its nodes one by one (others), "
                f"which make {self.num_devices} devices: take these, or "
                "change the file")
        if len(sizes) > len(self.tiers):
            names = " x ".join(t.name for t in reversed(self.tiers))
            raise ValueError(
                f"{len(sizes)} sizes are given, but {self.name} has "
                f"{len(self.tiers)} tiers: {names}")
        left, *inner = sizes
        filled = list(reversed(inner))
        for index in range(len(filled), len(self.tiers) - 1):
            devices = math.prod(t.size for t in self.tiers[:index + 1])
            most = min(left, self.tiers[index].size,
                       max(devices // math.prod(filled), 1))
            size = max(n for n in range(1, most + 1) if left % n == 0)
            filled.append(size)
            left //= size
        filled.append(left)
        tiers = tuple(
            dataclasses.replace(tier, size=size)
            for tier, size in zip(self.tiers, filled, strict=True))
        return dataclasses.replace(self, tiers=tiers)
