"""Parameters that the forward pass writes to."""

from __future__ import annotations

import copy
import unittest

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

import scaletorch
from planner.capture import reference
from planner.capture.capture import capture
from planner.ir.errors import CaptureError
from planner.recipes import RECIPES
from scaletorch.runtime.ranks import run_ranks
from tests.test_planner.test_capture.eager import check_capture


class Clamped(nn.Module):
    """Holds its weights to a range while it trains, as Gemma 3n does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            if self.training:
                layer.weight.data.clamp_(-0.3, 0.3)
            x = layer(x).tanh()
        return x.square().sum()


class Momentum(nn.Module):
    """A frozen encoder follows another one."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(4, 6), nn.Linear(4, 6)
        self.key.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            for q, k in zip(self.query.parameters(), self.key.parameters()):
                k.mul_(0.9).add_(q, alpha=0.1)
        return (self.query(x) - self.key(x)).square().sum()


class FromInputs(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.linear.weight.data.add_(x.mean())
        return self.linear(x).sum()


class ReadBefore(FromInputs):

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.linear(x)
        self.linear.weight.data.mul_(0.5)
        return (y + self.linear(x)).sum()


def rows() -> torch.Tensor:
    return torch.linspace(-1, 1, 16, dtype=torch.float64).view(4, 4)


def train(model: nn.Module) -> dict[str, torch.Tensor]:
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], lr=0.1)
    losses = []
    for _ in range(3):
        loss = model(rows())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.detach())
    state = {
        n: getattr(t, "full_tensor", lambda t=t: t)().clone()
        for n, t in model.state_dict().items()
    }
    return {"losses": torch.stack(losses), **state}


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind().double()


class TestWrites(unittest.TestCase):

    def test_captured(self) -> None:
        for kind in (Clamped, Momentum):
            with self.subTest(kind.__name__):
                program = check_capture(self, made(kind), (rows(), ))
                model = made(kind)
                model(rows())
                assert program.rewrites is not None
                _, new = reference.run(program,
                                       reference.model_values(made(kind)),
                                       (rows(), ))
                for name in program.rewrites.writes:
                    torch.testing.assert_close(
                        new[name], model.get_parameter(name.split(":")[1]))

    def test_trained(self) -> None:
        for kind in (Clamped, Momentum):
            # Threads that seed and draw at once would disturb each other.
            model, expected = made(kind), train(made(kind))
            for recipe, axis in (("fsdp", "dp"), ("megatron", "tp")):

                def work(rank: int,
                         model: nn.Module = model,
                         recipe: str = recipe,
                         axis: str = axis) -> dict[str, torch.Tensor]:
                    del rank
                    return train(
                        scaletorch.auto_parallelize(
                            copy.deepcopy(model),
                            init_device_mesh("cpu", (2, ),
                                             mesh_dim_names=(axis, )),
                            example_inputs=(rows(), ),
                            plan=RECIPES[recipe](),
                            cluster="cpu-gloo"))

                with self.subTest(f"{kind.__name__} {recipe}"):
                    for found in run_ranks(2, work):
                        for name, tensor in expected.items():
                            torch.testing.assert_close(found[name], tensor)

    def test_what_else_is_written_is_refused(self) -> None:
        for kind, why in ((FromInputs, "what follows from inputs"),
                          (ReadBefore, "after the old one was read")):
            with self.subTest(kind.__name__), self.assertRaisesRegex(
                    CaptureError, f"linear.weight in place .*{why}"):
                capture(made(kind), (rows(), ))


if __name__ == "__main__":
    unittest.main()
