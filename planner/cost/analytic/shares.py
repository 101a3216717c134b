"""How many parameters one rank holds."""

from __future__ import annotations

from typing import Any

import numpy as np

from planner.cost.analytic.configurations import Configurations
from planner.cost.analytic.transformer import Transformer

__all__ = [
    "expert_parameters", "expert_replicas", "layer_parameters", "stage_layers",
    "stage_parameters"
]

Number = Any


def layer_parameters(model: Transformer, plan: Configurations) -> Number:
    """Of the mean layer on one rank of tp and ep."""
    routed = model.expert_layers / model.layers
    dense = (model.attention_parameters + (1 - routed) * model.mlp_parameters +
             routed * model.shared_parameters) / plan.tp
    experts = routed * model.expert_parameters / (plan.ep * plan.expert_tp)
    return dense + experts + 4 * model.hidden


def stage_layers(model: Transformer, plan: Configurations) -> Number:
    """Layers of the largest stage: whole ones, in each of its chunks."""
    units = plan.pp * plan.chunks
    return np.ceil(model.layers / units) * plan.chunks


def stage_parameters(model: Transformer, plan: Configurations) -> Number:
    """Of the largest stage on one rank of tp, not sharded over data.

    Parameters
    ----------
    model : Transformer
    plan : Configurations

    Returns
    -------
    number or array
        The first stage has the embedding, the last a head; with one stage
        that is both, and one table if they are tied.
    """
    layers = stage_layers(model, plan) * layer_parameters(model, plan)
    tied = np.asarray(model.tied, dtype=bool)
    tables = np.where(np.equal(plan.pp, 1) & ~tied, 2, 1)
    return layers + tables * model.embedding_parameters / plan.tp


def expert_parameters(model: Transformer, plan: Configurations) -> Number:
    """Of the experts of one stage on one rank of ep and tp."""
    routed = model.expert_layers / model.layers * stage_layers(model, plan)
    return routed * model.expert_parameters / (plan.ep * plan.expert_tp)


def expert_replicas(plan: Configurations) -> Number:
    """Ranks of a stage that hold the same experts."""
    ranks = plan.dp * plan.cp * plan.tp
    return np.maximum(ranks / (plan.ep * plan.expert_tp), 1)
