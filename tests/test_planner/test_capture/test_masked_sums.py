"""Sums and means of the rows under a mask are traced whole."""

from __future__ import annotations

import unittest

import torch
from torch.nn import functional as F

from planner.capture.capture import capture
from tests.test_planner.test_capture.eager import check_capture
from tests.test_planner.test_capture.test_regions import (Call, Net, batch,
                                                          names, net)


class TestMaskedSums(unittest.TestCase):

    def check(self, call: Call) -> None:
        program = check_capture(self, net(call), batch())
        self.assertEqual(program.notes, ())
        self.assertNotIn("scaletorch.opaque.default", names(program))

    def test_means_and_sums(self) -> None:
        self.check(lambda m, x, c, y: (m.rows(x)[c] - 2 * x[c]).pow(2).mean())
        self.check(lambda m, x, c, y: (m.rows(x).sum(-1)[c].tanh() / 3).sum())
        self.check(lambda m, x, c, y: torch.masked_select(
            m.rows(x).sum(-1), c).abs().mean())

    def test_what_all_rows_share(self) -> None:
        self.check(lambda m, x, c, y:
                   (m.rows(x)[c] * m.head.weight[0]).sum(-1).mean())

    def test_losses(self) -> None:
        for loss in F.smooth_l1_loss, F.binary_cross_entropy_with_logits:
            self.check(lambda m, x, c, y, f=loss: f(m.rows(x)[c], x[c]))
        self.check(
            lambda m, x, c, y: F.mse_loss(m.rows(x)[c], x[c], reduction="sum"))

    def test_targets_that_are_missing(self) -> None:

        def call(m: Net, x: torch.Tensor, c: torch.Tensor,
                 y: torch.Tensor) -> torch.Tensor:
            del y
            target = x.masked_fill(c[..., None], torch.nan)
            known = ~target.isnan()
            return F.mse_loss(m.rows(x)[known], target[known])

        self.check(call)

    def test_rows_are_chosen_where_zeros_may_have_no_derivative(self) -> None:
        for call in (lambda m, x, c, y: m.rows(x)[c].abs().log().mean(),
                     lambda m, x, c, y: (m.rows(x)[c] / x[c]).mean(),
                     lambda m, x, c, y: (m.rows(x)[c] - x[c | (y > 9)]).mean(),
                     lambda m, x, c, y: m.rows(x)[c].sum(0).tanh().mean()):
            self.assertIn("scaletorch.opaque.default",
                          names(capture(net(call), batch())))


if __name__ == "__main__":
    unittest.main()
