"""What the report looks like."""

from __future__ import annotations

from typing import Any
from unittest import TestCase

from planner.cluster import load_cluster
from planner.constraints import Constraints, forbid
from planner.explain.causes import waiting_s
from planner.explain.report import build_report
from planner.explain.text import format_report
from planner.explain.uneven import uneven_dims
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES
from planner.search.facts import Facts
from tests.golden import check_golden
from tests.test_planner.test_planning.programs import (large_llama, mlp,
                                                       slow_cluster, zoo)

_MESH = MeshSpec(("dp", "tp"), (2, 2))


class TestText(TestCase):

    def test_differences_of_sums_hide_nothing(self) -> None:
        planning = Planning(mlp(), slow_cluster(4, 1e8))
        chosen = planning.from_recipe(RECIPES["ddp"]() * RECIPES["megatron"](),
                                      _MESH)
        report = build_report(planning, chosen, [chosen], top=0)
        time = report["time"]
        time["communication_s"] = time["exposed_s"] - 1e-20
        self.assertIn("(0 s of communication hidden", format_report(report))

    def test_one_stage_waits_for_nothing(self) -> None:
        planning = Planning(mlp(), slow_cluster(4, 1e8), runners_up=6)
        mesh = MeshSpec(("pp", "dp", "tp"), (1, 2, 2))
        found = [c for c in planning.candidates([mesh]) if c.pipeline]
        self.assertEqual(len(found), 3)
        for candidate in found:
            self.assertEqual(waiting_s(candidate), 0.0)

    def test_small_model(self) -> None:
        planning = Planning(mlp(), slow_cluster(4, 1e8))
        found = planning.candidates([_MESH])
        chosen = next(c for c in found
                      if c.name == "ddp(dp=2) * megatron(tp=2)")
        report = build_report(planning, chosen, found, top=2)
        check_golden(
            self, format_report(report), """
            Sequential on slow, dp=2 x tp=2
            plan: ddp(dp=2) * megatron(tp=2)

            4 samples a step, 312,000 samples/s per device, 10.0% of the devices' peak
            step 3.21 us (0 s of communication hidden; gap 50.3%)
              forward            0.204 us   6.4%  ##............................
              backward           0.287 us   9.0%  ###...........................
              local copies      0.0456 us   1.4%  ..............................
              communication dp    1.94 us  60.5%  ##################............
              communication tp    0.63 us  19.6%  ######........................
              optimizer         0.0996 us   3.1%  #.............................

            held back by the step itself: communication dp, 61% of it
            search: 10 plans priced, 0 combinations left out
              without the optimizer 3.11 us; none takes less than 1.54 us (gap 50.3%)
              (of all combinations that fit in memory, laid out axis by axis; the best plan is within 46.4%
                of all layouts, whatever memory they take)

            mesh axes (a step, one rank)
              axis  size  use       link  bytes     time  exposed  repeated work
              dp       2  ddp       node  132 B  1.94 us  1.94 us            0 s
              tp       2  megatron  node   32 B  0.63 us  0.63 us      0.0226 us

            communication that nothing hides (a step)
              where       of        collective  axis  pass      runs     time  exposed
              gradients   2 packed  all_reduce  dp    backward     1  1.59 us  1.59 us
              Sequential  2.linear  all_reduce  tp    forward      1  0.63 us  0.63 us
              Sequential  mse_loss  all_reduce  dp    forward      1  0.35 us  0.35 us

            memory 688 B of 953.7 MiB per device (fits)
              optimizer            264 B  ..............................
              activations          128 B  ..............................
              gradients            128 B  ..............................
              parameters           128 B  ..............................
              unreduced gradients  128 B  ..............................
              transient             36 B  ..............................
              outputs                4 B  ..............................

            layouts by block (over dp, tp)
            Sequential x 1 (glue.0)
              parameter  shape  at rest  in use
              0.weight   8x4    R S(0)   R S(0)
              2.weight   4x8    R S(1)   R S(1)
              conversion of  collective  axis  pass      bytes    alone
              0.weight       all_reduce  dp    backward   64 B  0.95 us
              2.weight       all_reduce  dp    backward   64 B  0.95 us
              2.linear       all_reduce  tp    forward    32 B  0.63 us
              mse_loss       all_reduce  dp    forward     4 B  0.35 us

            work that every rank of an axis repeats
              Sequential: broadcast_tensors  tp  costs 0.0128 us
              Sequential: mse_loss           tp  costs 0.0098 us

            alternatives (2 of 6 that were considered)
              auto-dp(dp=2) * auto(tp=2): 1.73 us, 1.453 KiB
                communication dp -1.94 us, compute +1.05 us, communication tp -0.63 us, optimizer +0.0896 us
              zero1(dp=2) * megatron(tp=2): 3.37 us, 624 B
                communication dp +0.11 us, local copies +0.094 us, optimizer -0.0448 us

            what would change (plans found, priced again)
              2x bandwidth of tier node: 0.82 us shorter, 688 B
              20% more memory: as long, 688 B
            """)

    def test_too_much_memory(self) -> None:
        planning = Planning(mlp(),
                            slow_cluster(4, 1e8),
                            memory_limit_bytes=300)
        found = planning.candidates([_MESH])
        text = format_report(build_report(planning, found[0], found))
        self.assertRegex(text, r"memory .* of 300 B per device \(.* too "
                         r"much\)")


class TestRecompute(TestCase):
    """Activations of a large batch do not fit in two devices."""

    def _report(self, *constraints: object) -> dict[str, Any]:
        planning = Planning(large_llama(),
                            load_cluster("h100-sxm").resized(2),
                            constraints=Constraints(constraints),
                            memory_limit_bytes=15 * 2**30)
        mesh = MeshSpec(("dp", ), (2, ))
        found = planning.candidates([mesh])
        return build_report(planning, found[0], found, meshes=[mesh])

    def test_is_told(self) -> None:
        report = self._report()
        recomputed = [b["recomputed"] for b in report["blocks"]]
        self.assertEqual(recomputed, [False, True, False])
        text = format_report(report)
        for pattern in (r"plan: .*, recomputing LlamaDecoderLayer\n",
                        r"per device \(fits\)",
                        r"\n  forward again +[\d.]+ ms",
                        r"LlamaDecoderLayer x 3 \(.*\), recomputed in the "
                        r"backward\n", r"forward again -[\d.]+ ms"):
            self.assertRegex(text, pattern)

    def test_forbidding_it_is_priced(self) -> None:
        report = self._report(forbid("recompute"))
        self.assertTrue(report["constraints"][0]["fits_without"])
        self.assertRegex(
            format_report(report),
            r"without forbid\('recompute'\) a plan fits, in [\d.]+ ms a step")


class TestUneven(TestCase):

    def test_heads(self) -> None:
        facts = Facts.of(zoo("gpt2"))
        self.assertIn(
            "heads 4 of scaled_dot_product_attention do not divide by tp=8",
            uneven_dims(facts, MeshSpec(("tp", ), (8, ))))
        self.assertEqual(uneven_dims(facts, MeshSpec(("tp", ), (2, ))), [])


class TestLarge(TestCase):

    def test_seventy_layers_are_one_block(self) -> None:
        planning = Planning(zoo("llama"), load_cluster("h100-sxm").resized(4))
        best, found = planning.best([_MESH])
        report = build_report(planning, best, found)
        self.assertEqual([b["count"] for b in report["blocks"]], [1, 3, 1])
