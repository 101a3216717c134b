"""Streams: repeatable, different by salt, torch's own left alone."""

from __future__ import annotations

import unittest

import torch

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


if __name__ == "__main__":
    unittest.main()
