"""Training on a mesh gives what training alone gives."""

from __future__ import annotations

import copy
import unittest
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor.experimental import implicit_replication
from torch.nn import functional as F

import scaletorch
from scaletorch import parallel
from tests.test_scaletorch.small import (Mlp, Normed, TiedLM, batch,
                                         check_same, ids, images, seeded,
                                         whole)


def state_of(model: nn.Module) -> dict[str, Any]:
    return {n: whole(t) for n, t in model.state_dict().items()}


def train_everything(model: nn.Module) -> dict[str, Any]:
    """AdamW with clipping, then SGD with accumulation, two live tapes."""
    found: dict[str, Any] = {}
    optimizer: torch.optim.Optimizer = torch.optim.AdamW(model.parameters(),
                                                         lr=1e-2)
    for step in range(3):
        loss = model(*batch())["loss"]
        loss.backward()
        found[f"norm {step}"] = whole(
            scaletorch.clip_grad_norm_(model.parameters(), 0.1))
        optimizer.step()
        optimizer.zero_grad(set_to_none=step == 0)
        found[f"loss {step}"] = loss.detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for step in range(2):
        for rows in (8, 4):
            model(*batch(rows))["loss"].backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    first, second = model(*batch(8))["loss"], model(*batch(4))["loss"]
    second.backward()
    first.backward()
    found |= {
        f"gradient of {n}": whole(p.grad)
        for n, p in model.named_parameters()
    }
    for kind in (1.0, float("inf")):
        found[f"norm of order {kind}"] = whole(
            scaletorch.clip_grad_norm_(model.parameters(), 1.0, kind))
    return found | state_of(model)


class Patches(nn.Module):
    """With images in another order of memory, which its weight's gradient
    then has as well; of sizes that tensor parallelism can't divide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 2, stride=2)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        x = x.contiguous(memory_format=torch.channels_last)
        return {"loss": self.conv(x).square().mean()}


def picture() -> torch.Tensor:
    return torch.arange(192.0).sin().double().reshape(1, 3, 8, 8)


def train_fused(model: nn.Module) -> dict[str, Any]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, fused=True)
    for _ in range(3):
        model(picture())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    return state_of(model)


def averaged(model: nn.Module) -> dict[str, Any]:
    """A moving average beside the model, both run."""
    average = torch.optim.swa_utils.AveragedModel(
        model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.5))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        model(*batch())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        average.update_parameters(model)
    with torch.no_grad():
        found = {"average": average(*batch())["loss"]}
    found["loss"] = model(*batch())["loss"].detach()
    return found | {
        n: whole(t)
        for n, t in average.module.state_dict().items()
    }


class TestCopies(unittest.TestCase):

    def test_average(self) -> None:
        for axes, plan in (({
                "dp": 2
        }, parallel.fsdp()), ({
                "tp": 2
        }, parallel.megatron())):
            check_same(self, seeded(Mlp), batch(), averaged, axes, plan)

    def test_of_a_pipeline(self) -> None:

        def body(model: nn.Module) -> dict[str, Any]:
            other = copy.deepcopy(model)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.zero_()
            loss = other(*batch())["loss"]
            loss.backward()
            norm = nn.utils.clip_grad_norm_(other.parameters(), 0.1)
            return {"loss": loss.detach(), "norm": whole(norm)}

        check_same(self, seeded(Mlp), batch(), body, {"pp": 2},
                   parallel.pipeline(microbatches=2))


def regularised(model: nn.Module) -> dict[str, Any]:
    """A loop that adds a term of the parameters to the loss."""
    loss = model(*batch())["loss"]
    loss = loss + 1e-2 * sum(p.square().sum() for p in model.parameters())
    loss.backward()
    return {n: whole(p.grad) for n, p in model.named_parameters()}


def held_near(model: nn.Module) -> dict[str, Any]:
    """A loss of outputs, and a term with an ordinary tensor beside it."""
    weight = model.get_parameter("mix.weight")
    before = torch.ones(weight.shape, dtype=weight.dtype)
    with implicit_replication():
        loss = F.cross_entropy(model(ids()).flatten(0, 1), ids().flatten())
        (loss + (weight - before).square().mean()).backward()
    return {n: whole(p.grad) for n, p in model.named_parameters()}


class TestOptimizers(unittest.TestCase):

    def test_term_of_the_parameters(self) -> None:
        check_same(self, seeded(Mlp), batch(), regularised, {
            "dp": 2,
            "tp": 2
        },
                   parallel.fsdp() * parallel.megatron())

    def test_term_with_an_ordinary_tensor(self) -> None:
        # What lets them meet is one switch for all ranks that are threads.
        check_same(self, seeded(TiedLM), (ids(), ), held_near, {"dp": 1},
                   parallel.fsdp())

    def test_fused(self) -> None:
        """It goes through parameters and gradients side by side."""
        check_same(self, seeded(Patches), (picture(), ), train_fused,
                   {"tp": 2}, parallel.megatron())

    def test_one_axis(self) -> None:
        for plan in (parallel.ddp(), parallel.fsdp()):
            check_same(self, seeded(Mlp), batch(), train_everything, {"dp": 2},
                       plan)

    def test_two_axes(self) -> None:
        plan = parallel.fsdp() * parallel.megatron()
        check_same(self, seeded(Mlp), batch(), train_everything, {
            "dp": 2,
            "tp": 2
        }, plan)


def freeze_and_thaw(model: nn.Module) -> dict[str, Any]:
    found: dict[str, Any] = {}
    up = model.get_submodule("up")
    for step, free in enumerate((False, True, False)):
        up.requires_grad_(free)
        model(*batch())["loss"].backward()
        found |= {
            f"{step} {n}": None if p.grad is None else whole(p.grad)
            for n, p in model.named_parameters()
        }
        model.zero_grad()
    return found


def small_last_batches(model: nn.Module) -> dict[str, Any]:
    """Batches that do and do not divide over the ranks."""
    found: dict[str, Any] = {}
    for rows in (8, 6, 3, 1):
        output = model(*batch(rows))
        output["loss"].backward()
        found |= {f"{rows} {k}": v.detach() for k, v in output.items()}
    return found | {n: whole(p.grad) for n, p in model.named_parameters()}


def trained_normed(model: nn.Module) -> dict[str, Any]:
    """Running statistics, modes of parts, evaluation."""
    found: dict[str, Any] = {}
    first, second = model(*images(8)), model(*images(4))
    (first + second).backward()
    found |= {n: whole(p.grad) for n, p in model.named_parameters()}
    found |= {f"trained {n}": b.clone() for n, b in model.named_buffers()}
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.eval()
    found["frozen norm"] = model(*images(4)).detach()
    model.eval()
    with torch.no_grad():
        found["eval"] = model(*images(4))
    found["needs grad"] = found["eval"].requires_grad
    return found | {
        f"at last {n}": b.clone()
        for n, b in model.named_buffers()
    }


def own_loss(model: nn.Module) -> dict[str, Any]:
    """Logits out, the loss in the loop; tied weights; two terms."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(2):
        logits = model(ids())
        loss = F.cross_entropy(logits.flatten(0, 1), ids().flatten())
        (loss + 1e-2 * logits.square().mean()).backward()
        optimizer.step()
        optimizer.zero_grad()
    tied = model.get_parameter("embed.weight") is model.get_parameter(
        "head.weight")
    names = [n for n, _ in model.named_parameters()]
    return {
        "tied": tied,
        "names": names,
        "keys": list(model.state_dict()),
        "logits": model(ids()).detach()
    } | state_of(model)


