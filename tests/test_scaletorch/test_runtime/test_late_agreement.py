"""Ranks that disagree get errors, though calls compute before they ask."""

from __future__ import annotations

import unittest
from unittest import mock

import torch
from torch.distributed.device_mesh import init_device_mesh

from scaletorch import auto_parallelize, parallel
from scaletorch.runtime.agree import Comparison
from scaletorch.runtime.executor import Executor
from scaletorch.runtime.ranks import run_ranks
from tests.test_scaletorch.small import Mlp, batch


class TestLateAgreement(unittest.TestCase):

    def known_twice(self, recipe: parallel.Recipe) -> list[tuple[str, bool]]:
        """Both ranks know both batches; then each passes another one."""
        model = Mlp().double()

        def work(rank: int) -> tuple[str, bool]:
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
            module = auto_parallelize(model,
                                      mesh,
                                      cluster="cpu-gloo",
                                      example_inputs=batch(8),
                                      plan=recipe)
            before = [
                float(module(*batch(n))["loss"].detach()) for n in (8, 16)
            ]
            error = ""
            try:
                module(*batch(8 if rank == 0 else 16))
            except ValueError as caught:
                error = str(caught)
            after = [
                float(module(*batch(n))["loss"].detach()) for n in (8, 16)
            ]
            return error, before == after

        return run_ranks(2, work)

    def test_known_batches_that_differ(self) -> None:
        for recipe in (parallel.ddp(), parallel.fsdp()):
            for error, is_same in self.known_twice(recipe):
                with self.subTest(recipe=recipe.name):
                    self.assertIn(
                        "ranks call the model with different "
                        "inputs", error)
                    self.assertTrue(is_same)

    def test_steps_run_before_the_answer_is_awaited(self) -> None:
        events: dict[int, list[str]] = {0: [], 1: []}
        step, settle = Executor._step, Comparison.settle
        model = Mlp().double()

        def stepped(executor: Executor, number: int, *rest: object) -> None:
            events[torch.distributed.get_rank()].append(f"step {number}")
            step(executor, number, *rest)  # type: ignore[arg-type]

        def settled(comparison: Comparison) -> int:
            events[torch.distributed.get_rank()].append("settled")
            return settle(comparison)

        def work(rank: int) -> None:
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
            module = auto_parallelize(model,
                                      mesh,
                                      cluster="cpu-gloo",
                                      example_inputs=batch(8),
                                      plan=parallel.ddp())
            module(*batch(8))
            events[rank].clear()
            module(*batch(8))

        with mock.patch.object(Executor, "_step", stepped), \
                mock.patch.object(Comparison, "settle", settled):
            run_ranks(2, work)
        for found in events.values():
            self.assertEqual(found.count("settled"), 1)
            self.assertEqual(found[0], "step 0")


if __name__ == "__main__":
    unittest.main()
