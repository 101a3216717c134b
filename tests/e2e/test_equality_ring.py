"""Model by plan equality with the single-device program: ring attention."""

from __future__ import annotations

import unittest

from planner.cluster import load_cluster
from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.planning import Planning
from planner.recipes import RECIPES, Recipe
from tests.e2e.equality import Case, Subject, check_subject
from tests.markers import nightly

_RING = RECIPES["ring"]


class _Forced(Subject):
    """Causal attention in zig-zag order, whatever its price."""

    def layout(self, case: Case) -> ProgramLayout:
        planning = Planning(self.program, load_cluster("cpu-gloo").resized(8))
        assert case.recipe is not None
        chosen = planning.from_recipe(case.recipe, case.mesh)
        text = planning.plan_of(chosen).to_yaml()
        assert "ring_attention" in text, text
        return Plan.from_yaml(
            text.replace("[ring_attention_causal]",
                         "[ring_attention_zigzag]")).resolve(self.program)


def mesh(**axes: int) -> MeshSpec:
    return MeshSpec(tuple(axes), tuple(axes.values()))


PRODUCTS: tuple[tuple[Recipe, MeshSpec], ...] = (
    (RECIPES["ddp"]() * _RING(), mesh(dp=2, cp=2)),
    (RECIPES["fsdp"]() * _RING(), mesh(dp=2, cp=2)),
    (_RING() * RECIPES["megatron"](), mesh(cp=2, tp=2)),
    (RECIPES["ulysses"]() * _RING(), mesh(ring=2, ulysses=2)),
)


class TestRing(unittest.TestCase):
    """Loss, gradients and three AdamW steps."""

    def check(self, kind: type[Subject], name: str, *plans:
              tuple[Recipe, MeshSpec]) -> None:
        subject = kind(name)
        for recipe, shape in plans:
            with self.subTest(model=name, plan=recipe.name, mesh=str(shape)):
                check_subject(self, subject, Case(recipe, shape))

    def test_gpt2(self) -> None:
        self.check(_Forced, "gpt2", (_RING(), mesh(cp=2)),
                   (_RING(), mesh(cp=4)))

    def test_llama(self) -> None:
        self.check(_Forced, "llama", (_RING(), mesh(cp=4)), *PRODUCTS)

    def test_contiguous_shards(self) -> None:
        self.check(Subject, "llama", (_RING(), mesh(cp=4)))

    def test_bert(self) -> None:
        self.check(Subject, "bert", (_RING(), mesh(cp=4)))

    def test_learned_biases_of_t5(self) -> None:
        self.check(Subject, "t5", (_RING(), mesh(cp=2)))

    @nightly
    def test_others(self) -> None:
        for name in ("gpt2", "bert", "t5", "qwen3", "phi3"):
            self.check(Subject, name, (_RING(), mesh(cp=2)), *PRODUCTS)


if __name__ == "__main__":
    unittest.main()
