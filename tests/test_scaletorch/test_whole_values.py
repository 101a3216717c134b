"""Numbers that a loop asks of parameters and gradients."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial

from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks
from tests.test_scaletorch.small import Mlp, batch, check_same, seeded


def logged(model: nn.Module) -> dict[str, Any]:
    """What loops log, as Python's numbers."""
    model(*batch())["loss"].backward()
    found: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        grad = parameter.grad
        assert grad is not None
        found |= {
            f"norm of {name}": parameter.norm().item(),
            f"largest of {name}": grad.abs().max().item(),
            f"least of {name}": float(grad.min()),
            f"mean of {name}": grad.mean().item(),
            f"square of {name}": float(grad.pow(2).sum()),
            f"zeros of {name}": int((parameter == 0).sum()),
            f"any of {name}": bool(grad.isnan().any()),
            f"all of {name}": bool(grad.isfinite().all()),
        }
    squares = sum(
        p.grad.pow(2).sum() for p in model.parameters() if p.grad is not None)
    return {
        n: torch.tensor(v, dtype=torch.float64)
        for n, v in {
            **found, "all squares": float(squares)
        }.items()
    }


class TestWholeValues(unittest.TestCase):

    def test_of_loops(self) -> None:
        for axes, plan in (({
                "dp": 2
        }, parallel.fsdp()), ({
                "dp": 2,
                "tp": 2
        }, parallel.fsdp() * parallel.megatron())):
            check_same(self, seeded(Mlp), batch(), logged, axes, plan)

    def test_other_meshes_are_left_alone(self) -> None:

        def work(rank: int) -> float:
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("mine", ))
            part = DTensor.from_local(torch.tensor(1.0 + rank), mesh,
                                      [Partial()])
            return part.item()

        self.assertEqual(run_ranks(2, work), [1.0, 2.0])


if __name__ == "__main__":
    unittest.main()
