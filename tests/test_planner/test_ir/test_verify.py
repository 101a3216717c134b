"""Every row of the verifier of layouts, broken once."""

from __future__ import annotations

import dataclasses
import unittest
from typing import Any

import torch
from torch import nn

from planner.capture.capture import capture
from planner.ir.errors import LayoutError
from planner.ir.layout import PMAX, Layout, P, R, S, V
from planner.ir.layouts import CallLayout, ClassLayout, ProgramLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import Program
from planner.ir.values import Value, call_of, calls_of
from planner.ir.verify import INVARIANTS, verify_layout
from planner.rules import Option, options

MESH = MeshSpec(("dp", "tp"), (2, 2))
WHOLE: Layout = (R, R)


class Layers(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(x)).square().mean()


def whole(program: Program, mesh: MeshSpec = MESH) -> ProgramLayout:
    """Everything replicated."""
    every = (R, ) * len(mesh.sizes)
    classes = {}
    for name, cls in program.classes.items():
        calls = {
            n.meta["label"]:
            CallLayout(options=tuple(
                options(call_of(n), s)[0] for s in mesh.sizes))
            for n in calls_of(cls.graph)
        }
        hubs = {Value(n).label: every for n in cls.placeholders}
        classes[name] = ClassLayout(calls=calls, hubs=hubs)
    return ProgramLayout(mesh=mesh,
                         classes=classes,
                         at_rest={n: every
                                  for n in program.specs})


