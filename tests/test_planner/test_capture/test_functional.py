"""Graphs are made functional as torch does it, where that is known."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn
from torch.export import ExportedProgram
from torch.nn import functional as F

from planner.capture.composite import is_kept, is_whole
from planner.capture.functional import make_functional
from planner.capture.normalize import drop_unused

_aten = torch.ops.aten


class _Run(nn.Module):

    def __init__(self, run: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.run = run
        self.linear = nn.Linear(6, 6)
        self.register_buffer("count", torch.zeros(4, 6))

    def forward(self, x: torch.Tensor) -> Any:
        return self.run(self.linear(x)).sum() + 1


def _exported(run: Callable[[torch.Tensor], Any]) -> ExportedProgram:
    model = _Run(run)
    if run is _counted:
        model.run = lambda x: x + model.count.add_(x.detach())
    return torch.export.export(model, (torch.randn(4, 6), ), strict=False)


def _counted(x: torch.Tensor) -> torch.Tensor:
    """Stands for one that writes to a buffer."""
    return x


def _shown(graph: fx.Graph) -> list[str]:
    """Calls with their values, but not what nodes are called."""
    drop_unused(graph)
    number = {n: i for i, n in enumerate(graph.nodes)}
    return [
        f"{n.op} {'' if n.op == 'placeholder' else n.target} "
        f"{fx.node.map_arg((n.args, n.kwargs), lambda a: f'%{number[a]}')} "
        f"{_spec(n.meta.get('val'))} {n.meta.get('nn_module_stack')}"
        for n in graph.nodes if n.op != "output"
    ]


def _spec(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype
    return [_spec(v) for v in value] if isinstance(value,
                                                   (tuple, list)) else value


def _strided_views(x: torch.Tensor) -> torch.Tensor:
    return x.t().reshape(-1).view(6, 4).contiguous().t().contiguous()


def _casts(x: torch.Tensor) -> torch.Tensor:
    return x.to(torch.float32).to(torch.bfloat16).float() + x.type_as(x)


def _dropouts(x: torch.Tensor) -> torch.Tensor:
    return F.dropout(x, 0.5) + F.dropout(x, 0.0) + F.dropout(x, 0.3, False)


def _parts(x: torch.Tensor) -> torch.Tensor:
    first, second = x.chunk(2, dim=-1)
    return first.flatten() + second.expand_as(first).flatten()


def _written_slices(x: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    y[:, ::2] = x[:, 3:]
    y[:, 1::2] = -x[:, :3]
    return y.reshape(-1)


def _scattered(x: torch.Tensor) -> torch.Tensor:
    chosen = x.topk(2, dim=-1)[1]
    mask = torch.zeros_like(x)
    mask.scatter_(1, chosen, 1)
    return x.masked_fill(~mask.bool(), 0.0)


def _divided(x: torch.Tensor) -> torch.Tensor:
    weights = x.softmax(-1).topk(2, dim=-1)[0]
    weights /= weights.sum(-1, keepdim=True)
    return weights.to(x.dtype)


def _shifted(x: torch.Tensor) -> torch.Tensor:
    ids = x.detach().long()
    moved = ids.new_zeros(ids.shape)
    moved[:, 1:] = ids[:, :-1].clone()
    moved[:, 0] = 3
    moved.masked_fill_(moved == -100, 0)
    return x * moved


def _read_in_between(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    before = y.exp()
    y.mul_(2).add_(before)
    return y + before


def _read_by_another_view(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y.view(-1).add_(1)
    return y


def _with_constants(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, torch.tensor(2.0)) + torch.tensor([1.0])


SAME = (_strided_views, _casts, _dropouts, _parts, _written_slices, _scattered,
        _divided, _shifted, _read_in_between, _read_by_another_view,
        _with_constants)


def _whole_in_between(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    z = F.linear(y, y)
    y.add_(1)
    return y.sum() + z.sum()


def _biased_attention(x: torch.Tensor) -> torch.Tensor:
    q = x.view(1, 4, 2, 3).transpose(1, 2)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=x @ x.t())


def _chosen_by_value(x: torch.Tensor) -> torch.Tensor:
    return x[x > 0]


LEFT = (_counted, _biased_attention, _whole_in_between, _chosen_by_value)


class TestMakeFunctional(unittest.TestCase):

    def test_it_is_what_torch_makes(self) -> None:
        for run in SAME:
            with self.subTest(run.__name__):
                theirs = _exported(run).run_decompositions({}).graph
                graph = _exported(run).graph
                self.assertIsNotNone(make_functional(graph))
                graph.lint()
                self.assertEqual(_shown(graph), _shown(theirs))

    def test_nothing_writes_and_nothing_may_be_a_copy_or_not(self) -> None:
        for run in SAME:
            with self.subTest(run.__name__):
                graph = _exported(run).graph
                make_functional(graph)
                drop_unused(graph)
                for node in graph.nodes:
                    schema = getattr(node.target, "_schema", None)
                    if schema is not None:
                        self.assertFalse(schema.is_mutable, node)
                        self.assertTrue(is_kept(node.target), node)

    def test_a_graph_with_more_is_left_as_it_is(self) -> None:
        for run in LEFT:
            with self.subTest(run.__name__):
                graph = _exported(run).graph
                before = str(graph)
                self.assertIsNone(make_functional(graph))
                self.assertEqual(str(graph), before)

    def test_what_stands_for_outputs_is_told(self) -> None:

        class Cast(nn.Module):

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return x.to(torch.float64)

        exported = torch.export.export(Cast(), (torch.ones(2), ), strict=False)
        name = exported.graph_signature.output_specs[0].arg.name
        instead = make_functional(exported.graph)
        assert instead is not None
        self.assertIs(instead[name].target, _aten._to_copy.default)
        self.assertIs(exported.graph.output_node().args[0][0], instead[name])


class TestComposite(unittest.TestCase):
    """Torch may say of some other operator that it is made of others."""

    def test_kept(self) -> None:
        for target in (_aten.linear.default, _aten.softmax.int,
                       _aten.cross_entropy_loss.default, _aten.view.default,
                       _aten.scaled_dot_product_attention.default,
                       _aten.slice.Tensor, _aten.add_.Tensor):
            self.assertTrue(is_kept(target), target)

    def test_not_kept(self) -> None:
        for target in (_aten.reshape.default, _aten.to.dtype,
                       _aten.contiguous.default, _aten.dropout.default,
                       _aten.flatten.using_ints, _aten.chunk.default):
            self.assertFalse(is_kept(target), target)

    def test_whole(self) -> None:
        self.assertTrue(is_whole(_aten.linear.default))
        self.assertFalse(is_whole(_aten.add.Tensor))
        self.assertFalse(is_whole(_aten.reshape.default))


if __name__ == "__main__":
    unittest.main()
