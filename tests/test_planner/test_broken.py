"""Constraints that a plan breaks, of each kind."""

from __future__ import annotations

from typing import Any
from unittest import TestCase

from planner.broken import broken_constraints
from planner.candidate import Candidate
from planner.cluster import load_cluster
from planner.constraints import Constraints, allow, forbid, limit, pin
from planner.ir.layout import R, S
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES, ddp, fsdp, megatron, pipeline
from tests.test_planner.test_planning.programs import zoo


def _planning() -> Planning:
    return Planning(zoo("llama"), load_cluster("h100-sxm").resized(4))


def _broken(chosen: Candidate, *items: Any) -> list[str]:
    found = broken_constraints(Constraints(*items),
                               mesh=chosen.mesh,
                               layout=chosen.layout,
                               uses=chosen.axes)
    return list(map(str, found))


class TestBroken(TestCase):

    def test_without_stages(self) -> None:
        chosen = _planning().from_recipe(fsdp() * megatron(),
                                         MeshSpec(("dp", "tp"), (2, 2)))
        kept = (limit(dp=2, tp=2, cp=1), forbid("ddp"), forbid("recompute"),
                pin("*.q_proj.weight",
                    tp=S(0)), forbid("*", cp=R), allow("batch_statistics"))
        self.assertEqual(_broken(chosen, *kept), [])
        self.assertEqual(_broken(chosen, forbid("fsdp"), forbid("megatron")), [
            "forbid('fsdp'): fsdp is used over dp",
            "forbid('megatron'): megatron is used over tp"
        ])
        self.assertEqual(_broken(chosen, limit(tp=1, dp=2)),
                         ["limit(tp=1): tp has 2 ranks"])
        (told, ) = _broken(chosen, pin("*.q_proj.weight", tp=S(1)))
        self.assertRegex(
            told, r"^pin\('\*.q_proj.weight', tp=S\(1\)\): "
            r"model.layers.0.self_attn.q_proj.weight, .* and "
            r"model.layers.2.self_attn.q_proj.weight lie as S\(0\) over tp$")
        (told, ) = _broken(chosen, forbid("*layers.1*o_proj*", tp=S(1)))
        self.assertRegex(
            told, r"layers.1.self_attn.o_proj.weight lies as "
            r"S\(1\) over tp$")

    def test_recomputation(self) -> None:
        planning = _planning()
        plain = planning.from_recipe(ddp(), MeshSpec(("dp", ), (4, )))
        again = planning.recomputed(plain, planning.repeated_classes())
        self.assertEqual(_broken(plain, forbid("recompute")), [])
        self.assertEqual(_broken(again, forbid("recompute")), [
            "forbid('recompute'): it recomputes " +
            " and ".join(planning.repeated_classes())
        ])

    def test_a_ring_under_another_name(self) -> None:
        chosen = _planning().from_recipe(RECIPES["ring"](),
                                         MeshSpec(("cp", ), (4, )))
        renamed = broken_constraints(Constraints(forbid("ring")),
                                     mesh=chosen.mesh,
                                     layout=chosen.layout,
                                     uses={"cp": "auto-cp"})
        self.assertEqual(list(map(str, renamed)),
                         ["forbid('ring'): ring is used over cp"])
        self.assertEqual(_broken(chosen, forbid("ulysses")), [])

    def test_with_stages(self) -> None:
        chosen = _planning().from_recipe(
            pipeline("1f1b", microbatches=2) * fsdp(),
            MeshSpec(("pp", "dp"), (2, 2)))
        self.assertEqual(_broken(chosen, limit(pp=1), forbid("fsdp")), [
            "limit(pp=1): pp has 2 ranks",
            "forbid('fsdp'): fsdp is used over dp"
        ])
        (told, ) = _broken(chosen, pin("*layers.1*q_proj.weight", dp=R))
        self.assertRegex(
            told, r"layers.1.self_attn.q_proj.weight lies as "
            r"S\(\d\) over dp$")
