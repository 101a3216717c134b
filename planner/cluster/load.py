"""Find a cluster by name, shorthand or path."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from planner.cluster.local import (LOCAL, PROFILE_COMMAND, cache_folder,
                                   find_local)
from planner.cluster.spec import ClusterSpec
from planner.cluster.text import from_yaml
from planner.names import nearest

__all__ = ["load_cluster", "preset_names", "read_profile"]

_PRESETS = Path(__file__).parent / "presets"


def preset_names() -> tuple[str, ...]:
    """Names of the presets that ship with the planner, sorted."""
    return tuple(sorted(path.stem for path in _PRESETS.glob("*.yaml")))


def load_cluster(cluster: str | Path | ClusterSpec) -> ClusterSpec:
    """A cluster from whatever names it.

    Parameters
    ----------
    cluster : str, Path or ClusterSpec
        A preset (``"h100-sxm"``, in any case), a path to a YAML file, ``"local"`` for
        the profile of this machine (``python -m planner.profile``), or any
        with sizes after a colon: ``"h100-sxm:64x8"`` is 64 nodes of 8
        devices (outermost tier first), ``"h100-sxm:64"`` 64 devices that
        fill whole nodes. A spec is returned as it is.

    Raises
    ------
    ValueError
        For names that are neither, and for sizes that do not fit.

    Examples
    --------
    >>> load_cluster("h100-sxm:64x8").num_devices
    512
    """
    if isinstance(cluster, ClusterSpec):
        return cluster
    name, colon, sizes = str(cluster), "", ""
    if not Path(name).is_file():
        name, colon, sizes = name.rpartition(":")
        if not colon:
            name, sizes = sizes, ""
    spec = _read(name, sizes)
    return _with_sizes(spec, sizes, str(cluster)) if colon else spec


def _read(name: str, sizes: str) -> ClusterSpec:
    path = Path(name)
    if name in preset_names() or (name.lower() in preset_names()
                                  and not path.is_file()):
        path = _PRESETS / f"{name.lower()}.yaml"
    elif name == LOCAL:
        return read_profile(_local(sizes))
    if not path.is_file():
        known = (*preset_names(), LOCAL)
        raise ValueError(f"no cluster is called {name!r} and no such file "
                         f"exists; {nearest(name, known)}")
    return _parsed(path)


def _parsed(path: Path) -> ClusterSpec:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} can't be read: {error}") from error
    return from_yaml(text, where=str(path))


def read_profile(path: Path) -> ClusterSpec:
    """The profile of this machine in a file.

    Raises
    ------
    ValueError
        When it can't be read, such as one of another version; it says what
        to do.
    """
    try:
        return _parsed(path)
    except ValueError as error:
        raise ValueError(
            f"the profile of this machine can't be read ({error}): run "
            f"{PROFILE_COMMAND} to write it anew") from error


def _local(sizes: str) -> Path:
    """The profile of as many devices as `sizes` says, else the largest."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    numbers = sizes.split("x")
    count = (math.prod(map(int, numbers)) if all(n.isdecimal()
                                                 for n in numbers) else None)
    for device_type in (*([accelerator.type] if accelerator else []), "cpu"):
        path = (find_local(device_type, count) or find_local(device_type))
        if path is not None:
            return path
    raise ValueError(f"there is no profile of this machine in "
                     f"{cache_folder()}: run {PROFILE_COMMAND}")


def _with_sizes(spec: ClusterSpec, sizes: str, text: str) -> ClusterSpec:
    try:
        numbers = [int(part) for part in sizes.split("x")]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        raise ValueError(f"{text!r}: sizes are whole numbers joined by x, "
                         "nodes first and devices per node last, as in "
                         "h100-sxm:64x8")
    try:
        if len(numbers) == 1:
            return spec.resized(numbers[0])
        return spec.with_sizes(*numbers)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}") from None
