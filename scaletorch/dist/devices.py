"""Which device a process computes on, and what carries its tensors."""

from __future__ import annotations

import torch
import torch.distributed as dist

__all__ = ["backend_for", "device_for"]


def device_for(device: str | torch.device | None, *,
               local_rank: int) -> torch.device:
    """This process's device.

    Parameters
    ----------
    device : str or torch.device, optional
        A type (``"cuda"``) gets the process's own device of that type, an
        index is kept; left out, the accelerator if there is one, else the
        CPU.
    local_rank : int
        Among the processes of this host.

    Raises
    ------
    ValueError
        When there are fewer devices than processes on this host.
    """
    if device is None:
        found = torch.accelerator.current_accelerator(check_available=True)
        device = found.type if found is not None else "cpu"
    chosen = torch.device(device)
    if chosen.type in ("cpu", "meta") or chosen.index is not None:
        return chosen
    module = torch.get_device_module(chosen.type)
    count = int(module.device_count())
    if local_rank >= count:
        raise ValueError(
            f"local rank {local_rank} needs a {chosen.type} device of its "
            f"own, but this host shows {count}; start as many processes on a "
            "host as it has devices, or pass device=\"cpu\"")
    return torch.device(chosen.type, local_rank)


def backend_for(device: torch.device) -> str:
    """The backend, with one for host tensors beside an accelerator's.

    Raises
    ------
    ValueError
        When torch knows none for this type of device.

    Examples
    --------
    >>> backend_for(torch.device("cpu"))
    'gloo'
    >>> backend_for(torch.device("cuda", 0))
    'cpu:gloo,cuda:nccl'
    """
    if device.type == "cpu":
        return "gloo"
    known = dist.Backend.default_device_backend_map
    if device.type not in known:
        raise ValueError(
            f"torch.distributed has no backend for {device.type} tensors; "
            "load the package that brings it, or pass backend=")
    return f"cpu:gloo,{device.type}:{known[device.type]}"
