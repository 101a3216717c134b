"""What the joint search proves holds of every combination, priced in full."""

from __future__ import annotations

import functools
import unittest
from dataclasses import dataclass

import numpy as np
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.constraints import Constraints, forbid, limit
from planner.ir.program import Program
from planner.joint.score import Score
from planner.joint.search import JointSearch, joint_candidates
from planner.planning import Planning

RANKS, BATCH, SEQUENCE = 4, 4, 128
_SIZES = {
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "vocab_size": 1024
}
_ROUNDED = 1 + 1e-9
_TOLERANCE = 0.005


@functools.cache
def program(experts: int) -> Program:
    """A Llama, or a Mixtral of so many experts, of two layers."""
    if experts:
        config = hf.MixtralConfig(**_SIZES, num_local_experts=experts)
        made = hf.MixtralForCausalLM
    else:
        config, made = hf.LlamaConfig(**_SIZES), hf.LlamaForCausalLM
    with torch.device("meta"):
        model = made(config).to(torch.bfloat16)
        tokens = torch.zeros(BATCH, SEQUENCE, dtype=torch.long)
    return capture(model, {"input_ids": tokens, "labels": tokens})


def planned(experts: int, memory_limit_bytes: int | None = None) -> Planning:
    """On two nodes of two; experts without recomputation, to save time."""
    left_out = [forbid("recompute")] if experts else []
    return Planning(program(experts),
                    load_cluster("h100-sxm:2x2"),
                    constraints=Constraints(limit(cp=1), forbid("zero1"),
                                            *left_out),
                    memory_limit_bytes=memory_limit_bytes)


@dataclass(frozen=True, kw_only=True)
class Combination:
    """One with what is thought of it, roughly and closely, and its price."""

    rough: Score
    close: Score
    simulated_s: float
    priced: Candidate

    @property
    def most_bytes(self) -> float:
        """By what is thought of it, or by its price."""
        return max(self.close.memory_bytes, self.priced.memory.total)

    def is_whole(self) -> bool:
        """Whether no stage begins inside of a block: then not all that it
        takes is in proportion to its part of the block."""
        spec = self.priced.pipeline
        return spec is None or not any(":" in c for c in spec.cuts)


@functools.cache
def everything(experts: int) -> list[Combination]:
    """All combinations on four ranks."""
    search = JointSearch(planned(experts), RANKS)
    found = []
    for cell in search.space.cells():
        scores = search.scores(cell)
        assert scores is not None
        for point in search.space.points(cell):
            priced = search.price(point, scores)
            if priced is not None:
                found.append(
                    Combination(rough=scores.score(point),
                                close=scores.closely(point),
                                simulated_s=scores.simulated_s(point),
                                priced=priced))
    return found


class TestEverything(unittest.TestCase):

    def test_nothing_takes_less_than_is_thought(self) -> None:
        for experts in (0, 4):
            for each in filter(Combination.is_whole, everything(experts)):
                name = f"{each.close.point}"
                run_s = each.priced.run_s * _ROUNDED
                self.assertLessEqual(each.rough.time_s, run_s, name)
                self.assertLessEqual(each.close.time_s, run_s, name)
                self.assertLessEqual(each.simulated_s, run_s, name)
                self.assertLessEqual(each.rough.memory_bytes,
                                     each.close.memory_bytes * _ROUNDED, name)

    def test_stages_hold_what_is_thought(self) -> None:
        """But where a plan divides what its cell does not."""
        for experts in (0, 4):
            parts = np.array([
                e.close.memory_bytes / e.priced.memory.total
                for e in everything(experts) if e.close.point.is_staged
            ])
            self.assertGreater((abs(parts - 1) < 0.02).mean(), 0.75)

    @settings(max_examples=3, deadline=None)
    @given(st.sampled_from([0, 4]), st.floats(0.0, 1.0))
    def test_the_best_is_within_its_gap(self, experts: int,
                                        room: float) -> None:
        """Of what fits where so many do."""
        every = list(filter(Combination.is_whole, everything(experts)))
        sizes = sorted(e.most_bytes for e in every)
        limit_bytes = int(sizes[round(room * (len(sizes) - 1))]) + 1
        planning = planned(experts, limit_bytes)
        found = joint_candidates(planning, RANKS)
        least_s = min(e.priced.run_s for e in every
                      if e.most_bytes <= limit_bytes)
        best = found.candidates[0]
        self.assertTrue(planning.fits(best))
        self.assertLessEqual(found.bound_s, least_s * _ROUNDED)
        self.assertLessEqual(best.run_s * (1 - _TOLERANCE), least_s * _ROUNDED)


if __name__ == "__main__":
    unittest.main()
