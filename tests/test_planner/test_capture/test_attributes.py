"""What a forward pass leaves on modules is told, and put back."""

from __future__ import annotations

import unittest

import torch
from torch import nn

from planner.capture.attributes import Attributes
from planner.capture.capture import capture


class Remembering(nn.Module):
    """Keeps what it computed in a list, a dict and an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.utils.weight_norm(nn.Linear(4, 4))
        self.seen: list[torch.Tensor] = []
        self.named: dict[str, torch.Tensor] = {}
        self.last: torch.Tensor | None = None
        self.within: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        self.seen.append(y.detach())
        self.named["y"] = y
        self.last = y
        self.within.append(y)
        return self.within.pop().sum()


class TestAttributes(unittest.TestCase):

    def test_notes_name_what_is_left(self) -> None:
        model = Remembering()
        program = capture(model, (torch.randn(2, 4), ))
        told = [n.split(";")[0] for n in program.notes]
        self.assertEqual(told, [
            f"forward leaves tensors in {name}"
            for name in ("last", "seen", "named")
        ])
        self.assertEqual((model.seen, model.named, model.last), ([], {}, None))

    def test_restored(self) -> None:
        model = Remembering()
        kept = torch.zeros(1)
        model.seen.append(kept)
        attributes = Attributes(model)
        model(torch.randn(2, 4))
        self.assertEqual(attributes.left(), ("last", "seen", "named"))
        attributes.restore()
        self.assertEqual(attributes.left(), ())
        self.assertIs(model.seen[0], kept)
        self.assertEqual(len(model.seen), 1)


if __name__ == "__main__":
    unittest.main()
