"""Only what is computed from shapes that depend on values is not traced."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from planner.capture import reference
from planner.capture.capture import capture
from planner.ir.errors import CaptureError
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.ir.values import calls_of
from planner.recipes import RECIPES
from scaletorch.verify import verify
from tests.test_planner.test_capture.eager import check_capture

Call = Callable[["Net", torch.Tensor, torch.Tensor, torch.Tensor], Any]


class Net(nn.Module):
    """Layers, and a way from their rows to a loss."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))
        self.head = nn.Linear(4, 5)
        self.call = call

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = x + layer(x).tanh()
        return x

    def forward(self, x: torch.Tensor, chosen: torch.Tensor,
                y: torch.Tensor) -> Any:
        return self.call(self, x, chosen, y)


def net(call: Call) -> Net:
    torch.manual_seed(0)
    return Net(call).double()


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(2, 6, 4, generator=generator, dtype=torch.float64),
            torch.rand(2, 6, generator=generator)
            > 0.4, torch.randint(0, 5, (2, 6), generator=generator))


def names(program: Program) -> list[str]:
    return [
        str(n.target) for block in program.blocks
        for n in calls_of(program.classes[block.block_class].graph)
    ]


def _with_rows(model: Net, x: torch.Tensor, chosen: torch.Tensor,
               y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Computes some rows apart, as images in a text are."""
    del y
    rows = model.layers[0](x[chosen]).tanh()
    x = x.masked_scatter(chosen.unsqueeze(-1), rows)
    return {"loss": model.rows(x).pow(2).mean(), "rows": rows}


class TestRegions(unittest.TestCase):

    def check(self, call: Call, operators: int, parts: int = 1) -> None:
        program = check_capture(self, net(call), batch())
        self.assertEqual(len(program.notes), 1)
        self.assertRegex(
            program.notes[0], r"a shape depends on values at .*"
            rf"test_regions.py:\d+\): .* \({operators} operators\) runs whole")
        found = names(program)
        self.assertEqual(found.count("scaletorch.opaque.default"), parts)
        self.assertGreaterEqual(found.count("aten.linear.default"), 2)

    def test_a_loss_of_some_rows(self) -> None:
        self.check(lambda m, x, c, y: (m.rows(x)[c] / x[c]).square().mean(), 5)

    def test_a_layer_on_some_rows(self) -> None:
        self.check(
            lambda m, x, c, y: F.cross_entropy(m.head(m.rows(x)[c]), y[c]), 4)

    def test_parts_that_do_not_meet(self) -> None:
        self.check(lambda m, x, c, y:
                   (m.rows(x)[c].mean(0) * m.rows(2 * x)[~c].amax(0)).sum(),
                   2,
                   parts=2)

    def test_places_by_number(self) -> None:

        def call(m: Net, x: torch.Tensor, c: torch.Tensor,
                 y: torch.Tensor) -> torch.Tensor:
            i, j = torch.nonzero(c).unbind(1)
            return (m.rows(x)[i, j] * y[i, j, None]).square().mean()

        self.check(call, 9)

    def test_a_constant_mask_of_known_count(self) -> None:

        def call(m: Net, x: torch.Tensor, c: torch.Tensor,
                 y: torch.Tensor) -> torch.Tensor:
            rows = m.rows(x).flatten(0, 1)
            others = ~torch.eye(len(rows), dtype=torch.bool)
            return (rows @ rows.T)[others].view(len(rows),
                                                -1).logsumexp(-1).sum()

        self.check(call, 3)

    def test_between_layers(self) -> None:

        def call(m: Net, x: torch.Tensor, c: torch.Tensor,
                 y: torch.Tensor) -> torch.Tensor:
            for layer in m.layers:
                x = layer(x)
                x = x + x[c].unsqueeze(0).squeeze().mean(0)
            return x.square().sum()

        program = check_capture(self, net(call), batch())
        found = [n for n in names(program) if "linear" in n or "opaque" in n]
        self.assertEqual(
            found, ["aten.linear.default", "scaletorch.opaque.default"] * 2)

    def test_experts_of_the_rows_that_choose_them(self) -> None:

        def call(m: Net, x: torch.Tensor, c: torch.Tensor,
                 y: torch.Tensor) -> torch.Tensor:
            rows, found = m.head(x).flatten(0, 1), torch.zeros(12, 4).double()
            for number, expert in enumerate(m.layers):
                at, = torch.where(rows.argmax(-1) == number)
                found.index_add_(0, at, expert(x.flatten(0, 1)[at]))
            return m.head(found).square().sum()

        program = check_capture(self, net(call), batch())
        found = [n for n in names(program) if "linear" in n or "opaque" in n]
        self.assertEqual(found, [
            "aten.linear.default", *["scaletorch.opaque.default"] * 2,
            "aten.linear.default"
        ])

    def test_statistics_of_some_rows(self) -> None:
        model = net(lambda m, x, c, y: m.norm(m.rows(x)[c]).tanh().mean())
        model.norm = nn.BatchNorm1d(4).double()
        program = check_capture(self, model, batch())
        self.assertIn("aten.linear.default", names(program))

    def test_is_what_the_model_computes_on_ranks(self) -> None:
        model = net(
            lambda m, x, c, y: F.cross_entropy(m.head(m.rows(x)[c]), y[c]))
        report = verify(model,
                        MeshSpec(("dp", "tp"), (2, 2)),
                        batch(),
                        plan=RECIPES["fsdp"]() * RECIPES["megatron"]())
        self.assertTrue(report.equal, report)

    def test_a_question_of_the_model_is_not_answered(self) -> None:

        def call(m: Net, x: torch.Tensor, c: torch.Tensor,
                 y: torch.Tensor) -> torch.Tensor:
            rows = m.rows(x)[c]
            return rows.sum() * 0 if len(rows) == 0 else rows.mean()

        with self.assertRaisesRegex(CaptureError, "depends on the values"):
            capture(net(call), batch(), opaque=False)
        self.assertIn("can't be captured",
                      capture(net(call), batch()).notes[-1])

    def test_rows_that_are_returned_beside_a_loss(self) -> None:
        program = check_capture(self, net(_with_rows), batch())
        self.assertIn("has the shapes that follow from the example inputs",
                      program.notes[0])
        self.assertEqual(names(program).count("scaletorch.opaque.default"), 1)

    def test_rows_that_parameters_choose(self) -> None:

        def call(m: Net, x: torch.Tensor, c: torch.Tensor,
                 y: torch.Tensor) -> dict[str, torch.Tensor]:
            chosen = m.rows(x).mean(-1) > 0.1
            rows = m.layers[0](x[chosen])
            return {
                "loss": x.masked_scatter(chosen.unsqueeze(-1), rows).sum(),
                "rows": rows
            }

        with self.assertRaisesRegex(CaptureError, "depends on the values"):
            capture(net(call), batch())

    def test_another_number_of_rows_later(self) -> None:
        model = net(_with_rows)
        program = capture(model, batch())
        x, chosen, y = batch()
        with self.assertRaisesRegex(CaptureError, "when the model was"):
            reference.run(program, reference.model_values(model),
                          (x, ~chosen, y))

    def test_rows_that_are_returned_are_refused(self) -> None:
        with self.assertRaisesRegex(CaptureError, "depends on the values"):
            capture(net(lambda m, x, c, y: m.rows(x)[c]), batch())


if __name__ == "__main__":
    unittest.main()
