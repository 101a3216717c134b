"""Plans by text."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path

from planner.recipes import RECIPES
from scaletorch.trainer.build import build_mesh
from scaletorch.trainer.plans import parse_plan, parse_recipe


class TestRecipes(unittest.TestCase):

    def test_names_and_arguments(self) -> None:
        self.assertEqual(parse_recipe("fsdp"), RECIPES["fsdp"]())
        self.assertEqual(
            parse_recipe("fsdp() * megatron(sequence_parallel=True)"),
            RECIPES["fsdp"]() * RECIPES["megatron"](sequence_parallel=True))
        self.assertEqual(parse_recipe("pipeline(\"zbh1\", microbatches=8)"),
                         RECIPES["pipeline"](schedule="zbh1", microbatches=8))
        found = parse_recipe("pipeline(schedule=\"zbh1\", microbatches=8, "
                             "cuts=[\"layers.2\"]) * ddp")
        assert found.pipeline is not None
        self.assertEqual(found.pipeline.microbatches, 8)
        self.assertEqual(found.pipeline.cuts, ("layers.2", ))

    def test_what_is_refused(self) -> None:
        for text, message in (
            ("fsdb", "there is no recipe 'fsdb' in 'fsdb': did you mean "
             "fsdp?"),
            ("megatron(sequence_paralel=True)", "recipe megatron has no "
             "argument 'sequence_paralel'"),
            ("fsdp + megatron", "can't read 'fsdp . megatron'"),
            ("megatron(True, 1)", "recipe megatron in .*: too many "
             "positional arguments; known arguments: sequence_parallel"),
            ("pipeline(\"1f1b\", schedule=\"zbh1\")", "multiple values for "
             "argument 'schedule'"),
            ("fsdp *", "can't read"),
            ("os.system(a=1)", "can't read 'os.system"),
            ("megatron(sequence_parallel=open(\"x\"))", "can't read .open"),
            ("megatron(**{})", "no argument None"),
        ):
            with self.subTest(text), self.assertRaisesRegex(
                    ValueError, message):
                parse_recipe(text)

    def test_words_and_files(self) -> None:
        self.assertIsNone(parse_plan("auto"))
        with self.assertRaisesRegex(ValueError, "there is no file none.yaml"):
            parse_plan("none.yaml")
        with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
            self.assertEqual(parse_plan(file.name), Path(file.name))


class TestMesh(unittest.TestCase):

    def test_axes(self) -> None:
        from scaletorch.mesh import spec_of
        from scaletorch.runtime.ranks import run_ranks

        def work(rank: int) -> list[str]:
            del rank
            found = []
            for mesh, plan in (({
                    "dp": -1,
                    "tp": 2
            }, "auto"), ("auto", "ulysses"), ("auto", "pipeline")):
                built = build_mesh(mesh, parse_plan(plan))
                assert not isinstance(built, int)
                found.append(str(spec_of(built)))
            found.append(str(build_mesh("auto", None)))
            for mesh, plan in (({
                    "dp": 3
            }, "auto"), ({
                    "dp": -1,
                    "tp": -1
            }, "auto"), ("auto", "fsdp * megatron")):
                try:
                    build_mesh(mesh, parse_plan(plan))
                except ValueError as error:
                    found.append(str(error))
            return found

        found = run_ranks(4, work)[0]
        self.assertEqual(found[:4], ["dp=2 x tp=2", "cp=4", "pp=4", "4"])
        self.assertIn("{'dp': 3} does not make up 4 ranks", found[4])
        self.assertIn("(one size may be -1)", found[5])
        self.assertIn(
            "plan fsdp * megatron has the axes dp, tp, whose sizes "
            "are open", found[6])


if __name__ == "__main__":
    unittest.main()
