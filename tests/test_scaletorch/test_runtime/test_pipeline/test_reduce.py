"""A stage's gradients are reduced once they are there."""

from __future__ import annotations

import unittest
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from planner.schedule.named import make_schedule
from scaletorch import parallel
from scaletorch.runtime.pipeline.engine import Engine
from tests.launch import launch


class _Logged:
    """A stage that says what it does."""

    def __init__(self, number: int, log: list[str]) -> None:
        self.number, self.log = number, log
        self.written: dict[str, Any] = {}

    def forward_part(self, microbatch: int, *_: Any, keep: bool) -> Any:
        self.log.append(f"{self.number}F{microbatch}")
        return {}, {}

    def backward_part(self, microbatch: int, *_: Any) -> Any:
        self.log.append(f"{self.number}B{microbatch}")
        return {}

    def weights_part(self, microbatch: int) -> None:
        self.log.append(f"{self.number}W{microbatch}")

    def reduce(self) -> None:
        self.log.append(f"reduce {self.number}")


def _log(name: str, chunks: int, *, keep: bool = True) -> list[str]:
    schedule = make_schedule(name, ranks=1, microbatches=2, chunks=chunks)
    log: list[str] = []
    stage = SimpleNamespace(takes={},
                            gives={},
                            outputs={},
                            program=SimpleNamespace(specs={}))
    executors: Any = {n: _Logged(n, log) for n in range(chunks)}
    stages: Any = [stage] * chunks
    transport: Any = None
    engine = Engine(schedule, 0, stages, executors, {}, [], transport,
                    torch.device("cpu"), frozenset())
    engine.run(lambda stage, part: {},
               0,
               keep=keep,
               tangents={},
               returned=set())
    return log


class TestOrder(unittest.TestCase):

    def test_after_the_last_action(self) -> None:
        log = _log("1f1b", 1)
        self.assertEqual(log[-1], "reduce 0")
        self.assertEqual(log.count("reduce 0"), 1)

    def test_while_another_stage_of_the_rank_runs(self) -> None:
        log = _log("interleaved1f1b", 2)
        self.assertEqual([x for x in log if x.startswith("reduce")],
                         ["reduce 1", "reduce 0"])
        after = log[log.index("reduce 1"):]
        self.assertNotIn("1", "".join(x[0] for x in after[1:-1]))
        self.assertIn("0B1", after)

    def test_after_the_gradients_of_weights(self) -> None:
        log = _log("zbh1", 1)
        self.assertEqual(log.index("reduce 0"), len(log) - 1)
        self.assertTrue(log[-2].startswith("0W"))

    def test_never_without_a_backward(self) -> None:
        self.assertNotIn("reduce 0", _log("1f1b", 1, keep=False))


class _Row(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return x.square().mean()


def _gradients(rank: int) -> dict[str, torch.Tensor]:
    del rank
    torch.manual_seed(0)
    model, x = _Row(), torch.randn(8, 8)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("pp", "dp"))
    plan = parallel.pipeline(schedule="interleaved1f1b",
                             microbatches=4,
                             chunks=2) * parallel.fsdp()
    module = scaletorch.auto_parallelize(model,
                                         mesh,
                                         example_inputs=(x, ),
                                         plan=plan,
                                         cluster="cpu-gloo")
    for _ in range(2):  # what one step sent is not there in the next
        module.zero_grad()
        module(x).backward()
    found: dict[str, Any] = dict(module.named_parameters())
    return {n: p.grad.full_tensor() for n, p in found.items()}


class TestGradients(unittest.TestCase):

    def test_as_on_one_device(self) -> None:
        torch.manual_seed(0)
        model, x = _Row(), torch.randn(8, 8)
        model(x).backward()
        wanted = {n: p.grad for n, p in model.named_parameters()}
        found: dict[str, torch.Tensor] = {}
        for own in launch(4, _gradients):
            found |= own
        self.assertEqual(found.keys(), wanted.keys())
        for name, grad in wanted.items():
            torch.testing.assert_close(found[name], grad)


if __name__ == "__main__":
    unittest.main()
