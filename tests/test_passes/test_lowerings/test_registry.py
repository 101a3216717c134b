"""The names that rules ask for are the names that are registered."""

from __future__ import annotations

import ast
import unittest
from pathlib import Path

import torch

import passes.lowerings  # noqa: F401 (registers all)
import planner.rules
from passes.lowerings.registry import (lowering_for, register_lowering,
                                       registered_lowerings)
from planner.ir.errors import LayoutError
from planner.ir.layout import P, R, S
from planner.rules import OpCall, Option, TensorSpec

CALL = OpCall(target=torch.ops.aten.sum.default,
              args=(),
              kwargs={},
              inputs=(TensorSpec(shape=(4, ), dtype=torch.float32), ),
              outputs=(TensorSpec(shape=(), dtype=torch.float32), ))


def option(lowering: str | None) -> Option:
    return Option(inputs=(S(0), ), outputs=(P, ), lowering=lowering)


def asked_for() -> set[str]:
    """Every string given as some lowering in the rules' source."""
    found: set[str] = set()
    folder = Path(planner.rules.__file__ or "").parent
    for path in sorted(folder.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node,
                          ast.keyword) and (node.arg
                                            in ("lowering", "added_lowering")):
                found |= {
                    c.value
                    for c in ast.walk(node.value) if
                    isinstance(c, ast.Constant) and isinstance(c.value, str)
                }
    return found


class TestNames(unittest.TestCase):

    def test_what_rules_ask_for_exists(self) -> None:
        names = asked_for()
        self.assertIn("embedding_vocab", names)
        self.assertEqual(names - set(registered_lowerings()), set())

    def test_a_name_is_registered_once(self) -> None:
        with self.assertRaisesRegex(ValueError, "registered twice"):
            register_lowering("mean_partial")(lambda context: None)


class TestChoice(unittest.TestCase):

    def test_none(self) -> None:
        self.assertIsNone(lowering_for(CALL, (option(None), option(None))))

    def test_one_for_all_axes(self) -> None:
        names = ("cross_entropy_partial", "cross_entropy_vocab", None)
        found = lowering_for(CALL, tuple(map(option, names)))
        assert found is not None
        self.assertEqual(found.__name__, "cross_entropy")

    def test_unknown(self) -> None:
        with self.assertRaisesRegex(LayoutError, "no lowering 'other'; known"):
            lowering_for(CALL, (option("other"), ))

    def test_two_that_do_not_go_together(self) -> None:
        pair = (option("mean_partial"), option("arange_shard"))
        with self.assertRaisesRegex(LayoutError, "do not go together"):
            lowering_for(CALL, pair)
        whole = Option(inputs=(R, ), outputs=(R, ))
        self.assertIsNotNone(lowering_for(CALL, (pair[0], whole)))


if __name__ == "__main__":
    unittest.main()
