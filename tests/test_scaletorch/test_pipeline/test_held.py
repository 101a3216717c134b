"""Stages without parameters, or with frozen ones."""

from __future__ import annotations

import copy
import unittest
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks


class Block(nn.Module):

    def __init__(self, *, has_weight: bool) -> None:
        super().__init__()
        inner = nn.Linear(16, 16) if has_weight else nn.Sigmoid()
        self.inner = nn.Sequential(inner)
        self.outer = nn.Tanh()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.outer(self.inner(x))


class Chain(nn.Module):
    """Two blocks without parameters, then two with."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Block(has_weight=flag) for flag in (False, False, True, True))

    def forward(self, x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return ((x - target)**2).mean()


class TestHeld(unittest.TestCase):

    def setUp(self) -> None:
        torch.manual_seed(0)
        self.model = Chain().double()
        self.batch = torch.randn(2, 8, 16, dtype=torch.double).unbind()

    def check(self, cut: str, schedule: str) -> list[list[str]]:
        """Compare with one device; the names that each rank holds."""
        single = copy.deepcopy(self.model)
        loss = single(*self.batch)
        loss.backward()
        grads = {
            n: p.grad
            for n, p in single.named_parameters() if p.grad is not None
        }
        norm = float(torch.cat([g.flatten() for g in grads.values()]).norm())

        def work(rank: int) -> tuple[Any, ...]:
            del rank
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("pp", ))
            plan = parallel.pipeline(schedule, microbatches=2, cuts=(cut, ))
            module = scaletorch.auto_parallelize(self.model,
                                                 mesh,
                                                 example_inputs=self.batch,
                                                 cluster="cpu-gloo",
                                                 plan=plan)
            optimizer = torch.optim.AdamW(module.parameters())
            ours = module(*self.batch)
            ours.backward()
            total = scaletorch.clip_grad_norm_(module.parameters(), 1e9)
            theirs = nn.utils.clip_grad_norm_(module.parameters(), 1e9)
            self.assertAlmostEqual(float(theirs), float(total), places=10)
            found = {
                n: p.grad.full_tensor()
                for n, p in module.named_parameters() if p.grad is not None
            }
            optimizer.step()
            return ours.detach(), total, found, list(module.state_dict())

        seen: set[str] = set()
        held = []
        for ours, total, found, names in run_ranks(2, work):
            torch.testing.assert_close(ours, loss.detach())
            self.assertAlmostEqual(float(total), norm, places=10)
            for name, grad in found.items():
                torch.testing.assert_close(grad, grads[name], msg=name)
            seen |= set(found)
            held.append(names)
        self.assertEqual(seen, set(grads))
        return held

    def test_a_stage_without_parameters_holds_a_small_one(self) -> None:
        for schedule in ("1f1b", "zbh1"):
            first, last = self.check("layers.2", schedule)
            self.assertEqual(first, ["layers.2.inner.0.bias"])
            self.assertEqual(len(last), 4)

    def test_frozen_parameters(self) -> None:
        self.model.layers[2].inner[0].weight.requires_grad_(False)
        self.check("layers.3", "1f1b")

    def test_a_frozen_stage(self) -> None:
        self.model.layers[2].requires_grad_(False)
        self.check("layers.3", "zbh1")


if __name__ == "__main__":
    unittest.main()
