"""The examples run and print what they promise."""

from __future__ import annotations

import contextlib
import io
import re
import tempfile
import unittest
from pathlib import Path

import torch
import transformers

from planner.explain.__main__ import main as explain
from tests.e2e.example_ranks import printed_by_example
from tests.e2e.programs import printed
from tests.markers import nightly
from tests.tree import ROOT

RECIPES = {
    "ddp": 2,
    "fsdp": 3,
    "zero1": 2,
    "megatron": 2,
    "megatron(sequence_parallel=True)": 4,
    "ulysses": 2,
    "gather_kv": 2,
    "ring": 2,
}
"""By recipe, on how many ranks."""


class TestExamples(unittest.TestCase):

    def test_train_gpt_alone(self) -> None:
        small = ("--context", "16", "--width", "32", "--depth", "1")
        losses = [
            float(
                printed_by_example(1, "train_gpt.py", "--steps", steps,
                                   *small).split()[-1])
            for steps in ("1", "40")
        ]
        self.assertAlmostEqual(losses[0], 4.6, delta=0.3)
        self.assertLess(losses[1], losses[0] - 0.5)

    def test_long_context(self) -> None:
        text = printed_by_example(2, "long_context.py", "--context", "256",
                                  "--steps", "2")
        kept = [float(x) for x in re.findall(r": ([\d.]+) MiB", text)]
        self.assertEqual(len(kept), 4)
        self.assertEqual(kept, sorted(kept, reverse=True))
        self.assertLess(float(text.split()[-1]), 1e-4)

    def test_explain_llama(self) -> None:
        text = io.StringIO()
        model = str(ROOT / "examples/explain_llama.py")
        with contextlib.redirect_stdout(text):
            self.assertEqual(explain([model, "--mesh", "dp=4,tp=8"]), 0)
        self.assertIn("Llama on h100-sxm, dp=4 x tp=8", text.getvalue())
        self.assertIn("LlamaLayer x 32", text.getvalue())


class TestOnRanks(unittest.TestCase):
    """Examples whose ranks are forked instead of started by torchrun."""

    def check_recipe(self, ranks: int, *options: str) -> None:
        text = printed_by_example(ranks, "by_recipe.py", *options, "--steps",
                                  "3")
        rows = re.findall(r"loss ([\d.]+)  alone ([\d.]+)", text)
        self.assertEqual(len(rows), 3)
        for ours, alone in rows:
            self.assertAlmostEqual(float(ours), float(alone), delta=2e-4)
        self.assertLess(float(text.split()[-1]), 1e-4)

    def test_two_recipes(self) -> None:
        self.check_recipe(4, "fsdp * megatron(sequence_parallel=True)",
                          "--mesh", "dp=2,tp=2")

    @nightly
    def test_every_recipe(self) -> None:
        for recipe, ranks in RECIPES.items():
            with self.subTest(recipe):
                self.check_recipe(ranks, recipe)

    def test_draw(self) -> None:
        text = printed_by_example(2, "by_recipe.py", "megatron", "--steps",
                                  "1", "--draw")
        self.assertEqual(text.count("all_reduce forward"), 2)

    @nightly
    def test_auto_or_manual(self) -> None:
        text = printed_by_example(2, "auto_or_manual.py", "--steps", "1",
                                  "--width", "32", "--depth", "2")
        rows = re.findall(r"([\d.]+) ms +([\d.]+) ms +([\d.]+) MiB", text)
        self.assertEqual(len(rows), 7)
        measured = [float(found) for _, found, _ in rows]
        self.assertEqual(measured, sorted(measured))
        self.assertIn("auto", text)

    def test_fine_tune(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = str(Path(folder, "tuned"))
            text = printed_by_example(2, "fine_tune.py", "--steps", "10",
                                      "--recipe", "fsdp", "--output", out)
            losses = [float(x) for x in re.findall(r"loss ([\d.]+)", text)]
            self.assertLess(losses[-1], losses[0] - 0.5)
            tuned = transformers.AutoModelForCausalLM.from_pretrained(out)
            tokens = torch.tensor([list(b"The following section describes")])
            loss = tuned(input_ids=tokens, labels=tokens).loss.item()
            self.assertLess(loss, losses[0] - 0.5)
            # What was tuned can be tuned on, under another plan.
            text = printed_by_example(2, "fine_tune.py", "--model", out,
                                      "--steps", "1", "--recipe", "megatron")
            again = re.findall(r"loss ([\d.]+)", text)
            self.assertLess(float(again[0]), losses[0] - 0.5)

    @nightly
    def test_imagenet(self) -> None:
        vit = ("width=64", "depth=2", "heads=4", "patch=8")
        for model, small in (("resnet18", ("width=16", )), ("vit-b16", vit)):
            with self.subTest(model), tempfile.TemporaryDirectory() as folder:
                text = printed_by_example(2, "imagenet.py", folder, "--make",
                                          "--model", model, "--size", "32",
                                          "--batch", "16", "--epochs", "10",
                                          "--lr", "0.01", "--overrides",
                                          *small)
                rows = re.findall(r"loss ([\d.]+)  right ([\d.]+)%", text)
                self.assertEqual(len(rows), 10)
                self.assertLess(float(rows[-1][0]), float(rows[0][0]))
                self.assertGreater(float(rows[-1][1]), 25)

    @nightly
    def test_two_nodes(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            printed(self, "examples/two_nodes.py",
                    "examples/configs/gpt_tiny.yaml", "train.steps=6",
                    f"checkpoint.folder={folder}")
            rows = Path(folder, "metrics.jsonl").read_text().splitlines()
            self.assertIn('"step": 6', rows[-1])


class TestSize(unittest.TestCase):

    def test_examples_are_short(self) -> None:
        for path in (ROOT / "examples").glob("*.py"):
            lines = path.read_text(encoding="utf-8").splitlines()
            self.assertLess(len(lines), 120, path.name)


if __name__ == "__main__":
    unittest.main()
