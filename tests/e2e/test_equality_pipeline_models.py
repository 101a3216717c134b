"""Pipelines of real models beside other parallelism; mostly nightly."""

from __future__ import annotations

import unittest

from planner.recipes import RECIPES, Recipe
from tests.e2e.equality import Subject
from tests.e2e.pipelines import check_pipeline
from tests.markers import nightly
from tests.test_planner.test_pipeline.models import tagger

_PIPELINE = RECIPES["pipeline"]
_MODELS = ("gpt2", "llama", "t5", "bert", "vit", "convnext", "lstm", "dlrm")

_FOUR_AXES = (RECIPES["fsdp"]() * RECIPES["ulysses"]() *
              RECIPES["megatron"](sequence_parallel=True))

_CASES: tuple[tuple[dict[str, int], Recipe], ...] = (
    (dict(pp=2), _PIPELINE("gpipe", microbatches=4)),
    (dict(pp=2), _PIPELINE("zbv", microbatches=4, chunks=2)),
    (dict(pp=4), _PIPELINE("zbh1", microbatches=4)),
    (dict(pp=2, dp=2), _PIPELINE(microbatches=2) * RECIPES["fsdp"]()),
)

_SEQUENCES: tuple[tuple[dict[str, int], Recipe], ...] = (
    (dict(pp=2, dp=2), _PIPELINE(microbatches=2) * RECIPES["zero1"]()),
    (dict(pp=2, tp=2), _PIPELINE(microbatches=4) * RECIPES["megatron"]()),
    (dict(pp=2, cp=2), _PIPELINE(microbatches=2) * RECIPES["ulysses"]()),
    (dict(pp=2, cp=2), _PIPELINE(microbatches=2) * RECIPES["ring"]()),
    (dict(pp=2, dp=2, cp=2, tp=2), _PIPELINE(microbatches=2) * _FOUR_AXES),
)


class TestModels(unittest.TestCase):

    def check(self, name: str, cases: tuple[tuple[dict[str, int], Recipe],
                                            ...]) -> None:
        subject = Subject(name)
        for axes, plan in cases:
            with self.subTest(model=name, axes=axes, plan=plan.name):
                check_pipeline(self, subject, plan, **axes)

    def test_tied_language_model(self) -> None:
        self.check("gpt2", _CASES[:1])

    @nightly
    def test_every_model(self) -> None:
        for name in _MODELS:
            self.check(name, _CASES)

    @nightly
    def test_beside_other_axes(self) -> None:
        for name in ("gpt2", "llama"):
            self.check(name, _SEQUENCES)

    @nightly
    def test_four_axes(self) -> None:
        axes, plan = _SEQUENCES[-1]
        check_pipeline(self, Subject(tagger), plan, **axes)

    @nightly
    def test_experts(self) -> None:
        plan = _PIPELINE(microbatches=2) * RECIPES["expert"]()
        self.check("mixtral", ((dict(pp=2, ep=2), plan), ))


if __name__ == "__main__":
    unittest.main()
