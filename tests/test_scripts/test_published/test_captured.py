from __future__ import annotations

import functools
import unittest

import torch

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.cost.memory_estimate import MemoryEstimate
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES
from scaletorch.models.gpt2 import GPT2, GPT2Config
from scaletorch.models.llama import Llama, LlamaConfig
from scripts.published.deeper import deepened
from scripts.published.predict import Prediction, predict
from tests.test_scripts.rows import row


@functools.cache
def _gpt(depth: int) -> Program:
    return _captured(
        GPT2(GPT2Config(width=128, depth=depth, heads=4, vocabulary_size=512)))


@functools.cache
def _llama(depth: int) -> Program:
    config = LlamaConfig(width=128,
                         depth=depth,
                         heads=4,
                         kv_heads=2,
                         hidden_width=256,
                         vocabulary_size=512,
                         context=64)
    return _captured(Llama(config))


def _captured(model: torch.nn.Module) -> Program:
    tokens = torch.zeros(8, 64, dtype=torch.int64)
    return capture(model, (tokens, tokens))


def _price(program: Program) -> tuple[float, MemoryEstimate, tuple[str, ...]]:
    planning = Planning(program, load_cluster("a100-80g:1x8"))
    chosen = (RECIPES["megatron"]() * RECIPES["fsdp"]() *
              RECIPES["pipeline"](microbatches=2))
    found = planning.from_recipe(chosen, MeshSpec(("pp", "dp", "tp"),
                                                  (2, 2, 2)))
    assert found.pipeline is not None
    return found.time_s, found.memory, found.pipeline.cuts


def _found(**changes: object) -> Prediction:
    found, = predict([row(**changes)], captured=True)
    return found


class TestDeepened(unittest.TestCase):

    def test_it_is_as_if_captured_so(self) -> None:
        for build in (_gpt, _llama):
            with self.subTest(build.__name__):
                deep, whole = deepened(build(3), 3), build(6)
                self.assertEqual(str(deep), str(whole))
                self.assertEqual(set(deep.specs), set(whole.specs))
                time_s, memory, cuts = _price(deep)
                expected_s, expected, where = _price(whole)
                self.assertAlmostEqual(time_s / expected_s, 1, places=6)
                self.assertEqual((memory, cuts), (expected, where))

    def test_nothing_more_is_the_same(self) -> None:
        self.assertIs(deepened(_gpt(3), 0), _gpt(3))


class TestCapturedPrice(unittest.TestCase):

    def test_the_plan_is_the_stated_one(self) -> None:
        found = _found()
        assert found.captured is not None
        self.assertIsNone(found.captured.reason)
        self.assertEqual(
            found.captured.plan, "1f1b, 4 micro-batches (pp=2) * ddp(dp=2) * "
            "megatron(tp=2), recomputing GPT2Layer")
        entry = found.as_json()
        self.assertEqual(entry["captured_s"], found.captured_s)
        self.assertAlmostEqual(entry["captured_error"],
                               entry["captured_s"] / 1.5 - 1)

    def test_what_cannot_be_captured_is_named(self) -> None:
        model = row()["model"]
        for changes, reason in (({
                "dtype": "fp8"
        }, "8 or 4 bits"), ({
                "recompute": "selective"
        }, "whole layers"), ({
                "model": {
                    **model, "ffn": 1000
                }
        }, "four times"), ({
                "model": {
                    **model, "hidden": 2050
                }
        }, "not a whole number")):
            with self.subTest(reason):
                found = _found(**changes)
                assert found.captured is not None
                self.assertIsNone(found.captured_s)
                self.assertIn(reason, found.captured.reason or "")


if __name__ == "__main__":
    unittest.main()
