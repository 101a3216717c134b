"""Start-up: a block class is lowered once for all chunks and ranks."""

from __future__ import annotations

import unittest
from collections import Counter
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from benchmarks.contenders import Sizes, Transformer
from passes.kernels import KernelBuilder
from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks


class TestStart(unittest.TestCase):

    def test_chunks_share_kernels(self) -> None:
        torch.manual_seed(0)
        model = Transformer(
            Sizes(width=16, layers=8, heads=2, vocabulary=32, sequence=8))
        batch = torch.randint(32, (8, 8)), torch.randint(32, (8, 8))
        expected = float(model(*batch).detach())
        lowered: Counter[tuple[int, str]] = Counter()
        split = KernelBuilder._split

        def counted(self: KernelBuilder, name: str, *args: Any) -> Any:
            lowered[dist.get_rank(), name] += 1
            return split(self, name, *args)

        def body(rank: int) -> float:
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("pp", ))
            module = scaletorch.auto_parallelize(
                model,
                mesh,
                example_inputs=batch,
                cluster="cpu-gloo",
                plan=parallel.pipeline(schedule="interleaved1f1b", chunks=4))
            return float(module(*batch).detach())

        with mock.patch.object(KernelBuilder, "_split", counted):
            for loss in run_ranks(2, body):
                self.assertAlmostEqual(loss, expected, places=5)
        names = [name for _, name in lowered]
        self.assertEqual(names.count("Block"), 1)
        self.assertEqual(set(lowered.values()), {1})


if __name__ == "__main__":
    unittest.main()
