"""The norm over any mix of placements is the single-device norm."""

from __future__ import annotations

import math
import unittest
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import (DTensor, Replicate, Shard,
                                      distribute_tensor)

from scaletorch import clip_grad_norm_
from scaletorch.runtime.ranks import run_ranks

AXES = ("dp", "tp")
MIXES = ([Shard(0), Replicate()], [Replicate(), Shard(1)],
         [Shard(0), Shard(1)], [Shard(0),
                                Shard(0)], [Replicate(),
                                            Replicate()])


def single() -> list[nn.Parameter]:
    made = []
    for number in range(len(MIXES)):
        parameter = nn.Parameter(torch.zeros(8, 4, dtype=torch.float64))
        parameter.grad = torch.arange(32.0, dtype=torch.float64).reshape(
            8, 4) - number
        made.append(parameter)
    return made


def clipped(rank: int, kind: float) -> tuple[float, list[torch.Tensor]]:
    del rank
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=AXES)
    parameters: list[Any] = []
    for parameter, mix in zip(single(), MIXES, strict=True):
        spread = nn.Parameter(distribute_tensor(parameter.detach(), mesh, mix))
        assert parameter.grad is not None
        spread.grad = distribute_tensor(parameter.grad, mesh, mix)
        parameters.append(spread)
    norm = clip_grad_norm_(parameters, 2.0, kind)
    assert not isinstance(norm, DTensor)
    return float(norm), [p.grad.full_tensor() for p in parameters]


class TestClip(unittest.TestCase):

    def test_all_placements_together(self) -> None:
        for kind in (1.0, 2.0, 3.0, math.inf):
            expected = single()
            norm = torch.nn.utils.clip_grad_norm_(expected, 2.0, kind)
            for found, grads in run_ranks(4, clipped, kind):
                self.assertAlmostEqual(found, float(norm), places=9)
                for grad, parameter in zip(grads, expected, strict=True):
                    torch.testing.assert_close(grad, parameter.grad)

    def test_plain_tensors(self) -> None:
        found, expected = single(), single()
        self.assertEqual(float(clip_grad_norm_(iter(found), 1e9)),
                         float(torch.nn.utils.clip_grad_norm_(expected, 1e9)))
        torch.testing.assert_close(found[0].grad, expected[0].grad)
        self.assertEqual(float(clip_grad_norm_([], 1.0)), 0.0)

    def test_not_finite(self) -> None:
        parameter = nn.Parameter(torch.zeros(2))
        parameter.grad = torch.tensor([1.0, float("nan")])
        with self.assertRaisesRegex(RuntimeError, "total norm of order 2.0 "
                                    "is nan"):
            clip_grad_norm_(parameter, 1.0, error_if_nonfinite=True)


if __name__ == "__main__":
    unittest.main()
