"""Models that join sequence and batch train without sending activations."""

from __future__ import annotations

import copy
import math
import unittest
from typing import Any

import torch
from torch import fx, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.nn import functional as F

from passes.lower import lower
from scaletorch import auto_parallelize, parallel
from scaletorch.runtime.ranks import run_ranks
from tests.e2e.equality import PLANS, Subject, check_subject
from tests.model_zoo import MODELS, Example, eager_output

LENGTH, BATCH, WIDTH = 6, 4, 16


class SequenceFirst(nn.Module):
    """nn.Transformer as it is by default, with its mean square."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Transformer(WIDTH, 2, 2, 2, 2 * WIDTH, dropout=0.0)

    def forward(self, source: torch.Tensor,
                target: torch.Tensor) -> torch.Tensor:
        return self.body(source, target).square().mean()


class Encoder(nn.Module):
    """nn.TransformerEncoder with a padding mask."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 2 * WIDTH, dropout=0.0)
        self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, 5)

    def forward(self, x: torch.Tensor, mask: torch.Tensor,
                labels: torch.Tensor) -> torch.Tensor:
        h = self.body(x, src_key_padding_mask=mask)
        return F.cross_entropy(self.head(h[0]), labels)


class RowBlock(nn.Module):
    """A post-norm block whose sublayers work on (sequence x batch) rows."""

    def __init__(self) -> None:
        super().__init__()
        self.fused = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.up = nn.Linear(WIDTH, 2 * WIDTH)
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        length, batch, width = x.shape
        rows = x.reshape(-1, width)
        q, k, v = (y.view(length, batch, 2, -1).permute(1, 2, 0, 3)
                   for y in self.fused(rows).chunk(3, -1))
        h = F.scaled_dot_product_attention(q, k, v).permute(2, 0, 1, 3)
        rows = self.norms[0](rows + self.out(h.reshape(-1, width)))
        rows = self.norms[1](rows + self.down(F.gelu(self.up(rows))))
        return rows.view(length, batch, width)


class Rows(nn.Module):
    """BERT's layout of old: sequence first, and rows for all products."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RowBlock() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x.tanh().mean()


def sequence_first() -> Example:
    torch.manual_seed(0)
    return SequenceFirst(), (torch.randn(LENGTH, BATCH, WIDTH),
                             torch.randn(LENGTH - 1, BATCH, WIDTH)), None


def encoder() -> Example:
    torch.manual_seed(0)
    mask = torch.zeros(BATCH, LENGTH, dtype=torch.bool)
    mask[:, -1] = True
    return Encoder(), (torch.randn(LENGTH, BATCH, WIDTH), mask,
                       torch.randint(5, (BATCH, ))), None


def rows() -> Example:
    torch.manual_seed(0)
    return Rows(), (torch.randn(LENGTH, BATCH, WIDTH), ), None


def sent(graph: fx.Graph | None) -> list[tuple[int, ...]]:
    """The shapes of what a kernel's collectives take."""
    return [] if graph is None else [
        tuple(node.args[0].meta["val"].shape) for node in graph.nodes
        if node.op == "call_function" and getattr(node.target, "namespace", "")
        == "_c10d_functional" and "wait" not in str(node.target)
    ]


class TestJoinedRows(unittest.TestCase):

    def check(self, build: Any) -> None:
        subject = Subject(build)
        for name in ("ddp", "fsdp"):
            layout = subject.layout(PLANS[name])
            program = lower(subject.program,
                            layout,
                            0,
                            device=torch.device("cpu"))
            for kernel in program.kernels.values():
                with self.subTest(plan=name, kernel=kernel.name):
                    self.assertLessEqual(set(sent(kernel.train.forward)), {()})
                    self.assertEqual(sent(kernel.train.backward), [])
            with self.subTest(plan=name):
                check_subject(self, subject, PLANS[name])

    def test_transformer(self) -> None:
        self.check(sequence_first)

    def test_encoder(self) -> None:
        self.check(encoder)

    def test_own_rows(self) -> None:
        self.check(rows)

    def test_transformer_in_a_pipeline(self) -> None:
        """Micro-batches pass through the products as well."""
        model, inputs, loss_fn = MODELS["transformer"]()
        expected = copy.deepcopy(model)
        loss = eager_output(expected, inputs, loss_fn)
        loss.backward()
        grads = {n: p.grad for n, p in expected.named_parameters()}

        def work(rank: int) -> tuple[float, dict[str, torch.Tensor]]:
            del rank
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("pp", ))
            module = auto_parallelize(model,
                                      mesh,
                                      example_inputs=inputs,
                                      loss_fn=loss_fn,
                                      cluster="cpu-gloo",
                                      plan=parallel.pipeline(microbatches=2))
            ours = module(*inputs)
            ours.backward()
            return float(ours.detach()), {
                n: p.grad.full_tensor()
                for n, p in module.named_parameters() if p.grad is not None
            }

        found: dict[str, torch.Tensor] = {}
        for value, part in run_ranks(2, work):
            self.assertTrue(
                math.isclose(value, float(loss.detach()), rel_tol=1e-5))
            found |= part
        self.assertEqual(set(found), set(grads))
        for name, grad in found.items():
            torch.testing.assert_close(grad, grads[name], msg=name)


if __name__ == "__main__":
    unittest.main()
