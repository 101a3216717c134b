"""Joining the job: one call that works under every launcher."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from scaletorch.dist.devices import backend_for, device_for
from scaletorch.dist.environment import Environment, read_environment

__all__ = ["Process", "init", "shutdown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """This process in its job.

    Parameters
    ----------
    rank, world_size : int
    local_rank, local_world_size : int
        Of the processes on this host; the size is 0 where it is not known.
    device : torch.device
        What it computes on.
    backend : str
        As ``torch.distributed`` calls it.
    launcher : str
        See :class:`scaletorch.dist.Environment`.
    restart : int
        How often the job was started before.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    backend: str
    launcher: str
    restart: int = 0

    @classmethod
    def of(cls, place: Environment, device: torch.device,
           backend: str) -> Process:
        """The process at a place of the job."""
        return cls(rank=place.rank,
                   world_size=place.world_size,
                   local_rank=place.local_rank,
                   local_world_size=place.local_world_size,
                   device=device,
                   backend=backend,
                   launcher=place.launcher,
                   restart=place.restart)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        """Whether this is the first process of its host."""
        return self.local_rank == 0


def init(device: str | torch.device | None = None,
         *,
         backend: str | None = None,
         timeout_s: float = 600.0,
         variables: Mapping[str, str] | None = None) -> Process:
    """Join the job, and make this process's device the current one.

    Understands torchrun, SLURM, Open MPI and PMI (MPICH, Intel MPI); a
    process without a launcher is a job of one. Where a process group is up
    already (simulated ranks too), it is described and left as it is.

    Parameters
    ----------
    device : str or torch.device, optional
        Left out: the accelerator if there is one, else the CPU.
    backend : str, optional
        Left out: by device, ``"gloo"`` or ``"cpu:gloo,cuda:nccl"``.
    timeout_s : float
        How long a rank waits for others, at the start and in every
        collective.
    variables : mapping of str to str, optional
        In place of ``os.environ``.

    Returns
    -------
    Process

    Raises
    ------
    ValueError
        Naming the environment variable that is missing, and what to do; or
        when there are too few devices.
    RuntimeError
        When the other ranks did not come in time.

    Examples
    --------
    >>> process = init("cpu", variables={})
    >>> process.rank, process.world_size, process.backend
    (0, 1, 'gloo')
    >>> shutdown()
    """
    found = os.environ if variables is None else variables
    if dist.is_initialized():
        return _described(device, found)
    place = read_environment(found)
    own = device_for(device, local_rank=place.local_rank)
    backend = backend or backend_for(own)
    _make_current(own)
    _join(place, own, backend, datetime.timedelta(seconds=timeout_s))
    return Process.of(place, own, backend)


def shutdown() -> None:
    """Leave the job; nothing happens where there is none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _described(device: str | torch.device | None,
               variables: Mapping[str, str]) -> Process:
    """The process group that is up, made by whomever."""
    backend = dist.get_backend_config()
    rank, size = dist.get_rank(), dist.get_world_size()
    try:
        place = read_environment(variables)
    except ValueError:
        place = None
    if place is None or (place.rank, place.world_size) != (rank, size):
        # The group was made without a launcher: on one host, as far as
        # anyone knows.
        place = Environment(launcher="none",
                            rank=rank,
                            world_size=size,
                            local_rank=rank,
                            local_world_size=size)
    if device is None and dist.get_backend() in ("gloo", "threaded", "fake"):
        device = "cpu"
    own = device_for(device, local_rank=place.local_rank)
    _make_current(own)
    return Process.of(place, own, backend)


def _make_current(device: torch.device) -> None:
    if device.type not in ("cpu", "meta"):
        torch.accelerator.set_device_index(device.index)


def _join(place: Environment, device: torch.device, backend: str,
          timeout: datetime.timedelta) -> None:
    try:
        dist.init_process_group(
            backend,
            store=_store(place, timeout),
            rank=place.rank,
            world_size=place.world_size,
            timeout=timeout,
            device_id=device if device.type != "cpu" else None)
    except (dist.DistError, RuntimeError) as error:
        raise RuntimeError(
            f"rank {place.rank} of {place.world_size} ({place.launcher}) did "
            f"not meet the others at {place.host or 'this process'}:"
            f"{place.port} within {timeout.total_seconds():g} s: {error}; see "
            "whether every rank was started, reaches that host and port, and "
            "has no error of its own; GLOO_SOCKET_IFNAME (NCCL_SOCKET_IFNAME) "
            "names the network interface") from error


def _store(place: Environment, timeout: datetime.timedelta) -> dist.Store:
    """Where the ranks meet; a restarted job meets at a new place.

    Keys of the attempt that failed would send ranks to peers that are
    gone.
    """
    if place.world_size == 1:
        return dist.HashStore()
    store = dist.TCPStore(place.host,
                          place.port,
                          place.world_size,
                          is_master=place.rank == 0 and not place.agent_store,
                          timeout=timeout,
                          multi_tenant=not place.agent_store)
    return dist.PrefixStore(f"scaletorch/restart/{place.restart}", store)
