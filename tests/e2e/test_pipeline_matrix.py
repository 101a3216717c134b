"""Models by schedules and by what is beside the stages; nightly."""

from __future__ import annotations

import unittest
from collections.abc import Callable, Iterator

from planner.recipes import RECIPES, Recipe
from scaletorch.models.moe import Moe
from tests.e2e.equality import Subject
from tests.e2e.pipelines import check_planned
from tests.e2e.test_equality_mixtures import SMALL
from tests.markers import nightly
from tests.model_zoo import Example, example
from tests.test_planner.test_pipeline.models import row, skips

_PIPELINE = RECIPES["pipeline"]
_SCHEDULES = {
    "gpipe": 1,
    "1f1b": 1,
    "interleaved1f1b": 2,
    "loopedbfs": 2,
    "zbh1": 1,
    "zbv": 2,
    "dualpipev": 2,
    "auto": 1
}
_FOUR = dict(pp=2, dp=2, cp=2, tp=2)

_Case = tuple[dict[str, int], Recipe]


def _moe() -> Example:
    model = Moe(SMALL)
    return model, model.example_inputs(4), None


MODELS: dict[str, str | Callable[[], Example]] = {
    **{
        n: n
        for n in ("gpt2", "llama", "t5", "bert", "vit", "mixtral")
    }, "moe": example(_moe),
    "skips": example(skips)
}


def schedules() -> Iterator[_Case]:
    for ranks in (2, 4):
        for name, chunks in _SCHEDULES.items():
            yield dict(pp=ranks), _PIPELINE(name,
                                            microbatches=4,
                                            chunks=chunks)


def beside() -> Iterator[_Case]:
    one = _PIPELINE(microbatches=2)
    two = _PIPELINE("zbv", microbatches=2, chunks=2)
    for name in ("ddp", "fsdp", "zero1"):
        yield dict(pp=2, dp=2), one * RECIPES[name]()
        yield dict(pp=2, dp=2), two * RECIPES[name]()
    yield dict(pp=2,
               tp=2), _PIPELINE("zbh1", microbatches=4) * RECIPES["megatron"]()


def sequences() -> Iterator[_Case]:
    megatron = RECIPES["megatron"](sequence_parallel=True)
    for name in ("ulysses", "ring", "gather_kv"):
        around = RECIPES[name]()
        yield dict(pp=2,
                   cp=2), _PIPELINE("zbv", microbatches=2, chunks=2) * around
        yield dict(cp=2, tp=2), around * RECIPES["megatron"]()
        yield dict(dp=2, cp=2), RECIPES["ddp"]() * around
        yield _FOUR, (_PIPELINE(microbatches=2) * RECIPES["fsdp"]() * around *
                      megatron)


def experts() -> Iterator[_Case]:
    spread = RECIPES["expert"]()
    yield dict(pp=2, ep=2), _PIPELINE(microbatches=2) * spread
    yield dict(pp=2, ep=2), _PIPELINE("zbv", microbatches=2, chunks=2) * spread
    yield dict(pp=4, ep=2), _PIPELINE(microbatches=2) * spread
    yield dict(pp=2, ep=2, tp=2), (_PIPELINE(microbatches=2) * spread *
                                   RECIPES["megatron"]())


class TestMatrix(unittest.TestCase):

    def check(self, name: str, cases: Iterator[_Case]) -> None:
        subject = Subject(MODELS[name])
        for axes, plan in cases:
            with self.subTest(model=name, axes=axes, plan=plan.name):
                check_planned(self, subject, plan, **axes)

    def test_balance_of_experts_over_the_batch(self) -> None:
        self.check("moe", (c for i, c in enumerate(experts()) if i == 1))

    def test_beside_data_parallelism(self) -> None:
        subject = Subject(example(row))
        axes, plan = next(beside())
        check_planned(self, subject, plan, **axes)

    @nightly
    def test_schedules(self) -> None:
        for name in MODELS:
            self.check(name, schedules())

    @nightly
    def test_beside(self) -> None:
        for name in MODELS:
            self.check(name, beside())

    @nightly
    def test_sequences(self) -> None:
        for name in ("gpt2", "llama"):
            self.check(name, sequences())

    @nightly
    def test_experts(self) -> None:
        for name in ("mixtral", "moe"):
            self.check(name, experts())


if __name__ == "__main__":
    unittest.main()