class TestPrograms(unittest.TestCase):

    def test_freezing_is_seen(self) -> None:
        check_same(self, seeded(Mlp), batch(), freeze_and_thaw, {"dp": 2},
                   parallel.fsdp())

    def test_batches_of_other_sizes(self) -> None:
        check_same(self, seeded(Mlp), batch(), small_last_batches, {"dp": 2},
                   parallel.fsdp())

    def test_batch_norm(self) -> None:
        check_same(self, seeded(Normed), images(), trained_normed, {"dp": 2},
                   parallel.ddp())

    def test_loss_outside_of_the_model(self) -> None:
        for axes, plan in (({
                "dp": 2
        }, parallel.fsdp()), ({
                "tp": 2
        }, parallel.megatron())):
            check_same(self, seeded(TiedLM), (ids(), ), own_loss, axes, plan)

    def test_mixed_dtypes(self) -> None:
        torch.manual_seed(0)
        check_same(self,
                   Mixed(), (batch()[0], ),
                   one_step, {"dp": 2},
                   parallel.fsdp(),
                   close=2e-2)


class Mixed(nn.Module):
    """Parameters of three dtypes."""

    def __init__(self) -> None:
        super().__init__()
        self.low = nn.Linear(8, 8).bfloat16()
        self.norm = nn.LayerNorm(8)
        self.high = nn.Linear(8, 4).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.norm(self.low(x.bfloat16()).float())
        return self.high(hidden.double()).square().mean()


def one_step(model: nn.Module) -> dict[str, Any]:
    loss = model(batch()[0])
    loss.backward()
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    return {
        "loss": loss.detach()
    } | state_of(model) | {
        f"gradient of {n}": whole(p.grad)
        for n, p in model.named_parameters()
    }


if __name__ == "__main__":
    unittest.main()
