"""What research code does besides layers, for the wide sweep."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributions import Categorical, Normal
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from tests.model_zoo import BATCH, VOCABULARY, Example, example, tokens

__all__ = ["MODELS"]

MODELS: dict[str, Callable[[], Example]] = {}


def _listed(build: Callable[[], Example]) -> Callable[[], Example]:
    MODELS[build.__name__] = example(build)
    return build


class Fourier(nn.Module):
    """A layer of a Fourier neural operator."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 8, 5, 2) * 0.1)
        self.skip = nn.Conv1d(8, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        modes = torch.fft.rfft(x)
        kept = torch.zeros_like(modes)
        kept[..., :5] = torch.einsum("bim,iom->bom", modes[..., :5],
                                     torch.view_as_complex(self.weight))
        return torch.fft.irfft(kept, n=x.shape[-1]) + self.skip(x)


@_listed
def fourier_operator() -> Example:
    model = nn.Sequential(Fourier(), nn.GELU(), Fourier())
    x = torch.randn(BATCH, 8, 16)
    return model, (x, torch.randn_like(x)), F.mse_loss


class Quantized(nn.Module):
    """A code book, straight-through, whose statistics are buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(8, 8)
        self.codes = nn.Embedding(16, 8)
        self.register_buffer("counts", torch.zeros(16))
        self.register_buffer("means", torch.randn(16, 8))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        z = self.encoder(x)
        chosen = torch.cdist(z, self.codes.weight).argmin(-1)
        with torch.no_grad():
            hot = F.one_hot(chosen, 16).type_as(x)
            self.counts.mul_(0.9).add_(hot.sum(0), alpha=0.1)
            self.means.lerp_(hot.t() @ z, 0.1)
            self.steps += 1
        q = self.codes(chosen)
        loss = F.mse_loss(q, z.detach()) + 0.25 * F.mse_loss(z, q.detach())
        rebuilt = self.decoder(z + (q - z).detach())
        return {"loss": loss + F.mse_loss(rebuilt, x), "codes": chosen}


@_listed
def quantized_codes() -> Example:
    return Quantized(), (torch.randn(BATCH, 8), ), None


class RandomField(nn.Module):
    """A conditional random field: the forward algorithm under a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 16), \
            nn.Linear(16, 4)
        self.moves = nn.Parameter(torch.randn(4, 4) * 0.1)

    def forward(self, ids: torch.Tensor, tags: torch.Tensor,
                mask: torch.Tensor) -> torch.Tensor:
        assert mask[:, 0].all(), "empty sequences"
        scores = self.head(self.embedding(ids))
        alpha = scores[:, 0]
        for step in range(1, ids.shape[1]):
            ways = alpha.unsqueeze(2) + self.moves + scores[:, step, None]
            alpha = torch.where(mask[:, step, None], ways.logsumexp(1), alpha)
        own = scores.gather(2, tags.unsqueeze(2)).squeeze(2) * mask
        moves = self.moves[tags[:, :-1], tags[:, 1:]] * mask[:, 1:]
        return (alpha.logsumexp(1) - own.sum(1) - moves.sum(1)).mean()


@_listed
def random_field() -> Example:
    lengths = torch.tensor([6, 4, 3, 5])[:, None]
    inputs = (tokens(sequence=6), torch.randint(0, 4,
                                                (BATCH, 6)), torch.arange(6)
              < lengths)
    return RandomField(), inputs, None


class Messages(nn.Module):
    """A graph network over a list of edges."""

    def __init__(self) -> None:
        super().__init__()
        self.send, self.mix = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        source, target = edges
        sent = self.send(x[source])
        total = torch.zeros_like(x).index_add(0, target, sent)
        ones = torch.ones_like(target, dtype=x.dtype)
        degree = torch.zeros(len(x),
                             dtype=x.dtype).scatter_add(0, target, ones)
        most = torch.zeros_like(x).scatter_reduce(
            0, target[:, None].expand_as(sent), sent, "amax")
        return self.mix(total / degree.clamp(min=1)[:, None] + x) + most


@_listed
def edge_messages() -> Example:
    edges = torch.randint(0, 12, (2, 30))
    x = torch.randn(12, 8)
    return Messages(), (x, edges, torch.randn_like(x)), F.mse_loss


class Flow(nn.Module):
    """Affine couplings after a mixing matrix; the loss has its determinant."""

    def __init__(self) -> None:
        super().__init__()
        self.nets = nn.ModuleList(
            nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 8))
            for _ in range(4))
        self.mixing = nn.Parameter(torch.eye(8) + 0.1 * torch.randn(8, 8))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x, logdet = x @ self.mixing, torch.linalg.slogdet(self.mixing)[1]
        for net in self.nets:
            a, b = x.chunk(2, 1)
            scale, shift = net(a).chunk(2, 1)
            logdet = logdet + scale.tanh().sum(1)
            x = torch.cat([b * scale.tanh().exp() + shift, a], 1)
        return {"loss": (0.5 * x.square().sum(1) - logdet).mean(), "code": x}


@_listed
def coupling_flow() -> Example:
    return Flow(), (torch.randn(BATCH, 8), ), None


