"""The processes that measure together, and what they agree on."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, TypeVar, cast

import torch
import torch.distributed as dist

from planner.profile.place import Place, place, processors_are_shared
from planner.profile.point import Groups

__all__ = ["Job", "Refused"]

_T = TypeVar("_T")


class Refused(RuntimeError):
    """What did not run on some rank, on all of them; and why not."""


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
        self._control = _control_group() if together else None
        self.places: tuple[Place, ...] = tuple(
            self.gather(place(torch.get_num_threads())))

    @classmethod
    def joined(cls,
               device_type: str | None,
               variables: Mapping[str, str] | None = None) -> Self:
        """Join what torchrun started, or be a job of one; groups that are up
        stay.

        Parameters
        ----------
        device_type : str, optional
            Left out: the accelerator if there is one, else the CPU.
        variables : mapping of str to str, optional
            In place of ``os.environ``.
        """
        found = os.environ if variables is None else variables
        device = _device(device_type, int(found.get("LOCAL_RANK", "0")))
        starts = not dist.is_initialized()
        if starts:
            alone: dict[str, Any] = {} if "RANK" in found else {
                "store": dist.HashStore(),
                "rank": 0,
                "world_size": 1
            }
            dist.init_process_group(
                _backend(device),
                timeout=datetime.timedelta(seconds=120),
                device_id=None if device.type == "cpu" else device,
                **alone)
        job = cls(device)
        job._owned = starts
        return job

    def leave(self) -> None:
        """Free the groups that were made; end the job if it was begun."""
        for group in (*self._groups.values(), self._control):
            if group not in (None, dist.group.WORLD):
                dist.destroy_process_group(group)
        self._groups.clear()
        self._control = None
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
                              device=self._control_device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self._control)
        return float(tensor)

    def first(self, value: Any) -> Any:
        """What the first rank passed."""
        if self.size == 1:
            return value
        held = [value]
        dist.broadcast_object_list(held,
                                   src=0,
                                   group=self._control,
                                   device=self._control_device)
        return held[0]

    def gather(self, value: Any) -> list[Any]:
        """What every rank passed."""
        if self.size == 1:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value, group=self._control)
        return found

    def together(self, step: Callable[[], _T]) -> _T:
        """What `step` returns on this rank, after it ran on all.

        Parameters
        ----------
        step : callable
            Without collectives, or with such as fail on all ranks alike.

        Raises
        ------
        Refused
            On every rank, when it failed on any.
        """
        result, reason = None, ""
        try:
            result = step()
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
        if self.largest(1.0 if reason else 0.0):
            raise Refused(_told(self.gather(reason)))
        return cast(_T, result)

    def by_first(self, step: Callable[[], _T]) -> _T:
        """What `step` returns on the first rank, which alone runs it.

        Raises
        ------
        ValueError
            On every rank, when a file can't be used or a value is wrong.
        RuntimeError
            On every rank, when the step fails otherwise.
        """
        result: _T | None = None
        failure: Exception | None = None
        cause: Exception | None = None
        if self.is_first:
            try:
                result = step()
            except (OSError, ValueError) as error:
                failure, cause = ValueError(str(error)), error
            except Exception as error:
                failure = RuntimeError(f"{type(error).__name__}: {error}")
                cause = error
        result, failure = self.first((result, failure))
        if failure is not None:
            raise failure from cause
        return cast(_T, result)

    @property
    def _control_device(self) -> torch.device:
        """Where small messages lie: on the host, if a backend takes them."""
        on_host = "cpu" in dist.get_backend_config(self._control)
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


def _control_group() -> Any:
    """Of messages that need no memory of an accelerator, which may be full."""
    if "cpu" in dist.get_backend_config() or not dist.is_gloo_available():
        return dist.group.WORLD
    return dist.new_group(backend="gloo")


def _told(reasons: Sequence[str]) -> str:
    """The first reason, with its rank where others had none."""
    rank, reason = next((r, text) for r, text in enumerate(reasons) if text)
    return reason if all(reasons) else f"{reason} (rank {rank})"


def _device(device_type: str | None, local_rank: int) -> torch.device:
    if device_type is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        device_type = found.type if found is not None else "cpu"
    if device_type == "cpu":
        return torch.device("cpu")
    count = _count(device_type)
    if local_rank >= count:
        raise ValueError(
            f"local rank {local_rank} needs a {device_type} device of its "
            f"own, but this host shows {count}; start as many processes as "
            "there are devices, or pass --device cpu")
    device = torch.device(device_type, local_rank)
    torch.accelerator.set_device_index(local_rank)
    return device


def _count(device_type: str) -> int:
    """Devices of a kind that this host shows."""
    try:
        return int(torch.get_device_module(device_type).device_count())
    except (AttributeError, RuntimeError):
        raise ValueError(
            f"PyTorch has no devices of type {device_type!r} here; pass "
            "--device cpu or that of an accelerator") from None


def _backend(device: torch.device) -> str:
    if device.type == "cpu":
        return "gloo"
    known = dist.Backend.default_device_backend_map
    if device.type not in known:
        raise ValueError(f"torch.distributed has no backend for {device.type} "
                         "tensors; load the package that brings it, or start "
                         "one process without torchrun")
    return f"cpu:gloo,{device.type}:{known[device.type]}"
