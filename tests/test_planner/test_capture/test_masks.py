"""Masks that are only causal are recognised; others stay."""

from __future__ import annotations

import time
import unittest
from typing import Any

import torch
import transformers as hf
from torch import fx, nn
from torch.nn import functional as F

from planner.capture.affine import Affine, Choice, Formula, Holds
from planner.capture.capture import capture
from planner.capture.formulas import Formulas
from planner.ir.program import Program
from tests.model_zoo import MODELS
from tests.test_planner.test_capture import wide_text
from tests.test_planner.test_capture.eager import check_capture, doubled

ATTENTION = torch.ops.aten.scaled_dot_product_attention.default


def masks(program: Program) -> set[tuple[bool, bool]]:
    """(has a mask, is causal) of every attention."""
    return {(n.args[3] is not None, bool(n.args[5]))
            for cls in program.classes.values()
            for n in cls.calls if n.target is ATTENTION for n in [padded(n)]}


def padded(node: fx.Node) -> fx.Node:
    defaults = (None, 0.0, False)
    missing = 6 - len(node.args)
    if missing:
        node.args = (*node.args, *defaults[-missing:])
    for place, name in ((3, "attn_mask"), (5, "is_causal")):
        if name in node.kwargs:
            args = list(node.args)
            args[place] = node.kwargs[name]
            node.args = tuple(args)
    return node


