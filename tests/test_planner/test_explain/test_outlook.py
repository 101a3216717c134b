"""What holds a plan back, what would change it, what is not available."""

from __future__ import annotations

import io
from unittest import TestCase, mock

import torch
from torch import nn

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.constraints import Constraints, forbid
from planner.explain.causes import parts
from planner.explain.findings import binding_constraint, ring_refusals
from planner.explain.load import Loaded, half_batch
from planner.explain.progress import search_progress
from planner.explain.report import build_report
from planner.explain.sensitivity import sensitivity
from planner.explain.text import format_report
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.test_planner.test_explain.pages import GRID, piped, plain
from tests.test_planner.test_planning.programs import mlp, slow_cluster, zoo


class TestBinding(TestCase):

    def test_kinds(self) -> None:
        planning, chosen, found = plain()
        own = binding_constraint(planning, chosen, found, ())
        self.assertEqual(own["kind"], "step")
        spent = parts(chosen)
        self.assertEqual(own["costs_s"], max(spent.values()))
        cause = max(spent, key=lambda c: spent[c])
        share = spent[cause] / chosen.time_s
        self.assertEqual(own["reason"], f"{cause}, {share:.0%} of it")

    def test_constraint(self) -> None:
        planning, chosen, found = plain()
        item = {"constraint": "forbid('x')", "costs_s": 1e-3}
        binding = binding_constraint(planning, chosen, found, (item, ))
        self.assertEqual(
            binding, {
                "kind": "constraint",
                "costs_s": 1e-3,
                "reason": "forbid('x') costs 1 ms"
            })

    def test_memory(self) -> None:
        planning, chosen, found = plain()
        tight = planning.copied(memory_limit_bytes=chosen.memory.total - 1)
        fitting = next(c for c in found if tight.fits(c))
        binding = binding_constraint(tight, fitting, found, ())
        self.assertEqual(binding["kind"], "memory")
        self.assertAlmostEqual(binding["costs_s"],
                               fitting.time_s - chosen.time_s)
        self.assertIn("takes 1 B too much", binding["reason"])
        none = binding_constraint(tight, chosen, found, ())
        self.assertEqual(none["reason"], "1 B too much")


class TestSensitivity(TestCase):

    def test_bandwidth_and_memory(self) -> None:
        planning, best, found = plain()
        chosen = planning.from_recipe(RECIPES["ddp"]() * RECIPES["megatron"](),
                                      GRID)
        rows = sensitivity(planning, chosen, found)
        self.assertEqual([r["change"] for r in rows],
                         ["2x bandwidth of tier node", "20% more memory"])
        self.assertLess(rows[0]["step_s"], chosen.time_s)
        self.assertLessEqual(rows[0]["best_step_s"], rows[0]["step_s"])
        self.assertEqual(rows[1]["best_plan"], best.name)
        self.assertEqual(planning.memory_limit_bytes, 10**9)

    def test_more_memory_lets_another_plan_in(self) -> None:
        planning, chosen, found = plain()
        limit = int(chosen.memory.total / 1.1)
        tight = planning.copied(memory_limit_bytes=limit)
        fitting = min(found, key=tight.rank)
        row = sensitivity(tight, fitting, found)[-1]
        self.assertEqual(row["best_plan"], chosen.name)
        self.assertGreater(fitting.time_s, row["best_step_s"])

    def test_only_tiers_that_are_crossed(self) -> None:
        cluster = load_cluster("h100-sxm:2x8")
        for size, count in ((8, 1), (16, 2)):
            planning = Planning(mlp(), cluster)
            mesh = MeshSpec(("dp", ), (size, ))
            chosen = planning.candidates([mesh])[0]
            rows = sensitivity(planning, chosen, [chosen])
            self.assertEqual(len(rows), count + 1)

    def test_pipeline(self) -> None:
        planning, chosen, found = piped()
        row = sensitivity(planning, chosen, found)[0]
        self.assertLess(row["step_s"], chosen.time_s)

    def test_half_the_batch(self) -> None:
        planning, chosen, found = plain()
        model = nn.Sequential(nn.Linear(4, 8, bias=False), nn.ReLU(),
                              nn.Linear(8, 4, bias=False))
        whole = Loaded(model=model, inputs=(torch.zeros(4, 4), {"n": 3}))
        half = half_batch(whole, 4)
        self.assertEqual(half.inputs[0].shape, (2, 4))
        self.assertEqual(half.inputs[1], {"n": 3})
        halved = planning.copied(
            program=capture(model, (torch.zeros(2, 4), torch.zeros(2, 4)),
                            loss_fn=nn.functional.mse_loss))
        row = sensitivity(planning, chosen, found, halved=halved)[-1]
        self.assertEqual(row["change"], "half the batch")
        self.assertLess(row["step_s"], chosen.time_s)
        with self.assertRaisesRegex(ValueError, "batch of 3 rows can't"):
            half_batch(whole, 3)


class TestRing(TestCase):

    def test_dropout_is_told(self) -> None:

        class Attention(nn.Module):

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return nn.functional.scaled_dot_product_attention(
                    x, x, x, dropout_p=0.1)

        x = torch.zeros(2, 4, 8, 4, requires_grad=True)
        program = capture(nn.Sequential(Attention()), (x, x.detach()),
                          loss_fn=nn.functional.mse_loss)
        planning = Planning(program, slow_cluster(2, 1e8))
        mesh = MeshSpec(("cp", ), (2, ))
        line, = ring_refusals(planning, mesh)
        self.assertRegex(
            line, "^ring attention over cp of .* in .*: it drops "
            "out 0.1 of its weights")
        self.assertEqual(ring_refusals(planning, MeshSpec(("tp", ), (2, ))),
                         [])
        found = planning.candidates([mesh])
        text = format_report(build_report(planning, found[0], found))
        self.assertIn("\nnot available\n  ring attention over cp", text)

    def test_what_can_go_round_is_not_told(self) -> None:
        planning = Planning(zoo("llama"), load_cluster("h100-sxm").resized(2))
        self.assertEqual(ring_refusals(planning, MeshSpec(("cp", ), (2, ))),
                         [])


class TestProgress(TestCase):

    def test_counts_on_a_terminal_only(self) -> None:
        for is_terminal in (False, True):
            err = io.StringIO()
            err.isatty = lambda: is_terminal  # type: ignore[method-assign]
            with mock.patch("sys.stderr", err), search_progress() as observer:
                Planning(mlp(), slow_cluster(2, 1e8),
                         observer=observer).candidates(
                             [MeshSpec(("dp", ), (2, ))])
            self.assertEqual("pricing plans" in err.getvalue(), is_terminal)


class TestFits(TestCase):

    def test_report_says_what_fits(self) -> None:
        planning = Planning(mlp(),
                            slow_cluster(4, 1e8),
                            constraints=Constraints(forbid("fsdp")),
                            memory_limit_bytes=300)
        found = planning.candidates([GRID])
        report = build_report(planning, found[0], found)
        text = format_report(report)
        if report["what_fits"]:
            self.assertIn("\nwhat makes it fit\n", text)
        else:
            self.assertIn("no single change that was tried", text)
