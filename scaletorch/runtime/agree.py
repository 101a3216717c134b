"""Ranks agree on what they are about to run before they run it.

A collective between ranks that run different programs hangs or aborts the
process from C++, so every call starts by comparing signatures.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh

from scaletorch.sharding import mesh_device

__all__ = ["Agreement"]


class Agreement:
    """Compares call signatures over a mesh and shares a random seed."""

    def __init__(self, mesh: DeviceMesh) -> None:
        ranks = mesh.mesh.flatten().tolist()
        whole = len(ranks) == dist.get_world_size()
        self.group = dist.group.WORLD if whole else dist.new_group(ranks)
        self.ranks = ranks
        self.device = mesh_device(mesh)

    def check(self, signature: Any, *, draws: bool) -> int:
        """Raise on every rank when signatures differ.

        Parameters
        ----------
        signature : object
            With a repr that tells the shapes.
        draws : bool
            Whether the program draws random numbers; if so the first rank
            draws the call's seed from torch's default generator (all ranks
            advance theirs alike).

        Returns
        -------
        int
            The call's seed, the same on all ranks.

        Raises
        ------
        ValueError
            On every rank, naming the ranks whose inputs differ.
        """
        digest = hashlib.sha256(repr(signature).encode()).digest()
        mark = int.from_bytes(digest[:7], "big")
        seed = int(torch.randint(1 << 62, ())) if draws else 0
        mine = torch.tensor([mark, seed], device=self.device)
        every = mine.new_empty(2 * len(self.ranks))
        dist.all_gather_single(every, mine, group=self.group)
        marks = every[::2].tolist()
        if len(set(marks)) > 1:
            self._explain(signature)
        return int(every[1])

    def _explain(self, signature: Any) -> None:
        texts: list[Any] = [None] * len(self.ranks)
        dist.all_gather_object(texts, repr(signature), group=self.group)
        other = next(i for i, t in enumerate(texts) if t != texts[0])
        raise ValueError(
            "ranks call the model with different inputs: rank "
            f"{self.ranks[0]} with {texts[0]}, rank {self.ranks[other]} "
            f"with {texts[other]}; every rank passes the same global batch "
            '(or, with inputs="local", shards of the same shape)')
