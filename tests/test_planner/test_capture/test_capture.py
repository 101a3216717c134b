"""Captured programs compute what their models compute."""

from __future__ import annotations

import copy
import unittest

import torch
from torch import nn

from planner.capture.capture import capture
from planner.ir.program import Program
from tests.golden import check_golden
from tests.markers import nightly
from tests.model_zoo import MODELS, Example, eager_output
from tests.test_planner.test_capture import (wide_convolutions, wide_families,
                                             wide_patterns, wide_plain,
                                             wide_tasks, wide_text,
                                             wide_vision)
from tests.test_planner.test_capture.eager import check_capture, doubled

QUICK = ("Bloom", "DebertaV2", "DeepseekV3", "Marian", "Mamba2", "OPT")
NOT_COMPARED = ("SwitchTransformers", )
"""It casts its router in each call: in float64 that changes the model which
it is compared with."""


def strict(model: Example) -> tuple[Example, float]:
    """In float64 where the model runs in it, and the tolerance."""
    module, inputs, loss_fn = model
    trial, more = doubled(copy.deepcopy(module), inputs)
    try:
        eager_output(copy.deepcopy(trial), more, loss_fn)
    except RuntimeError:
        return model, 2e-4
    return (trial, more, loss_fn), 1e-9


class TestEqualToEager(unittest.TestCase):

    def check(self, example: Example) -> None:
        (model, inputs, loss_fn), tolerance = strict(example)
        check_capture(self, model, inputs, loss_fn, tolerance=tolerance)

    def test_models(self) -> None:
        for name, build in MODELS.items():
            with self.subTest(name):
                self.check(build())

    def test_unusual_models(self) -> None:
        for name in QUICK:
            with self.subTest(name):
                self.check(wide_text.MODELS[name]())

    @nightly
    def test_many_models(self) -> None:
        for table in (wide_plain, wide_patterns, wide_convolutions, wide_text,
                      wide_families, wide_vision, wide_tasks):
            for name, build in table.MODELS.items():
                if name not in NOT_COMPARED:
                    with self.subTest(name):
                        self.check(build())


class Tower(nn.Module):
    """Two equal layers between an embedding and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(2))
        self.head = nn.Linear(4, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


def tower() -> Program:
    return capture(Tower(), (torch.zeros(2, 3, dtype=torch.long), ))


class TestBlocks(unittest.TestCase):

    def test_layers_are_one_class(self) -> None:
        model, inputs, _ = MODELS["llama"]()
        program = capture(model, inputs)
        layers = [
            b for b in program.blocks if b.name.startswith("model.layers.")
        ]
        self.assertEqual(len(layers), 3)
        self.assertEqual({b.block_class
                          for b in layers}, {"LlamaDecoderLayer"})
        self.assertEqual(program.loss, 0)
        self.assertEqual(set(program.params),
                         {f"param:{n}"
                          for n, _ in model.named_parameters()})

    def test_classes_do_not_depend_on_names(self) -> None:

        class Named(Tower):

            def __init__(self) -> None:
                super().__init__()
                self.layers[1] = nn.Sequential()
                self.layers[1].add_module("other", nn.Linear(4, 4))
                self.layers[1].add_module("name", nn.Tanh())

        ids = torch.zeros(2, 3, dtype=torch.long)
        program = capture(Named(), (ids, ))
        self.assertEqual([b.block_class for b in program.blocks],
                         ["Named", "Sequential", "Sequential", "Named_2"])

    def test_shapes_tell_classes_apart(self) -> None:
        model = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.ReLU())
                                for a, b in ((4, 4), (4, 4), (4, 4), (4, 8),
                                             (8, 4))))
        program = capture(model, (torch.zeros(2, 4), ))
        # The first takes an input that needs no gradient.
        self.assertEqual([b.block_class for b in program.blocks], [
            "Sequential", "Sequential_2", "Sequential_2", "Sequential_3",
            "Sequential_4"
        ])

    def test_the_same_twice(self) -> None:
        first, second = tower(), tower()
        self.assertEqual(str(first), str(second))
        self.assertEqual(first.blocks, second.blocks)
        self.assertEqual(text(first), text(second))


def text(program: Program) -> str:
    lines = []
    for block in program.blocks:
        lines.append(f"{block.name}: {block.block_class}"
                     f"({', '.join(block.operands)}) -> "
                     f"{', '.join(block.results)}")
    for name, cls in program.classes.items():
        lines.append(f"class {name}")
        for node in cls.graph.nodes:
            if node.op != "output":
                lines.append(f"  {node.meta['label']}: "
                             f"{tuple(node.meta['spec'].shape)}")
    return "\n".join(lines)


class Cast(nn.Module):
    """Casts to the types of others, of which one has another shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer(x).float()
        return x.type_as(self.layer.bias).type_as(x.double())


class TestCasts(unittest.TestCase):

    def test_of_others_only_the_type_is_read(self) -> None:
        torch.manual_seed(0)
        rows = torch.randn(3, 4, dtype=torch.float64)
        program = check_capture(self, Cast().double(), (rows, ))
        calls = [
            n.target for c in program.classes.values() for n in c.graph.nodes
            if n.op == "call_function"
        ]
        self.assertEqual(calls.count(torch.ops.aten._to_copy.default), 2)
        self.assertEqual(len(calls), 4)


class TestText(unittest.TestCase):

    def test_a_small_program(self) -> None:
        check_golden(
            self, text(tower()), """
            glue.0: Tower(param:embedding.weight, input:0) -> glue.0/embedding.embedding
            layers.0: Sequential(glue.0/embedding.embedding, param:layers.0.0.weight, param:layers.0.0.bias) -> layers.0/1.tanh
            layers.1: Sequential(layers.0/1.tanh, param:layers.1.0.weight, param:layers.1.0.bias) -> layers.1/1.tanh
            glue.3: Tower_2(layers.1/1.tanh, param:head.weight, param:head.bias) -> glue.3/head.linear
            class Tower
              embedding.weight: (8, 4)
              in: (2, 3)
              embedding.embedding: (2, 3, 4)
            class Sequential
              in: (2, 3, 4)
              0.weight: (4, 4)
              0.bias: (4,)
              0.linear: (2, 3, 4)
              1.tanh: (2, 3, 4)
            class Tower_2
              in: (2, 3, 4)
              head.weight: (8, 4)
              head.bias: (8,)
              head.linear: (2, 3, 8)
            """)


if __name__ == "__main__":
    unittest.main()
