"""What a running pipeline keeps is what the simulation says, byte for byte."""

from __future__ import annotations

import unittest
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.utils import _pytree as pytree

import scaletorch
from benchmarks.contenders import Sizes, Transformer
from passes.saved_memory import SavedMemory, stage_memory
from planner.schedule.named import make_schedule
from planner.schedule.simulation import simulate
from planner.schedule.times import StageTimes
from scaletorch import parallel
from scaletorch.runtime.pipeline.engine import Engine
from scaletorch.runtime.pipeline.stage import StageExecutor
from scaletorch.runtime.ranks import run_ranks

_PARTS = 4


class _Meter:
    """Bytes that the stages of each rank keep after each of their actions."""

    def __init__(self) -> None:
        self.executors: dict[int, dict[int, StageExecutor]] = {0: {}, 1: {}}
        self.stages: dict[int, SavedMemory] = {}
        self.kept: dict[int, list[int]] = {0: [], 1: []}
        self.batch: list[torch.Tensor] = []
        self.inside: set[int] = set()

    def watch(self, engine: Engine) -> None:
        own = self.executors[engine.rank]
        own.update(engine.executors)
        for number, executor in engine.executors.items():
            self.stages[number] = executor.saved_memory(
                tuple(engine.stages[number].takes))

    def measure(self) -> None:
        rank = dist.get_rank()
        if rank in self.inside:
            # The weights' part of a whole backward.
            return
        sizes: dict[int, int] = {}
        for executor in self.executors[rank].values():
            there = {
                x.untyped_storage()._cdata
                for x in (*executor._state.values(), *self.batch)
            }
            for tensor in _tensors(
                [[t.saved for t in executor._tapes.values()],
                 [later.work for later in executor._later.values()]]):
                storage = tensor.untyped_storage()
                if storage._cdata not in there:
                    sizes[storage._cdata] = storage.nbytes()
        self.kept[rank].append(sum(sizes.values()))


def _tensors(tree: Any) -> Iterator[torch.Tensor]:
    for leaf in pytree.tree_leaves(tree):
        if isinstance(leaf, torch.Tensor):
            yield leaf


def _watched(meter: _Meter, name: str) -> Any:
    original = getattr(StageExecutor, name)

    def run(self: StageExecutor, *args: Any, **kwargs: Any) -> Any:
        if name == "forward_part":
            meter.batch += [
                x for n, x in args[1].items()
                if n.startswith(("input:", "early:"))
            ]
        found = original(self, *args, **kwargs)
        meter.measure()
        return found

    return mock.patch.object(StageExecutor, name, run)


def _backward(meter: _Meter) -> Any:
    """A whole backward is one action, which keeps nothing in its midst."""
    original = Engine._backward

    def run(self: Engine, *args: Any) -> None:
        meter.inside.add(self.rank)
        original(self, *args)
        meter.inside.remove(self.rank)
        meter.measure()

    return mock.patch.object(Engine, "_backward", run)


class TestMemory(unittest.TestCase):

    def check(self, schedule: str, chunks: int = 1) -> None:
        sizes = Sizes(width=16, layers=4, heads=2, vocabulary=32, sequence=8)
        torch.manual_seed(0)
        model = Transformer(sizes)
        batch = torch.randint(32, (8, 8)), torch.randint(32, (8, 8))
        plan = parallel.pipeline(schedule=schedule,
                                 microbatches=_PARTS,
                                 chunks=chunks)
        meter = _Meter()
        begin = Engine.run

        def run(self: Engine, *args: Any, **kwargs: Any) -> Any:
            meter.watch(self)
            return begin(self, *args, **kwargs)

        def body(rank: int) -> str:
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("pp", ))
            module = scaletorch.auto_parallelize(model,
                                                 mesh,
                                                 example_inputs=batch,
                                                 cluster="cpu-gloo",
                                                 plan=plan)
            module(*batch).backward()
            assert module.plan.pipeline is not None
            return module.plan.pipeline.schedule

        with mock.patch.object(Engine, "run", run), \
                _watched(meter, "forward_part"), \
                _backward(meter), \
                _watched(meter, "weights_part"):
            ran = run_ranks(2, body)
        known = make_schedule(ran[0],
                              ranks=2,
                              microbatches=_PARTS,
                              chunks=chunks)
        stages = [meter.stages[n] for n in range(2 * chunks)]
        found = simulate(known,
                         StageTimes.uniform(2 * chunks),
                         memory=stage_memory(stages))
        for rank in (0, 1):
            self.assertEqual(max(meter.kept[rank]), found.peak_bytes[rank])
            self.assertEqual(meter.kept[rank][-1], 0)

    def test_gpipe(self) -> None:
        self.check("gpipe")

    def test_1f1b(self) -> None:
        self.check("1f1b")

    def test_zero_bubble(self) -> None:
        self.check("zbh1")

    def test_looped(self) -> None:
        self.check("loopedbfs", chunks=2)

    def test_in_a_v(self) -> None:
        for schedule in ("zbv", "dualpipev"):
            with self.subTest(schedule):
                self.check(schedule, chunks=2)

    def test_interleaved(self) -> None:
        self.check("interleaved1f1b", chunks=2)

    def test_searched(self) -> None:
        self.check("auto")

    def test_text(self) -> None:
        rows = str(make_schedule("1f1b", ranks=2, microbatches=_PARTS))
        self.check(rows.replace("0B0 0F2", "0F2 0B0"))


if __name__ == "__main__":
    unittest.main()
