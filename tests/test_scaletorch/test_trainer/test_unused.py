"""Options that are given in vain are told of."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from scaletorch.trainer.unused import unused
from tests.test_scaletorch.test_trainer.runs import tiny


class TestUnused(unittest.TestCase):

    def test_nothing_is(self) -> None:
        self.assertEqual(
            list(
                unused(
                    tiny(train={"evaluate_every": 2},
                         checkpoint={
                             "folder": "run",
                             "every": 2,
                             "best": True
                         },
                         metrics={"tensorboard": True}))), [])

    def test_without_a_folder(self) -> None:
        found = list(
            unused(
                tiny(train={"evaluate_every": 2},
                     checkpoint={
                         "every": 2,
                         "best": True
                     },
                     metrics={"tensorboard": True})))
        self.assertEqual(found, [
            "checkpoint.every is 2, but checkpoint.folder is not given: "
            "nothing is written", "checkpoint.best is true, but "
            "checkpoint.folder is not given: nothing is written",
            "metrics.tensorboard is true, but checkpoint.folder is not "
            "given: nothing is written"
        ])

    def test_without_evaluations(self) -> None:
        self.assertEqual(list(unused(tiny(train={"evaluate_batches": 2}))), [
            "evaluation_data is given, but train.evaluate_every is 0: "
            "nothing is evaluated", "train.evaluate_batches is 2, but "
            "train.evaluate_every is 0: nothing is evaluated"
        ])

    def test_weights_that_lie_there(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            config = tiny(evaluation_data=None,
                          model={
                              "name": None,
                              "overrides": {},
                              "hugging_face": folder
                          })
            self.assertEqual(list(unused(config)), [])
            (Path(folder) / "model.safetensors").touch()
            self.assertEqual(list(unused(config)), [
                f"{folder} has weights, but model.weights is not given: "
                "training starts with random ones; for those give "
                f"model.weights={folder}"
            ])


if __name__ == "__main__":
    unittest.main()
