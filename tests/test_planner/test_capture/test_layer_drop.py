"""Layers that are left out by chance."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import nn

from planner.capture.capture import capture
from planner.ir.errors import CaptureError
from tests.test_planner.test_capture.eager import check_capture

_X = torch.linspace(-1, 1, 8, dtype=torch.float64).reshape(2, 4)


class Layers(nn.Module):
    """As many models of audio and text have it."""

    def __init__(self, forward: Any, p: float = 0.5) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(6))
        self.several = nn.ModuleList(Several(4, 4) for _ in range(3))
        self.run = forward
        self.p = p
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.run(self, x).square().sum()


def unless_skipped(self: Any, x: torch.Tensor) -> torch.Tensor:
    for layer in self.layers:
        skip = False
        if self.training and self.p > 0.0:
            chance = torch.rand([])
            skip = chance < self.p
        if not skip or not self.training:
            x = layer(x)
    return x


def continued(self: Any, x: torch.Tensor) -> torch.Tensor:
    for number, layer in enumerate(self.layers):
        if self.training and number:
            chance = torch.rand([])
            if chance < self.p:
                continue
        x = layer(x)
    return x


def flagged(self: Any, x: torch.Tensor) -> torch.Tensor:
    for layer in self.layers:
        dropped = False
        if self.training:
            if torch.rand([]) < self.p:
                dropped = True
        if not dropped:
            x = layer(x)
    return x


def without_more(self: Any, x: torch.Tensor) -> torch.Tensor:
    for layer, more in zip(self.layers, [None] * len(self.layers)):
        dropped = False
        if torch.rand([]) < self.p:
            dropped = True
        if not dropped:
            x = layer(x)
            if more is not None:
                x = more(x)
    return x


class Several(nn.Linear):
    """A layer that returns more than what goes on."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x), x.softmax(-1)


def first_of_several(self: Any, x: torch.Tensor) -> torch.Tensor:
    wanted, weights = False, ()
    for layer in self.several:
        skip = False
        if self.training:
            skip = torch.rand([]) < self.p
        if not skip or wanted:
            results = layer(x)
            x = results[0]
        if skip:
            results = (None, None)
        if wanted:
            weights += (results[1], )
    return x


def first_of_several_continued(self: Any, x: torch.Tensor) -> torch.Tensor:
    wanted, weights = False, ()
    for layer in self.several:
        skip = torch.rand([]) < self.p
        if skip and not wanted:
            continue
        results = layer(x)
        x = results[0]
        if wanted:
            weights += (results[1], )
    return x


def second_of_several(self: Any, x: torch.Tensor) -> torch.Tensor:
    results = (x, x)
    for layer in self.several:
        if torch.rand([]) < self.p:
            continue
        results = layer(x)
        x = results[0]
    return x + results[1]


def counted(self: Any, x: torch.Tensor) -> torch.Tensor:
    count = 0
    for layer in self.layers:
        if torch.rand([]) < self.p:
            continue
        x = layer(x)
        count += 1
    return x * count


def by_value(self: Any, x: torch.Tensor) -> torch.Tensor:
    for layer in self.layers:
        if x.sum() > 0:
            x = layer(x)
    return x


class TestLayerDrop(unittest.TestCase):

    def test_every_way_of_writing_it(self) -> None:
        for forward in (unless_skipped, continued, flagged, without_more,
                        first_of_several, first_of_several_continued):
            with self.subTest(forward.__name__):
                model = Layers(forward)
                program = check_capture(self, model, (_X, ))
                text = "".join(str(c.graph) for c in program.classes.values())
                self.assertIn("aten.where", text)
                self.assertNotIn("opaque", text)

    def test_not_where_more_depends_on_it(self) -> None:
        for forward in (counted, by_value):
            with self.subTest(forward.__name__):
                with self.assertRaisesRegex(CaptureError, "control flow"):
                    capture(Layers(forward), (_X, ), opaque=False)

    def test_not_where_another_result_is_read(self) -> None:
        with self.assertRaises(CaptureError):
            capture(Layers(second_of_several), (_X, ), opaque=False)

    def test_a_layer_of_another_shape(self) -> None:
        model = Layers(unless_skipped)
        model.layers = nn.ModuleList([nn.Linear(4, 5).double()])
        with self.assertRaisesRegex(CaptureError, "left out by chance"):
            capture(model, (_X, ), opaque=False)

    def test_in_evaluation(self) -> None:
        program = check_capture(self, Layers(continued).eval(), (_X, ))
        text = "".join(str(c.graph) for c in program.classes.values())
        self.assertNotIn("aten.where", text)


if __name__ == "__main__":
    unittest.main()
