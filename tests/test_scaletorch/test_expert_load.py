"""Tokens per expert, counted while the model runs."""

from __future__ import annotations

import copy
import unittest
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from scaletorch import parallel
from scaletorch.expert_load import ExpertLoad, expert_load
from scaletorch.runtime.ranks import run_ranks
from tests.markers import nightly
from tests.model_zoo import MODELS


def _chosen(model: Any, inputs: Any) -> tuple[list[list[int]], float]:
    """Tokens per expert of each layer, by the routers' own choice, and the
    loss."""
    found: list[list[int]] = []
    handles = [
        layer.mlp.experts.register_forward_pre_hook(
            lambda m, args: found.append(
                torch.bincount(args[1].flatten(), minlength=4).tolist()))
        for layer in model.model.layers
    ]
    loss = model(**inputs).loss
    for handle in handles:
        handle.remove()
    return found, float(loss.detach())


class TestExpertLoad(unittest.TestCase):

    def check(self, plan: Any, compile: bool = False, **axes: int) -> None:
        single, inputs, _ = MODELS["mixtral"]()
        expected, loss = _chosen(single, inputs)

        def work(rank: int) -> tuple[float, list[ExpertLoad]]:
            del rank
            mesh = init_device_mesh("cpu",
                                    tuple(axes.values()),
                                    mesh_dim_names=tuple(axes))
            module = scaletorch.auto_parallelize(copy.deepcopy(single),
                                                 mesh,
                                                 example_inputs=inputs,
                                                 plan=plan,
                                                 cluster="cpu-gloo",
                                                 compile=compile)
            with self.assertRaisesRegex(ValueError, "no forward pass has run"):
                expert_load(module)
            for _ in range(2):
                found = module(**inputs).loss
                found.backward()
            return float(found.detach()), list(expert_load(module))

        for found, loads in run_ranks(mesh_size(axes), work):
            self.assertAlmostEqual(found, loss, 4)
            self.assertEqual([x.tokens.tolist() for x in loads], expected)
            self.assertEqual([x.block for x in loads],
                             ["model.layers.0", "model.layers.1"])

    def test_dispatched(self) -> None:
        self.check(parallel.expert(), ep=2)

    def test_experts_whole(self) -> None:
        self.check(parallel.ddp(), dp=2)

    def test_tokens_whole(self) -> None:
        self.check(parallel.megatron(), tp=2)

    def test_stages(self) -> None:
        self.check(parallel.pipeline("zbh1", microbatches=2), pp=2)

    @nightly
    def test_stages_of_experts_in_a_v(self) -> None:
        plan = parallel.pipeline("zbv", microbatches=2, chunks=2)
        self.check(plan * parallel.expert(), pp=2, ep=2)

    @nightly
    def test_compiled(self) -> None:
        self.check(parallel.expert(), compile=True, ep=2)

    def test_imbalance(self) -> None:
        load = ExpertLoad(block="x", tokens=torch.tensor([4, 0, 2, 2]))
        self.assertEqual(load.imbalance(), 2.0)
        self.assertEqual(load.imbalance(ranks=2), 1.0)
        with self.assertRaisesRegex(ValueError, "4 experts do not divide"):
            load.imbalance(ranks=3)


def mesh_size(axes: dict[str, int]) -> int:
    size = 1
    for n in axes.values():
        size *= n
    return size


if __name__ == "__main__":
    unittest.main()
