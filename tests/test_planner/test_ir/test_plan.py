"""Plans as text: stable, checked line by line, and what they say again."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from unittest import TestCase

from planner.ir.errors import LayoutError
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.recipes import RECIPES
from tests.golden import check_golden
from tests.test_planner.test_planning.programs import (large_llama, mlp,
                                                       planning_on, zoo)

_GRID = MeshSpec(("dp", "tp"), (2, 2))


def _plan(name: str = "llama") -> Plan:
    planning = planning_on(zoo(name), 4)
    recipe = RECIPES["fsdp"]() * RECIPES["megatron"](sequence_parallel=True)
    return planning.plan_of(planning.from_recipe(recipe, _GRID))


class TestText(TestCase):

    def test_small_plan(self) -> None:
        planning = planning_on(mlp(), 4)
        recipe = RECIPES["ddp"]() * RECIPES["megatron"]()
        plan = planning.plan_of(planning.from_recipe(recipe, _GRID))
        plan = dataclasses.replace(plan, prediction={"step_time_s": 0.5})
        check_golden(
            self, plan.to_yaml(), """
            version: 1
            model: Sequential
            mesh:
              dp: 2
              tp: 2
            axes:
              dp: ddp
              tp: megatron
            at_rest:
              input args[0]: S(0) R
              input targets[0]: S(0) R
              0.weight: R S(0)
              2.weight: R S(1)
            regather: []
            recompute: []
            blocks:
              Sequential:
                hold in: S(0) R
                hold 0.weight: V S(0)
                hold 2.weight: V S(1)
                hold in.1: S(0) R
                0.linear: S(0),V->S(0) | R,S(0)->S(1)
                1.relu: S(0)->S(0) | S(1)->S(1)
                2.linear: S(0),V->S(0) | S(1),S(1)->P
                broadcast_tensors: S(0),S(0)->S(0),S(0) | R
                mse_loss: S(0),S(0)->P [mean_partial] | R
                hold mse_loss: R R
            prediction:
              step_time_s: 0.5
            """)

    def test_round_trip(self) -> None:
        for name in ("gpt2", "llama", "t5", "mixtral", "vit"):
            plan = _plan(name)
            self.assertEqual(Plan.from_yaml(plan.to_yaml()), plan)

    def test_file(self) -> None:
        plan = _plan()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.yaml"
            plan.save(path)
            self.assertEqual(Plan.load(path), plan)

    def test_says_what_was_planned(self) -> None:
        for name in ("gpt2", "llama", "t5", "mixtral"):
            planning = planning_on(zoo(name), 4)
            for candidate in planning.candidates([_GRID])[:3]:
                text = planning.plan_of(candidate).to_yaml()
                again = Plan.from_yaml(text).resolve(planning.program)
                self.assertEqual(again, candidate.layout)

    def test_stays_small(self) -> None:
        planning = planning_on(large_llama(), 8)
        for candidate in planning.candidates([_GRID]):
            text = planning.plan_of(candidate).to_yaml()
            self.assertLess(len(text.splitlines()), 150, candidate.name)


class TestEdited(TestCase):

    def _resolve(self, **changes: object) -> None:
        plan = dataclasses.replace(_plan(), **changes)  # type: ignore
        plan.resolve(zoo("llama"))

    def test_rest_is_checked(self) -> None:
        name = "model.layers.*.self_attn.q_proj.weight"
        for text, why in (("S(0) S(2)",
                           r"can't lie as S\(2\) at rest; use R or S\(dim\)"),
                          ("V R", "can't lie as V at rest"),
                          ("S(0)", "has 1 placements for 2 axes"),
                          ("S(0) X", "'X' is no placement; write R, V, P or")):
            with self.subTest(text):
                with self.assertRaisesRegex(LayoutError, why):
                    self._resolve(at_rest={name: text})

    def test_uneven_mesh(self) -> None:
        plan = dataclasses.replace(_plan(),
                                   mesh=MeshSpec(("dp", "tp"), (3, 2)))
        with self.assertRaisesRegex(LayoutError,
                                    r"is no option of .* \(3 ranks\)"):
            plan.resolve(zoo("llama"))

    def test_unknown_parameter(self) -> None:
        with self.assertRaisesRegex(
                LayoutError, "names 'model.nrm.weight', which the model "
                "does not have; did you mean model.norm.weight"):
            self._resolve(at_rest={"model.nrm.weight": "S(0) R"})

    def _with_line(self, label: str, text: str) -> None:
        plan = _plan()
        blocks = {n: dict(b) for n, b in plan.blocks.items()}
        blocks["LlamaDecoderLayer"][label] = text
        dataclasses.replace(plan, blocks=blocks).resolve(zoo("llama"))

    def test_illegal_option(self) -> None:
        with self.assertRaisesRegex(
                LayoutError, r"mlp.up_proj.linear at model.layers.0.mlp.*: "
                r"'S\(7\),R->S\(7\)' is no option of aten.linear.default "
                r"over tp \(2 ranks\); its options are R; V; "):
            self._with_line("mlp.up_proj.linear", "R | S(7),R->S(7)")

    def test_unknown_call(self) -> None:
        with self.assertRaisesRegex(LayoutError, "there is no 'mlp.up'"):
            self._with_line("mlp.up", "R | R")

    def test_number_of_options(self) -> None:
        with self.assertRaisesRegex(LayoutError, "1 options for 2 axes"):
            self._with_line("mlp.up_proj.linear", "R")

    def test_file_is_named(self) -> None:
        name = "model.nrm.weight"
        plan = dataclasses.replace(_plan(), at_rest={name: "S(0) R"})
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.yaml"
            plan.save(path)
            with self.assertRaisesRegex(
                    LayoutError, f"^{path}: .*{name!r}, which the model"):
                Plan.load(path).resolve(zoo("llama"))

    def test_file_is_named_of_cuts(self) -> None:
        planning = planning_on(zoo("llama"), 4)
        recipe = RECIPES["pipeline"](microbatches=2)
        found = planning.from_recipe(recipe, MeshSpec(("pp", ), (2, )))
        plan = planning.plan_of(found)
        assert plan.pipeline is not None
        cut = dataclasses.replace(plan.pipeline, cuts=("layers.x", ))
        bad = dataclasses.replace(plan, pipeline=cut, file="plan.yaml")
        with self.assertRaisesRegex(
                LayoutError, "^plan.yaml: pipeline: no block is named "
                "'layers.x'"):
            planning.of_plan(bad)

    def test_other_model(self) -> None:
        with self.assertRaisesRegex(LayoutError, "plan the model anew"):
            _plan().resolve(zoo("gpt2"))


class TestMalformed(TestCase):

    def test_texts(self) -> None:
        text = _plan().to_yaml()
        for bad, why in (("- a",
                          "expected a mapping, got list"), (text.replace(
                              "version: 1",
                              "version: 7"), "version 7 is not 1"),
                         (text.replace("at_rest:", "at_rst:"),
                          "unknown key 'at_rst'; did you mean at_rest"),
                         (text.replace("mesh:\n  dp: 2\n  tp: 2",
                                       "mesh: 4"), "mesh: expected a mapping"),
                         (text.replace("  dp: 2\n", "  dp: two\n"),
                          "edited.yaml: mesh: dp: 'two' is no whole number"),
                         (text + "pipeline:\n  microbatches: 2.5\n",
                          "pipeline: microbatches: 2.5 is no whole number"),
                         (text.replace("  dp: 2\n", "  dp: 0\n"),
                          "edited.yaml: axis sizes must be positive"),
                         (text.replace("axes:\n  dp:", "axes:\n  dq:"),
                          "edited.yaml: axes: the mesh has no axis 'dq'; "),
                         (text.replace("model: ",
                                       "# "), "edited.yaml: model is missing"),
                         (text.replace("recompute: []", "recompute: Layer"),
                          "recompute: expected a list, got str"),
                         (text.replace("recompute: []",
                                       "recompute: []\nshares: {dp: 3}"),
                          "shares: dp: expected a list, got int"),
                         (text + "pipeline:\n  cuts: layers.1\n",
                          "pipeline: cuts: expected a list, got str"),
                         (text.replace("prediction:\n",
                                       "prediction:\n  time: soon\n"),
                          "prediction: time: 'soon' is no number")):
            with self.assertRaisesRegex(ValueError, why):
                Plan.from_yaml(bad, where="edited.yaml")

    def test_file_that_is_not_there(self) -> None:
        with self.assertRaisesRegex(
                ValueError, r"there is no plan 'no.yaml' \(No such file.*\); "
                "write one with plan.save"):
            Plan.load("no.yaml")
        with tempfile.TemporaryDirectory() as folder:
            with self.assertRaisesRegex(
                    ValueError, f"can't read the plan '{folder}' "
                    r"\(Is a directory\)"):
                Plan.load(folder)

    def test_file_that_is_no_text(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plan.yaml"
            path.write_bytes(b"\xff\xfe\x00")
            with self.assertRaisesRegex(ValueError,
                                        "plan.yaml is no text in UTF-8"):
                Plan.load(path)

    def test_only_data_is_read(self) -> None:
        with self.assertRaises(Exception):
            Plan.from_yaml("!!python/object/apply:os.getcwd []")
