"""Speed, the share of the peak, and where numbers go."""

from __future__ import annotations

import importlib.util
import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import torch

from planner.capture.capture import capture_call
from planner.capture.entry import bind_inputs
from scaletorch import models
from scaletorch.trainer.metrics import (Speed, flops_of, json_lines, lines,
                                        tensorboard, tokens_of)


class TestSpeed(unittest.TestCase):

    def test_rates(self) -> None:
        now = [10.0]
        speed = Speed(50.0, 200.0, clock=lambda: now[0])
        speed.batch(30)
        speed.batch(10)
        now[0] = 12.0
        self.assertEqual(speed.row(), {
            "tokens_per_s": 20.0,
            "batch_s": 1.0,
            "mfu": 0.25
        })
        speed.batch(7)
        speed.restart()
        speed.batch(3)
        now[0] = 13.0
        self.assertEqual(speed.row()["tokens_per_s"], 3.0)

    def test_lines_of_a_log(self) -> None:
        now = [0.0]
        write = lines(9, clock=lambda: now[0])
        with self.assertLogs("scaletorch", "INFO") as logs:
            for step, time_s in ((1, 0.0), (2, 9.0), (3, 10.5), (9, 11.0)):
                now[0] = time_s
                write({"step": step, "loss": 2.5, "batch_s": 0.01})
                if step == 2:
                    write({"step": step, "evaluation_loss": 3.0})
        self.assertEqual([record.getMessage() for record in logs.records], [
            "step 1 of 9: loss 2.5000, 0.01 s a batch",
            "step 2 of 9: evaluation loss 3.0000",
            "step 3 of 9: loss 2.5000, 0.01 s a batch",
            "step 9 of 9: loss 2.5000, 0.01 s a batch"
        ])

    def test_no_peak_no_share(self) -> None:
        self.assertNotIn("mfu", Speed(1.0, None).row())

    def test_tokens(self) -> None:
        rows = torch.zeros(4, 8, dtype=torch.int64)
        self.assertEqual(tokens_of({"labels": rows, "tokens": rows}), 32)
        self.assertEqual(tokens_of({"input_ids": rows}), 32)
        self.assertEqual(tokens_of({"pixels": torch.zeros(4, 3, 2, 2)}), 4)

    def test_operations(self) -> None:
        """Six for each weight of a product and token, and attention's."""
        with torch.device("meta"):
            model = models.build("gpt2",
                                 width=16,
                                 depth=2,
                                 heads=2,
                                 vocabulary_size=32,
                                 context=8)
            tokens = torch.empty(4, 8, dtype=torch.int64)
        call = bind_inputs(model, (), {
            "tokens": tokens,
            "labels": tokens
        }, None)
        found = flops_of(capture_call(model, call, loss_fn=None))
        weights = sum(p.numel() for n, p in model.named_parameters()
                      if p.dim() == 2 and n != "positions.weight")
        products = 6 * weights * tokens.numel()
        self.assertGreater(found, products)
        self.assertLess(found, 1.1 * products)


class TestWriters(unittest.TestCase):

    def test_json(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "metrics.jsonl"
            for loss in (0.1, float("nan")):
                json_lines(path)({"step": 1, "loss": loss})
            lines = path.read_text().splitlines()
            self.assertEqual([json.loads(x)["loss"] for x in lines],
                             [0.1, None])

    @unittest.skipUnless(importlib.util.find_spec("tensorboard"),
                         "TensorBoard is not installed")
    def test_tensorboard(self) -> None:
        from tensorboard.backend.event_processing.event_accumulator import \
            EventAccumulator
        with tempfile.TemporaryDirectory() as folder:
            write = tensorboard(Path(folder))
            for step, loss in ((1, 0.5), (2, 0.25)):
                write({"step": step, "loss": loss})
            events = EventAccumulator(folder).Reload()
            self.assertEqual([(e.step, e.value)
                              for e in events.Scalars("loss")], [(1, 0.5),
                                                                 (2, 0.25)])

    def test_no_tensorboard(self) -> None:
        with mock.patch("importlib.util.find_spec", return_value=None):
            with self.assertRaisesRegex(ValueError, "pip install tensorboard"):
                tensorboard(Path("nowhere"))

    def test_a_file_that_can_not_be_written(self) -> None:
        with self.assertRaisesRegex(
                OSError, "nowhere/metrics.jsonl could not be written: .*No "
                "such file.*; make room or name another checkpoint.folder"):
            json_lines(Path("nowhere/metrics.jsonl"))({"step": 1})


if __name__ == "__main__":
    unittest.main()
