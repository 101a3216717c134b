"""Fed with their parts, ranks compute what the global batch gives."""

from __future__ import annotations

import math
import unittest
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from scaletorch import data, parallel
from scaletorch.dist import run_ranks
from scaletorch.feed import feed
from tests.test_scaletorch.small import seeded, spread, whole

CONFIG = {
    "kind": "random_tokens",
    "length": 20,
    "sequence_length": 8,
    "vocabulary_size": 24,
    "batch_size": 8
}


class Tagger(nn.Module):
    """A loss over tokens at their own places, in layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(24, 8)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
            for _ in range(2))
        self.head = nn.Linear(8, 24)

    def forward(self, tokens: torch.Tensor,
                labels: torch.Tensor) -> torch.Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = x + layer(x)
        return F.cross_entropy(self.head(x).flatten(0, 1), labels.flatten())


def alone() -> list[torch.Tensor]:
    """Losses of an epoch and a half on one device, and a last gradient."""
    model = seeded(Tagger)
    loader = data.build(CONFIG)
    found = [model(**batch) for batch in (*loader, *loader)]
    found[-1].backward()
    return [*found, model.get_parameter("layers.1.0.weight").grad]


def fed(plan: Any, axes: dict[str, int]) -> list[dict[str, Any]]:
    """The same on every rank, stopped after a batch and resumed."""

    def work(rank: int) -> dict[str, Any]:
        del rank
        loader = data.build(CONFIG)
        model = spread(seeded(Tagger), loader.example(), axes, plan)
        batches = feed(loader, model)
        first = next(iter(batches))
        found = [model(**first, inputs="local")]
        again = feed(data.build(CONFIG), model)
        again.load_state_dict(batches.state_dict())
        rest = [*again, *again]
        found += [model(**batch, inputs="local") for batch in rest]
        found[-1].backward()
        # Only the ranks of its stage hold it.
        weight = dict(model.named_parameters()).get("layers.1.0.weight")
        return {
            "losses": [x.detach() for x in found],
            "gradient": None if weight is None else whole(weight.grad),
            "tokens": [batch["tokens"] for batch in (first, *rest)]
        }

    return run_ranks(math.prod(axes.values()), work)


class TestFeed(unittest.TestCase):

    def same(self, plan: Any, axes: dict[str, int],
             shape: tuple[int, int]) -> list[list[torch.Tensor]]:
        """What ranks compute is what one device does; their tokens."""
        *losses, gradient = alone()
        ranks = fed(plan, axes)
        for found in ranks:
            pairs = list(zip(found["losses"], losses, strict=True))
            if found["gradient"] is not None:
                pairs.append((found["gradient"], gradient))
            for one, other in pairs:
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
            self.assertEqual({tuple(t.shape)
                              for t in found["tokens"]}, {shape})
        return [found["tokens"] for found in ranks]

    def test_data_and_tensor_parallel(self) -> None:
        tokens = self.same(parallel.ddp() * parallel.megatron(), {
            "dp": 2,
            "tp": 2
        }, (4, 8))
        batches = [b["tokens"] for b in data.build(CONFIG)]
        for a, b, c, d, batch in zip(*tokens, batches):
            self.assertTrue(torch.equal(torch.cat([a, c]), batch))
            self.assertTrue(torch.equal(torch.cat([b, d]), batch))

    def test_data_and_sequence(self) -> None:
        tokens = self.same(parallel.fsdp() * parallel.gather_kv(), {
            "fsdp": 2,
            "cp": 2
        }, (4, 4))
        batches = [b["tokens"] for b in data.build(CONFIG)]
        for a, b, c, d, batch in zip(*tokens, batches):
            rows = torch.cat([torch.cat([a, b], 1), torch.cat([c, d], 1)])
            self.assertTrue(torch.equal(rows, batch))

    def test_a_pipeline(self) -> None:
        plan = parallel.pipeline("1f1b", microbatches=2) * parallel.ddp()
        tokens = self.same(plan, {"pp": 2, "dp": 2}, (4, 8))
        for a, b, c, d in zip(*tokens, strict=True):
            self.assertTrue(torch.equal(a, c))
            self.assertTrue(torch.equal(b, d))

    def test_what_does_not_divide(self) -> None:

        def work(rank: int) -> str:
            del rank
            loader = data.build(CONFIG)
            model = spread(seeded(Tagger), loader.example(), {"dp": 2},
                           parallel.ddp())
            try:
                feed(data.build({**CONFIG, "batch_size": 5}), model)
            except ValueError as error:
                return str(error)
            return "nothing was raised"

        for text in run_ranks(2, work):
            self.assertRegex(
                text, r"divides dim 0 of tokens by 2, but it has the shape "
                r"\(5, 8\)")


if __name__ == "__main__":
    unittest.main()
