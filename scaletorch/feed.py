"""Each rank reads only its part of every batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from planner.capture.entry import bind_inputs
from planner.ir.shares import reduced
from scaletorch.data import Batch, Loader
from scaletorch.module import ParallelModule

__all__ = ["Feed", "feed", "input_parts"]

Part = tuple[int, int, int]
"""The number of an equal part, how many there are, and how many from that on
are meant."""

_ALL = (0, 1, 1)


def input_parts(
        module: ParallelModule,
        batch: Mapping[str, torch.Tensor]) -> dict[str, dict[int, Part]]:
    """What this rank passes of a global batch with ``inputs="local"``.

    Parameters
    ----------
    module : ParallelModule
    batch : mapping of str to Tensor
        The global batch, or tensors on meta of its shapes, as keywords of
        the module's call.

    Returns
    -------
    dict of str to dict
        By name, for every dim that the plan shards, the first of how many
        equal parts, and how many of them.

    Raises
    ------
    ValueError
        When a dim does not divide, or a tensor has no such dim.
    TypeError
        When the batch does not fit the model.
    """
    # As the module binds its own calls, of whose inputs the plan speaks.
    call = bind_inputs(module._structure, (), batch, module._loss_fn)
    names = {id(tensor): name for name, tensor in batch.items()}
    at_rest = module.layout.at_rest
    place = _place(module)
    found: dict[str, dict[int, Part]] = {}
    for position, leaf in enumerate(call.leaves):
        name = names.get(id(leaf))
        if name is None:
            continue
        parts: dict[int, Part] = {}
        layout = at_rest.get(f"input:{position}", ())
        # In a pipeline the last axis is the micro-batches: a rank passes
        # all of them.
        for placement, (index, count, width) in zip(layout, place):
            if placement.is_shard:
                outer, outers, whole = parts.get(placement.dim, (0, 1, 1))
                parts[placement.dim] = (outer * count + index * whole,
                                        outers * count, width * whole)
        _check(name, leaf, parts)
        found[name] = dict(sorted(parts.items()))
    return found


def _place(module: ParallelModule) -> list[Part]:
    """This rank's part along each axis of the inputs' layouts."""
    mesh = module.mesh
    coordinates = mesh.get_coordinate()
    assert coordinates is not None, "a module is made on ranks of its mesh"
    stages = module.plan.pipeline.axis if module.plan.pipeline else None
    names = mesh.mesh_dim_names or ("", ) * mesh.ndim
    shares = module.layout.shares
    return [
        _part(index, shares.get(name, (1, ) * count)) for name, index, count in
        zip(names, coordinates, mesh.mesh.shape, strict=True)
        if stages is None or name != stages
    ]


def _part(index: int, shares: Sequence[int]) -> Part:
    shares = reduced(shares)
    return sum(shares[:index]), sum(shares), shares[index]


def _check(name: str, tensor: torch.Tensor, parts: Mapping[int, Part]) -> None:
    for dim, (_, count, _) in parts.items():
        if dim >= tensor.ndim or tensor.shape[dim] % count:
            raise ValueError(
                f"the plan divides dim {dim} of {name} by {count}, but it has "
                f"the shape {tuple(tensor.shape)}: plan for batches like "
                "this (example_inputs=loader.example()), or choose a "
                "batch_size and sequence_length that divide")


class Feed:
    """A loader whose batches are what this rank passes to a module.

    Every rank iterates alike, and ranks that the plan gives the same rows
    read the same. The state is the loader's, so that a run may go on with
    another plan or number of ranks.

    Parameters
    ----------
    loader : Loader
        Built alike on every rank.
    module : ParallelModule
        Called with ``inputs="local"``.

    Raises
    ------
    ValueError
        When the loader's batches do not divide as the plan wants.
    """

    def __init__(self, loader: Loader, module: ParallelModule) -> None:
        self.loader = loader
        self.parts = input_parts(module, loader.example())
        rows = {parts.get(0, _ALL) for parts in self.parts.values()}
        # Where inputs lie differently, each is cut from the whole batch.
        self._rows = rows.pop() if len(rows) == 1 else _ALL

    @property
    def len_batches(self) -> int:
        """Batches in a whole epoch."""
        return self.loader.len_batches

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader.rows(*self._rows):
            yield {n: self._cut(n, t) for n, t in batch.items()}

    def _cut(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        for dim, part in self.parts.get(name, {}).items():
            if dim == 0 and part == self._rows:
                continue
            (index, count, width), size = part, tensor.shape[dim]
            if size % count:
                raise ValueError(
                    f"dim {dim} of {name} has {size} places, which do not "
                    f"divide by {count}: build the loader with "
                    "drop_last=True")
            unit = size // count
            tensor = tensor.narrow(dim, index * unit, width * unit)
        return tensor.contiguous()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands."""
        return self.loader.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another loader or feed stood."""
        self.loader.load_state_dict(state)


def feed(loader: Loader, module: ParallelModule) -> Feed:
    """Batches to call ``module(**batch, inputs="local")`` with.

    See :class:`Feed`.
    """
    return Feed(loader, module)
