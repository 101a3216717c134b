"""Peak memory of one rank of a transformer's training step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.analytic.configurations import (ALTERNATE, FSDP, FULL, NONE,
                                                  ZERO1, ZERO2, Configurations)
from planner.cost.analytic.operators import ELEMENT_BYTES
from planner.cost.analytic.pipeline import in_flight
from planner.cost.analytic.shares import (expert_parameters, expert_replicas,
                                          layer_parameters, stage_layers)
from planner.cost.analytic.transformer import Transformer

__all__ = [
    "StepMemory", "layer_activation_bytes", "reserved_bytes", "step_memory"
]

Number = Any
_FLOAT = 4
_WORKSPACE_BYTES = 64 * 2**20
"""Libraries' scratch memory, in the allocator from the first product on:
what published allocations have besides parameters and their state."""
_CONTEXT_BYTES = 1.5 * 2**30
_GAPS = 0.1
_FULLEST = 1.5
"""Rows of the rank whose experts have most, for each of the mean rank's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes of one rank, by kind; numbers or arrays.

    Parameters
    ----------
    parameters, gradients, optimizer : number or array
    activations : number or array
        Kept for the backward, of all micro-batches in flight.
    transient : number or array
        Of the layer or the loss that is being computed.
    gathered : number or array
        Whole parameters of layers whose parameters are sharded, and buckets
        that gradients and parameters are sent in.
    """

    parameters: Number
    gradients: Number
    optimizer: Number
    activations: Number
    transient: Number
    gathered: Number

    @property
    def total_bytes(self) -> Number:
        """What tensors take from the allocator at the peak."""
        return (self.parameters + self.gradients + self.optimizer +
                self.activations + self.transient + self.gathered)


def reserved_bytes(memory: StepMemory, *, context: bool | Number) -> Number:
    """What the allocator or, with `context`, the process takes of a device.

    Tensors of changing sizes leave gaps, and the driver's context and the
    buffers of collectives lie outside the allocator.
    """
    gaps = _GAPS * (memory.activations + memory.transient + memory.gathered)
    return memory.total_bytes + gaps + np.where(context, _CONTEXT_BYTES, 0.0)


def step_memory(model: Transformer, plan: Configurations, *,
                last_stage: bool | Number) -> StepMemory:
    """Memory of a rank in the first or in the last pipeline stage.

    Parameters
    ----------
    model : Transformer
    plan : Configurations
    last_stage : bool or array
        Which of the two. With one stage that is the same.
    """
    held = _held_parameters(model, plan)
    experts = expert_parameters(model, plan)
    dense = held - experts
    shards = plan.shards
    expert_shards = np.minimum(expert_replicas(plan), shards)

    def spread(least: int) -> Number:
        """Elements on one rank, divided from this kind of sharding on."""
        return np.where(np.greater_equal(plan.sharding, least),
                        dense / shards + experts / expert_shards, held)

    gradients, fresh = _gradient_bytes(plan)
    state = np.where(plan.frozen, 0, plan.master_bytes)
    layers = _activations(model, plan, last_stage)
    again, loss = _transients(model, plan, last_stage)
    # The loss comes before the first gradient, the last after the first
    # layer's backward; between them one grows as the other shrinks.
    later = spread(ZERO2) * fresh
    largest: Number = np.maximum(loss, again)
    at_loss = np.greater(layers + largest, later + again)
    gathered: Number = np.where(np.equal(plan.sharding, FSDP),
                                _gathered(model, plan, held), 0.0)
    transient: Number = np.where(at_loss, largest, again)
    return StepMemory(parameters=spread(FSDP) * plan.parameter_bytes,
                      gradients=spread(ZERO2) *
                      (gradients - np.where(at_loss, fresh, 0)),
                      optimizer=spread(ZERO1) * state,
                      activations=np.where(at_loss, layers, 0.0),
                      transient=transient + _WORKSPACE_BYTES,
                      gathered=gathered + plan.bucket_bytes)


def _gradient_bytes(plan: Configurations) -> tuple[Number, Number]:
    """Of one element of all gradients, and of those that no buffer holds."""
    held = np.where(np.equal(plan.held_gradient_bytes, 0), plan.gradient_bytes,
                    plan.held_gradient_bytes)
    once = np.equal(plan.num_microbatches, 1)
    trained = np.where(plan.frozen, 0, 1)
    return trained * held, trained * np.where(once, plan.fresh_gradient_bytes,
                                              0)


def _gathered(model: Transformer, plan: Configurations,
              held: Number) -> Number:
    """Two layers at once; with stages, all of one stage between its first
    and its last micro-batch, with their gradients."""
    layer = layer_parameters(model, plan)
    head = model.embedding_parameters / plan.tp
    passing = ELEMENT_BYTES * (2 * layer + head) + plan.gradient_bytes * layer
    return np.where(plan.pp > 1, held * (ELEMENT_BYTES + plan.gradient_bytes),
                    passing)


def _held_parameters(model: Transformer, plan: Configurations) -> Number:
    """Of the first or the last stage, which hold one table each."""
    layers = stage_layers(model, plan) * layer_parameters(model, plan)
    tied = np.asarray(model.tied, dtype=bool)
    one = np.equal(plan.pp, 1)
    tables = np.where(one & ~tied, 2, 1)
    return layers + tables * model.embedding_parameters / plan.tp


def layer_activation_bytes(model: Transformer, plan: Configurations) -> Number:
    """What one layer keeps of one micro-batch without recomputation.

    Korthikanti et al. 2022 (arXiv 2205.05198, equations 1 to 4), by sizes:
    inputs of norms and products, queries, keys, values, the output of
    attention, the MLP's inner values, masks of dropout, and the scores of
    unfused attention. Norms of several kernels keep a copy of 32 bits of
    what comes in, and gates of several the gate's function besides.
    """
    tokens = model.layer_tokens(plan.tokens(model.seq))
    between = tokens * model.hidden / plan.stored_tp
    heads = model.heads / plan.tp
    qkv = tokens * (heads *
                    (model.qk_dim + model.v_dim) + model.kv_heads / plan.tp *
                    (model.qk_dim + model.v_dim))
    routed = model.expert_layers / model.layers
    gated = np.asarray(model.gated, dtype=float)
    rows = _FULLEST * tokens * model.top_k
    inner = ((1 - routed) * tokens * model.ffn + routed *
             (rows * model.expert_ffn + tokens * model.shared_ffn)) / plan.tp
    # Ranks that divide each expert have all of its rows, the others a part.
    permuted = 2 * routed * rows * model.hidden * plan.expert_tp / plan.tp
    scores = np.where(plan.fused_attention, _FLOAT * tokens * heads,
                      _score_bytes(model, plan))
    share = 1 + model.cross_layers / model.layers
    eager = 1 - np.asarray(plan.fused_kernels, dtype=float)
    copies = eager * (2 * _FLOAT * between + ELEMENT_BYTES * gated * inner)
    return (copies + ELEMENT_BYTES * (4 * between + permuted) + share *
            (ELEMENT_BYTES * qkv + scores) + 2 * plan.dropout * between +
            ELEMENT_BYTES * inner * (2 + gated))


def _score_bytes(model: Transformer, plan: Configurations) -> Number:
    """Probabilities, and with dropout their mask and what is left."""
    each = ELEMENT_BYTES + np.asarray(plan.dropout) * (1 + ELEMENT_BYTES)
    return (each * model.layer_tokens(plan.tokens(model.seq)) * model.seq *
            model.heads / plan.tp)


def _kept_bytes(model: Transformer, plan: Configurations) -> Number:
    whole = layer_activation_bytes(model, plan)
    tokens = model.layer_tokens(plan.tokens(model.seq))
    entry = ELEMENT_BYTES * tokens * model.hidden / plan.stored_tp
    scores = np.where(plan.fused_attention, whole / 2,
                      _score_bytes(model, plan))
    return np.select([
        np.equal(plan.recompute, FULL),
        np.equal(plan.recompute, NONE),
        np.equal(plan.recompute, ALTERNATE)
    ], [entry, whole, _alternate_bytes(model, plan)], whole - scores)


def _alternate_bytes(model: Transformer, plan: Configurations) -> Number:
    """What a layer keeps whose every second product is made again: what
    comes in, the other products' results (queries, values, one of the MLP's
    inner ones, and the last) and that of attention."""
    tokens = model.layer_tokens(plan.tokens(model.seq))
    heads = model.heads * (model.qk_dim + model.v_dim)
    inner = heads + model.kv_heads * model.v_dim + model.ffn
    return ELEMENT_BYTES * tokens * (2 * model.hidden / plan.stored_tp +
                                     inner / plan.tp)


def _activations(model: Transformer, plan: Configurations,
                 last_stage: bool | Number) -> Number:
    count = in_flight(plan, last_stage)
    layers = stage_layers(model, plan)
    own = count * layers * _kept_bytes(model, plan)
    first = np.logical_or(np.logical_not(last_stage), np.equal(plan.pp, 1))
    entry = (ELEMENT_BYTES + plan.dropout) * plan.tokens(
        model.seq) * model.hidden / plan.stored_tp
    return own + np.where(first, count * entry, 0.0)


def _transients(model: Transformer, plan: Configurations,
                last_stage: bool | Number) -> tuple[Number, Number]:
    """One layer made again for its backward, and the loss where it is."""
    again = np.where(np.equal(plan.recompute, FULL),
                     layer_activation_bytes(model, plan), 0.0)
    tokens = model.target_tokens(plan.tokens(model.seq))
    logits = tokens * model.vocab / plan.logits_tp
    at_end = np.logical_or(last_stage, np.equal(plan.pp, 1))
    return again, np.where(at_end, logits * plan.loss_bytes, 0.0)
