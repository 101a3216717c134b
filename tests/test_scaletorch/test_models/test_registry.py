"""Names, their sizes, and what is wrong with a config."""

from __future__ import annotations

import contextlib
import io
import unittest
from typing import Any

import torch

from scaletorch import models
from scaletorch.models import __main__ as table
from scaletorch.models.registry import register

PUBLISHED = {
    # Exact, from the released checkpoints.
    "bert-base": 109_514_298,
    "bert-large": 335_174_458,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3-405b": 405_853_388_800,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "vit-b16": 86_567_656,
    "vit-l16": 304_326_632,
    "vit-h14": 632_045_800,
}
ROUNDED = {
    # As the papers print them.
    "dit-s": 33e6,
    "dit-b": 130e6,
    "dit-l": 458e6,
    "dit-xl": 675e6,
    "gpt3-175b": 175e9,
    "vit-22b": 21_743e6,
}


class TestSizes(unittest.TestCase):

    def test_published_counts(self) -> None:
        for name, count in PUBLISHED.items():
            with self.subTest(name):
                self.assertEqual(models.parameter_count(name), count)

    def test_rounded_counts(self) -> None:
        for name, count in ROUNDED.items():
            with self.subTest(name):
                found = models.parameter_count(name)
                self.assertLess(abs(found / count - 1), 0.005)

    def test_the_table_has_every_name(self) -> None:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            table.main()
        self.assertEqual(
            [line.split(" ")[1] for line in out.getvalue().splitlines()[2:]],
            list(models.names()))
        self.assertIn("| bert-base | BertConfig | 109,514,298 |",
                      out.getvalue())


class TestBuild(unittest.TestCase):

    def test_overrides(self) -> None:
        with torch.device("meta"):
            model: Any = models.build("llama3-8b", depth=2, tied=True)
        self.assertEqual(len(model.layers), 2)
        self.assertIsNone(model.head)
        self.assertEqual(model.embedding.weight.shape, (128_256, 4096))

    def test_an_unknown_name(self) -> None:
        with self.assertRaisesRegex(
                ValueError,
                r"no model 'llama4'; did you mean llama3-405b or "):
            models.build("llama4")

    def test_an_unknown_field(self) -> None:
        with self.assertRaisesRegex(
                ValueError, "GPT2Config of 'gpt2' has no field 'layers'; "
                "known names: .*depth"):
            models.build("gpt2", layers=2)

    def test_a_name_that_is_taken(self) -> None:
        with self.assertRaisesRegex(ValueError, "'gpt2' already"):
            register(models.GPT2, {"gpt2": models.config("gpt2")})


class TestConfigs(unittest.TestCase):

    def refuse(self, name: str, message: str, **overrides: Any) -> None:
        with self.subTest(name, **overrides), \
                self.assertRaisesRegex(ValueError, message):
            models.config(name, **overrides)

    def test_fields_that_do_not_fit(self) -> None:
        self.refuse("gpt2",
                    "GPT2Config.heads = 7 does not divide width = 768",
                    heads=7)
        self.refuse("llama3-8b",
                    "LlamaConfig.kv_heads = 5 does not divide heads = 32",
                    kv_heads=5)
        self.refuse("llama3-8b",
                    "LlamaConfig.depth must be a whole number from 1 up, "
                    "got 0",
                    depth=0)
        self.refuse("qwen3-8b", "a head of 3 can not be rotated", head_dim=3)
        self.refuse("vit-b16", "patch = 15 does not divide image", patch=15)
        self.refuse("resnet18", "a block in every stage", depths=(2, 0))
        self.refuse("dlrm-criteo", "needs a table", rows=())
        self.refuse("dit-s", "multiple of 4", width=6)
        self.refuse("t5-small", "T5Config.heads must be", heads=1.5)

    def test_scaling(self) -> None:
        with self.assertRaisesRegex(ValueError, "low_frequency_factor <"):
            models.RotaryScaling(low_frequency_factor=4.0)


if __name__ == "__main__":
    unittest.main()
