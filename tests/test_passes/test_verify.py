"""Every row of the verifiers between passes, broken once."""

from __future__ import annotations

import copy
import dataclasses
import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from passes.conversions import convert_node
from passes.insert_collectives import insert_collectives
from passes.localize_shapes import localize_shapes
from passes.split_backward import SplitBlock
from passes.steps import Kernel
from passes.verify import (AFTER_CONVERSIONS, AFTER_LOCALIZING, KERNEL,
                           PROGRAM, RANKS, verify_conversions, verify_kernel,
                           verify_local, verify_program, verify_ranks)
from planner.ir.errors import LayoutError
from planner.ir.invariants import Invariant
from planner.ir.layout import P, R
from planner.ir.mesh import MeshSpec
from tests.test_passes.lowering import (DATA, MEGATRON, SEQUENCE, lowered,
                                        planned)

MESH = MeshSpec(("tp", ), (2, ))
OPS = torch.ops._c10d_functional


class Rows(unittest.TestCase):
    """Subclasses name a table, and must break every row of it."""

    table: tuple[Invariant, ...] = ()

    @classmethod
    def setUpClass(cls) -> None:
        cls.broken: set[str] = set()

    @classmethod
    def tearDownClass(cls) -> None:
        missing = {row.name for row in cls.table} - cls.broken
        assert not missing, f"rows that no test breaks: {missing}"

    def refused(self, row: str, place: str, check: Callable[..., None],
                *subject: Any) -> None:
        known = [i.name for i in self.table if i.name.startswith(row)]
        self.assertEqual(len(known), 1, row)
        self.broken.add(known[0])
        with self.assertRaises(LayoutError) as caught:
            check(*subject)
        text = str(caught.exception)
        self.assertTrue(text.startswith(known[0]), text)
        self.assertIn(place, text)


def inserted() -> fx.Graph:
    program, layout = planned(SEQUENCE)
    cls = program.classes["Perceptron"]
    return insert_collectives(cls, layout.classes["Perceptron"], layout.mesh,
                              {})


def conversion(graph: fx.Graph, source: str, target: str) -> fx.Node:
    node, = (n for n in graph.nodes
             if n.target is convert_node and (n.kwargs["source"],
                                              n.kwargs["target"]) == (source,
                                                                      target))
    return node


def renamed(node: fx.Node, **kwargs: str) -> None:
    node.kwargs = {**node.kwargs, **kwargs}


class TestConversions(Rows):

    table = AFTER_CONVERSIONS

    def setUp(self) -> None:
        self.graph = inserted()

    def check(self, row: str, place: str) -> None:
        self.refused(row, place, verify_conversions, self.graph, MESH)

    def test_what_the_pass_leaves(self) -> None:
        verify_conversions(self.graph, MESH)

    def test_false_source(self) -> None:
        renamed(conversion(self.graph, "S(1)", "V"), source="S(2)")
        self.check("a conversion starts", "starts at S(2) and is given S(1)")

    def test_impossible(self) -> None:
        renamed(conversion(self.graph, "S(1)", "V"), target="Pmax")
        self.check("every conversion has", "from S(1) to Pmax")

    def test_skipped_conversion(self) -> None:
        node = conversion(self.graph, "S(1)", "V")
        node.replace_all_uses_with(node.args[0])
        self.check("operands arrive", "wants operand 0 as V and is given S(1)")

    def test_partial_operand(self) -> None:
        node = conversion(self.graph, "P", "S(1)")
        node.replace_all_uses_with(node.args[0])
        self.check("operands arrive", "wants operand 1 as S(1) and is given P")

    def test_partial_result(self) -> None:
        node = conversion(self.graph, "P", "R")
        node.replace_all_uses_with(node.args[0])
        self.check("results leave", "is promised as R and is P")


class TestLocal(Rows):

    table = AFTER_LOCALIZING[len(AFTER_CONVERSIONS):]

    def setUp(self) -> None:
        self.graph = localize_shapes(inserted(), MESH)

    def test_what_the_pass_leaves(self) -> None:
        verify_local(self.graph, MESH)

    def test_missing_lowering(self) -> None:
        node, = (n for n in self.graph.nodes if "lowering" in n.meta)
        del node.meta["lowering"]
        self.refused("calls whose options ask", "asks for mean_partial",
                     verify_local, self.graph, MESH)

    def test_missing_stream(self) -> None:
        node, = (n for n in self.graph.nodes
                 if n.target is torch.ops.aten.gelu.default)
        original = fx.Graph()
        x = original.placeholder("x")
        x.meta = dict(node.meta["node"].args[0].meta)
        drop = original.call_function(torch.ops.aten.dropout.default,
                                      (x, 0.5, True))
        drop.meta = dict(node.meta["node"].meta)
        node.meta["node"] = drop
        self.refused("calls that draw", "gelu", verify_local, self.graph, MESH)


def node_of(graph: fx.Graph, target: Any) -> fx.Node:
    return next(n for n in graph.nodes if n.target is target)


