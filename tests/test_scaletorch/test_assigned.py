"""``p.data = x`` is noticed, and what is like it is not refused."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks
from tests.test_scaletorch.small import Mlp, batch, check_same, seeded, spread


def _assign_whole(weight: nn.Parameter) -> None:
    weight.data = torch.zeros(weight.shape, dtype=weight.dtype)


def _assign_alike(weight: nn.Parameter) -> None:
    weight.data = weight.data.clamp(-0.1, 0.1)


def changed(model: nn.Module) -> dict[str, Any]:
    """What training finds when parameters are written to between calls."""
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    found = {}

    def step(name: str) -> None:
        loss = model(*batch())["loss"]
        loss.backward()
        found[name] = loss
        optimizer.step()
        optimizer.zero_grad()

    step("at first")
    weight = model.get_parameter("up.weight")
    weight.data.mul_(0.5)
    step("in place")
    with torch.no_grad():
        weight.copy_(weight.clamp(-0.1, 0.1))
    step("copied")
    model.load_state_dict({"up.bias": torch.ones(16, dtype=torch.float64)},
                          strict=False)
    step("loaded")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.requires_grad_(False).requires_grad_(True)
    model.float().double()
    step("cast")
    return found


class TestAssignedData(unittest.TestCase):

    def refused(self, assign: Callable[[nn.Parameter], None]) -> list[str]:

        def work(rank: int) -> str:
            del rank
            model = spread(seeded(Mlp), batch(), {"dp": 2}, parallel.fsdp())
            assign(model.get_parameter("down.weight"))
            with self.assertRaises(RuntimeError) as caught:
                model(*batch())
            return str(caught.exception)

        return run_ranks(2, work)

    def test_it_is_refused(self) -> None:
        for assign in (_assign_whole, _assign_alike):
            with self.subTest(assign.__name__):
                for text in self.refused(assign):
                    self.assertIn("assigned to the data of down.weight", text)
                    self.assertIn("p.copy_(x)", text)
                    self.assertIn('load_state_dict({"down.weight": x}', text)

    def test_writes_and_casts_are_not(self) -> None:
        check_same(self, seeded(Mlp), batch(), changed, {"dp": 2},
                   parallel.fsdp())


if __name__ == "__main__":
    unittest.main()
