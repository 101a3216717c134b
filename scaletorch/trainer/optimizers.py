"""Optimizers of torch over the parameters of a parallel module."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from scaletorch.trainer.config import OptimizerConfig

__all__ = ["OPTIMIZERS", "build_optimizer", "set_learning_rate"]

Groups = list[dict[str, object]]


def _adamw(groups: Groups, lr: float, config: OptimizerConfig,
           fused: bool) -> torch.optim.Optimizer:
    first, second = config.betas
    return torch.optim.AdamW(groups,
                             lr=lr,
                             betas=(first, second),
                             eps=config.epsilon,
                             fused=fused or None)


def _sgd(groups: Groups, lr: float, config: OptimizerConfig,
         fused: bool) -> torch.optim.Optimizer:
    # DTensors have no fused kernel of it.
    del fused
    return torch.optim.SGD(groups, lr=lr, momentum=config.momentum)


OPTIMIZERS: dict[str, Callable[[Groups, float, OptimizerConfig, bool],
                               torch.optim.Optimizer]] = {
                                   "adamw": _adamw,
                                   "sgd": _sgd,
                               }
"""By the names of ``OptimizerConfig.name``."""


def build_optimizer(module: nn.Module, config: OptimizerConfig,
                    lr: float) -> torch.optim.Optimizer:
    """An optimizer of the parameters that this rank holds.

    Vectors and scalars (norms, biases) do not decay.

    Parameters
    ----------
    module : nn.Module
    config : OptimizerConfig
        With ``fused`` torch's fused kernel is taken where it has one.
    lr : float
        The learning rate, before the schedule scales it.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.dim() >= 2]
    others = [p for p in trained if p.dim() < 2]
    groups: Groups = [{
        "params": params,
        "weight_decay": decay
    } for params, decay in ((matrices, config.weight_decay), (others, 0.0))
                      if params]
    build = OPTIMIZERS[config.name]
    if config.fused:
        try:
            return build(groups, lr, config, True)
        except RuntimeError:
            pass  # torch has no such kernel for the device or the dtype
    return build(groups, lr, config, False)


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The rate of the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
