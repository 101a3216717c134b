"""What torch.export refuses is traced with make_fx; then comes the error."""

from __future__ import annotations

import unittest
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from planner.capture.capture import capture
from planner.ir.errors import CaptureError
from tests.model_zoo import MODELS
from tests.test_planner.test_capture.eager import check_capture, doubled
from tests.test_planner.test_capture.test_traps import Doubled, module, rows

REFUSES = mock.patch("planner.capture.ladder.trace_by_export",
                     side_effect=RuntimeError("export says no"))


class TestSecondWay(unittest.TestCase):

    def test_equal_to_eager(self) -> None:
        for name in ("llama", "unet", "lstm", "t5"):
            with self.subTest(name), REFUSES:
                model, inputs, loss_fn = MODELS[name]()
                program = check_capture(self, *doubled(model, inputs), loss_fn)
                self.assertEqual(len(program.blocks), 1)
                self.assertIn("torch.export refuses", program.notes[0])

    def test_traps(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            self.count = self.count * 0.5 + 1
            y = self.linear(x)
            with torch.no_grad():
                z = y * torch.tensor(3.0)
            out = torch.zeros(3, 4, dtype=x.dtype)
            out[:2] = Doubled.apply(F.dropout(y * z), 3.0)[:2]
            return (out * self.count).sum()

        with REFUSES:
            program = check_capture(self, module(forward), (rows(), ))
        self.assertEqual(list(program.mutations), ["buffer:count"])

    def test_autocast_regions_are_kept(self) -> None:

        def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return self.linear(x)

        with REFUSES:
            check_capture(self, module(forward).float(), (rows().float(), ))

    def test_both_reasons_are_given(self) -> None:

        class Wrong(nn.Module):

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x @ x

        with REFUSES, self.assertRaisesRegex(
                CaptureError, "cannot capture Wrong: export says no; .*"
                "traced without torch.export: "):
            capture(Wrong(), (torch.zeros(3, 4), ))


if __name__ == "__main__":
    unittest.main()
