"""Plain torch modules for the wide sweep."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from tests.model_zoo import BATCH, VOCABULARY, Example, example, tokens

__all__ = ["MODELS"]

MODELS: dict[str, Callable[[], Example]] = {}


def _listed(build: Callable[[], Example]) -> Callable[[], Example]:
    MODELS[build.__name__] = example(build)
    return build


def _token_loss(output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(output.flatten(0, -2), target.flatten())


class Recurrent(nn.Module):
    """A language model of any recurrent layer."""

    def __init__(self, kind: type[nn.RNNBase], **settings: bool) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.rnn = kind(16, 16, 2, batch_first=True, **settings)
        width = 32 if settings.get("bidirectional") else 16
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(self.rnn(self.embedding(ids))[0])


@_listed
def gru() -> Example:
    return Recurrent(nn.GRU), (tokens(), tokens()), _token_loss


@_listed
def elman() -> Example:
    return Recurrent(nn.RNN), (tokens(), tokens()), _token_loss


@_listed
def bidirectional_lstm() -> Example:
    model = Recurrent(nn.LSTM, bidirectional=True)
    return model, (tokens(), tokens()), _token_loss


class CellLM(nn.Module):
    """A cell unrolled by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.cell = nn.LSTMCell(16, 16)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embedding(ids)
        state = x.new_zeros(len(ids), 16), x.new_zeros(len(ids), 16)
        outputs = []
        for step in x.unbind(1):
            state = self.cell(step, state)
            outputs.append(state[0])
        return self.head(torch.stack(outputs, 1))


@_listed
def lstm_cell() -> Example:
    return CellLM(), (tokens(), tokens()), _token_loss


class Attend(nn.Module):
    """Sequence to sequence: GRUs with additive attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.encoder = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(16 + 32, 16)
        self.query, self.key = nn.Linear(16, 16), nn.Linear(32, 16)
        self.score, self.head = nn.Linear(16, 1), nn.Linear(16, VOCABULARY)

    def forward(self, source: torch.Tensor,
                target: torch.Tensor) -> torch.Tensor:
        memory, _ = self.encoder(self.embedding(source))
        keys = self.key(memory)
        hidden = torch.zeros_like(keys[:, 0])
        outputs = []
        for step in self.embedding(target).unbind(1):
            query = self.query(hidden).unsqueeze(1)
            weights = self.score(torch.tanh(query + keys)).softmax(1)
            context = (weights * memory).sum(1)
            hidden = self.cell(torch.cat([step, context], -1), hidden)
            outputs.append(self.head(hidden))
        return torch.stack(outputs, 1)


@_listed
def seq2seq() -> Example:
    return Attend(), (tokens(sequence=6), tokens(sequence=5),
                      tokens(sequence=5)), _token_loss


class CausalEncoder(nn.Module):
    """``nn.TransformerEncoder`` with a causal mask, before norms."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(32,
                                           4,
                                           64,
                                           0.0,
                                           batch_first=True,
                                           norm_first=True)
        self.embedding = nn.Embedding(VOCABULARY, 32)
        self.encoder = nn.TransformerEncoder(layer,
                                             2,
                                             enable_nested_tensor=False)
        self.head = nn.Linear(32, VOCABULARY)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(ids.shape[1])
        hidden = self.encoder(self.embedding(ids), mask=mask, is_causal=True)
        return self.head(hidden)


@_listed
def causal_encoder() -> Example:
    return CausalEncoder(), (tokens(), tokens()), _token_loss


