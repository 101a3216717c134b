"""What is tried beside the automatic plan, and the table of it."""

from __future__ import annotations

from unittest import TestCase

import torch

from benchmarks.auto_vs_manual import (AUTO, MODELS, Row, format_rows, manuals,
                                       model_and_batch)
from tests.golden import check_golden


def _row(plan: str, measured_s: float, **rest: object) -> Row:
    return Row(ranks=2, model="gpt2", plan=plan, measured_s=measured_s,
               **rest)  # type: ignore[arg-type]


class TestManuals(TestCase):

    def test_one_axis(self) -> None:
        names = [m.name for m in manuals(2)]
        self.assertEqual(len(names), len(set(names)))
        for name in ("ddp (dp=2)", "megatron-sp (tp=2)", "ring (cp=2)",
                     "expert (ep=2)"):
            self.assertIn(name, names)
        self.assertTrue(all(m.axes[0][1] == 2 for m in manuals(2)))

    def test_products(self) -> None:
        found = list(manuals(4))
        names = [m.name for m in found]
        self.assertEqual(len(names), len(set(names)))
        for name in ("fsdp (dp=4)", "fsdp * megatron (dp=2 x tp=2)",
                     "ddp * gather_kv (dp=2 x cp=2)"):
            self.assertIn(name, names)
        for manual in found:
            size = 1
            for _, n in manual.axes:
                size *= n
            self.assertEqual(size, 4)


class TestModels(TestCase):

    def test_run_alone(self) -> None:
        self.assertGreaterEqual(len(MODELS), 6)
        for name in MODELS:
            with self.subTest(name), torch.no_grad():
                model, inputs = model_and_batch(name)
                out = model(**inputs)
                loss = getattr(out, "loss", out)
                self.assertEqual(loss.shape, ())
                self.assertTrue(torch.isfinite(loss))


class TestTable(TestCase):

    def test_quickest_first(self) -> None:
        rows = [
            _row(AUTO, 0.011, predicted_s=0.01, uses="dp=2 ddp"),
            _row("fsdp (dp=2)", 0.01),
            Row(ranks=2,
                model="gpt2",
                plan="ring (cp=2)",
                reason="attention has a mask\nand more")
        ]
        check_golden(
            self, format_rows(rows), """
            gpt2 on 2 ranks
              fsdp (dp=2)                                     10.00 ms
            * automatic (dp=2 ddp)                            11.00 ms  predicted    10.00 ms
              ring (cp=2)                                  can't run: attention has a mask
              automatic / best recipe = 1.100

            """)
