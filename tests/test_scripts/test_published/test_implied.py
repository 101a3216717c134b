from __future__ import annotations

import unittest
from typing import Any

from scripts.published.implied import with_sequence
from scripts.published.model import model_of
from scripts.published.tidy import tidy
from tests.test_scripts.rows import row


def _row(flops: float, **changes: Any) -> dict[str, Any]:
    """A run of 32 sequences on 8 devices in two seconds, each `flops`."""
    model = {**row()["model"], "seq": None}
    measured = {
        "iteration_time_s": 2.0,
        "tflops_per_gpu": 32 * flops / 2.0 / 8 / 1e12
    }
    return tidy(
        row(**{
            "model": model,
            "measured": measured,
            "recompute": None,
            **changes
        }))


def _work(seq: int) -> float:
    model = model_of({**row()["model"], "vocab": 50000, "seq": seq})
    return float(model.model_flops(seq))


class TestSequence(unittest.TestCase):

    def test_a_rate_and_a_time_tell_it(self) -> None:
        for seq in (512, 1024, 4096):
            for recompute, again in (("none", 1.0), ("full", 4 / 3)):
                found = with_sequence(_row(1.03 * again * _work(seq)), 8)
                self.assertEqual((found["model"]["seq"], found["recompute"]),
                                 (seq, recompute))

    def test_recomputation_that_is_stated_stays(self) -> None:
        found = with_sequence(_row(_work(1024), recompute="none"), 8)
        self.assertEqual(found["model"]["seq"], 1024)
        off = _row(4 / 3 * _work(1024), recompute="none")
        self.assertEqual(with_sequence(off, 8), off)

    def test_what_tells_nothing_is_left(self) -> None:
        stated = row()
        for plain in (tidy(stated), _row(1.2 * _work(1024)),
                      _row(_work(1024), global_batch=None),
                      _row(_work(1024), measured={"tflops_per_gpu": 100.0})):
            self.assertEqual(with_sequence(plain, 8), plain)


if __name__ == "__main__":
    unittest.main()
