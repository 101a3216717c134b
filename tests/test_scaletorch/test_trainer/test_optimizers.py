"""Optimizers by name, and their state made ahead."""

from __future__ import annotations

import unittest
from typing import Any
from unittest import mock

import torch
from torch import nn

from scaletorch.trainer.config import OptimizerConfig
from scaletorch.trainer.optimizers import build_optimizer, set_learning_rate
from scaletorch.trainer.state import (fill_optimizer, random_state,
                                      restore_random_state)


class TestOptimizers(unittest.TestCase):

    def test_vectors_do_not_decay(self) -> None:
        model = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
        model[1].bias.requires_grad_(False)
        optimizer = build_optimizer(model, OptimizerConfig(weight_decay=0.1),
                                    0.5)
        groups = [(g["weight_decay"], [tuple(p.shape) for p in g["params"]])
                  for g in optimizer.param_groups]
        self.assertEqual(groups, [(0.1, [(3, 2)]), (0.0, [(3, ), (3, )])])
        set_learning_rate(optimizer, 0.25)
        self.assertEqual([g["lr"] for g in optimizer.param_groups],
                         [0.25, 0.25])

    def test_options_arrive(self) -> None:
        model = nn.Linear(2, 3)
        for fused in (True, False):
            adamw = build_optimizer(
                model,
                OptimizerConfig(betas=(0.8, 0.9), epsilon=1e-3, fused=fused),
                0.1).param_groups[0]
            self.assertEqual((adamw["betas"], adamw["eps"]),
                             ((0.8, 0.9), 1e-3))
            self.assertEqual(bool(adamw["fused"]), fused)
        sgd = build_optimizer(model, OptimizerConfig(name="sgd", momentum=0.9),
                              0.1)
        self.assertIsInstance(sgd, torch.optim.SGD)
        self.assertEqual(sgd.param_groups[0]["momentum"], 0.9)

    def test_without_a_fused_kernel(self) -> None:
        adamw = torch.optim.AdamW

        def refusing(*args: Any, fused: bool | None, **keys: Any) -> Any:
            if fused:
                raise RuntimeError("no such kernel")
            return adamw(*args, fused=fused, **keys)

        with mock.patch.object(torch.optim, "AdamW", refusing):
            optimizer = build_optimizer(nn.Linear(2, 2), OptimizerConfig(),
                                        0.1)
        self.assertFalse(optimizer.param_groups[0]["fused"])

    def test_state_ahead_changes_nothing(self) -> None:
        for config in (OptimizerConfig(weight_decay=0.1),
                       OptimizerConfig(name="sgd", momentum=0.9)):
            model = nn.Linear(2, 3)
            before = [p.detach().clone() for p in model.parameters()]
            optimizer = build_optimizer(model, config, 0.5)
            fill_optimizer(optimizer)
            for parameter, value in zip(model.parameters(), before):
                self.assertTrue(torch.equal(parameter, value))
                self.assertIsNone(parameter.grad)
                self.assertTrue(optimizer.state[parameter])
            self.assertEqual(optimizer.param_groups[0]["lr"], 0.5)


class TestRandomState(unittest.TestCase):

    def test_there_and_back(self) -> None:
        device = torch.device("cpu")
        state = random_state(device)
        first = torch.rand(3)
        restore_random_state(state, device)
        self.assertTrue(torch.equal(torch.rand(3), first))


if __name__ == "__main__":
    unittest.main()
