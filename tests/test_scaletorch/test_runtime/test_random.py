"""Streams: repeatable, different by salt, torch's own left alone."""

from __future__ import annotations

import threading
import unittest

import torch

from planner.seeded import next_seed
from scaletorch.runtime.random import SeededCall, mix, seeded


class TestRandom(unittest.TestCase):

    def test_mix_spreads(self) -> None:
        seeds = {mix(a, b) for a in range(50) for b in range(50)}
        self.assertEqual(len(seeds), 2500)
        self.assertTrue(all(0 <= s < 1 << 63 for s in seeds))

    def test_a_call_is_repeatable(self) -> None:
        one, two = (SeededCall(torch.rand_like, salt) for salt in (1, 2))
        x = torch.empty(8)
        self.assertTrue(torch.equal(one(5, x), one(5, x)))
        self.assertFalse(torch.equal(one(5, x), one(6, x)))
        self.assertFalse(torch.equal(one(5, x), two(5, x)))

    def test_torchs_own_generator_is_left_alone(self) -> None:
        torch.manual_seed(0)
        expected = torch.rand(1)
        torch.manual_seed(0)
        with seeded(9, torch.device("cpu")):
            torch.rand(3)
        self.assertTrue(torch.equal(torch.rand(1), expected))

    def test_a_rank_that_asks_for_a_seed_disturbs_no_other(self) -> None:
        device, drawn = torch.device("cpu"), threading.Event()
        with seeded(9, device):
            expected = torch.rand(3)

        def other_rank() -> None:
            next_seed()
            drawn.set()

        thread = threading.Thread(target=other_rank)
        with seeded(9, device):
            thread.start()
            self.assertFalse(drawn.wait(0.1))
            self.assertTrue(torch.equal(torch.rand(3), expected))
        thread.join()


if __name__ == "__main__":
    unittest.main()
