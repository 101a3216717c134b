"""What was true when a model was captured is checked at every call."""

from __future__ import annotations

import unittest
import warnings
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from planner.capture.capture import capture
from scaletorch import parallel
from scaletorch.runtime.guard import digest
from scaletorch.runtime.ranks import run_ranks
from tests.test_scaletorch.small import (Mlp, batch, check_same, on_ranks,
                                         seeded, spread, whole)


class Scaled(nn.Module):
    """Reads numbers, a flag and a plain tensor off itself."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Mlp()
        self.scale = 1.0
        self.squared = False
        self.inner.offset = torch.zeros((), dtype=torch.float64)
        self.weights = {"main": [1.0]}
        self.config = SimpleNamespace(bias=0.0)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        loss = self.inner(x, y)["loss"] * self.scale + self.inner.offset
        loss = loss * self.weights["main"][0] + self.config.bias
        return loss.square() if self.squared else loss


def turned(model: Any) -> dict[str, Any]:
    """Losses while attributes change, back to known ones at last."""
    found = {}

    def step(name: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[name] = model(*batch()).detach()

    step("first")
    model.scale = 2.0
    step("number on the model")
    model.squared = True
    step("flag on the model")
    model.inner.offset.fill_(3.0)
    step("tensor written to")
    model.inner.offset = torch.ones((), dtype=torch.float64)
    step("tensor replaced")
    model.weights["main"][0] = 0.5
    step("number in a list")
    model.config.bias = 1.0
    step("number on an object")
    model.inner.dropout.p = 0.5
    model.eval()
    step("eval")
    model.squared = False
    model.train()
    model.inner.dropout.p = 0.0
    step("back")
    return found


class Lifted(Mlp):
    """Reads a tensor off its class, and counts its calls there."""

    lift: Any = None
    calls = 0

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> Any:
        type(self).calls += 1
        return super().forward(x, y)["loss"] * type(self).lift


def lifted(model: Any) -> dict[str, Any]:
    """Losses while what the class holds changes."""
    found = {}
    for number in (1.0, 2.0, 1.0):
        Lifted.lift = torch.tensor(number, dtype=torch.float64)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[f"{len(found)}"] = model(*batch()).detach()
    return found


class TestSettings(unittest.TestCase):

    def test_what_classes_hold_takes_effect(self) -> None:
        Lifted.lift = torch.ones((), dtype=torch.float64)
        # Ranks that are threads would change one class at different times.
        check_same(self, seeded(Lifted), batch(), lifted, {"dp": 1},
                   parallel.fsdp())

    def test_a_capture_leaves_classes_as_they_are(self) -> None:
        Lifted.lift, Lifted.calls = 1.0, 5
        capture(seeded(Lifted), batch())
        self.assertEqual(Lifted.calls, 5)

    def test_attributes_take_effect(self) -> None:
        check_same(self, seeded(Scaled), batch(), turned, {"dp": 2},
                   parallel.fsdp())

    def test_replaced_modules_are_refused(self) -> None:

        def body(model: nn.Module) -> dict[str, Any]:
            model.inner.down = nn.Linear(16, 4).double()
            try:
                model(*batch())
            except RuntimeError as error:
                return {"error": str(error)}
            return {"error": ""}

        for found in on_ranks(seeded(Scaled), batch(), body, {"dp": 2},
                              parallel.ddp()):
            self.assertIn("the modules inside of inner are not those",
                          found["error"])

    def test_hooks_that_would_not_run_are_refused(self) -> None:

        def body(model: nn.Module) -> dict[str, Any]:
            seen: list[str] = []
            own = model.register_forward_hook(lambda *_: seen.append("own"))
            model(*batch())
            own.remove()
            hook = model.inner.register_forward_hook(
                lambda *_: seen.append("inner"))
            try:
                model(*batch())
            except RuntimeError as error:
                hook.remove()
                model(*batch())
                return {"error": str(error), "seen": seen}
            return {}

        for found in on_ranks(seeded(Scaled), batch(), body, {"dp": 2},
                              parallel.ddp()):
            self.assertIn("a hook of inner was added", found["error"])
            self.assertEqual(found["seen"], ["own"])

    def test_one_rank_alone(self) -> None:
        model = seeded(Scaled)

        def work(rank: int) -> str:
            module = spread(model, batch(), {"dp": 2}, parallel.ddp())
            if rank:
                module.scale = 2.0
            try:
                module(*batch())
            except ValueError as error:
                return str(error)
            return ""

        for text in run_ranks(2, work):
            self.assertIn("'settings', 0", text)
            self.assertIn("'settings', 1", text)


class TestValues(unittest.TestCase):

    def test_batches_of_each_rank_are_refused(self) -> None:
        model = seeded(Mlp)

        def work(rank: int) -> str:
            module = spread(model, batch(), {"dp": 2}, parallel.ddp())
            x, y = batch()
            try:
                module(x + rank, y)
            except ValueError as error:
                return str(error)
            return ""

        for text in run_ranks(2, work):
            self.assertIn("ranks pass batches of different values", text)
            self.assertIn('use inputs="local"', text)

    def test_digest(self) -> None:
        kinds = (torch.randn(3, 4), torch.randn(4, 3).t(), torch.ones(
            ()), torch.zeros(0, 2), torch.tensor([True]),
                 torch.randn(2, dtype=torch.bfloat16),
                 torch.randn(2, dtype=torch.complex64).conj())
        self.assertEqual(digest(kinds), digest([x.clone() for x in kinds]))
        self.assertNotEqual(digest(kinds), digest(kinds[1:]))


class TestInference(unittest.TestCase):

    def test_new_shapes_in_inference_mode(self) -> None:
        """What is captured there is trained with afterwards."""

        def body(model: nn.Module) -> dict[str, Any]:
            x, y = batch(4)
            with torch.inference_mode():
                found = {"loss": float(model(x, y)["loss"])}
            model(x, y)["loss"].backward()
            return found | {
                n: whole(p.grad)
                for n, p in model.named_parameters()
            }

        check_same(self, seeded(Mlp), batch(), body, {"dp": 2},
                   parallel.fsdp())


if __name__ == "__main__":
    unittest.main()
