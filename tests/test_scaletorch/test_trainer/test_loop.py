"""Runs: the same curve under any plan, cut in any way."""

from __future__ import annotations

import functools
import json
import logging
import tempfile
import unittest
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from scaletorch import data
from scaletorch.runtime.ranks import run_ranks
from scaletorch.trainer.loop import Ended
from tests.markers import nightly
from tests.test_scaletorch.test_trainer.runs import (TINY, Rows, tiny, train,
                                                     train_alone)

PIPELINE = 'pipeline(schedule="1f1b", microbatches=2)'


def losses(rows: Rows) -> list[float]:
    return [row["loss"] for row in rows if "loss" in row]


@functools.cache
def alone() -> tuple[float, ...]:
    """The curve on one rank."""
    return tuple(losses(train_alone(tiny())[1]))


class Noted:
    """Made-up tokens that note which samples were read."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def __len__(self) -> int:
        return 20

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.read.append(index)
        tokens = torch.arange(index, index + 8) % 32
        return {"tokens": tokens, "labels": tokens}


def read_and_trained(**keys: Any) -> tuple[list[int], list[float]]:
    """Which samples a rank read, in order, and the curve."""
    source = Noted()
    loader = data.Loader(source, batch_size=4)
    trained = losses(train(tiny(**keys), batches=loader)[1])
    return source.read, trained


class InFolder(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        logging.getLogger("scaletorch").setLevel(logging.ERROR)
        self.addCleanup(
            logging.getLogger("scaletorch").setLevel, logging.NOTSET)

    def in_folder(self, **keys: Any) -> dict[str, Any]:
        return {
            "folder": str(self.folder / "run"),
            "asynchronous": False
        } | keys


class TestPlans(InFolder):

    def check(self, ranks: int, **keys: Any) -> None:
        expected = alone()
        found = losses(train_alone(tiny(**keys), ranks)[1])
        self.assertEqual(len(found), 6)
        for a, b in zip(found, expected):
            self.assertAlmostEqual(a, b, delta=2e-5)

    @nightly
    def test_it_learns(self) -> None:
        found = losses(train_alone(tiny(train={"steps": 30}))[1])
        self.assertLess(found[-1], found[0] - 0.5)

    @nightly
    def test_auto(self) -> None:
        self.check(2)

    @nightly
    def test_ddp(self) -> None:
        self.check(2, plan="ddp")

    def test_pipeline(self) -> None:
        self.check(2, plan=PIPELINE)

    def test_two_axes(self) -> None:
        self.check(4, plan="fsdp * megatron", mesh={"dp": -1, "tp": 2})

    @nightly
    def test_more(self) -> None:
        for plan, ranks in (("fsdp", 2), ("zero1", 2), ("megatron", 2),
                            ("megatron(sequence_parallel=True)",
                             2), ("ulysses", 2)):
            with self.subTest(plan):
                self.check(ranks, plan=plan)
        with self.subTest("pipeline of stages that shard"):
            self.check(4, plan=f"{PIPELINE} * fsdp", mesh={"pp": 2, "dp": 2})

    def test_accumulation(self) -> None:
        """Two batches of two rows are a batch of four."""
        self.check(1,
                   data={"batch_size": 2},
                   train={
                       "accumulation": 2,
                       "steps": 6
                   })


class TestReading(unittest.TestCase):

    def check(self, ranks: int, share: int, **keys: Any) -> None:
        """Each rank reads one of `share` parts of what one would read."""
        whole, expected = run_ranks(1, lambda rank: read_and_trained())[0]
        found = run_ranks(ranks, lambda rank: read_and_trained(**keys))
        rows = 4 // share
        # Before, one is read to see what samples look like.
        whole = whole[-6 * 4:]
        parts = {tuple(read[-6 * rows:]) for read, _ in found}
        self.assertLessEqual(len(found[0][0]), 6 * rows + 2)
        self.assertEqual(len(parts), share)
        batches = [whole[i:i + 4] for i in range(0, len(whole), 4)]
        for part in parts:
            place = batches[0].index(part[0])
            self.assertEqual(
                list(part),
                [x for b in batches for x in b[place:place + rows]])
        for _, trained in found:
            for a, b in zip(trained, expected, strict=True):
                self.assertAlmostEqual(a, b, delta=2e-5)

    def test_data_and_tensor_parallel(self) -> None:
        self.check(4, 2, plan="fsdp * megatron", mesh={"dp": 2, "tp": 2})

    @nightly
    def test_pipeline(self) -> None:
        self.check(2, 1, plan=PIPELINE)

    @nightly
    def test_sequence(self) -> None:
        self.check(2, 1, plan="ulysses")


class TestResume(InFolder):

    def check(self, *parts: tuple[int, int, dict[str, Any]],
              delta: float) -> None:
        """Parts are ranks, the step to stop at, and the plan."""
        expected = alone()
        found: list[float] = []
        for number, (ranks, stop_at, keys) in enumerate(parts):
            ended, rows = train_alone(tiny(checkpoint=self.in_folder(),
                                           **keys),
                                      ranks,
                                      stop_at=stop_at)
            last = number == len(parts) - 1
            self.assertIs(ended, Ended.FINISHED if last else Ended.STOPPED)
            found += losses(rows)
        self.assertEqual(len(found), len(expected))
        for a, b in zip(found, expected):
            self.assertAlmostEqual(a, b, delta=delta)

    def test_alone_to_the_bit(self) -> None:
        self.check((1, 2, {}), (1, 3, {}), (1, 0, {}), delta=0.0)

    def test_on_other_meshes(self) -> None:
        """4, 2 and 4 ranks, with and without stages."""
        self.check((4, 2, {
            "plan": "fsdp * megatron",
            "mesh": {
                "dp": 2,
                "tp": 2
            }
        }), (2, 4, {
            "plan": PIPELINE
        }), (4, 0, {
            "plan": "fsdp"
        }),
                   delta=2e-5)

    @nightly
    def test_from_and_to_no_stages(self) -> None:
        self.check((2, 2, {
            "plan": PIPELINE
        }), (1, 4, {}), (2, 0, {
            "plan": PIPELINE
        }),
                   delta=2e-5)

    @nightly
    def test_sgd_with_momentum(self) -> None:
        keys = {"optimizer": {"name": "sgd", "momentum": 0.9}}
        whole = losses(train_alone(tiny(**keys))[1])
        cut = []
        for stop_at in (3, None):
            cut += losses(
                train_alone(tiny(checkpoint=self.in_folder(), **keys),
                            stop_at=stop_at)[1])
        self.assertEqual(cut, whole)

    def test_it_is_finished(self) -> None:
        config = tiny(checkpoint=self.in_folder())
        train_alone(config)
        ended, rows = train_alone(config)
        self.assertEqual((ended, rows), (Ended.FINISHED, []))

    @nightly
    def test_a_folder_in_use(self) -> None:
        train_alone(tiny(checkpoint=self.in_folder()))
        with self.assertRaisesRegex(RuntimeError, "holds a run of 6 steps"):
            train_alone(tiny(checkpoint=self.in_folder(resume=False)))

    @nightly
    def test_tokens_that_the_model_does_not_have(self) -> None:
        overrides = {
            "overrides": {
                **TINY["model"]["overrides"], "vocabulary_size": 16
            }
        }
        with self.assertRaisesRegex(
                RuntimeError,
                r"data: a batch has the token \d+, but the model "
                "has 16 of them"):
            train_alone(tiny(model=overrides))

    def test_another_optimizer(self) -> None:
        train_alone(
            tiny(checkpoint=self.in_folder(), optimizer={"name": "sgd"}))
        with self.assertRaisesRegex(RuntimeError, "lacks optimizer:"):
            train_alone(tiny(checkpoint=self.in_folder()))


class Poisoned:
    """Batches of images of which one holds what is no number."""

    def __init__(self, at: int) -> None:
        self.loader = data.build({
            "kind": "random_images",
            "shape": [3, 16, 16],
            "classes": 4,
            "batch_size": 4,
            "length": 40
        })
        self.at = at

    def __iter__(self) -> Iterator[Any]:
        for batch in self.loader:
            if self.loader.position == 4 * self.at:
                batch = {
                    n: t * float("nan") if t.is_floating_point() else t
                    for n, t in batch.items()
                }
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return self.loader.state_dict()

    def load_state_dict(self, state: Any) -> None:
        self.loader.load_state_dict(state)


RESNET = {
    "name": "resnet18",
    "overrides": {
        "depths": [1],
        "width": 8,
        "image": 16,
        "classes": 4
    }
}


class TestNonFinite(InFolder):

    def run_with(self, policy: str, at: int = 3) -> tuple[Ended, Rows]:
        values = tiny(model=RESNET,
                      train={
                          "non_finite": policy,
                          "steps": 5,
                          "lr": 1e-3
                      },
                      checkpoint=self.in_folder())

        def work(rank: int) -> tuple[Ended, Rows]:
            del rank
            return train(values, batches=Poisoned(at))

        return run_ranks(2, work)[0]

    def test_skip(self) -> None:
        ended, rows = self.run_with("skip")
        self.assertIs(ended, Ended.FINISHED)
        finite = [bool(torch.tensor(x).isfinite()) for x in losses(rows)]
        self.assertEqual(finite, [True, True, False, True, True])
        self.assertEqual([row["skipped"] for row in rows], [0, 0, 1, 1, 1])
        lines = (self.folder / "run/metrics.jsonl").read_text().splitlines()
        self.assertIsNone(json.loads(lines[2])["loss"])

    def test_raise(self) -> None:
        with self.assertRaisesRegex(RuntimeError, "step 3: the loss is nan"):
            self.run_with("raise")

    def test_stop_saves_what_was_before(self) -> None:
        ended, rows = self.run_with("stop")
        self.assertIs(ended, Ended.NON_FINITE)
        self.assertEqual(len(rows), 2)
        # The same batch again, and this time it is whole: also the running
        # means that it wrote were taken back.
        ended, more = self.run_with("stop", at=9)
        self.assertIs(ended, Ended.FINISHED)
        self.folder /= "whole"
        _, whole = self.run_with("stop", at=9)
        self.assertEqual(losses(rows) + losses(more), losses(whole))


class TestEvaluation(InFolder):

    def test_the_best_stays(self) -> None:
        _, rows = train_alone(
            tiny(train={
                "evaluate_every": 1,
                "evaluate_batches": 2,
                "lr": 0.5
            },
                 checkpoint=self.in_folder(every=1, keep=1, best=True)))
        found = {
            row["step"]: row["evaluation_loss"]
            for row in rows if "evaluation_loss" in row
        }
        self.assertEqual(list(found), [1, 2, 3, 4, 5, 6])
        best = min(found, key=lambda n: found[n])
        folder = self.folder / "run"
        self.assertEqual(json.loads((folder / "best.json").read_text()), {
            "step": best,
            "loss": found[best]
        })
        self.assertEqual(sorted(p.name for p in folder.glob("step-*")),
                         [f"step-{n:08d}" for n in sorted({best, 6})])

    @nightly
    def test_it_leaves_training_alone(self) -> None:
        self.assertEqual(
            tuple(losses(train_alone(tiny(train={"evaluate_every": 2}))[1])),
            alone())


class TestDtypes(InFolder):

    def test_narrow_products(self) -> None:
        expected = alone()
        for dtype in ("bfloat16", "float16"):
            with self.subTest(dtype):
                _, rows = train_alone(tiny(train={"dtype": dtype}), 2)
                self.assertNotEqual(tuple(losses(rows)), expected)
                for a, b in zip(losses(rows), expected):
                    self.assertAlmostEqual(a, b, delta=0.05)

    @nightly
    def test_the_scale_goes_on(self) -> None:
        config = tiny(train={"dtype": "float16"}, checkpoint=self.in_folder())
        _, first = train_alone(config, stop_at=3)
        _, second = train_alone(config)
        self.assertEqual(first[-1]["loss_scale"], second[0]["loss_scale"])


class TestFolder(InFolder):

    def test_what_is_in_it(self) -> None:
        config = tiny(checkpoint=self.in_folder(every=2, keep=2),
                      metrics={"every": 3})
        train_alone(config)
        run = self.folder / "run"
        self.assertEqual(sorted(p.name for p in run.iterdir()), [
            "config.yaml", "metrics.jsonl", "plan.yaml", "step-00000004",
            "step-00000006"
        ])
        lines = (run / "metrics.jsonl").read_text().splitlines()
        self.assertEqual([json.loads(line)["step"] for line in lines], [3, 6])


if __name__ == "__main__":
    unittest.main()
