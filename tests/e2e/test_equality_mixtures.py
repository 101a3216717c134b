"""Mixtures whose experts are spread equal the single-device program."""

from __future__ import annotations

import dataclasses
import os
import unittest
from unittest import mock

import torch

from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.recipes import RECIPES, Recipe
from scaletorch.models.moe import Moe, MoeConfig
from scaletorch.models.moe_layers import RouterConfig
from tests.e2e.equality import Case, Subject, check_subject
from tests.model_zoo import MODELS, Example, example

_EXPERT, _DDP, _FSDP, _TP = (RECIPES[n]()
                             for n in ("expert", "ddp", "fsdp", "megatron"))


def _case(recipe: Recipe, **axes: int) -> Case:
    return Case(recipe, MeshSpec(tuple(axes), tuple(axes.values())))


CASES = {
    "expert": _case(_EXPERT, ep=2),
    "expert of 4": _case(_EXPERT, ep=4),
    "ddp x expert": _case(_DDP * _EXPERT, dp=2, ep=2),
    "expert x megatron": _case(_EXPERT * _TP, ep=2, tp=2),
    "fsdp x expert": _case(_FSDP * _EXPERT, dp=2, ep=2),
}
FEW = tuple(CASES) if os.environ.get("SCALETORCH_NIGHTLY") == "1" else (
    "expert", )
"""For the models that are like another one; all of them nightly."""

SMALL = MoeConfig(vocabulary_size=96,
                  width=32,
                  depth=2,
                  heads=4,
                  kv_heads=2,
                  head_dim=8,
                  hidden_width=24,
                  context=16,
                  router=RouterConfig(experts=8, active=2, z_weight=0.01))
GROUPED = dataclasses.replace(SMALL,
                              router=RouterConfig(experts=8,
                                                  active=2,
                                                  kind="sigmoid",
                                                  groups=4,
                                                  active_groups=2,
                                                  scale=2.5,
                                                  corrected=True,
                                                  correction_rate=0.01),
                              shared=1,
                              dense_depth=1,
                              dense_width=48)


def _subject(config: MoeConfig) -> Subject:

    def build() -> Example:
        model = Moe(config)
        return model, model.example_inputs(4), None

    with mock.patch.dict(MODELS, {"moe": example(build)}):
        return Subject("moe")


class Recomputed(Subject):
    """Every block's forward runs again in the backward."""

    def layout(self, case: Case) -> ProgramLayout:
        return dataclasses.replace(super().layout(case),
                                   recompute=frozenset(self.program.classes))


class Mixtures(unittest.TestCase):
    """Loss, gradients (the routers' too) and three AdamW steps."""

    def check(self, subject: Subject, *names: str) -> None:
        for name in names:
            with self.subTest(name):
                check_subject(self, subject, CASES[name])

    def test_mixtral(self) -> None:
        self.check(Subject("mixtral"), *CASES)

    def test_qwen3(self) -> None:
        self.check(Subject("qwen3_moe"), *FEW)

    def test_deepseek_v3(self) -> None:
        self.check(Subject("deepseek_v3"), *FEW)

    def test_gpt_oss(self) -> None:
        self.check(Subject("gpt_oss"), *FEW)

    def test_ours(self) -> None:
        self.check(_subject(SMALL), *FEW)

    def test_ours_with_corrected_groups(self) -> None:
        self.check(_subject(GROUPED), *FEW)

    def test_all_tokens_to_few_experts(self) -> None:
        """Some ranks get nothing, others all."""
        subject = _skewed()
        self.check(subject, "expert", *FEW[1:])

    def test_recomputed(self) -> None:
        self.check(Recomputed("mixtral"), "expert")


def _skewed() -> Subject:

    def build() -> Example:
        model, inputs, loss_fn = MODELS["mixtral"]()
        with torch.no_grad():
            for layer in model.model.layers:
                # All scores are alike: every token takes the same two.
                layer.mlp.gate.weight.zero_()
        return model, inputs, loss_fn

    with mock.patch.dict(MODELS, {"skewed": build}):
        return Subject("skewed")


if __name__ == "__main__":
    unittest.main()
