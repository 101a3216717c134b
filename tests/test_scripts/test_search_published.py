"""What is chosen is never predicted to be slower than what authors ran."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import tempfile
import unittest
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from scripts.published.read import read_case
from scripts.published.rows import read_rows
from scripts.published.space import configurations
from scripts.search_published import choose, main, regrets
from scripts.validate_cost_model import predict
from tests.test_scripts.rows import row
from tests.tree import ROOT

_PUBLISHED = ROOT.parent / "shared" / "measurements" / "training_runs.yaml"
_EVERY = 40


def _parallel(**sizes: int) -> dict[str, Any]:
    return {"parallel": {"dp": 1, "tp": 1, "pp": 1, **sizes}}


_ROWS = [
    row(**_parallel(dp=8), id="data"),
    row(**_parallel(tp=8), id="tensor"),
    row(**_parallel(pp=8), id="stages"),
    row(**_parallel(dp=2, tp=2, pp=2), id="all", global_batch=64),
]


class TestSpace(unittest.TestCase):

    def test_keeps_devices_and_batch(self) -> None:
        for raw in _ROWS:
            case = read_case(raw)
            plans = configurations(case)
            self.assertEqual(set(np.unique(plans.devices)), {8})
            batch = plans.micro_batch * plans.num_microbatches * plans.dp
            self.assertEqual(len(np.unique(batch)), 1)
            self.assertEqual(int(plans.tp[0]), int(case.plan.tp))
            self.assertEqual(int(plans.pp[0]), int(case.plan.pp))

    def test_divides_what_it_divides(self) -> None:
        case = read_case(_ROWS[0])
        plans = configurations(case)
        self.assertTrue((case.model.layers % plans.pp == 0).all())
        self.assertTrue((case.model.heads % plans.tp == 0).all())
        self.assertTrue((case.model.seq % plans.cp == 0).all())
        self.assertTrue(((plans.chunks == 1) | (plans.pp > 1)).all())


class TestChoice(unittest.TestCase):

    def test_is_never_worse(self) -> None:
        for raw in _ROWS:
            choice = choose(read_case(raw))
            self.assertLessEqual(choice.best_s, choice.own_s)
            self.assertAlmostEqual(sum(choice.parts.values()),
                                   choice.best_s - choice.own_s)

    def test_same_devices_have_one_best(self) -> None:
        best = [choose(read_case(raw)).best_s for raw in _ROWS[:3]]
        self.assertAlmostEqual(best[0], best[1], delta=0.02 * best[0])
        self.assertAlmostEqual(best[0], best[2], delta=0.02 * best[0])

    def test_keeps_to_memory(self) -> None:
        for raw in _ROWS:
            case = read_case(raw)
            choice = choose(case)
            self.assertLessEqual(
                choice.best_bytes,
                max(case.cluster.device.memory_bytes, choice.own_bytes))

    @unittest.skipUnless(_PUBLISHED.is_file(),
                         "the published runs are not beside the project")
    def test_is_never_worse_on_published_runs(self) -> None:
        found = predict(read_rows([_PUBLISHED], "*", None)[::_EVERY])
        cases = [p.case for p in found if p.case is not None]
        self.assertGreater(len(cases), 10)
        for case in cases:
            choice = choose(case)
            self.assertLessEqual(choice.best_s, choice.own_s, case.id)


class TestRegrets(unittest.TestCase):

    def test_measured_time_of_the_predicted_best(self) -> None:
        case = read_case(_ROWS[0])
        runs = [(dataclasses.replace(case, measured_s=measured_s), predicted_s)
                for measured_s, predicted_s in ((1.0, 2.0), (1.1, 1.5), (3.0,
                                                                         4.0))]
        (name, count, regret), = regrets(runs)
        self.assertEqual((name, count), ("data", 3))
        self.assertAlmostEqual(regret, 0.1)
        self.assertEqual(regrets(runs[:1]), [])


class TestCommand(unittest.TestCase):

    def test_tells_rows_and_totals(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.yaml"
            path.write_text(yaml.safe_dump(_ROWS), encoding="utf-8")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                self.assertEqual(main([str(path), "--better", "0"]), 0)
        text = out.getvalue()
        self.assertRegex(text, r"stages: [\d.]+ m?s as published, ")
        self.assertIn("4 runs: the choice is predicted to be slower in 0",
                      text)
        self.assertIn("pp 8 -> ", text)
        self.assertNotIn("expert", text)
        self.assertRegex(text, r"\n    4 +[\d.]+% +[\d.]+%   made up\n")


if __name__ == "__main__":
    unittest.main()
