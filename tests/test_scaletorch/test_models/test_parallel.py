"""Every family on a mesh equals itself on one device."""

from __future__ import annotations

import os
import unittest
from typing import Any

from planner.ir.mesh import MeshSpec
from planner.recipes import Recipe
from scaletorch import parallel, verify
from tests.markers import nightly
from tests.test_scaletorch.test_models.tiny import tiny

DATA = MeshSpec(("dp", ), (2, ))
TENSOR = MeshSpec(("tp", ), (2, ))
BOTH = MeshSpec(("dp", "tp"), (2, 2))
NIGHTLY = os.environ.get("SCALETORCH_NIGHTLY") == "1"


def plans() -> list[tuple[MeshSpec, Recipe]]:
    """Nightly more of them."""
    few = [(DATA, parallel.ddp()),
           (BOTH, parallel.ddp() * parallel.megatron())]
    sequence = parallel.megatron(sequence_parallel=True)
    more = [(TENSOR, parallel.megatron()),
            (BOTH, parallel.fsdp() * sequence)] if NIGHTLY else []
    return few + more


class TestPlans(unittest.TestCase):

    def check(self, name: str) -> None:
        model: Any = tiny(name)
        inputs = model.example_inputs(batch_size=4)
        for mesh, plan in plans():
            with self.subTest(name, plan=plan.name):
                found = verify(model, mesh, inputs, plan=plan)
                self.assertTrue(found.equal, found)
                # A loss, and a gradient of nearly everything.
                self.assertGreater(found.compared, 10)

    def test_llama(self) -> None:
        self.check("llama3-8b")

    def test_qwen3(self) -> None:
        self.check("qwen3-0.6b")

    def test_gpt2(self) -> None:
        self.check("gpt2")

    def test_bert(self) -> None:
        self.check("bert-base")

    def test_t5(self) -> None:
        self.check("t5-small")

    def test_vit(self) -> None:
        self.check("vit-b16")

    def test_parallel_vit(self) -> None:
        self.check("vit-22b")

    def test_resnet(self) -> None:
        self.check("resnet18")

    @nightly
    def test_bottleneck_resnet(self) -> None:
        self.check("resnet50")

    def test_dlrm(self) -> None:
        self.check("dlrm-criteo")

    def test_dit(self) -> None:
        self.check("dit-s")


if __name__ == "__main__":
    unittest.main()