class NanoGPT(nn.Module):
    """Attention by hand, with the mask in a buffer and tied weights."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, 32), \
            nn.Embedding(16, 32)
        self.blocks = nn.ModuleList(NanoBlock() for _ in range(3))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Linear(32, VOCABULARY, bias=False)
        self.head.weight = self.token.weight

    def forward(self, ids: torch.Tensor,
                targets: torch.Tensor) -> dict[str, torch.Tensor]:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.token(ids) + self.place(places)
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return {"logits": logits, "loss": _token_loss(logits, targets)}


class NanoBlock(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.Linear(32, 128), nn.GELU(),
                                 nn.Linear(128, 32))
        self.register_buffer("mask", torch.tril(torch.ones(16, 16)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        heads = [
            t.view(batch, length, 4, 8).transpose(1, 2)
            for t in self.qkv(self.norm1(x)).split(width, 2)
        ]
        scores = heads[0] @ heads[1].transpose(-2, -1) / 8**0.5
        scores = scores.masked_fill(self.mask[:length, :length] == 0,
                                    float("-inf"))
        mixed = (scores.softmax(-1) @ heads[2]).transpose(1, 2)
        x = x + self.out(mixed.contiguous().view(batch, length, width))
        return x + self.mlp(self.norm2(x))


@_listed
def nano_gpt() -> Example:
    return NanoGPT(), (tokens(), tokens()), None


class DenseExperts(nn.Module):
    """A mixture of experts as dense products."""

    def __init__(self) -> None:
        super().__init__()
        self.router = nn.Linear(16, 4)
        self.up = nn.Parameter(torch.randn(4, 16, 32) * 0.1)
        self.down = nn.Parameter(torch.randn(4, 32, 16) * 0.1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = self.router(x).softmax(-1)
        top, index = gates.topk(2)
        gates = torch.zeros_like(gates).scatter(-1, index, top)
        hidden = torch.einsum("btd,edf->btef", x, self.up).relu()
        return torch.einsum("btef,efd,bte->btd", hidden, self.down, gates)


@_listed
def dense_experts() -> Example:
    model = nn.Sequential(DenseExperts(), nn.LayerNorm(16), DenseExperts())
    x = torch.randn(BATCH, 8, 16)
    return model, (x, torch.randn_like(x)), F.mse_loss


class GraphNet(nn.Module):
    """Graph convolution over a dense, normalised adjacency."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Linear(a, b) for a, b in ((8, 16), (16, 16), (16, 4)))

    def forward(self, x: torch.Tensor, edges: torch.Tensor) -> torch.Tensor:
        edges = edges + torch.eye(edges.shape[-1], dtype=x.dtype)
        scale = edges.sum(-1).rsqrt()
        edges = scale.unsqueeze(-1) * edges * scale.unsqueeze(-2)
        for layer in self.layers[:-1]:
            x = torch.bmm(edges, layer(x)).relu()
        return self.layers[-1](x).mean(1)


@_listed
def graph_net() -> Example:
    edges = (torch.rand(BATCH, 10, 10) > 0.7).float()
    inputs = (torch.randn(BATCH, 10, 8), edges, torch.randint(0, 4, (BATCH, )))
    return GraphNet(), inputs, F.cross_entropy


class VAE(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(32, 16), nn.ReLU())
        self.mean, self.spread = nn.Linear(16, 4), nn.Linear(16, 4)
        self.decoder = nn.Sequential(nn.Linear(4, 16), nn.ReLU(),
                                     nn.Linear(16, 32))

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.encoder(x)
        mean, spread = self.mean(hidden), self.spread(hidden)
        code = mean + torch.randn_like(mean) * (0.5 * spread).exp()
        rebuilt = self.decoder(code)
        prior = -0.5 * (1 + spread - mean.pow(2) - spread.exp()).sum(1)
        return {"loss": F.mse_loss(rebuilt, x) + prior.mean(), "code": code}


@_listed
def vae() -> Example:
    return VAE(), (torch.randn(BATCH, 32), ), None


class DiTBlock(nn.Module):
    """A diffusion transformer's block: norms shifted by the condition."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(32, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(32, elementwise_affine=False)
        self.attention = nn.MultiheadAttention(32, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(32, 64), nn.GELU("tanh"),
                                 nn.Linear(64, 32))
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(32, 192))

    def forward(self, x: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        a, b, g, d, e, h = self.condition(c).unsqueeze(1).chunk(6, -1)
        y = self.norm1(x) * (1 + a) + b
        x = x + g * self.attention(y, y, y, need_weights=False)[0]
        return x + h * self.mlp(self.norm2(x) * (1 + d) + e)


class DiT(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.head = nn.Conv2d(3, 32, 8, 8), nn.Linear(32, 192)
        self.blocks = nn.ModuleList(DiTBlock() for _ in range(3))

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        steps = torch.exp(-torch.arange(16, dtype=x.dtype) / 4)
        angles = time[:, None] * steps
        condition = torch.cat([angles.sin(), angles.cos()], -1)
        hidden = self.patch(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            hidden = block(hidden, condition)
        pixels = self.head(hidden).view(len(x), 4, 4, 3, 8, 8)
        return torch.einsum("bhwcpq->bchpwq", pixels).reshape(x.shape)


@_listed
def dit() -> Example:
    x = torch.randn(BATCH, 3, 32, 32)
    return DiT(), (x, torch.rand(BATCH), torch.randn_like(x)), F.mse_loss


class Siamese(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Sequential(nn.Linear(16, 32), nn.ReLU(),
                                   nn.Linear(32, 8))

    def forward(self, a: torch.Tensor,
                b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return F.normalize(self.tower(a), dim=-1), F.normalize(self.tower(b),
                                                               dim=-1)


def _contrastive(pair: tuple[torch.Tensor, torch.Tensor],
                 labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(pair[0] @ pair[1].t() / 0.1, labels)


@_listed
def siamese() -> Example:
    inputs = (torch.randn(BATCH, 16), torch.randn(BATCH,
                                                  16), torch.arange(BATCH))
    return Siamese(), inputs, _contrastive
