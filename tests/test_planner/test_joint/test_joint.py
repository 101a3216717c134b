"""The joint search: cuts, scores, and what it finds."""

from __future__ import annotations

import itertools
import unittest

import numpy as np
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.program import Program
from planner.joint.score import cut_evenly
from planner.joint.search import joint_candidates
from planner.joint.space import points
from planner.joint.tables import block_table
from planner.pipeline.means import count_ahead
from planner.planning import Planning
from tests.model_zoo import MODELS

BATCH, LAYERS = 8, 4


def llama() -> Program:
    config = hf.LlamaConfig(hidden_size=512,
                            intermediate_size=1408,
                            num_hidden_layers=LAYERS,
                            num_attention_heads=8,
                            num_key_value_heads=8,
                            vocab_size=4096)
    with torch.device("meta"):
        model = hf.LlamaForCausalLM(config).to(torch.bfloat16)
        tokens = torch.zeros(BATCH, 512, dtype=torch.long)
    return capture(model, {"input_ids": tokens, "labels": tokens})


class TestCuts(unittest.TestCase):

    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.integers(1, 20), min_size=1, max_size=8),
           st.integers(1, 5))
    def test_the_longest_part_is_shortest(self, work: list[int],
                                          parts: int) -> None:
        parts = min(parts, len(work))
        starts = cut_evenly(np.array(work, dtype=np.float64), parts)
        self.assertEqual(len(starts), parts)
        self.assertEqual(starts[0], 0)
        found = np.add.reduceat(work, starts).max()
        best = min(
            np.add.reduceat(work, [0, *cut]).max()
            for cut in itertools.combinations(range(1, len(work)), parts - 1))
        self.assertEqual(found, best)


class TestSpace(unittest.TestCase):

    def test_every_point_uses_all_ranks_and_the_whole_batch(self) -> None:
        found = list(points(8, 16, 10))
        self.assertGreater(len(found), 50)
        self.assertEqual(len(found), len(set(found)))
        for point in found:
            self.assertEqual(point.pp * point.dp * point.tp, 8)
            self.assertEqual(point.rows * point.microbatches * point.dp, 16)
            self.assertLessEqual(point.pp * point.chunks, 10)

    def test_given_sizes(self) -> None:
        found = list(points(8, 16, 10, fixed={"pp": 2, "tp": 2}))
        self.assertEqual({(p.pp, p.dp, p.tp) for p in found}, {(2, 2, 2)})


class TestTables(unittest.TestCase):

    def test_a_row_is_less_than_two_and_half_is_less_than_a_whole(
            self) -> None:
        cluster = load_cluster("h100-sxm").resized(4)
        planning = Planning(count_ahead(llama()), cluster)
        one, two = (block_table(planning, 1, n, BATCH) for n in (1, 2))
        self.assertEqual(len(one.forward_s), LAYERS + 2)
        self.assertLess(one.forward_s.sum(), two.forward_s.sum())
        self.assertEqual(one.parameter_bytes.sum(), two.parameter_bytes.sum())
        half = block_table(planning, 2, 2, BATCH)
        self.assertLessEqual(half.work_s.sum(), two.work_s.sum())
        layers = one.forward_s[1:-1]
        np.testing.assert_allclose(layers, layers[0])


class TestSearch(unittest.TestCase):

    def test_fits_where_one_stage_does_not(self) -> None:
        program = llama()
        cluster = load_cluster("h100-sxm").resized(4)
        free = Planning(program, cluster)
        found = joint_candidates(free, 4)
        self.assertEqual(
            found, sorted(found, key=lambda c: (not free.fits(c), c.time_s)))
        least = min(c.memory.total for c in found)
        tight = Planning(program, cluster, memory_limit_bytes=least)
        best = joint_candidates(tight, 4)[0]
        self.assertLessEqual(best.memory.total, least)
        plan = tight.plan_of(best)
        again = tight.of_plan(plan)
        self.assertAlmostEqual(again.time_s, best.time_s, places=12)
        self.assertEqual(again.memory, best.memory)

    def test_nothing_where_samples_mix(self) -> None:
        model, inputs, loss_fn = MODELS["clip"]()
        planning = Planning(capture(model, inputs, loss_fn=loss_fn),
                            load_cluster("h100-sxm").resized(2))
        self.assertEqual(joint_candidates(planning, 2), [])


if __name__ == "__main__":
    unittest.main()
