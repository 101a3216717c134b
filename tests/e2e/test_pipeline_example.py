"""The example of a pipeline runs and trains as one process does."""

from __future__ import annotations

import re
import tempfile
import unittest
from pathlib import Path

from planner.schedule.named import make_schedule
from tests.e2e.example_ranks import printed_by_example
from tests.markers import nightly


class TestPipelineExample(unittest.TestCase):

    def check(self, *options: str, bubble: str, ranks: int = 2) -> None:
        text = printed_by_example(ranks, "pipeline.py", "--steps", "3",
                                  "--width", "32", "--context", "16", *options)
        self.assertIn(f"bubble of equal stages: {bubble} %", text)
        rows = re.findall(r"loss ([\d.]+)  alone ([\d.]+)", text)
        self.assertEqual(len(rows), 3)
        for ours, alone in rows:
            self.assertAlmostEqual(float(ours), float(alone), delta=2e-4)
        self.assertLess(float(text.split()[-1]), 1e-4)

    def test_1f1b(self) -> None:
        self.check(bubble="20.0")

    def test_interleaved(self) -> None:
        self.check("--schedule",
                   "interleaved1f1b",
                   "--chunks",
                   "2",
                   bubble="11.1")

    @nightly
    def test_four_stages_of_a_text(self) -> None:
        text = str(make_schedule("zbh1", ranks=4, microbatches=4))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "own.txt"
            path.write_text("# a copy\n" + text)
            self.check("--schedule", str(path), bubble="20.0", ranks=4)

    @nightly
    def test_sharded_stages(self) -> None:
        self.check("--replicas", "2", bubble="20.0", ranks=4)


if __name__ == "__main__":
    unittest.main()
