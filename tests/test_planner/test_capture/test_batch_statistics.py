"""Running statistics after a step are those that eager training leaves."""

from __future__ import annotations

import math
import unittest

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from planner.capture import reference
from planner.capture.capture import capture
from tests.test_planner.test_capture.eager import check_capture


class Checkpointed(nn.Module):
    """Two checkpointed layers with a batch norm, one inside of the other."""

    def __init__(self, *, reentrant: bool, momentum: float | None) -> None:
        super().__init__()
        self.reentrant = reentrant
        self.outer = nn.Linear(4, 4)
        self.norms = nn.ModuleList(
            nn.BatchNorm1d(4, momentum=momentum) for _ in range(2))

    def _inner(self, x: torch.Tensor) -> torch.Tensor:
        return self.norms[1](x).square()

    def _layer(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norms[0](self.outer(x)).tanh()
        return checkpoint(self._inner, x, use_reentrant=self.reentrant)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self._layer, x, use_reentrant=self.reentrant).sum()


def rows(requires_grad: bool) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(5, 4, dtype=torch.float64).requires_grad_(requires_grad)


class Twice(nn.Module):
    """A batch norm in evaluation, and then in training."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before = self.norm.eval()(x).sum()
        result: torch.Tensor = before + self.norm.train()(x).square().sum()
        return result


class TestTwoModes(unittest.TestCase):

    def test_note_and_gradient(self) -> None:
        model = Twice().double()
        nn.init.constant_(model.norm.running_var, 4.0)
        program = capture(model, (rows(True), ))
        self.assertRegex(program.notes[0], "calls the batch norm norm in ev")
        self.assertEqual(len(program.notes), 1)
        values = reference.model_values(model)
        x = rows(True)
        outputs, _ = reference.run(program, values, (x, ))
        outputs[0].backward()
        y = rows(True)
        first = (y / math.sqrt(4.0 + 1e-5)).sum()
        second = F.batch_norm(y, None, None, training=True).square().sum()
        (first + second).backward()
        torch.testing.assert_close(x.grad, y.grad)


class TestCheckpointed(unittest.TestCase):

    def test_statistics_are_updated_as_often_as_computed(self) -> None:
        for reentrant in (True, False):
            for momentum in (0.1, None):
                with self.subTest(reentrant=reentrant, momentum=momentum):
                    model = Checkpointed(reentrant=reentrant,
                                         momentum=momentum).double()
                    check_capture(self, model, (rows(True), ))
                    check_capture(self, model.eval(), (rows(True), ))

    def test_the_reentrant_kind_without_gradients(self) -> None:
        model = Checkpointed(reentrant=True, momentum=0.1).double()
        head = nn.Linear(4, 4).double()

        class Frozen(nn.Module):

            def __init__(self) -> None:
                super().__init__()
                self.model, self.head = model, head

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.head(x + self.model(x)).sum()

        check_capture(self, Frozen(), (rows(False), ))


class Counting(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("outside", torch.zeros(()))

    def _layer(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.norm(self.linear(x)).tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.outside += 1
        y: torch.Tensor = checkpoint(self._layer, x, use_reentrant=False)
        return y.sum()


class TestOtherBuffers(unittest.TestCase):

    def test_a_note_names_them(self) -> None:
        program = capture(Counting().double(), (rows(True), ))
        told = [n for n in program.notes if "to the buffer" in n]
        self.assertEqual(len(told), 1)
        self.assertIn("the buffer calls in a checkpointed region", told[0])


class TestAveragesByCount(unittest.TestCase):

    def test_of_batches_seen(self) -> None:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv1d(4, 3, 1),
                              nn.BatchNorm1d(3, momentum=None)).double()
        x = torch.randn(5, 4, 6, dtype=torch.float64)
        model(x + 1)
        check_capture(self, model, (x, ))


class TestSynchronised(unittest.TestCase):

    def test_it_is_a_batch_norm_of_the_whole_batch(self) -> None:
        for momentum in (0.1, None):
            model = nn.Sequential(nn.Conv1d(4, 3, 1),
                                  nn.BatchNorm1d(3, momentum=momentum))
            inputs = (torch.randn(5, 4, 6), )
            expected = str(capture(model, inputs))
            converted = nn.SyncBatchNorm.convert_sync_batchnorm(model)
            self.assertIsInstance(converted[1], nn.SyncBatchNorm)
            self.assertEqual(str(capture(converted, inputs)), expected)


if __name__ == "__main__":
    unittest.main()
