"""Options of a call, apart from the model's own arguments."""

from __future__ import annotations

from typing import Any
from unittest import TestCase

from planner.ir.layouts import ProgramLayout
from planner.ir.mesh import MeshSpec
from scaletorch.described import Options

_EVEN = ProgramLayout(mesh=MeshSpec(("dp", ), (2, )), classes={}, at_rest={})
_UNEVEN = ProgramLayout(mesh=_EVEN.mesh,
                        classes={},
                        at_rest={},
                        shares={"dp": (3, 1)})


class TestOptions(TestCase):

    def test_what_is_no_string_is_the_model_s(self) -> None:
        arguments: dict[str, Any] = {"mask": 1}
        found = Options.of([2], [3], arguments, staged=False)
        self.assertEqual(found, Options(inputs="global", outputs="global"))
        self.assertEqual(arguments, {"mask": 1, "inputs": [2], "outputs": [3]})

    def test_a_pipeline_returns_the_loss(self) -> None:
        arguments: dict[str, Any] = {}
        found = Options.of("local", None, arguments, staged=True)
        self.assertEqual(found, Options(inputs="local", outputs="loss"))
        self.assertTrue(found.are_local)
        self.assertEqual(arguments, {})

    def test_refused(self) -> None:
        for inputs, outputs, layout, staged, text in (
            ("whole", "global", _EVEN, False,
             'inputs must be "global" or "local", got \'whole\''),
            ("local", "loss", _EVEN, False,
             'outputs must be "global" or "sharded", got \'loss\''),
            ("local", "sharded", _EVEN, True,
             'outputs must be "global" or "loss" in a pipeline, got '
             "'sharded'"),
            ("global", "sharded", _UNEVEN, False,
             'outputs="sharded" is not for plans with unequal shares'),
        ):
            with self.subTest(text), self.assertRaisesRegex(ValueError, text):
                Options(inputs=inputs, outputs=outputs).check(layout,
                                                              staged=staged)

    def test_allowed(self) -> None:
        Options(inputs="local", outputs="sharded").check(_EVEN, staged=False)
        Options(inputs="global", outputs="loss").check(_UNEVEN, staged=True)
