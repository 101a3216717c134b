"""What a forward pass leaves on modules is told, and put back."""

from __future__ import annotations

import collections
import unittest
from typing import Any

import torch
from torch import nn

from planner.capture.attributes import Attributes
from planner.capture.capture import capture
from tests.test_planner.test_capture.eager import check_capture, doubled


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


_SEEN: list[torch.Tensor] = []


class Box:
    """No module, on which a model leaves things."""

    def __init__(self) -> None:
        self.terms: list[torch.Tensor] = []
        self.scale: Any = torch.ones(())


class Part(nn.Module):
    """Can't be traced; looks into a box, or leaves something in it."""

    def __init__(self, box: Box) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.box = box

    def forward(self, x: torch.Tensor, given: Box | None = None) -> Any:
        for _ in range(1 + int(x.sum().item() > 0)):
            x = self.linear(x).sin()
        (given or self.box).terms.append(x.pow(2).mean())
        return x * self.box.scale


class Boxed(nn.Module):
    """Goes on with what its part has left, and leaves something for it."""

    def __init__(self, *, terms: str, scale: bool) -> None:
        super().__init__()
        self.box = Box()
        self.part = Part(self.box)
        self.terms, self.scale = terms, scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        given = Box() if self.terms == "given" else None
        if self.scale:
            self.box.scale = x.exp().mean()
        loss = self.part(x, given).sum()
        terms = (given or self.box).terms
        if self.terms:
            loss = loss + sum(terms)
        terms.clear()
        return loss


_SHARED = Box()


def shared_scale() -> Any:
    return _SHARED.scale


class GlobalPart(Part):

    def forward(self, x: torch.Tensor, given: Box | None = None) -> Any:
        x = super().forward(x, given or Box())
        return x * shared_scale()


class GlobalBox(nn.Module):
    """Leaves something for its part where both know it by a global name."""

    def __init__(self) -> None:
        super().__init__()
        self.part = GlobalPart(Box())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _SHARED.scale = x.exp().mean()
        y: torch.Tensor = self.part(x)
        return y.sum()


class TestAttributes(unittest.TestCase):

    def test_notes_name_what_is_left(self) -> None:
        model = Remembering()
        program = capture(model, (torch.randn(2, 4), ))
        for note, name in zip(program.notes, ("last", "seen", "named"),
                              strict=True):
            self.assertRegex(
                note, rf"^forward leaves tensors in {name} "
                r"\(see .*test_attributes.py:\d+\); the captured program")
        self.assertEqual((model.seen, model.named, model.last), ([], {}, None))

    def test_what_is_held_however_deep(self) -> None:

        class Deep(nn.Module):

            def __init__(self) -> None:
                super().__init__()
                self.linear = nn.Linear(4, 4)
                self.box = Box()
                self.nested: dict[str, Any] = {"a": (collections.deque(), )}

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = self.linear(x)
                self.box.terms.append(y)
                self.box.scale = y.sum()
                self.nested["a"][0].append(y)
                _SEEN.append(y)
                return y.sum()

        model = Deep()
        program = capture(model, (torch.randn(2, 4), ))
        told = [n.split(";")[0].split(" (")[0] for n in program.notes]
        self.assertEqual(told, [
            f"forward leaves tensors in {name}"
            for name in ("box", "box.terms", "nested.a.0", f"{__name__}._SEEN")
        ])
        self.assertEqual((model.box.terms, len(model.nested["a"][0]), _SEEN),
                         ([], 0, []))
        self.assertEqual(float(model.box.scale), 1.0)

    def test_parts_that_are_not_traced_share_no_tensors_with_others(
            self) -> None:
        for terms, scale in (("own", False), ("given", False), ("", True)):
            with self.subTest(terms=terms, scale=scale):
                program = check_capture(
                    self,
                    *doubled(Boxed(terms=terms, scale=scale),
                             (torch.randn(2, 4), )))
                self.assertIn("the model (Boxed) can't be captured",
                              program.notes[-1])

    def test_global_names(self) -> None:
        program = check_capture(self,
                                *doubled(GlobalBox(), (torch.randn(2, 4), )))
        self.assertIn("the model (GlobalBox) can't be captured",
                      program.notes[-1])
        self.assertIn(f"leaves tensors in {__name__}._SHARED;",
                      program.notes[0])

    def test_notes_of_what_a_model_leaves_that_is_not_traced(self) -> None:

        class Whole(Remembering):

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                y = super().forward(x)
                return y * len(torch.nonzero(x > 0).tolist())

        program = capture(Whole(), (torch.randn(2, 4), ))
        self.assertIn("runs whole", program.notes[-1])
        self.assertEqual([n.split(" (")[0] for n in program.notes[:-1]], [
            f"forward leaves tensors in {name}"
            for name in ("last", "seen", "named")
        ])

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
