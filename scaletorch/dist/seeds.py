"""Random numbers that are the same along some axes and differ along others.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np
import torch

from scaletorch.dist.mesh import Mesh
from scaletorch.runtime.random import mix

__all__ = ["axis_generator", "axis_seed", "seed_everything"]


def axis_seed(seed: int, mesh: Mesh, *, different: Sequence[str] = ()) -> int:
    """This rank's seed: the same on ranks that hold the same.

    Parameters
    ----------
    seed : int
        The same on every rank.
    mesh : Mesh
    different : sequence of str
        The axes along which ranks hold different shards, and so draw
        different numbers; along the others all draw the same.

    Returns
    -------
    int
        Of 63 bits. It depends on axes by name and on this rank's
        coordinates along `different`, not on the sizes of other axes.
    """
    found = seed
    for axis in sorted(different):
        name = hashlib.sha256(axis.encode()).digest()[:7]
        found = mix(found, int.from_bytes(name, "big"))
        found = mix(found, mesh.coordinate(axis))
    return found


def axis_generator(seed: int,
                   mesh: Mesh,
                   *,
                   different: Sequence[str] = (),
                   device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of one's own, seeded by :func:`axis_seed`.

    Parameters
    ----------
    seed, mesh, different
        As of :func:`axis_seed`.
    device : torch.device or str
        On which it draws.
    """
    made = torch.Generator(device)
    made.manual_seed(axis_seed(seed, mesh, different=different))
    return made


def seed_everything(seed: int) -> None:
    """Seed torch on every device, NumPy and Python.

    The default generators are seeded alike on every rank: a parallel
    module needs it so, and derives from them what differs.
    """
    torch.manual_seed(seed)
    np.random.seed(seed % (1 << 32))
    random.seed(seed)
