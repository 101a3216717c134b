"""Python's and numpy's generators, seeded and put back."""

from __future__ import annotations

import random
import unittest

import numpy
import torch
from torch import nn

from planner.generators import generators_of, kept, seeded_all, states

_OF_THIS_FILE = numpy.random.default_rng(0)


class Holding(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self.inner.kinds = random.Random(0)
        self.old = numpy.random.RandomState(0)
        self.new = numpy.random.default_rng(0)
        self.torchs = torch.Generator()

    def drawn(self) -> list[float]:
        return [
            random.random(),
            float(numpy.random.rand()),
            float(_OF_THIS_FILE.random()),
            self.inner.kinds.random(),
            float(self.old.rand()),
            float(self.new.random()),
            float(torch.rand((), generator=self.torchs)),
            float(numpy.random.default_rng().random())
        ]


class TestGenerators(unittest.TestCase):

    def test_all_are_found(self) -> None:
        self.assertEqual(
            sorted(generators_of(Holding())),
            sorted([
                "random", "numpy.random", f"{__name__}._OF_THIS_FILE",
                "inner.kinds", "old", "new", "torchs"
            ]))

    def test_a_seed_decides_what_they_draw(self) -> None:
        module = Holding()
        found = {}
        for run, seed in enumerate((3, 3, 2**61 + 3, -1, -1)):
            with seeded_all(generators_of(module), seed):
                found[run] = module.drawn()
        self.assertEqual(found[0], found[1])
        self.assertEqual(found[3], found[4])
        for a, b in ((0, 2), (0, 3), (2, 3)):
            for x, y in zip(found[a], found[b], strict=True):
                self.assertNotEqual(x, y)

    def test_they_are_put_back(self) -> None:
        module = Holding()
        generators = generators_of(module)
        before = states(generators)
        with kept(generators):
            module.drawn()
            changed = states(generators)
        self.assertTrue(all(changed[n] != before[n] for n in before))
        self.assertEqual(states(generators), before)
        with seeded_all(generators, 1):
            module.drawn()
        self.assertEqual(states(generators), before)


if __name__ == "__main__":
    unittest.main()
