"""Programs that hold for some values of an input, and those for others."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import nn

from planner.capture.entry import bind_inputs
from scaletorch import parallel
from scaletorch.signature import call_signature
from tests.test_planner.test_capture.eager import doubled
from tests.test_planner.test_capture.grids import Grids, grid_inputs
from tests.test_scaletorch.small import check_same, seeded, whole

FIRST = (2, 3), (4, 2), (2, 2), (1, 4)
OTHER = (2, 2), (2, 3), (4, 2), (4, 1)
"""As many patches, in other grids."""


def both(model: nn.Module) -> dict[str, Any]:
    """Losses of both, by turns, and the gradient of all."""
    found = {}
    for number, sizes in enumerate((FIRST, OTHER, FIRST)):
        loss = model(**_inputs(sizes))
        loss.backward()
        found[f"loss {number}"] = loss.detach()
    return found | {n: whole(p.grad) for n, p in model.named_parameters()}


def _inputs(sizes: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    return doubled(nn.Identity(), grid_inputs(*sizes))[1]


class TestFixedValues(unittest.TestCase):

    def test_other_values_are_captured_again(self) -> None:
        check_same(self, seeded(lambda: Grids(layers=1)), _inputs(FIRST), both,
                   {"dp": 2}, parallel.fsdp())

    def test_values_that_no_rank_knows(self) -> None:
        inputs = _inputs(FIRST) | {"grid": torch.empty(4, 2, device="meta")}
        call = bind_inputs(Grids(), (), inputs, None)
        with self.assertRaisesRegex(ValueError, "pass the global batch"):
            call_signature(call, (), 0, fixed=[1])


if __name__ == "__main__":
    unittest.main()