def own_kernel(text: str) -> Kernel:
    """One to spoil: lowering gives the same one to all who ask."""
    return copy.deepcopy(lowered(text).kernels["Perceptron"])


class TestKernel(Rows):

    table = KERNEL

    def setUp(self) -> None:
        self.kernel = own_kernel(SEQUENCE)

    def forward(self) -> fx.Graph:
        return self.kernel.train.forward

    def check(self,
              row: str,
              place: str,
              kernel: Kernel | None = None) -> None:
        self.refused(row, place, verify_kernel, kernel or self.kernel, MESH)

    def test_what_the_passes_leave(self) -> None:
        verify_kernel(self.kernel, MESH)

    def test_axis(self) -> None:
        node = node_of(self.forward(), OPS.all_gather_into_tensor.default)
        node.args = (*node.args[:2], "cp")
        self.check("collectives run over", "over 'cp'")

    def test_size(self) -> None:
        node = node_of(self.forward(), OPS.all_gather_into_tensor.default)
        node.args = (node.args[0], 4, node.args[2])
        self.check("collectives turn", "all_gather_into_tensor[tp]")

    def test_shape(self) -> None:
        node = node_of(self.forward(), OPS.reduce_scatter_tensor.default)
        node.meta["val"] = torch.empty(3, 2, 4)
        self.check("collectives turn", "(4, 2, 4) -> (3, 2, 4) on 2 ranks")

    def test_wait(self) -> None:
        node = node_of(self.forward(), OPS.wait_tensor.default)
        node.replace_all_uses_with(node.args[0])
        self.forward().erase_node(node)
        self.check("every collective is waited", "all_gather_into_tensor")

    def test_saved(self) -> None:
        out = self.forward().output_node()
        out.args = (out.args[0][:-1], )
        self.check("the forward gives", "Perceptron train gives")

    def changed(self, **changes: Any) -> Kernel:
        split: SplitBlock = dataclasses.replace(self.kernel.train, **changes)
        return dataclasses.replace(self.kernel, train=split)

    def test_number_of_gradients(self) -> None:
        assert self.kernel.train.backward is not None
        out = self.kernel.train.backward.output_node()
        out.args = (out.args[0][:-1], )
        self.check("the backward returns", "has 6 operands")

    def test_listed_gradients(self) -> None:
        self.check("the backward returns", "p_model_norm_weight is not",
                   self.changed(gradients=(2, 3, 4, 5)))

    def test_shapes_of_gradients(self) -> None:
        assert self.kernel.train.backward is not None
        out = self.kernel.train.backward.output_node()
        grads = list(out.args[0])
        grads[1] = grads[3]
        out.args = (tuple(grads), )
        self.check("the backward returns", "gradient of shape (4, 4)")


class TestProgram(Rows):

    table = PROGRAM

    def setUp(self) -> None:
        self.program = lowered(DATA)

    def check(self, row: str, place: str, **changes: Any) -> None:
        self.refused(row, place, verify_program,
                     dataclasses.replace(self.program, **changes))

    def test_order(self) -> None:
        self.check("steps read what was made",
                   "reads glue.0/mean",
                   steps=self.program.steps[::-1])

    def test_missing_output(self) -> None:
        self.check("steps read what was made",
                   "the program returns",
                   steps=self.program.steps[:-1])

    def test_partial_output(self) -> None:
        self.check("outputs are whole",
                   "is P",
                   layouts={
                       **self.program.layouts, self.program.outputs[0]: (P, )
                   })

    def test_buffers(self) -> None:
        self.check("new buffer values",
                   "rests as R and input:0 @ S(0) is",
                   layouts={
                       **self.program.layouts, "buffer:b": (R, )
                   },
                   mutations={"buffer:b": "input:0 @ S(0)"})


class TestRanks(Rows):

    table = RANKS

    def test_ranks_of_small_meshes(self) -> None:
        for text in (DATA, MEGATRON, SEQUENCE):
            verify_ranks([lowered(text, rank) for rank in range(2)])

    def test_other_steps(self) -> None:
        one = lowered(DATA)
        other = dataclasses.replace(one, steps=one.steps[::-1])
        self.refused("all ranks run the same steps", "where rank 1 runs",
                     verify_ranks, [one, other])

    def test_other_collectives(self) -> None:
        one, other = lowered(MEGATRON, 0), lowered(MEGATRON, 1)
        kernel = own_kernel(MEGATRON)
        other = dataclasses.replace(other, kernels={"Perceptron": kernel})
        graph = kernel.train.forward
        wait = node_of(graph, OPS.wait_tensor.default)
        reduced = wait.args[0]
        wait.replace_all_uses_with(reduced.args[0])
        graph.erase_node(wait)
        graph.erase_node(reduced)
        self.refused("all ranks meet", "where rank 1 does", verify_ranks,
                     [one, other])


if __name__ == "__main__":
    unittest.main()
