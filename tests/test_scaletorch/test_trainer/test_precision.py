"""The loss scale, against torch's."""

from __future__ import annotations

import unittest

import torch

from scaletorch.trainer.precision import LossScale, autocast


class TestLossScale(unittest.TestCase):

    def test_as_torch_does(self) -> None:
        own = LossScale(True)
        scaler = torch.amp.GradScaler("cpu")
        weight = torch.nn.Parameter(torch.ones(1))
        optimizer = torch.optim.SGD([weight], lr=0.0)
        for step in range(4010):
            finite = step not in (3, 4, 2500)
            weight.grad = torch.full((1, ), 1.0 if finite else float("inf"))
            scaler.scale(torch.ones(1))
            scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
            own.update(finite)
            self.assertEqual(own.value, scaler.get_scale(), step)
            self.assertEqual(own.absorbed, not finite)

    def test_it_does_not_go_below_one(self) -> None:
        own = LossScale(True)
        own.value = 1.0
        own.update(False)
        self.assertEqual((own.value, own.absorbed), (1.0, False))

    def test_off(self) -> None:
        own = LossScale(False)
        own.update(False)
        weight = torch.nn.Parameter(torch.ones(1))
        weight.grad = torch.ones(1)
        own.unscale([weight])
        self.assertEqual((own.value, own.absorbed), (1.0, False))
        self.assertEqual(weight.grad.item(), 1.0)

    def test_there_and_back(self) -> None:
        own, other, off = LossScale(True), LossScale(True), LossScale(False)
        own.update(False)
        own.update(True)
        other.restore(own.state())
        self.assertEqual(other.state(), own.state())
        # float32 before: there was no scale to go on with.
        other.restore(off.state())
        self.assertEqual(other.state(), own.state())
        off.restore(own.state())
        self.assertEqual(off.value, 1.0)


class TestAutocast(unittest.TestCase):

    def test_by_name(self) -> None:
        left = torch.ones(2, 2)
        for name in ("float32", "bfloat16", "float16"):
            with autocast(torch.device("cpu"), name):
                self.assertEqual((left @ left).dtype, getattr(torch, name))


if __name__ == "__main__":
    unittest.main()
