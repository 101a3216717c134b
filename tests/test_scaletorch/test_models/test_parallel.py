"""Every family on a mesh equals itself on one device."""

from __future__ import annotations

import os
import unittest
from typing import Any

from planner.ir.mesh import MeshSpec
from planner.recipes import Recipe
from scaletorch import parallel, verify
from tests.markers import nightly
from tests.test_scaletorch.test_models.tiny import documents, tiny

DATA = MeshSpec(("dp", ), (2, ))
TENSOR = MeshSpec(("tp", ), (2, ))
BOTH = MeshSpec(("dp", "tp"), (2, 2))
NIGHTLY = os.environ.get("SCALETORCH_NIGHTLY") == "1"
PLANS: dict[str, tuple[MeshSpec, Recipe]] = {
    "ddp": (DATA, parallel.ddp()),
    "megatron": (TENSOR, parallel.megatron()),
    "ddp x megatron": (BOTH, parallel.ddp() * parallel.megatron()),
    "fsdp x megatron sp":
    (BOTH, parallel.fsdp() * parallel.megatron(sequence_parallel=True)),
}
FOUR = tuple(PLANS) if NIGHTLY else ("ddp", "ddp x megatron")
TWO = tuple(PLANS) if NIGHTLY else ("ddp", "megatron")
"""For those that are like another one or slow; all plans nightly."""


class TestPlans(unittest.TestCase):

    def check(self, name: str, plans: tuple[str, ...]) -> None:
        model: Any = tiny(name)
        inputs = model.example_inputs(batch_size=4)
        for key in plans:
            mesh, plan = PLANS[key]
            with self.subTest(name, plan=key):
                found = verify(model, mesh, inputs, plan=plan)
                self.assertTrue(found.equal, found)
                # A loss, and a gradient of nearly everything.
                self.assertGreater(found.compared, 10)

    def test_llama(self) -> None:
        self.check("llama3-8b", FOUR)

    def test_documents(self) -> None:
        plans = {"tp": parallel.megatron()}
        if NIGHTLY:
            plans |= {
                "dp": parallel.fsdp(),
                "cp": parallel.ulysses(),
                "pp": parallel.pipeline(microbatches=2),
            }
        for name in ("llama3-8b", "gpt2", "deepseek-v3")[:1 + 2 * NIGHTLY]:
            model: Any = tiny(name)
            inputs = model.example_inputs(batch_size=4)
            inputs |= documents(inputs["tokens"], 6)
            for axis, plan in plans.items():
                with self.subTest(name, plan=axis):
                    mesh = MeshSpec((axis, ), (2, ))
                    found = verify(model, mesh, inputs, plan=plan)
                    self.assertTrue(found.equal, found)
                    self.assertGreater(found.compared, 10)

    def test_qwen3(self) -> None:
        self.check("qwen3-0.6b", TWO)

    def test_deepseek(self) -> None:
        self.check("deepseek-v3", TWO)

    def test_gpt2(self) -> None:
        self.check("gpt2", FOUR)

    def test_bert(self) -> None:
        self.check("bert-base", FOUR)

    def test_t5(self) -> None:
        self.check("t5-small", TWO)

    def test_vit(self) -> None:
        self.check("vit-b16", FOUR)

    def test_parallel_vit(self) -> None:
        self.check("vit-22b", TWO)

    def test_resnet(self) -> None:
        self.check("resnet18", TWO)

    @nightly
    def test_bottleneck_resnet(self) -> None:
        self.check("resnet50", TWO)

    def test_dlrm(self) -> None:
        self.check("dlrm-criteo", FOUR)

    def test_dit(self) -> None:
        self.check("dit-s", FOUR)


if __name__ == "__main__":
    unittest.main()
