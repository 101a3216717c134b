"""Configs: what is read, what is refused, and how overrides go on top."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from typing import Any

import yaml

from scaletorch.trainer.config import Config, ScheduleConfig, load_config
from scaletorch.trainer.overrides import overridden
from scaletorch.trainer.reference import reference
from scaletorch.trainer.typed import from_mapping, to_mapping

LEAST: dict[str, Any] = {
    "model": {
        "name": "gpt2"
    },
    "data": {
        "kind": "random_tokens"
    },
    "train": {
        "steps": 10
    }
}


class TestConfig(unittest.TestCase):

    def load(self, *overrides: str) -> Config:
        return from_mapping(Config, overridden(LEAST, overrides))

    def refused(self, *overrides: str) -> str:
        with self.assertRaises(ValueError) as caught:
            self.load(*overrides)
        return str(caught.exception)

    def test_there_and_back(self) -> None:
        config = self.load("train.lr=3e-4", "mesh.dp=2",
                           "optimizer.betas=[0.9, 0.95]",
                           "model.overrides.depth=2", "train.clip=null",
                           "checkpoint.folder=run")
        self.assertEqual(config.train.lr, 3e-4)
        self.assertEqual(config.mesh, {"dp": 2})
        self.assertEqual(config.optimizer.betas, (0.9, 0.95))
        self.assertEqual(config.model.overrides, {"depth": 2})
        self.assertIsNone(config.train.clip)
        again = from_mapping(Config, yaml.safe_load(config.to_yaml()))
        self.assertEqual(again, config)

    def test_a_word_gives_way_to_a_mapping(self) -> None:
        values = {"mesh": "auto"}
        self.assertEqual(overridden(values, ["mesh.dp=4"]),
                         {"mesh": {
                             "dp": 4
                         }})
        self.assertEqual(values, {"mesh": "auto"})

    def test_unknown_keys(self) -> None:
        self.assertEqual(
            self.refused("train.step=3"),
            "there is no key 'step' in train: did you mean steps?")
        self.assertIn("there is no key 'optimiser': did you mean optimizer?",
                      self.refused("optimiser.name=sgd"))

    def test_types(self) -> None:
        for override, text in (
            ("train.steps=ten",
             "train.steps must be a whole number, got 'ten'"),
            ("train.steps=true", "train.steps must be a whole number"),
            ("train.steps=1.5", "train.steps must be a whole number"),
            ("train.lr=fast", "train.lr must be a number, got 'fast'"),
            ("train.compile=1", "train.compile must be true or false"),
            ("optimizer.betas=[0.9, x]",
             "optimizer.betas[1] must be a number"),
            ("optimizer.name=adam", "optimizer.name must be adamw or sgd, "
             "got 'adam'; did you mean adamw?"),
            ("mesh.dp=two", "mesh.dp must be a whole number"),
            ("train.clip=[]", "train.clip must be a number or null, got []"),
            ("schedule=cosine", "schedule must be a mapping, got 'cosine'"),
        ):
            with self.subTest(override):
                self.assertIn(text, self.refused(override))

    def test_values(self) -> None:
        for override, text in (
            ("train.steps=0", "train.steps must be 1 or more, got 0"),
            ("train.clip=0", "train.clip must be positive or null"),
            ("train.lr=.inf", "train.lr must be finite, got inf"),
            ("optimizer.betas=[0.9]", "optimizer.betas must be two numbers"),
            ("optimizer.betas=[0.9, 1]", "optimizer.betas must be two numbers "
             "from 0 to below 1, got (0.9, 1.0)"),
            ("optimizer.momentum=0.9", "optimizer.momentum is for sgd only, "
             "not for adamw"),
            ("mesh={}", "mesh must have axes with sizes from 1 on"),
            ("mesh={dp: 0, tp: -1}", "mesh must have axes with sizes from 1"),
            ("mesh={dp: -2, tp: -1}", "mesh must have axes with sizes from"),
            ("mesh={dp: -1, tp: -1}", "of which one may be -1, got {'dp': -1"),
            ("train.evaluate_every=2", "evaluation_data is missing"),
            ("checkpoint.best=true", "checkpoint.best needs evaluations"),
            ("model.hugging_face=x", "model.name must be given, or else "
             "hugging_face, and not both"),
            ("schedule.decay_steps=2", "schedule.decay_steps is for wsd only"),
            ("schedule.final=2", "schedule.final must be between 0 and 1"),
            ("mesh=dp", "mesh must be auto or axes"),
            ("metrics.every=0", "metrics.every must be 1 or more"),
        ):
            with self.subTest(override):
                self.assertIn(text, self.refused(override))

    def test_missing(self) -> None:
        with self.assertRaisesRegex(ValueError, "train is missing; give it a "
                                    "mapping"):
            from_mapping(Config, {"model": {"name": "gpt2"}, "data": {}})
        with self.assertRaisesRegex(ValueError,
                                    "train.steps is missing; give it a whole"):
            from_mapping(Config, {**LEAST, "train": {}})

    def test_overrides_that_are_none(self) -> None:
        for text in ("train.lr", "=3", "train.=3"):
            with self.assertRaisesRegex(ValueError, "is no override; write"):
                overridden({}, [text])
        with self.assertRaisesRegex(ValueError, "is no YAML"):
            overridden({}, ["plan=[1"])

    def test_files(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.yaml"
            path.write_text(yaml.safe_dump(LEAST))
            self.assertEqual(
                load_config(path, ["train.steps=3"]).train.steps, 3)
            path.write_text("- a list")
            with self.assertRaisesRegex(ValueError, "must hold a mapping"):
                load_config(path)
            path.write_text("train: {steps: 3}\ntrain: {steps: 4}")
            with self.assertRaisesRegex(ValueError, "'train' stands here a "
                                        "second time"):
                load_config(path)
            path.write_text("a: [")
            with self.assertRaisesRegex(ValueError, "is no YAML"):
                load_config(path)
            # Of tags that make Python objects none is known.
            path.write_text("a: !!python/object/apply:os.getcwd []")
            with self.assertRaisesRegex(ValueError, "is no YAML"):
                load_config(path)


class TestReference(unittest.TestCase):

    def test_every_key_has_a_line(self) -> None:
        lines = reference().splitlines()

        def check(values: dict[str, Any], path: str) -> None:
            for key, value in values.items():
                line = [
                    x for x in lines if f"`{path}{key}`" in x.split("|")[1]
                ]
                self.assertEqual(len(line), 1, key)
                if path or isinstance(value, dict):
                    self.assertGreater(len(line[0].split("|")[4]), 5, key)

        config = to_mapping(from_mapping(Config, LEAST))
        check(config, "")
        for name in ("train", "optimizer", "schedule", "checkpoint", "metrics",
                     "profile"):
            check(config[name], f"{name}.")
        self.assertIn(
            "| `schedule.final` | a number | `0.0` | The share of the "
            "learning rate that is left at the end. |", lines)

    def test_defaults_are_as_said(self) -> None:
        self.assertEqual(ScheduleConfig().name, "cosine")
        self.assertIn("| `cosine` |", reference())


if __name__ == "__main__":
    unittest.main()
