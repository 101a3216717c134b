"""Checkpoints of pipelines: other cuts, no pipeline, safetensors."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (get_state_dict,
                                                     set_state_dict)
from torch.nn import functional as F

import scaletorch
from planner.recipes import RECIPES
from scaletorch.runtime.ranks import run_ranks
from tests.markers import nightly
from tests.test_planner.test_pipeline.models import Row
from tests.test_scaletorch.small import seeded, spread, whole
from tests.test_scaletorch.test_pipeline.test_call import rows

_PIPELINE = RECIPES["pipeline"]
_EARLY = _PIPELINE(microbatches=2, cuts=("layers.1", ))
_LATE = _PIPELINE("zbh1", microbatches=2, cuts=("layers.3", ))
_ALONE = RECIPES["fsdp"]()


def _spread(model: nn.Module, plan: Any) -> scaletorch.ParallelModule:
    axes = {"dp": 2} if plan is _ALONE else {"pp": 2}
    return spread(model, rows(), axes, plan, loss_fn=F.mse_loss)


def _steps(module: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        if isinstance(module, scaletorch.ParallelModule):
            loss = module(*rows())
        else:
            loss = F.mse_loss(module(rows()[0]), rows()[1])
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad()


def _resume(folder: Path, module: nn.Module,
            optimizer: torch.optim.Optimizer) -> None:
    model, state = get_state_dict(module, optimizer)
    dcp.load({"model": model, "optimizer": state}, checkpoint_id=folder)
    set_state_dict(module,
                   optimizer,
                   model_state_dict=model,
                   optim_state_dict=state)


class TestOptimizer(unittest.TestCase):

    def test_goes_on_without_stages(self) -> None:
        self.check_pairs((_LATE, _ALONE))

    @nightly
    def test_goes_on_under_other_cuts(self) -> None:
        self.check_pairs((_EARLY, _LATE), (_ALONE, _EARLY))

    def check_pairs(self, *pairs: tuple[Any, Any]) -> None:
        single = seeded(Row)
        optimizer = torch.optim.AdamW(single.parameters(), lr=1e-2)
        _steps(single, optimizer)
        _steps(single, optimizer)
        for first, second in pairs:
            with self.subTest(first=first.name, second=second.name):
                self.check(dict(single.named_parameters()), first, second)

    def check(self, expected: dict[str, nn.Parameter], first: Any,
              second: Any) -> None:
        model = seeded(Row)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)

            def begin(rank: int) -> None:
                del rank
                module = _spread(model, first)
                optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
                _steps(module, optimizer)
                state, moments = get_state_dict(module, optimizer)
                dcp.save({
                    "model": state,
                    "optimizer": moments
                },
                         checkpoint_id=folder)

            def go_on(rank: int) -> dict[str, torch.Tensor]:
                del rank
                module = _spread(model, second)
                optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
                _resume(folder, module, optimizer)
                _steps(module, optimizer)
                return {n: whole(p) for n, p in module.named_parameters()}

            run_ranks(2, begin)
            found = run_ranks(2, go_on)
        self.assertEqual(set().union(*found), set(expected))
        for part in found:
            for name, tensor in part.items():
                torch.testing.assert_close(tensor, expected[name].detach())


class TestSafetensors(unittest.TestCase):

    def test_a_rank_reads_its_stage(self) -> None:
        model = seeded(Row)
        state = {n: t + 1.0 for n, t in model.state_dict().items()}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.safetensors"
            save_file(state, path)

            def work(rank: int) -> dict[str, torch.Tensor]:
                del rank
                module = _spread(model, _EARLY)
                scaletorch.load_checkpoint(module, path)
                return {n: whole(p) for n, p in module.named_parameters()}

            found = run_ranks(2, work)
        self.assertEqual(set().union(*found), set(state))
        self.assertEqual(len(found[0]), 4)
        for part in found:
            for name, tensor in part.items():
                torch.testing.assert_close(tensor, state[name])


if __name__ == "__main__":
    unittest.main()
