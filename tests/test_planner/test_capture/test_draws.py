"""What Python's and numpy's generators draw is drawn anew in every step."""

from __future__ import annotations

import random
import unittest
from collections.abc import Callable
from typing import Any

import numpy
import torch
from torch import nn

from planner.capture import reference
from planner.capture.capture import capture
from planner.generators import generators_of, states
from planner.ir.errors import CaptureError
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.recipes import RECIPES
from scaletorch.verify import verify


def marks(shape: tuple[int, int], count: int) -> numpy.ndarray[Any, Any]:
    """As masks of spectrograms are drawn."""
    found = numpy.zeros(shape, dtype=bool)
    for row in found:
        row[numpy.random.choice(len(row), count, replace=False)] = True
    return found


class Masked(nn.Module):
    """Rows that numpy draws get a vector of their own, twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.mask = nn.Parameter(torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        drawn = torch.tensor(marks((x.shape[0], x.shape[1]), 3),
                             dtype=torch.bool,
                             device=x.device)
        x[drawn] = self.mask
        again = torch.from_numpy(marks((x.shape[0], x.shape[1]), 2))
        return self.second(x.masked_fill(again[..., None], 0.0)).square().sum()


class Doubled(nn.Module):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x if random.random() < 0.5 else x


class Dropping(nn.Module):
    """Draws whether a layer is left out, whatever its chance."""

    def __init__(self, chance: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.chance = chance

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            drawn = random.uniform(0, 1)
            if self.training and (drawn < self.chance):
                continue
            other = numpy.random.random()
            left_out = self.training and other < self.chance
            if not left_out:
                x = layer(x)
        return x.square().sum()


class Noisy(nn.Module):
    """Holds the generator that it draws from."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))
        self.numbers = numpy.random.default_rng(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = self.numbers.normal(size=tuple(x.shape))
        return x + self.weight * torch.from_numpy(noise).to(x.dtype)


class Fresh(nn.Module):
    """Makes the generator that it draws from."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        noise = numpy.random.default_rng().normal(size=tuple(x.shape))
        return x + torch.from_numpy(noise).to(x.dtype)


class Seeded(nn.Module):
    """Draws the same in every call."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        numpy.random.seed(3)
        return x + torch.from_numpy(numpy.random.rand(*x.shape)).to(x.dtype)


class Around(nn.Module):

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.inner(self.first(x))).square().sum()


def rows() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 6, 4, generator=generator, dtype=torch.float64)


def losses(program: Program, model: nn.Module, *seeds:
           int) -> list[torch.Tensor]:
    """Of a run under each seed; gradients run its parts again."""
    found = []
    for seed in seeds:
        torch.manual_seed(seed)
        (loss, ), _ = reference.run(program, reference.model_values(model),
                                    (rows(), ))
        found.append(loss.detach())
    return found


class TestIdle(unittest.TestCase):
    """Draws on which nothing depends hinder nothing."""

    def notes(self, model: nn.Module) -> list[str]:
        program = capture(model, (torch.randn(3, 4), ))
        return [n for n in program.notes if "draws from" in n]

    def test_where_the_chance_is_zero_or_nothing_trains(self) -> None:
        self.assertEqual(self.notes(Dropping(0.0)), [])
        self.assertEqual(self.notes(Dropping(0.5).eval()), [])

    def test_where_there_is_a_chance(self) -> None:
        self.assertEqual(len(self.notes(Dropping(0.5))), 1)


class TestDraws(unittest.TestCase):

    def check(self, make: Callable[[], nn.Module], note: str, *recipes:
              str) -> Program:
        torch.manual_seed(0)
        model = make().double()
        generators = generators_of(model)
        before = states(generators)
        program = capture(model, (rows(), ))
        self.assertEqual(states(generators), before)
        self.assertEqual(len(program.notes), 1)
        self.assertRegex(program.notes[0], note)
        one, same, *others = losses(program, model, 1, 1, *range(2, 12))
        torch.testing.assert_close(one, same)
        self.assertTrue(any(float((x - one).abs()) > 1e-6 for x in others))
        for recipe in recipes:
            axis = "tp" if recipe == "megatron" else "dp"
            report = verify(model,
                            MeshSpec((axis, ), (2, )), (rows(), ),
                            plan=RECIPES[recipe]())
            self.assertTrue(report.equal, (recipe, report))
        return program

    def test_of_a_function_that_returns_an_array(self) -> None:
        program = self.check(
            Masked, r"the function marks \(.*draws from numpy.random, at "
            r"\S*test_draws.py:\d+ in marks; .*draw with torch", "ddp",
            "megatron")
        text = "".join(str(c.graph) for c in program.classes.values())
        self.assertEqual(text.count("aten.linear"), 2)

    def test_branches_on_what_python_draws(self) -> None:
        self.check(lambda: Around(Doubled()), "Doubled.forward .*from random,")

    def test_generators_that_modules_hold(self) -> None:
        self.check(lambda: Around(Noisy()),
                   "inner can't .*draws from model.inner.numbers, at", "ddp")

    def test_generators_that_are_made(self) -> None:
        self.check(lambda: Around(Fresh()),
                   "draws from numpy.random.default_rng, at")

    def test_what_is_seeded_is_no_chance(self) -> None:
        program = capture(Around(Seeded()).double(), (rows(), ))
        self.assertEqual(program.notes, ())

    def test_is_refused_where_all_must_be_captured(self) -> None:
        with self.assertRaisesRegex(CaptureError,
                                    r"draws from random, at .*in forward"):
            capture(Around(Doubled()).double(), (rows(), ), opaque=False)


if __name__ == "__main__":
    unittest.main()
