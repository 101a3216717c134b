"""Fused projections under tensor parallelism, against one device."""

from __future__ import annotations

import math
import os
import tempfile
import unittest
from collections.abc import Callable

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.nn import functional as F

import scaletorch
from passes.lower import lower
from planner.ir.mesh import MeshSpec
from planner.recipes import RECIPES
from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks
from tests.e2e.equality import Case, Subject, check_subject
from tests.model_zoo import BATCH, SEQUENCE, VOCABULARY, Example, tokens
from tests.test_scaletorch.small import spread, whole

WIDTH, HEADS = 32, 4


class FusedBlock(nn.Module):
    """Attention and a gated layer, each with one projection."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.out = nn.Linear(WIDTH, WIDTH)
        self.gated = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(2 * WIDTH, WIDTH, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        qkv = self.qkv(self.norms[0](x)).view(*x.shape[:2], 3, HEADS, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        gate, up = self.gated(self.norms[1](x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class FusedGPT(nn.Module):
    """A language model of such blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.ModuleList(FusedBlock() for _ in range(2))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


def fused_gpt() -> Example:
    torch.manual_seed(0)
    return FusedGPT(), (tokens(), tokens()), _loss


def encoder() -> Example:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(WIDTH,
                                       HEADS,
                                       2 * WIDTH,
                                       dropout=0.0,
                                       batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    inputs = tuple(torch.randn(BATCH, SEQUENCE, WIDTH) for _ in range(2))
    return model.train(), inputs, F.mse_loss


def _loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


def _tp(size: int, sequence_parallel: bool) -> Case:
    return Case(RECIPES["megatron"](sequence_parallel=sequence_parallel),
                MeshSpec(("tp", ), (size, )))


CASES = {"tp=2 sp": _tp(2, True), "tp=4": _tp(4, False)}
if os.environ.get("SCALETORCH_NIGHTLY") == "1":
    CASES |= {
        "tp=2": _tp(2, False),
        "tp=4 sp": _tp(4, True),
        "auto": Case(None, MeshSpec(("x", ), (2, ))),
        "auto 2x2": Case(None, MeshSpec(("dp", "tp"), (2, 2))),
    }


def products_of(subject: Subject, case: Case) -> dict[str, int]:
    """Flops of the products in one rank's forward, by block class."""
    program = lower(subject.program,
                    subject.layout(case),
                    0,
                    device=torch.device("cpu"))
    found = {}
    for name, kernel in program.kernels.items():
        nodes = kernel.train.forward.nodes
        found[name] = sum(
            math.prod(n.meta["val"].shape) * n.args[-2].meta["val"].shape[-1]
            for n in nodes if n.target in (torch.ops.aten.mm.default,
                                           torch.ops.aten.addmm.default))
    return found


def by_parts(subject: Subject, case: Case) -> bool:
    """Whether some weight is used as its parts are sharded."""
    return any(p.parts for cls in subject.layout(case).classes.values()
               for chosen in cls.calls.values()
               if len(chosen.options[0].inputs) > 1 for p in chosen.input(1))


class TestFused(unittest.TestCase):

    def check(self, example: str | Callable[[], Example], block: str) -> None:
        subject = Subject(example)
        alone = Case(RECIPES["megatron"](), MeshSpec(("tp", ), (1, )))
        whole = products_of(subject, alone)[block]
        for name, case in CASES.items():
            with self.subTest(name):
                check_subject(self, subject, case)
                if case.recipe is not None:
                    self.assertTrue(by_parts(subject, case))
                    share = products_of(subject, case)[block] / whole
                    self.assertEqual(share, 1 / case.mesh.world_size)

    def test_gpt2(self) -> None:
        self.check("gpt2", "GPT2Block")

    def test_phi3(self) -> None:
        self.check("phi3", "Phi3DecoderLayer")

    def test_fused_gpt(self) -> None:
        self.check(fused_gpt, "FusedBlock")

    def test_encoder(self) -> None:
        self.check(encoder, "TransformerEncoderLayer")


class TestCheckpoint(unittest.TestCase):
    """What rests is the model's own, whatever it is used as."""

    def test_names_shapes_and_a_round_trip(self) -> None:
        model, (ids, target), _ = fused_gpt()
        expected = {
            n: t.double()
            for n, t in model.double().state_dict().items()
        }
        plans = ({
            "tp": 2
        }, parallel.megatron(sequence_parallel=True)), ({
            "dp": 2
        }, parallel.fsdp())
        with tempfile.TemporaryDirectory() as folder:

            def save(rank: int) -> dict[str, torch.Tensor]:
                del rank
                module = spread(model, (ids, target), *plans[0], loss_fn=_loss)
                module(ids, target).backward()
                torch.optim.SGD(module.parameters(), 0.1).step()
                dcp.save(module.state_dict(), checkpoint_id=folder)
                return {n: whole(t) for n, t in module.state_dict().items()}

            def load(rank: int) -> dict[str, torch.Tensor]:
                del rank
                module = spread(model, (ids, target), *plans[1], loss_fn=_loss)
                scaletorch.load_checkpoint(module, folder)
                return {n: whole(t) for n, t in module.state_dict().items()}

            saved, found = run_ranks(2, save), run_ranks(2, load)
        _loss(model(ids), target).backward()
        for name, parameter in model.named_parameters():
            assert parameter.grad is not None
            stepped = expected[name] - 0.1 * parameter.grad
            torch.testing.assert_close(saved[0][name], stepped)
            for state in (*saved, *found):
                self.assertEqual(list(state), list(expected))
                self.assertTrue(torch.equal(state[name], saved[0][name]))


if __name__ == "__main__":
    unittest.main()