class Attention(nn.Module):
    """Attention under a mask made by `make_mask(length)`."""

    def __init__(self, make_mask: Any) -> None:
        super().__init__()
        self.make_mask = make_mask
        self.qkv = nn.Linear(8, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unsqueeze(1).chunk(3, -1)
        mask = self.make_mask(x.shape[1])
        return F.scaled_dot_product_attention(q, k, v, mask)


class Encoder(nn.Module):
    """Asks whether its mask is causal."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.TransformerEncoder(nn.TransformerEncoderLayer(
            8, 2, 16, dropout=0.0, batch_first=True),
                                            2,
                                            enable_nested_tensor=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1],
                                                              dtype=x.dtype)
        return self.layers(x, mask=mask).square().sum()


def captured(make_mask: Any, test: unittest.TestCase) -> set[Any]:
    torch.manual_seed(0)
    model, x = doubled(Attention(make_mask), torch.randn(2, 5, 8))
    return masks(check_capture(test, model, (x, )))


def additive(n: int) -> torch.Tensor:
    return torch.triu(torch.full((n, n), float("-inf"), dtype=torch.float64),
                      diagonal=1)


class TestRecognised(unittest.TestCase):

    def test_causal_masks(self) -> None:
        for name, make in {
                "tril":
                lambda n: torch.ones(n, n).tril().bool(),
                "bool tril":
                lambda n: torch.ones(n, n, dtype=bool).tril(),
                "not triu":
                lambda n: ~torch.ones(n, n, dtype=bool).triu(1),
                "additive":
                additive,
                "compare":
                lambda n: torch.arange(n)[None] <= torch.arange(n)[:, None],
                "strict":
                lambda n: torch.arange(n)[:, None] + 1 > torch.arange(n),
                "wide window":
                lambda n: (torch.arange(n)[None] <= torch.arange(n)[:, None])
                & (torch.arange(n)[None] > torch.arange(n)[:, None] - n),
        }.items():
            with self.subTest(name):
                self.assertEqual(captured(make, self), {(False, True)})

    def test_empty_masks(self) -> None:
        for name, make in {
                "ones": lambda n: torch.ones(n, n, dtype=torch.bool),
                "zeros": lambda n: torch.zeros(n, n, dtype=torch.float64),
        }.items():
            with self.subTest(name):
                self.assertEqual(captured(make, self), {(False, False)})

    def test_other_masks_stay(self) -> None:
        for name, make in {
                "shifted":
                lambda n: torch.ones(n, n).tril(-1).bool()
                | torch.eye(n).bool(),
                "wider":
                lambda n: torch.ones(n, n).tril(1).bool(),
                "window":
                lambda n: (torch.arange(n)[None] <= torch.arange(n)[:, None])
                & (torch.arange(n)[None] > torch.arange(n)[:, None] - 2),
                "bias":
                lambda n: additive(n) + 0.5,
                "gentle":
                lambda n: torch.where(
                    torch.ones(n, n).tril().bool(), 0.0, -3.0).double(),
                "upper":
                lambda n: torch.ones(n, n).triu().bool(),
        }.items():
            with self.subTest(name):
                self.assertEqual(captured(make, self), {(True, False)})

    def test_library_models(self) -> None:
        for name, expected in (("llama", {(False, True)}), ("bert", {
            (False, False)
        }), ("gpt2", {(False, True)})):
            with self.subTest(name):
                model, inputs, _ = MODELS[name]()
                self.assertEqual(masks(capture(model, inputs)), expected)

    def test_a_causal_mask_of_a_plain_encoder(self) -> None:
        torch.manual_seed(0)
        program = check_capture(self,
                                Encoder().double(),
                                (torch.randn(2, 6, 8).double(), ))
        self.assertEqual(program.notes, ())
        self.assertEqual(masks(program), {(False, True)})

    def test_padding_keeps_its_mask(self) -> None:
        model, inputs, _ = wide_text.MODELS["LlamaPadded"]()
        self.assertEqual(masks(capture(model, inputs)), {(True, False)})

    def test_long_sequences_cost_nothing(self) -> None:
        config = hf.LlamaConfig(hidden_size=32,
                                intermediate_size=64,
                                num_hidden_layers=1,
                                num_attention_heads=4,
                                vocab_size=96)
        with torch.device("meta"):
            model = hf.LlamaForCausalLM(config)
            ids = torch.empty(64, 2**20, dtype=torch.long)
        start = time.monotonic()
        program = capture(model, {"input_ids": ids, "labels": ids})
        self.assertEqual(masks(program), {(False, True)})
        self.assertLess(time.monotonic() - start, 60)


class TestFormulas(unittest.TestCase):
    """Every formula that is found gives the tensor it is of."""

    def test_formulas_of_real_graphs(self) -> None:
        found = 0
        for name in ("llama", "gemma2", "modernbert", "t5", "bert"):
            model, inputs, _ = MODELS[name]()
            program = capture(model, inputs)
            for cls in program.classes.values():
                found += self.check(cls.graph)
        self.assertGreater(found, 100)

    def check(self, graph: fx.Graph) -> int:
        formulas, count = Formulas({}), 0
        values: dict[fx.Node, Any] = {}
        for node in graph.nodes:
            known = formulas.find(node)
            if known is None or any(a not in values
                                    for a in node.all_input_nodes):
                continue
            args, kwargs = fx.node.map_arg((node.args, node.kwargs),
                                           values.get)
            values[node] = node.target(*args, **kwargs)
            with self.subTest(str(node)):
                expected = evaluate(known, tuple(values[node].shape))
                self.assertTrue(
                    torch.equal(values[node].double(), expected.double()))
            count += 1
        return count


def evaluate(formula: Formula, shape: tuple[int, ...]) -> torch.Tensor:
    if isinstance(formula, Choice):
        return torch.where(evaluate(formula.condition, shape), formula.yes,
                           formula.no)
    if isinstance(formula, Holds):
        truth = torch.full(shape, not formula.never)
        for form in formula.forms:
            truth &= evaluate(form, shape) <= 0
        return truth
    total = torch.full(shape, float(formula.constant), dtype=torch.float64)
    for dim, step in formula.terms:
        index = torch.arange(shape[dim], dtype=torch.float64)
        total += step * index.view(-1, *[1] * (-dim - 1))
    return total


class TestAffine(unittest.TestCase):

    def test_bounds(self) -> None:
        form = Affine.of(1, {-1: 2, -2: -3})
        self.assertEqual(form.bounds((4, 5)), (1 - 9, 1 + 8))

    def test_negation(self) -> None:
        causal = Holds(frozenset({Affine.of(0, {-1: 1, -2: -1})}))
        self.assertEqual(causal.negated().negated(), causal)


if __name__ == "__main__":
    unittest.main()
