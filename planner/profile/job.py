"""The processes that measure together, and what they agree on."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from typing import Any, Self

import torch
import torch.distributed as dist

from planner.profile.place import Place, place, processors_are_shared
from planner.profile.point import Groups

__all__ = ["Job"]


class Job:
    """This process among those that measure.

    Parameters
    ----------
    device : torch.device
        What this process computes on.

    Attributes
    ----------
    rank, size : int
    places : tuple of Place
        Of every rank.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        together = dist.is_initialized()
        self.rank = dist.get_rank() if together else 0
        self.size = dist.get_world_size() if together else 1
        self._groups: dict[tuple[tuple[int, ...], int], Any] = {}
        self._owned = False
        self.places: tuple[Place, ...] = tuple(
            self.gather(place(torch.get_num_threads())))

    @classmethod
    def joined(cls,
               device_type: str | None,
               variables: Mapping[str, str] | None = None) -> Self:
        """Join what torchrun started, or be alone; groups that are up stay.

        Parameters
        ----------
        device_type : str, optional
            Left out: the accelerator if there is one, else the CPU.
        variables : mapping of str to str, optional
            In place of ``os.environ``.
        """
        found = os.environ if variables is None else variables
        device = _device(device_type, int(found.get("LOCAL_RANK", "0")))
        starts = not dist.is_initialized() and "RANK" in found
        if starts:
            dist.init_process_group(
                _backend(device),
                timeout=datetime.timedelta(seconds=120),
                device_id=None if device.type == "cpu" else device)
        job = cls(device)
        job._owned = starts
        return job

    def leave(self) -> None:
        """Free the groups that were made; end the job if it was begun."""
        for group in self._groups.values():
            if group is not dist.group.WORLD:
                dist.destroy_process_group(group)
        self._groups.clear()
        if self._owned:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def hosts(self) -> tuple[str, ...]:
        """Of every rank."""
        return tuple(p.host for p in self.places)

    @property
    def shares_processors(self) -> bool:
        """Whether some machine has more processes than processors."""
        return (self.device.type == "cpu"
                and processors_are_shared(self.places))

    def largest(self, value: float) -> float:
        """The largest `value` of all ranks; also a barrier."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value,
                              dtype=torch.float64,
                              device=self._control())
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return float(tensor)

    def first(self, value: Any) -> Any:
        """What the first rank passed."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held, src=0, device=self._control())
        return held[0]

    def gather(self, value: Any) -> list[Any]:
        """What every rank passed."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def _control(self) -> torch.device:
        """Where small messages lie: on the host, if a backend takes them."""
        on_host = "cpu" in dist.get_backend_config()
        return torch.device("cpu") if on_host else self.device

    def members(self, groups: Groups) -> list[int]:
        """The ranks of this rank's group, in order."""
        return next(m for m in self._all_members(groups) if self.rank in m)

    def takes_part(self, groups: Groups) -> bool:
        """Whether this rank's group communicates."""
        return not groups.alone or self.rank in self._all_members(groups)[0]

    def group(self, groups: Groups) -> Any:
        """The process group of this rank; made once, by all ranks."""
        key = groups.shape, groups.axis
        if key not in self._groups:
            own = dist.group.WORLD
            for members in self._all_members(groups):
                if len(members) < self.size:
                    made = dist.new_group(members)
                    own = made if self.rank in members else own
            self._groups[key] = own
        return self._groups[key]

    def _all_members(self, groups: Groups) -> list[list[int]]:
        ranks = torch.arange(self.size).reshape(groups.shape)
        rows = ranks.movedim(groups.axis, -1).reshape(-1, groups.size)
        return [[int(r) for r in row] for row in rows]


def _device(device_type: str | None, local_rank: int) -> torch.device:
    if device_type is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        device_type = found.type if found is not None else "cpu"
    if device_type == "cpu":
        return torch.device("cpu")
    count = int(torch.get_device_module(device_type).device_count())
    if local_rank >= count:
        raise ValueError(
            f"local rank {local_rank} needs a {device_type} device of its "
            f"own, but this host shows {count}; start as many processes as "
            "there are devices, or pass --device cpu")
    device = torch.device(device_type, local_rank)
    torch.accelerator.set_device_index(local_rank)
    return device


def _backend(device: torch.device) -> str:
    if device.type == "cpu":
        return "gloo"
    known = dist.Backend.default_device_backend_map
    if device.type not in known:
        raise ValueError(f"torch.distributed has no backend for {device.type} "
                         "tensors; load the package that brings it, or start "
                         "one process without torchrun")
    return f"cpu:gloo,{device.type}:{known[device.type]}"
