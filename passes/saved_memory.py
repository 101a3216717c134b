"""What the backward of a lowered stage keeps of each micro-batch.

Tensors that share memory count once, also across steps. Parameters, buffers
and the batch's inputs do not count: they are there anyway.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from passes.split_backward import SplitBlock
from passes.steps import RankProgram, RankStep
from planner.schedule.times import StageMemory

__all__ = ["SavedMemory", "saved_memory", "stage_memory"]

_Key = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedMemory:
    """Bytes of one stage and one micro-batch.

    Parameters
    ----------
    saved_bytes : int
        From the forward to the backward.
    held_bytes : int
        From the gradient of the inputs to that of the weights, where they
        are computed apart: operands of products, and their gradients.
    """

    saved_bytes: int
    held_bytes: int


def stage_memory(stages: Sequence[SavedMemory]) -> StageMemory:
    """What is simulated: the memory of all stages, in order."""
    return StageMemory(saved_bytes=tuple(float(s.saved_bytes) for s in stages),
                       held_bytes=tuple(float(s.held_bytes) for s in stages))


def saved_memory(program: RankProgram, kernels: Mapping[str, SplitBlock],
                 received: Collection[str]) -> SavedMemory:
    """Add up what the steps of a stage keep.

    Parameters
    ----------
    program : RankProgram
    kernels : mapping of str to SplitBlock
        As they run; from :func:`passes.split_weights.split_weights` where
        gradients of weights are computed apart.
    received : collection of str
        What the stage takes from earlier ones.
    """
    ledger = _Ledger(values={n: ("value", n) for n in received})
    kept = [
        ledger.forward(number, step, kernels[step.kernel])
        for number, step in enumerate(program.steps)
    ]
    held: set[_Key] = set()
    for number in range(len(program.steps) - 1, -1, -1):
        step = program.steps[number]
        held |= ledger.backward(number, step, kernels[step.kernel],
                                kept[number])
    return SavedMemory(saved_bytes=ledger.total(
        {k
         for row in kept
         for k in row}),
                       held_bytes=ledger.total(held))


@dataclass(slots=True)
class _Ledger:
    """Whose memory each value and each gradient lies in.

    Memory that does not count has no key.
    """

    values: dict[str, _Key | None]
    grads: dict[str, _Key] = field(default_factory=dict)
    sizes_bytes: dict[_Key, int] = field(default_factory=dict)

    def total(self, keys: Iterable[_Key | None]) -> int:
        return sum(self.sizes_bytes[k] for k in keys if k is not None)

    def _keys(self, nodes: Iterable[fx.Node], known: dict[int, _Key | None],
              fresh: _Key) -> list[_Key | None]:
        """The memory of nodes; what is not known yet is new."""
        found = []
        for node in nodes:
            storage = node.meta["val"].untyped_storage()
            key = known.setdefault(storage._cdata, (*fresh, storage._cdata))
            if key is not None:
                self.sizes_bytes.setdefault(key, storage.nbytes())
            found.append(key)
        return found

    def forward(self, number: int, step: RankStep,
                kernel: SplitBlock) -> list[_Key | None]:
        """Note a step's results; what it saves, in order."""
        places, returned = _ends(kernel.forward)
        known = {
            _storage(p): self.values.get(name)
            for p, name in zip(places, step.operands, strict=True)
        }
        self._keys(places, known, ("value", number))
        keys = self._keys(returned, known, ("value", number))
        self.values.update(zip(step.results, keys))
        return [
            *(self.values.get(step.operands[i])
              for i in kernel.saved_operands), *keys[kernel.results:]
        ]

    def backward(self, number: int, step: RankStep, kernel: SplitBlock,
                 kept: list[_Key | None]) -> set[_Key]:
        """Note a step's gradients; what is held for those of weights."""
        if kernel.backward is None:
            return set()
        places, returned = _ends(kernel.backward)
        saved, tangents = places[:len(kept)], places[len(kept):]
        known = {_storage(p): key for p, key in zip(saved, kept, strict=True)}
        for place, i in zip(tangents, kernel.tangents, strict=True):
            name = step.results[i]
            known[_storage(place)] = self.grads.pop(name, ("gradient", name))
        passed = [n for n in returned[len(step.operands):] if n is not None]
        read = self._keys([*places, *passed], known, ("gradient", number))
        for name, node in zip(step.operands, returned):
            if node is not None:
                key, = self._keys([node], known, ("gradient", number))
                if name in self.grads:
                    key = ("sum", name)
                    self.sizes_bytes[key] = node.meta["val"].nbytes
                if key is not None:
                    self.grads[name] = key
        return {
            k
            for k in (read[i] for i in kernel.weight_reads) if k is not None
        }


def _storage(node: fx.Node) -> int:
    return node.meta["val"].untyped_storage()._cdata


def _ends(graph: fx.Graph) -> tuple[list[fx.Node], list[Any]]:
    """What a graph takes, and what it returns."""
    places = [n for n in graph.nodes if n.op == "placeholder"]
    return places, list(graph.output_node().args[0])
