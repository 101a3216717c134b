"""What real processes of a pipeline run; imported by the processes."""

from __future__ import annotations

from typing import Any

import torch

import scaletorch
from planner.recipes import RECIPES
from tests.test_planner.test_pipeline.models import Tagger, tagger
from tests.test_scaletorch.small import seeded, spread, whole

__all__ = ["PLANS", "fail_alone", "trained"]

PLANS: dict[str, Any] = {
    "1f1b":
    RECIPES["pipeline"](microbatches=4),
    "zbv":
    RECIPES["pipeline"]("zbv", microbatches=4, chunks=2),
    "zbh1 * fsdp":
    (RECIPES["pipeline"]("zbh1", microbatches=2) * RECIPES["fsdp"]()),
}

State = dict[str, torch.Tensor]


def steps(model: Any) -> State:
    """The state after three steps, and the norms of gradients."""
    _, inputs, loss_fn = tagger()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    norms = []
    for _ in range(3):
        loss = (model(*inputs) if isinstance(model, scaletorch.ParallelModule)
                else loss_fn(model(inputs[0]), inputs[1]))
        loss.backward()
        norms.append(
            whole(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)))
        optimizer.step()
        optimizer.zero_grad()
    state = {n: whole(p) for n, p in model.named_parameters()}
    return state | {"norms": torch.stack(norms)}


def trained(rank: int, plan: str, axes: dict[str, int]) -> State:
    """What a rank of a pipeline ends with."""
    del rank
    torch.set_num_threads(1)
    return steps(_spread(plan, axes))


def fail_alone(rank: int) -> str:
    """One rank passes a batch that is not the others'."""
    torch.set_num_threads(1)
    module = _spread("1f1b", {"pp": 2})
    _, inputs, _ = tagger()
    try:
        module(*(x[:4 + 4 * rank] for x in inputs))
    except ValueError as error:
        return str(error)
    return ""


def _spread(plan: str, axes: dict[str, int]) -> scaletorch.ParallelModule:
    _, inputs, loss_fn = tagger()
    return spread(seeded(Tagger), inputs, axes, PLANS[plan], loss_fn=loss_fn)
