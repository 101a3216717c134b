"""The global batch as a part of the search, and objectives by name."""

from __future__ import annotations

import unittest
from typing import Any

from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks
from tests.test_scaletorch.small import Mlp, batch, seeded, spread


def _error(**options: Any) -> str:
    try:
        spread(seeded(Mlp), batch(), {"dp": 2}, **{"plan": None} | options)
    except ValueError as error:
        return str(error)
    return "nothing was raised"


class TestGlobalBatch(unittest.TestCase):

    def test_is_searched(self) -> None:
        expected = float(seeded(Mlp)(*batch(32))["loss"].detach())

        def work(rank: int) -> tuple[float, float]:
            del rank
            module = spread(seeded(Mlp),
                            batch(), {"dp": 2},
                            None,
                            global_batch=range(8, 33))
            rows = module.plan.prediction["global_batch"]
            return rows, float(module(*batch(int(rows)))["loss"].detach())

        for rows, loss in run_ranks(2, work):
            self.assertEqual(rows, 32)
            self.assertAlmostEqual(loss, expected, places=10)

    def test_mistakes(self) -> None:

        def work(rank: int) -> list[str]:
            del rank
            sizes = range(8, 17)
            return [
                _error(objective="speed"),
                _error(objective="devices"),
                _error(objective="step-time", global_batch=sizes),
                _error(plan=parallel.ddp(), global_batch=sizes),
                _error(global_batch=range(0)),
            ]

        texts = ("objective must be one of step-time, throughput, devices, "
                 "got 'speed'", "python -m planner.explain --fit",
                 "a smaller batch always takes a shorter step",
                 "but plan= fixes what runs", "give a range of positive sizes")
        for found in run_ranks(2, work):
            for error, text in zip(found, texts, strict=True):
                self.assertIn(text, error)

    def test_an_objective_that_changes_nothing(self) -> None:

        def work(rank: int) -> list[str]:
            del rank
            return [
                spread(seeded(Mlp), batch(), {
                    "dp": 2
                }, None, objective=name).plan.to_yaml()
                for name in (None, "step-time", "throughput")
            ]

        for plans in run_ranks(2, work):
            self.assertEqual(len(set(plans)), 1)


if __name__ == "__main__":
    unittest.main()
