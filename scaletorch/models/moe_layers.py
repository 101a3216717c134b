"""Routers and experts: each token goes through a few of many layers."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from scaletorch.models.checks import check_divides, check_positive
from scaletorch.models.layers import GatedMlp, Linear

__all__ = ["Experts", "Mixture", "Router", "RouterConfig", "Routes"]

ROUTERS = ("softmax", "sigmoid")


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterConfig:
    """How tokens choose experts.

    Parameters
    ----------
    experts, active : int
        How many there are, and how many each token goes to.
    kind : {"softmax", "sigmoid"}
        Of the scores: over all experts (Jiang et al., "Mixtral of Experts",
        2024), or each for itself (DeepSeek-AI, "DeepSeek-V3", 2024).
    normalised : bool
        Whether the weights of a token's experts are made to add up to one.
    scale : float
        By which weights are multiplied.
    groups, active_groups : int
        Experts are chosen from this many of so many groups of experts: those
        whose two best scores add up to most.
    corrected : bool
        Whether a bias, which no gradient reaches, is added to the scores
        that are compared (not to the weights).
    correction_rate : float
        By how much a training pass moves the bias of each expert that got
        more, or less, than the mean.
    balance_weight : float
        Of the loss that is least where all experts get as much (Fedus et
        al., "Switch Transformers", 2022).
    z_weight : float
        Of the loss that keeps logits small (Zoph et al., "ST-MoE", 2022).
    """

    experts: int
    active: int
    kind: str = "softmax"
    normalised: bool = True
    scale: float = 1.0
    groups: int = 1
    active_groups: int = 1
    corrected: bool = False
    correction_rate: float = 0.0
    balance_weight: float = 0.01
    z_weight: float = 0.0

    def __post_init__(self) -> None:
        check_positive(self, "experts", "active", "groups", "active_groups")
        check_divides(self, "groups", "experts")
        if self.kind not in ROUTERS:
            raise ValueError(f"RouterConfig.kind must be one of "
                             f"{', '.join(ROUTERS)}, got {self.kind!r}")
        if self.active_groups > self.groups:
            raise ValueError(f"RouterConfig.active_groups = "
                             f"{self.active_groups} of {self.groups} groups")
        most = self.experts // self.groups * self.active_groups
        if self.active > most:
            raise ValueError(f"RouterConfig.active = {self.active}, but only "
                             f"{most} experts can be chosen from")
        if self.correction_rate and not self.corrected:
            raise ValueError("RouterConfig.correction_rate moves a bias that "
                             "is there only when corrected")


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Where tokens go.

    Parameters
    ----------
    index, weights : Tensor
        Of shape (tokens, active).
    penalty : Tensor
        The router's losses, a scalar.
    """

    index: torch.Tensor
    weights: torch.Tensor
    penalty: torch.Tensor


class Router(nn.Module):
    """Chooses experts by a product with a vector of each."""

    bias: torch.Tensor | None

    def __init__(self, width: int, config: RouterConfig) -> None:
        super().__init__()
        self.config = config
        self.gate = Linear(width, config.experts)
        self.register_buffer(
            "bias",
            torch.zeros(config.experts) if config.corrected else None)

    def reset_parameters(self) -> None:
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> Routes:
        """Routes of tokens of shape (tokens, width)."""
        config = self.config
        logits = self.gate(x)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        scores = wide.softmax(-1) if config.kind == "softmax" else \
            wide.sigmoid()
        index = self._chosen(scores.detach())
        weights = scores.gather(1, index)
        if config.normalised:
            weights = weights / weights.sum(-1, keepdim=True)
        with torch.no_grad():
            # Of no scores, so that its sum over parts of a batch is the load's.
            load = torch.zeros(config.experts,
                               dtype=scores.dtype,
                               device=scores.device).scatter_add(
                                   0, index.flatten(),
                                   torch.ones_like(weights).flatten())
        penalty = self._penalty(wide, scores, load / index.numel())
        if self.training and config.correction_rate:
            self._correct(load)
        return Routes(index=index,
                      weights=(weights * config.scale).to(x.dtype),
                      penalty=penalty)

    def _chosen(self, scores: torch.Tensor) -> torch.Tensor:
        config = self.config
        if self.bias is not None:
            scores = scores + self.bias
        if config.groups > 1:
            groups = scores.unflatten(1, (config.groups, -1))
            best = groups.topk(min(2, groups.shape[-1]), -1).values.sum(-1)
            kept = torch.zeros_like(best).scatter(
                1,
                best.topk(config.active_groups, -1).indices, 1.0)
            scores = groups.masked_fill(
                kept.unsqueeze(-1) == 0, float("-inf")).flatten(1)
        return scores.topk(config.active, -1).indices

    def _penalty(self, logits: torch.Tensor, scores: torch.Tensor,
                 share: torch.Tensor) -> torch.Tensor:
        """Of all tokens: means of scores meet shares of tokens."""
        config = self.config
        if config.kind == "sigmoid":
            scores = scores / scores.sum(-1, keepdim=True)
        balance = config.experts * (scores.mean(0) * share).sum()
        penalty = config.balance_weight * balance
        if config.z_weight:
            penalty = penalty + config.z_weight * logits.logsumexp(
                -1).square().mean()
        return penalty

    @torch.no_grad()
    def _correct(self, load: torch.Tensor) -> None:
        assert self.bias is not None
        step = self.config.correction_rate * torch.sign(load.mean() - load)
        self.bias.add_(step.to(self.bias.dtype))


class Experts(nn.Module):
    """Gated layers side by side, one operator for all of them.

    The rows of gate and value take turns in `gate_up`, so that it shards
    by columns of the hidden layer as well as by expert.
    """

    def __init__(self,
                 count: int,
                 width: int,
                 hidden_width: int,
                 *,
                 std: float = 0.02) -> None:
        super().__init__()
        self.std = std
        self.gate_up = nn.Parameter(torch.empty(count, 2 * hidden_width,
                                                width))
        self.down = nn.Parameter(torch.empty(count, width, hidden_width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.gate_up, std=self.std)
        nn.init.normal_(self.down, std=self.std)

    def forward(self, x: torch.Tensor, routes: Routes) -> torch.Tensor:
        # Registered by the package, which is loaded before its models.
        return torch.ops.scaletorch.experts(x, routes.index, routes.weights,
                                            self.gate_up, self.down, None,
                                            None, "silu", "pairs")


class Mixture(nn.Module):
    """A router, its experts, and those that all tokens go through.

    Parameters
    ----------
    width, hidden_width : int
        Of tokens, and between an expert's products.
    router : RouterConfig
    shared : int
        Experts of all tokens, computed as one.
    """

    def __init__(self, width: int, hidden_width: int, router: RouterConfig, *,
                 shared: int) -> None:
        super().__init__()
        self.router = Router(width, router)
        self.experts = Experts(router.experts, width, hidden_width)
        self.shared = GatedMlp(width, shared *
                               hidden_width) if shared else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The layer's output for (batch, sequence, width), and a penalty."""
        tokens = x.flatten(0, 1)
        routes = self.router(tokens)
        out = self.experts(tokens, routes).view(x.shape)
        if self.shared is not None:
            out = out + self.shared(x)
        return out, routes.penalty.to(x.dtype)
