"""DLRM: embedding bags and a dense tower that interact by products.

Source: Naumov et al., "Deep Learning Recommendation Model for
Personalization and Recommendation Systems", 2019; the size is that of the
MLPerf benchmark on Criteo's terabyte.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch.models.checks import check_positive
from scaletorch.models.examples import example_integers, example_values
from scaletorch.models.layers import Linear
from scaletorch.models.output import Output
from scaletorch.models.registry import register

__all__ = ["DLRM", "DLRMConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DLRMConfig:
    """The size of a DLRM.

    Parameters
    ----------
    rows : tuple of int
        Of each table.
    width : int
        Of an embedding.
    dense : int
        Dense features.
    bottom, top : tuple of int
        Widths of the hidden layers of the dense tower, which ends at
        `width`, and of the last tower, which ends at one number.
    bag : int
        Indices per table in the example inputs.
    """

    rows: tuple[int, ...]
    width: int
    dense: int
    bottom: tuple[int, ...]
    top: tuple[int, ...]
    bag: int = 1

    def __post_init__(self) -> None:
        check_positive(self, "width", "dense", "bag")
        if not self.rows or min(self.rows) < 1:
            raise ValueError("DLRMConfig.rows needs a table, and every table "
                             f"a row, got {self.rows!r}")


class Bag(nn.EmbeddingBag):
    """Sums rows; drawn by the number of rows, as the source does."""

    def __init__(self, rows: int, width: int) -> None:
        super().__init__(rows, width, mode="sum")

    def reset_parameters(self) -> None:
        bound = self.num_embeddings**-0.5
        nn.init.uniform_(self.weight, -bound, bound)


class Tower(nn.Module):
    """Products with biases, and a ReLU between any two."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Linear(a, b, bias=True, std=(2 / (a + b))**0.5)
            for a, b in zip(widths, widths[1:]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


class DLRM(nn.Module):
    """Predicts one logit, such as that of a click."""

    def __init__(self, config: DLRMConfig) -> None:
        super().__init__()
        self.config = config
        self.bags = nn.ModuleList(Bag(n, config.width) for n in config.rows)
        self.bottom = Tower(config.dense, *config.bottom, config.width)
        features = len(config.rows) + 1
        products = features * (features - 1) // 2
        self.top = Tower(config.width + products, *config.top, 1)

    def forward(self,
                dense: torch.Tensor,
                sparse: torch.Tensor,
                labels: torch.Tensor | None = None) -> Output:
        """The logit of each row, or the binary cross entropy.

        Parameters
        ----------
        dense : Tensor
            Of shape (batch, dense features).
        sparse : Tensor
            Of shape (batch, tables, indices per table).
        labels : Tensor, optional
            Of shape (batch,), from 0 to 1.
        """
        x = F.relu(self.bottom(dense))
        features = torch.stack(
            [x, *(bag(sparse[:, i]) for i, bag in enumerate(self.bags))], 1)
        products = features @ features.transpose(1, 2)
        count = features.shape[1]
        i, j = torch.triu_indices(count, count, 1, device=dense.device)
        logits = self.top(torch.cat([x, products[:, i, j]], 1)).squeeze(-1)
        if labels is None:
            return Output(logits=logits)
        return Output(loss=F.binary_cross_entropy_with_logits(logits, labels))

    def example_inputs(self,
                       batch_size: int = 2048) -> dict[str, torch.Tensor]:
        """Features and labels; indices are those of the smallest table."""
        config = self.config
        sparse = example_integers(self,
                                  (batch_size, len(config.rows), config.bag),
                                  min(config.rows))
        dense = example_values(self, (batch_size, config.dense))
        return {
            "dense": dense,
            "sparse": sparse,
            "labels": (dense[:, 0] > 0).to(dense.dtype)
        }


# The rows of MLPerf's training benchmark, capped at 40 million a table.
_CRITEO = (40_000_000, 39_060, 17_295, 7_424, 20_265, 3, 7_122, 1_543, 63,
           40_000_000, 3_067_956, 405_282, 10, 2_209, 11_938, 155, 4, 976, 14,
           40_000_000, 40_000_000, 40_000_000, 590_152, 12_973, 108, 36)

register(
    DLRM, {
        "dlrm-criteo":
        DLRMConfig(rows=_CRITEO,
                   width=128,
                   dense=13,
                   bottom=(512, 256),
                   top=(1024, 1024, 512, 256))
    })
