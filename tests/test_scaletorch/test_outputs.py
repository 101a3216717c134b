"""Outputs that stay sharded."""

from __future__ import annotations

import unittest
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

import scaletorch
from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks
from tests.model_zoo import MODELS


def _outputs(rank: int, model: Any, inputs: Any,
             loss_fn: Any) -> tuple[torch.Tensor, torch.Tensor]:
    del rank
    mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
    module = scaletorch.auto_parallelize(model,
                                         mesh,
                                         example_inputs=inputs,
                                         loss_fn=loss_fn,
                                         cluster="cpu-gloo",
                                         plan=parallel.ddp())
    whole = module(**inputs).logits
    result = module(**inputs, outputs="sharded")
    assert isinstance(result.logits, DTensor)
    assert result.logits.placements == (Shard(0), )
    assert result.logits.shape == whole.shape
    result.loss.backward()
    return whole.detach(), result.logits.full_tensor().detach()


class Twice(nn.Module):
    """Returns its loss under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = self.layer(x).square().mean()
        return {"loss": loss, "first_loss": loss}


class Outputs(unittest.TestCase):

    def test_a_loss_that_is_returned_twice(self) -> None:
        torch.manual_seed(0)
        model, x = Twice(), torch.randn(4, 4)

        def work(rank: int) -> torch.Tensor:
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
            module = scaletorch.auto_parallelize(model,
                                                 mesh,
                                                 example_inputs=(x, ),
                                                 cluster="cpu-gloo",
                                                 plan=parallel.ddp())
            result = module(x)
            result["loss"].backward()
            torch.testing.assert_close(result["first_loss"], result["loss"])
            grad = module.get_parameter("layer.weight").grad
            assert isinstance(grad, DTensor)
            return grad.full_tensor()

        found = run_ranks(2, work)
        model(x)["loss"].backward()
        for grad in found:
            torch.testing.assert_close(grad, model.layer.weight.grad)

    def test_logits_stay_sharded_and_gather_to_the_whole(self) -> None:
        for whole, gathered in run_ranks(2, _outputs, *MODELS["gpt2"]()):
            torch.testing.assert_close(whole, gathered, rtol=0, atol=0)

    def test_an_unknown_choice_is_refused(self) -> None:
        model, inputs, _ = MODELS["gpt2"]()

        def work(rank: int) -> None:
            mesh = init_device_mesh("cpu", (1, ), mesh_dim_names=("dp", ))
            module = scaletorch.auto_parallelize(model,
                                                 mesh,
                                                 example_inputs=inputs,
                                                 cluster="cpu-gloo",
                                                 plan=parallel.ddp())
            module(**inputs, outputs="lazy")

        with self.assertRaisesRegex(RuntimeError,
                                    'outputs must be "global" or "sharded"'):
            run_ranks(1, work)


if __name__ == "__main__":
    unittest.main()
