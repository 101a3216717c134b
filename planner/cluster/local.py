"""Where profiles of this machine lie, and which of them fits a job."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path

import torch

__all__ = [
    "LOCAL", "PROFILE_COMMAND", "cache_folder", "device_slug", "find_local",
    "local_path", "profile_key"
]

LOCAL = "local"
"""The name by which the profile of this machine is asked for."""
PROFILE_COMMAND = "torchrun --nproc-per-node N -m planner.profile"
"""What makes one, for N processes."""


def cache_folder(variables: Mapping[str, str] | None = None) -> Path:
    """The user's folder of profiles; it need not exist.

    Parameters
    ----------
    variables : mapping of str to str, optional
        In place of ``os.environ``: ``XDG_CACHE_HOME``, else
        ``~/.cache``, has the folder ``scaletorch``.
    """
    found = os.environ if variables is None else variables
    base = found.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scaletorch"


def device_slug(device_type: str) -> str:
    """A kind of device as part of a file's name.

    Examples
    --------
    >>> device_slug("cpu")
    'cpu'
    """
    if device_type == "cpu":
        return "cpu"
    name = torch.get_device_module(device_type).get_device_name()
    return _slug(f"{device_type}-{name}")


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-").lower()


def profile_key(device_type: str, count: int) -> str:
    """What a profile is of: host, kind and number of devices, torch.

    Parameters
    ----------
    device_type : str
        ``cpu``, ``cuda``, ...
    count : int
        Processes that ran, each with a device of its own (the CPU's share
        its cores).
    """
    return (f"{_slug(socket.gethostname())}_{device_slug(device_type)}_"
            f"{count}_torch-{_slug(torch.__version__)}")


def local_path(device_type: str,
               count: int,
               *,
               folder: Path | None = None) -> Path:
    """The file of the profile with `count` processes."""
    name = f"{profile_key(device_type, count)}.yaml"
    return (cache_folder() if folder is None else folder) / name


def find_local(device_type: str,
               count: int | None = None,
               *,
               folder: Path | None = None) -> Path | None:
    """The profile of this machine to plan with, or None.

    Parameters
    ----------
    device_type : str
    count : int, optional
        Processes of the job: the profile of as many, else the smallest of
        more. Left out: the largest there is.
    folder : Path, optional
        In place of the user's.
    """
    folder = cache_folder() if folder is None else folder
    before, after = profile_key(device_type, 0).rsplit("_0_", 1)
    names = {
        path.name[len(before) + 1:-len(after) - 6]: path
        for path in folder.glob(f"{before}_*_{after}.yaml")
    }
    found = {int(n): path for n, path in names.items() if n.isdecimal()}
    if count is None:
        return found[max(found)] if found else None
    large = [n for n in found if n >= count]
    return found[min(large)] if large else None
