"""Pipelines in real processes."""

from __future__ import annotations

import math
import unittest

import torch

from tests.e2e import real_pipelines
from tests.e2e.pipelines import joined
from tests.launch import launch
from tests.markers import nightly
from tests.test_planner.test_pipeline.models import Tagger
from tests.test_scaletorch.small import seeded


class TestEquality(unittest.TestCase):

    def check(self, plan: str, **axes: int) -> None:
        expected = real_pipelines.steps(seeded(Tagger))
        found = joined(
            self,
            launch(math.prod(axes.values()),
                   real_pipelines.trained,
                   plan,
                   axes,
                   timeout_s=120.0))
        self.assertEqual(set(found), set(expected))
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name],
                                       tensor,
                                       rtol=1e-6,
                                       atol=1e-8)

    def test_two_stages(self) -> None:
        self.check("1f1b", pp=2)

    def test_with_fully_sharded_stages(self) -> None:
        self.check("zbh1 * fsdp", pp=2, dp=2)

    @nightly
    def test_two_stages_a_rank(self) -> None:
        self.check("zbv", pp=2)

    @nightly
    def test_four_stages(self) -> None:
        self.check("1f1b", pp=4)


class TestFaults(unittest.TestCase):

    def test_other_batch_on_one_rank(self) -> None:
        for text in launch(2, real_pipelines.fail_alone):
            self.assertIn("differ", text)


if __name__ == "__main__":
    unittest.main()
