"""Models that are explained by name."""

from __future__ import annotations

import unittest
from pathlib import Path
from unittest import mock

import torch

from planner.capture.capture import capture
from planner.explain import registered
from planner.explain.__main__ import explain
from planner.explain.arguments import parse_arguments
from planner.explain.load import Loaded, load_model
from scaletorch import models


def _load(name: str, **options: object) -> Loaded:
    return load_model(Path(name), batch=4, **options)  # type: ignore[arg-type]


class TestRegistered(unittest.TestCase):

    def test_tokens(self) -> None:
        loaded = _load("gpt2", sequence=32)
        parameter = next(loaded.model.parameters())
        self.assertTrue(parameter.is_meta)
        self.assertEqual(parameter.dtype, torch.bfloat16)
        self.assertEqual(loaded.inputs["tokens"].shape, (4, 32))
        self.assertTrue(capture(loaded.model, loaded.inputs).blocks)

    def test_as_many_tokens_as_a_model_has_positions(self) -> None:
        self.assertEqual(_load("gpt2").inputs["tokens"].shape, (4, 1024))
        self.assertEqual(_load("llama3-8b").inputs["tokens"].shape, (4, 4096))

    def test_images(self) -> None:
        loaded = _load("resnet18", dtype="float32")
        self.assertEqual(loaded.inputs["images"].shape, (4, 3, 224, 224))
        self.assertEqual(loaded.inputs["images"].dtype, torch.float32)
        with self.assertRaisesRegex(ValueError, "resnet18 has no sequences"):
            _load("resnet18", sequence=8)

    def test_every_kind_of_input(self) -> None:
        for name in ("bert-base", "dit-s", "dlrm-criteo", "t5-small",
                     "vit-b16", "qwen3-0.6b"):
            with self.subTest(name):
                self.assertIn(name, models.names())
                rows = {x.shape[0] for x in _load(name).inputs.values()}
                self.assertEqual(rows, {4})

    def test_the_report_is_of_that_name(self) -> None:
        text = explain(
            parse_arguments(
                ["gpt2", "--mesh", "2", "--batch", "2", "--seq", "32"]))
        self.assertTrue(text.startswith("gpt2 on "), text[:80])

    def test_unknown(self) -> None:
        with self.assertRaisesRegex(ValueError, "did you mean llama3-8b"):
            _load("llama3-8")
        with self.assertRaisesRegex(ValueError, "no file 'gone.py'"):
            _load("gone.py")
        with self.assertRaisesRegex(ValueError, "no file 'models/gpt2'"):
            _load("models/gpt2")
        with self.assertRaisesRegex(ValueError, "'int3' is no dtype"):
            _load("gpt2", dtype="int3")

    def test_nobody_offers_any(self) -> None:
        with mock.patch.object(registered, "entry_points", return_value=()):
            with self.assertRaisesRegex(ValueError,
                                        "no installed package has any"):
                _load("gpt2")


if __name__ == "__main__":
    unittest.main()
