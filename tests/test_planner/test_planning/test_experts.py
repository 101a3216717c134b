"""Plans of mixtures: what moves, what it costs, what is told of it."""

from __future__ import annotations

import functools
import unittest

import torch
import transformers as hf

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.cost.calls import known_calls
from planner.explain.load import loss_only
from planner.explain.report import build_report
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.planning import Planning
from planner.recipes import RECIPES

LAYERS, TOKENS, WIDTH = 3, 8 * 2048, 4096


@functools.cache
def large_mixtral() -> Program:
    """Three layers of Mixtral 8x7B, on the meta device."""
    config = hf.MixtralConfig(num_hidden_layers=LAYERS)
    with torch.device("meta"):
        model = loss_only(
            hf.MixtralForCausalLM(config).to(torch.bfloat16).train())
        ids = torch.zeros(8, 2048, dtype=torch.int64)
    return capture(model, {
        "input_ids": ids,
        "labels": ids,
        "use_cache": False
    })


def planning(imbalance: float = 1.0) -> Planning:
    return Planning(large_mixtral(),
                    load_cluster("h100-sxm").resized(8),
                    expert_imbalance=imbalance)


def chosen(recipe: str, axis: str, imbalance: float = 1.0) -> Candidate:
    return planning(imbalance).from_recipe(RECIPES[recipe](),
                                           MeshSpec((axis, ), (8, )))


class TestMixtral(unittest.TestCase):

    def test_work(self) -> None:
        """Two experts of 3 x 4096 x 14336 for each token."""
        known = [
            k for calls in known_calls(large_mixtral()).values() for k in calls
            if "experts" in str(k.call.target)
        ]
        self.assertEqual(len(known), 1)
        products = 2 * TOKENS * 3 * WIDTH * 14336
        self.assertEqual(known[0].work.forward_flops, 2.0 * products)
        self.assertEqual(known[0].work.backward_flops, 4.0 * products)

    def test_dispatch_moves_rows_four_times(self) -> None:
        """Of all 8 ranks, which begin with a count of 8 bytes for each of 8
        experts; weights go with them once each way."""
        found = [
            c for c in chosen("expert", "ep").price.collectives
            if c.kind == "all_to_all"
        ]
        self.assertEqual([c.direction for c in found],
                         ["forward"] * 3 + ["backward"] * 2)
        moved, weighted = (TOKENS * 2 * 2 * n for n in (WIDTH, WIDTH + 1))
        self.assertEqual([c.size_bytes for c in found],
                         [8 * 8 * 8, weighted, moved, moved, weighted])
        for c in found:
            self.assertEqual(c.count, LAYERS)
            self.assertIn("[expert_dispatch]", c.value)

    def test_experts_rest_where_they_are_used(self) -> None:
        candidate = chosen("expert", "ep")
        rests = candidate.layout.at_rest
        for name, layout in rests.items():
            if name.startswith("param:"):
                wanted = "S(0)" if ".experts." in name else "R"
                self.assertEqual(str(layout[0]), wanted, name)

    def test_data_parallelism_gathers_no_tokens(self) -> None:
        for recipe in ("ddp", "fsdp"):
            moved = [
                c for c in chosen(recipe, "dp").price.collectives
                if c.kind in ("all_gather", "all_to_all")
                and "weight" not in c.value and "proj" not in c.value
            ]
            self.assertEqual(moved, [], recipe)

    def test_imbalance_takes_longer(self) -> None:
        even, uneven = (chosen("expert", "ep", i).price for i in (1.0, 1.5))
        self.assertGreater(uneven.compute_s, 1.2 * even.compute_s)
        self.assertGreater(uneven.communication_s, even.communication_s)
        whole = [chosen("ddp", "dp", i).price.time_s for i in (1.0, 1.5)]
        self.assertEqual(*whole)
        with self.assertRaisesRegex(ValueError, "at least 1; got 0.5"):
            chosen("expert", "ep", 0.5)

    def test_the_report_names_the_lowering(self) -> None:
        own = planning()
        candidate = own.from_recipe(RECIPES["expert"](),
                                    MeshSpec(("ep", ), (8, )))
        report = build_report(own, candidate, [candidate])
        values = [
            c["value"] for block in report["blocks"]
            for c in block["collectives"]
        ]
        self.assertTrue(any("[expert_dispatch]" in v for v in values), values)


if __name__ == "__main__":
    unittest.main()
