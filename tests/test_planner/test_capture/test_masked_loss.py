"""A loss of the rows under a mask is traced whole."""

from __future__ import annotations

import unittest

import torch
from torch.nn import functional as F

from planner.capture.capture import capture
from tests.test_planner.test_capture.eager import check_capture
from tests.test_planner.test_capture.test_regions import (Call, batch, names,
                                                          net)


class TestMaskedLoss(unittest.TestCase):

    def check(self, call: Call) -> None:
        program = check_capture(self, net(call), batch())
        self.assertEqual(program.notes, ())
        self.assertNotIn("scaletorch.opaque.default", names(program))

    def test_mean_and_sum(self) -> None:
        self.check(
            lambda m, x, c, y: F.cross_entropy(m.head(m.rows(x))[c], y[c]))
        self.check(lambda m, x, c, y: F.cross_entropy(
            m.head(m.rows(x))[c], y[c], reduction="sum"))

    def test_settings_are_kept(self) -> None:
        self.check(lambda m, x, c, y: F.cross_entropy(
            m.head(m.rows(x))[c],
            y[c],
            weight=torch.linspace(0.5, 1.5, 5).double(),
            ignore_index=2,
            label_smoothing=0.1))

    def test_of_a_flat_batch(self) -> None:
        self.check(lambda m, x, c, y: F.cross_entropy(
            m.head(m.rows(x)).flatten(0, 1)[c.flatten()],
            y.flatten()[c.flatten()]))

    def test_by_row_or_under_two_masks_rows_are_chosen(self) -> None:
        for call in (lambda m, x, c, y: F.cross_entropy(
                m.head(m.rows(x))[c], y[c], reduction="none").amax(),
                     lambda m, x, c, y: F.cross_entropy(
                         m.head(m.rows(x))[c], y[c | (y > 9)])):
            self.assertIn("scaletorch.opaque.default",
                          names(capture(net(call), batch())))


if __name__ == "__main__":
    unittest.main()
