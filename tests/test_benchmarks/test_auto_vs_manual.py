"""What is tried beside the automatic plan, and the table of it."""

from __future__ import annotations

from unittest import TestCase

import torch

from benchmarks.auto_vs_manual import (Row, compared, format_rows,
                                       parse_arguments)
from benchmarks.manual_plans import (AUTO, MODELS, UNSTAGED, Planned, manuals,
                                     model_and_batch, planned, worth_running)
from planner.ir.plan import Plan
from tests.golden import check_golden
from tests.launch import launch
from tests.markers import nightly


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


class TestPlanned(TestCase):

    def test_all_are_planned_once(self) -> None:
        plans = planned("gpt2", 2, "cpu-gloo")
        names = [p.name for p in plans]
        self.assertEqual([n for n in names if n != UNSTAGED],
                         [AUTO, *(m.name for m in manuals(2))])
        self.assertEqual(UNSTAGED in names, "pipeline" in plans[0].uses)
        for made in plans:
            self.assertTrue(made.reason or made.predicted_s > 0)
            if not made.reason:
                mesh = Plan.from_yaml(made.plan).mesh
                self.assertEqual(dict(made.axes),
                                 dict(zip(mesh.names, mesh.sizes)))
        programs = {p.name: p.program for p in plans if not p.reason}
        self.assertEqual(programs["ddp (dp=2)"], programs["expert (ep=2)"])
        self.assertNotEqual(programs["ddp (dp=2)"],
                            programs["megatron (tp=2)"])

    def test_few_products_are_worth_running(self) -> None:
        grid = (("dp", 2), ("tp", 2))
        slow, quick, refused = (Planned(name=n,
                                        axes=grid,
                                        predicted_s=s,
                                        reason=r)
                                for n, s, r in (("slow", 2.0, ""), ("quick",
                                                                    1.0, ""),
                                                ("refused", 0.0, "why")))
        auto = Planned(name=AUTO, axes=grid, predicted_s=3.0)
        single = Planned(name="ddp", axes=(("dp", 4), ), predicted_s=9.0)
        plans = [auto, single, slow, quick, refused]
        self.assertEqual(worth_running(plans, 1), [auto, single, quick])
        self.assertEqual(worth_running(plans, None), plans[:-1])


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


def _on_a_rank(rank: int) -> list[Row]:
    del rank
    return compared(
        parse_arguments([
            "--models", "gpt2", "--rounds", "3", "--products", "0",
            "--cluster", "cpu-gloo"
        ]))


class TestJob(TestCase):

    @nightly
    def test_ranks_that_are_up_run_the_first_one_s_plans(self) -> None:
        rows, other = launch(2, _on_a_rank, timeout_s=300.0)
        self.assertEqual([r.plan for r in rows], [r.plan for r in other])
        self.assertIn(AUTO, [r.plan for r in rows])
        for row in rows:
            self.assertTrue(row.reason or row.measured_s)


class TestTable(TestCase):

    def test_quickest_first(self) -> None:
        rows = [
            _row(AUTO, 0.011, predicted_s=0.01, uses="dp=2 ddp"),
            _row(UNSTAGED, 0.012, predicted_s=0.011, uses="dp=2 zero1"),
            _row("fsdp (dp=2)", 0.01),
            Row(ranks=2,
                model="gpt2",
                plan="ring (cp=2)",
                reason="attention has a mask\nand more"),
            Row(ranks=2, model="gpt2", plan="ddp * ring", predicted_s=0.02)
        ]
        check_golden(
            self, format_rows(rows), """
            gpt2 on 2 ranks
              fsdp (dp=2)                                     10.00 ms
            * automatic (dp=2 ddp)                            11.00 ms  predicted    10.00 ms
            * automatic, without stages (dp=2 zero1)          12.00 ms  predicted    11.00 ms
              ring (cp=2)                                  can't run: attention has a mask
              not run, since predicted to be slower: 1 of the products (20.00 ms or more)
              automatic / best recipe = 1.100
              automatic, without stages / best recipe = 1.200

            """)
