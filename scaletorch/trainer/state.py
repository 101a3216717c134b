"""The state of a run as one flat dict, the same under any plan.

Keys are those of the model's ``state_dict()``, and ``optimizer:NAME:KEY``
for what the optimizer holds of the parameter NAME. Every rank has the
tensors that it holds, as DTensors, so that
``torch.distributed.checkpoint`` moves them between meshes and stages.
"""

from __future__ import annotations

import random
from typing import Any

import torch

from scaletorch.module import ParallelModule

__all__ = [
    "fill_optimizer", "random_state", "restore_random_state", "tensors_of"
]


def tensors_of(module: ParallelModule,
               optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Model and optimizer, to be written, or to be read into.

    Tied parameters have one state, under the name that the others are tied
    to, on whichever stage of a pipeline they are.
    """
    found = dict(module.state_dict())
    aliases = module.program.aliases
    for name, parameter in module.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            if isinstance(value, torch.Tensor):
                found[f"optimizer:{aliases.get(name, name)}:{key}"] = value
    return found


def fill_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Make the state that a first step would, with no effect on parameters.

    Parameters
    ----------
    optimizer : Optimizer
        Without gradients and without state.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


def random_state(device: torch.device) -> dict[str, Any]:
    """Of all generators that a step may draw from."""
    found = {"python": random.getstate(), "cpu": torch.get_rng_state()}
    if device.type != "cpu":
        module = torch.get_device_module(device.type)
        found["device"] = module.get_rng_state()
    return found


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put all generators where they were; an accelerator's only where
    there was one."""
    random.setstate(state["python"])
    torch.set_rng_state(state["cpu"])
    if device.type != "cpu" and "device" in state:
        torch.get_device_module(device.type).set_rng_state(state["device"])
