"""Models whose shapes follow from the values of an input."""

from __future__ import annotations

import unittest

import torch
from torch import nn
from torch.nn import functional as F

from planner.capture.capture import capture
from planner.ir.errors import CaptureError
from tests.test_planner.test_capture.eager import check_capture, doubled
from tests.test_planner.test_capture.grids import Grids, grid_inputs


class Windows(nn.Module):
    """Chooses by constants alone, which need no value of an input."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = torch.arange(8).view(2, 4)
        order[0, 2:] = -1
        chosen = order[order >= 0]
        counts = (order >= 0).sum(1)
        parts = self.layer(x)[chosen].split(counts.tolist())
        return torch.stack([p.mean() for p in parts]).sum()


class Padded(nn.Module):
    """Pads by what buffers say; counts its calls in one, if asked to."""

    def __init__(self, *, persistent: bool = False, counts: bool = False):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.counts = counts
        self.register_buffer("width", torch.tensor(3), persistent=persistent)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = (x.shape[-1] + self.width) // 2 * 2
        right = total - x.shape[-1]
        x = F.pad(x, (self.width, right)) if right > 0 else x
        if self.counts:
            self.width += 1
        return self.layer(x[..., :4]).sum() + x.square().sum()


class Sliced(nn.Module):
    """Sizes that stand in slices and views, as tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        for _ in range(sizes.tolist()[0]):
            x = x + 1
        parts = [row[:n // 2] for row, n in zip(x, sizes)]
        shapes = [n // 2 for n in sizes]
        each = self.layer(torch.cat(parts)).split(shapes)
        return torch.stack([y.view(n, 4).mean()
                            for y, n in zip(each, shapes)]).sum()


class Tokens(nn.Module):
    """A branch on tokens, which are others in every batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        y = self.layer(x)
        if (tokens == 7).any():
            y = y * y.exp()
        return y.sum()


class Written(nn.Module):
    """What is asked for was overwritten by what no trace knows."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        own = sizes.clone()
        own[:1] = (self.layer(x).sum() > 0).long() + 1
        return self.layer(x)[:own.tolist()[0]].sum()


class TestBuffers(unittest.TestCase):

    def test_sizes_that_a_module_was_built_with(self) -> None:
        program = check_capture(self, Padded(), (torch.randn(3, 4), ))
        self.assertEqual(program.notes, ())

    def test_not_what_a_checkpoint_or_the_forward_changes(self) -> None:
        for model in (Padded(persistent=True), Padded(counts=True)):
            program = check_capture(self, model, (torch.randn(3, 4), ))
            self.assertRegex(program.notes[0], "can't be captured.*depends")


class TestKnownValues(unittest.TestCase):

    def test_a_program_for_each_grid(self) -> None:
        model, inputs = doubled(Grids(), grid_inputs((2, 3), (4, 2), (2, 2)))
        program = check_capture(self, model, inputs)
        self.assertEqual(
            [b.name for b in program.blocks if not b.name.startswith("glue")],
            ["images.0", "images.1", "texts.0", "texts.1"])
        self.assertEqual([program.leaves[i].path for i in program.fixed],
                         ["kwargs['grid']"])
        self.assertIn("shapes follow from the values of kwargs['grid']",
                      program.notes[0])

    def test_a_method_that_runs_as_it_is(self) -> None:
        """Rather than holding the values of all that it asks for fixed."""
        program = capture(Grids(), grid_inputs((1, 2), (2, 2)))
        self.assertIn("the function Grids.times_of", program.notes[1])
        self.assertEqual(len(program.notes), 2)

    def test_constants_are_told(self) -> None:
        program = check_capture(self, *doubled(Windows(),
                                               (torch.randn(8, 4), )))
        self.assertEqual((program.fixed, program.notes), ((), ()))

    def test_sizes_in_slices(self) -> None:
        program = check_capture(
            self,
            *doubled(Sliced(),
                     (torch.randn(3, 4, 4), torch.tensor([4, 6, 2]))))
        self.assertEqual(program.fixed, (1, ))

    def test_tokens_are_not_held(self) -> None:
        inputs = torch.randn(2, 4), torch.arange(14).view(2, 7)
        program = check_capture(self, *doubled(Tokens(), inputs))
        self.assertEqual(program.fixed, ())
        self.assertIn("the model (Tokens) can't be captured", program.notes[0])

    def test_what_was_overwritten_is_not_known(self) -> None:
        program = check_capture(
            self, *doubled(Written(),
                           (torch.randn(3, 4), torch.tensor([2, 1]))))
        self.assertEqual(program.fixed, ())
        self.assertIn("a shape depends on values at", program.notes[0])

    def test_without_values(self) -> None:
        inputs = {n: t.to("meta") for n, t in grid_inputs((2, 2)).items()}
        with self.assertRaisesRegex(CaptureError, "must have values: they"):
            capture(Grids(), inputs)


if __name__ == "__main__":
    unittest.main()