class TestVerify(unittest.TestCase):

    program: Program
    broken: set[str] = set()

    @classmethod
    def setUpClass(cls) -> None:
        cls.program = capture(Layers(), (torch.randn(8, 8), ),
                              loss_fn=lambda y: y)
        cls.layout = whole(cls.program)
        cls.name, = cls.program.classes

    @classmethod
    def tearDownClass(cls) -> None:
        missing = {i.name for i in INVARIANTS} - cls.broken
        assert not missing, f"rows that no test breaks: {missing}"

    def refused(self,
                row: str,
                layout: ProgramLayout,
                place: str,
                program: Program | None = None) -> None:
        known = [i.name for i in INVARIANTS if i.name.startswith(row)]
        self.assertEqual(len(known), 1, row)
        self.broken.add(known[0])
        with self.assertRaises(LayoutError) as caught:
            verify_layout(program or self.program, layout)
        text = str(caught.exception)
        self.assertTrue(text.startswith(known[0]), text)
        self.assertIn(place, text)

    def resting(self, **changes: Layout) -> ProgramLayout:
        named = {f"param:{n.replace('_', '.')}": v for n, v in changes.items()}
        return dataclasses.replace(self.layout,
                                   at_rest={
                                       **self.layout.at_rest,
                                       **named
                                   })

    def changed(self, *, hubs: Any = None, calls: Any = None) -> ProgramLayout:
        old = self.layout.classes[self.name]
        new = ClassLayout(calls={
            **old.calls,
            **(calls or {})
        },
                          hubs={
                              **old.hubs,
                              **(hubs or {})
                          })
        return dataclasses.replace(self.layout, classes={self.name: new})

    def option(self, label: str, text: str) -> Option:
        cls = self.program.classes[self.name]
        node, = (n for n in calls_of(cls.graph) if n.meta["label"] == label)
        return {str(o): o for o in options(call_of(node), 2)}[text]

    def test_replicated_layouts_hold(self) -> None:
        verify_layout(self.program, self.layout)

    def test_missing_layouts(self) -> None:
        row = "every call, placeholder and value"
        self.refused(row, dataclasses.replace(self.layout, at_rest={}),
                     "input:0 has no layout at rest")
        self.refused(row, dataclasses.replace(self.layout, classes={}),
                     "has no layout")
        old = self.layout.classes[self.name]
        for name, what in (("hubs", "in has no hub"), ("calls",
                                                       "has no options")):
            new = dataclasses.replace(old, **{name: {}})
            layout = dataclasses.replace(self.layout, classes={self.name: new})
            self.refused(row, layout, what)

    def test_wrong_length(self) -> None:
        row = "every layout has one placement"
        self.refused(row, self.resting(linear_bias=(R, )),
                     "param:linear.bias rests as R")
        self.refused(row, self.changed(hubs={"linear.bias": (R, ) * 3}),
                     "linear.bias is held R R R")
        none = CallLayout(options=())
        self.refused(row, self.changed(calls={"linear.linear": none}),
                     "has 0 options")

    def test_values_rest_as_gradients_arrive(self) -> None:
        for placement in (V, P):
            self.refused("values rest as R or S",
                         self.resting(linear_bias=(placement, R)),
                         f"param:linear.bias rests as {placement} R")

    def test_illegal_option(self) -> None:
        made_up = Option(inputs=(P, P, R), outputs=(R, ))
        legal = self.option("linear.linear", "R,R,R->R")
        self.refused(
            "every call runs one of its options",
            self.changed(
                calls={"linear.linear": CallLayout(options=(legal, made_up))}),
            "over tp=2: P,P,R->R is none of")

    def test_dims_that_do_not_exist_or_divide(self) -> None:
        row = "every sharded dim exists"
        self.refused(row, self.resting(linear_bias=(S(1), R)),
                     "has no such dim")
        self.refused(row, self.changed(hubs={"linear.bias": (R, S(3))}),
                     "has no such dim")
        odd = MeshSpec(("dp", "tp"), (2, 8))
        self.refused(
            row,
            dataclasses.replace(self.resting(linear_bias=(S(0), S(0))),
                                mesh=odd), "does not divide over 8 ranks")

    def test_two_axes_on_one_dim(self) -> None:
        program = capture(nn.Sequential(nn.Linear(6, 6)),
                          (torch.randn(2, 6), ),
                          loss_fn=lambda y: y.sum())
        layout = whole(program)
        rest = {**layout.at_rest, "param:0.weight": (S(0), S(0))}
        self.refused("every sharded dim exists",
                     dataclasses.replace(layout, at_rest=rest),
                     "does not divide over 2 ranks", program)

    def test_partial_extrema_with_a_gradient(self) -> None:
        self.refused("partial maxima and minima",
                     self.changed(hubs={"linear.linear": (PMAX, R)}),
                     "linear.linear is held Pmax")

    def test_unreachable_operand(self) -> None:
        shard = self.option("linear.linear", "S(0),V,V->S(0)")
        # The outer axis can't join a dim that the inner one still cuts.
        self.refused(
            "every value can go from where it is held",
            self.changed(
                calls={"linear.linear": CallLayout(options=(shard, shard))},
                hubs={"linear.linear": (R, S(0))}), "from S(0) S(0) to R S(0)")

    def test_unreachable_block(self) -> None:
        self.refused(
            "every value can go from block to block",
            dataclasses.replace(
                self.changed(hubs={"linear.weight": (R, S(0))}),
                at_rest={
                    **self.layout.at_rest, "param:linear.weight": (S(0), S(0))
                }), "param:linear.weight into")

    def test_ends(self) -> None:
        buffer = next(n for n in self.program.mutations
                      if n.endswith("running_mean"))
        value = "norm._native_batch_norm_legit_functional:3"
        self.refused(
            "outputs can be made whole",
            dataclasses.replace(self.changed(hubs={value: (S(0), S(0))}),
                                at_rest={
                                    **self.layout.at_rest, buffer: (R, S(0))
                                }),
            f"new value of {buffer} from S(0) S(0) to R S(0)")

    def test_regather(self) -> None:
        self.refused(
            "only parameters are gathered again",
            dataclasses.replace(self.layout,
                                regather=frozenset({"param:other"})),
            "param:other")


if __name__ == "__main__":
    unittest.main()