class Radiance(nn.Module):
    """Points along rays, encoded, and composed by their transmittance."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(27, 32), nn.ReLU(),
                                 nn.Linear(32, 4))
        self.register_buffer("bands", 2.0**torch.arange(4))

    def forward(self, origin: torch.Tensor,
                direction: torch.Tensor) -> torch.Tensor:
        depths = torch.linspace(0.1, 1.0, 8, dtype=origin.dtype)
        points = origin[:, None] + direction[:, None] * depths[:, None]
        waves = (points[..., None, :] * self.bands[:, None]).flatten(-2)
        field = self.net(torch.cat([points, waves.sin(), waves.cos()], -1))
        alpha = 1 - torch.exp(-field[..., 3].relu() * 0.1)
        passed = torch.cumprod(
            torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha], 1), 1)
        weights = alpha * passed[:, :-1]
        return (weights[..., None] * field[..., :3].sigmoid()).sum(1)


@_listed
def radiance_field() -> Example:
    inputs = torch.randn(BATCH, 3), torch.randn(BATCH, 3), torch.rand(BATCH, 3)
    return Radiance(), inputs, F.mse_loss


class Warped(nn.Module):
    """Sampling at places that a network chooses."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets, self.head = nn.Conv2d(3, 2, 3, padding=1), \
            nn.Conv2d(3, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        still = torch.eye(2, 3, dtype=x.dtype).expand(len(x), 2, 3)
        grid = F.affine_grid(still, list(x.shape), align_corners=False)
        grid = grid + 0.1 * self.offsets(x).permute(0, 2, 3, 1)
        return self.head(
            F.grid_sample(x, grid, align_corners=False, padding_mode="border"))


@_listed
def warped_images() -> Example:
    x = torch.randn(BATCH, 3, 8, 8)
    return Warped(), (x, torch.randn(BATCH, 4, 8, 8)), F.mse_loss


class Distilled(nn.Module):
    """A teacher without gradients, a centre and a queue in buffers."""

    def __init__(self) -> None:
        super().__init__()
        self.student = nn.Sequential(nn.Linear(8, 16), nn.GELU(),
                                     nn.Linear(16, 8))
        self.teacher = copy.deepcopy(self.student).requires_grad_(False)
        self.register_buffer("center", torch.zeros(8))
        self.register_buffer("queue", torch.randn(8, 16))

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found = self.student(a)
        with torch.no_grad():
            known = self.teacher(b)
            sharp = ((known - self.center) / 0.04).softmax(-1)
        self.center = self.center * 0.9 + known.mean(0) * 0.1
        unlike = found @ self.queue.clone()
        with torch.no_grad():
            self.queue.copy_(torch.cat([known.t(), self.queue[:, :-len(b)]],
                                       1))
        loss = -(sharp * F.log_softmax(found / 0.1, -1)).sum(-1).mean()
        return loss + unlike.logsumexp(-1).mean()


@_listed
def distilled() -> Example:
    return Distilled(), (torch.randn(BATCH, 8), torch.randn(BATCH, 8)), None


class Masked(nn.Module):
    """Masked tokens get an embedding of their own, in place."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(VOCABULARY, 8), \
            nn.Linear(8, VOCABULARY)
        self.mask = nn.Parameter(torch.zeros(8))

    def forward(self, ids: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        x[hidden] = self.mask
        return self.head(x.cumsum(1))


def _token_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


@_listed
def masked_tokens() -> Example:
    ids = tokens()
    return Masked(), (ids, torch.rand(ids.shape) > 0.6, ids), _token_loss


class Policy(nn.Module):
    """Distributions of actions, with checks of values on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 16), nn.Tanh())
        self.mean, self.logits = nn.Linear(16, 4), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, moved: torch.Tensor,
                chosen: torch.Tensor) -> torch.Tensor:
        if torch.isnan(x).any():
            raise ValueError("an observation is no number")
        body = self.body(x)
        move = Normal(self.mean(body), F.softplus(self.mean(body)) + 0.1)
        choice = Categorical(logits=self.logits(body))
        likely = move.log_prob(moved).sum(1) + choice.log_prob(chosen)
        return -(likely + 0.1 * choice.entropy()).mean()


@_listed
def policy() -> Example:
    inputs = (torch.randn(BATCH,
                          8), torch.randn(BATCH,
                                          4), torch.randint(0, 3, (BATCH, )))
    return Policy(), inputs, None


class Process(nn.Module):
    """A Gaussian process on learnt features."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Linear(3, 3, bias=False)
        self.noise = nn.Parameter(torch.tensor(-1.0))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        z = self.features(x)
        kernel = torch.exp(-0.5 * torch.cdist(z, z).square())
        kernel = kernel + self.noise.exp() * torch.eye(len(x), dtype=x.dtype)
        root = torch.linalg.cholesky(kernel)
        solved = torch.cholesky_solve(y[:, None], root).squeeze(1)
        return 0.5 * y @ solved + root.diagonal().log().sum()


@_listed
def gaussian_process() -> Example:
    return Process(), (torch.randn(8, 3), torch.randn(8)), None


@_listed
def normed_weights() -> Example:
    model: Any = nn.Sequential(
        parametrizations.spectral_norm(nn.Linear(16, 16)), nn.Tanh(),
        parametrizations.orthogonal(nn.Linear(16, 16)))
    return model, (torch.randn(BATCH, 16), torch.randn(BATCH, 16)), F.mse_loss
