"""What ``auto_parallelize`` refuses, tunes and verifies."""

from __future__ import annotations

import dataclasses
import unittest
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from planner.constraints import forbid, pin
from planner.ir.convert import Move, Step
from planner.ir.layout import S
from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks
from scaletorch.tune import quickest
from tests.test_scaletorch.small import (Mlp, TiedLM, batch, ids, seeded,
                                         spread, whole)


class Branching(nn.Module):
    """Its control flow depends on data."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


def message(call: Any) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was raised"


def on_two(**options: Any) -> str:
    """The error of a call on a mesh of two ranks called dp."""
    options = {
        "model": seeded(Mlp),
        "inputs": batch(),
        "axes": {
            "dp": 2
        },
        "plan": None
    } | options
    return message(lambda: spread(**options))


def bad_calls() -> dict[str, str]:
    """Every kind of bad input, and the error it gives."""
    model = seeded(Mlp)
    plan = spread(model, batch(), {"dp": 2}, parallel.fsdp()).plan
    broken = dataclasses.replace(plan,
                                 at_rest={
                                     **plan.at_rest, "up.weight": "S(7)"
                                 })
    other = dataclasses.replace(plan,
                                mesh=dataclasses.replace(plan.mesh,
                                                         sizes=(4, )))
    torn = seeded(Mlp)
    torn.up = nn.Linear(8, 16, device="meta")
    devices = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
    auto = scaletorch.auto_parallelize
    return {
        "world":
        message(lambda: auto(model, 4, example_inputs=batch())),
        "type":
        message(lambda: auto(model, "two", example_inputs=batch())),
        "axis":
        on_two(plan=parallel.fsdp() * parallel.megatron()),
        "inputs":
        on_two(inputs=(batch()[0], )),
        "no inputs":
        on_two(inputs=None),
        "model":
        on_two(model=seeded(TiedLM), inputs=(ids(), ), plan=plan),
        "edited":
        on_two(plan=broken),
        "ranks":
        on_two(plan=other),
        "branch":
        on_two(model=Branching(),
               inputs=(torch.ones(4, 4), ),
               constraints=[forbid("opaque")]),
        "devices":
        on_two(model=torn),
        "memory":
        on_two(memory_limit_bytes=100),
        "limit":
        on_two(memory_limit_bytes=-1),
        "optimizer":
        on_two(optimizer="adamv"),
        "cluster":
        message(lambda: auto(
            model, devices, example_inputs=batch(), cluster="h100-sxn")),
        "constraint":
        on_two(constraints=[pin("nothing.*", dp=S(0))]),
        "plan":
        on_two(plan=3),
        "tune":
        on_two(plan=plan, tune=2),
        "negative":
        on_two(tune=-1),
        "file":
        on_two(plan="/no/such/plan.yaml"),
    }


class TestBadInput(unittest.TestCase):

    def test_each_is_told_on_every_rank(self) -> None:
        expected = {
            "world": "a mesh of 4 ranks was asked for, but the job has 2",
            "type": "must be a DeviceMesh or the number of ranks, got str",
            "axis": "wants an axis 'tp'; the mesh has dp",
            "inputs": "the inputs do not fit Mlp.forward",
            "no inputs": "pass example_inputs=",
            "model": "this plan is of Mlp",
            "edited": "up.weight of shape (16, 8) can't lie as S(7)",
            "ranks": "4 ranks, the mesh has 2",
            "branch": "CaptureError",
            "devices": "on several devices",
            "memory": "no plan of Mlp fits",
            "limit": "memory_limit_bytes must be positive",
            "optimizer": "adamv",
            "cluster": "h100-sx",
            "constraint": "matches no parameter",
            "plan": "plan must be a Plan, a recipe or a path, got int",
            "tune": "tune chooses among plans, but plan= fixes one",
            "negative": "tune must not be negative",
            "file": "/no/such/plan.yaml",
        }
        for found in run_ranks(2, lambda rank: bad_calls()):
            self.assertEqual(set(found), set(expected))
            for name, text in expected.items():
                self.assertIn(text, found[name], name)

    def test_no_process_group(self) -> None:
        with self.assertRaisesRegex(ValueError, "there is no process group"):
            scaletorch.auto_parallelize(seeded(Mlp), 2, example_inputs=batch())


class TestConstraints(unittest.TestCase):

    def test_those_that_a_given_plan_breaks_are_told(self) -> None:

        def work(rank: int) -> None:
            del rank
            first = spread(seeded(Mlp), batch(), {"dp": 2}, parallel.fsdp())
            for plan in (first.plan, parallel.fsdp()):
                spread(seeded(Mlp),
                       batch(), {"dp": 2},
                       plan,
                       constraints=forbid("fsdp"))

        with self.assertLogs("scaletorch", "WARNING") as logs:
            run_ranks(2, work)
        told = [line for line in logs.output if "forbid" in line]
        self.assertEqual(len(told), 2)
        for line in told:
            self.assertIn(
                "the plan that was given breaks forbid('fsdp'): fsdp is used "
                "over dp; it runs as it is", line)


class TestTune(unittest.TestCase):

    def test_ranks_keep_the_same_plan(self) -> None:
        found = run_ranks(2, tuned)
        self.assertEqual(found[0][0], found[1][0])
        for name, value in seeded(Mlp).named_parameters():
            self.assertTrue(torch.equal(found[0][1][name], value), name)

    def test_slowest_rank_decides(self) -> None:

        class Gathered:

            def gather(self, mine: float) -> list[float]:
                return [mine, slow.pop(0)]

        slow = [9.0, 1.0, 5.0]
        finalists: list[Any] = ["a", "b", "c"]
        built: list[Any] = []

        def build(chosen: Any) -> Any:
            built.append(chosen)
            return mock.MagicMock(device=torch.device("cpu"))

        call = mock.MagicMock(leaves=())
        with mock.patch("scaletorch.tune._arguments",
                        lambda call: ((), {})), \
                mock.patch("scaletorch.tune.backward_of"):
            quickest(build, finalists, call,
                     Gathered())  # type: ignore[arg-type]
        self.assertEqual(built, ["a", "b", "c", "b"])


def tuned(rank: int) -> tuple[str, dict[str, torch.Tensor]]:
    del rank
    meta = tuple(x.to("meta") for x in batch())
    module = spread(seeded(Mlp), meta, {"dp": 2}, None, tune=2)
    return module.plan.to_yaml(), {
        n: whole(p)
        for n, p in module.named_parameters()
    }


class TestVerify(unittest.TestCase):

    def test_equal(self) -> None:
        report = scaletorch.verify(seeded(Mlp), (2, ), batch())
        self.assertTrue(report.equal)
        self.assertEqual(report.first_difference, "")
        self.assertEqual(report.compared, 2 + 6)

    def test_on_the_mesh(self) -> None:

        def work(rank: int) -> None:
            del rank
            spread(seeded(Mlp),
                   batch(), {"dp": 2},
                   parallel.fsdp(),
                   verify=True)

        run_ranks(2, work)

    def test_with_dropout(self) -> None:
        model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5),
                              nn.Linear(8, 4))
        for mesh, plan in ((2, parallel.ddp()), ((2, 2), None)):
            report = scaletorch.verify(model,
                                       mesh, (torch.randn(8, 8), ),
                                       plan=plan)
            self.assertTrue(report.equal, report)

    def test_a_broken_reduction_is_named(self) -> None:
        """Without the adjoint's all-reduce gradients are partial."""
        nothing = property(lambda step: Move(kind="none"))
        with mock.patch.object(Step, "backward", nothing):
            report = scaletorch.verify(seeded(Mlp), (2, ),
                                       batch(),
                                       plan=parallel.ddp())
        self.assertFalse(report.equal)
        self.assertEqual(report.first_difference, "gradient of up.weight")
        self.assertGreater(report.worst_error, 1e-3)

    def test_refuses_a_live_group(self) -> None:

        def work(rank: int) -> str:
            del rank
            return message(lambda: scaletorch.verify(seeded(Mlp), 2, batch()))

        self.assertIn("a process group is initialised", run_ranks(1, work)[0])

    def test_refuses_meta(self) -> None:
        with self.assertRaisesRegex(ValueError, "needs real parameters"):
            scaletorch.verify(seeded(Mlp), 2,
                              tuple(x.to("meta") for x in batch()))


if __name__ == "__main__":
    unittest.main()
