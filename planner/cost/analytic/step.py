"""Time of one training step of a transformer under a plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from planner.cost.analytic import operator_time
from planner.cost.analytic.attention import attention_core
from planner.cost.analytic.configurations import (ALTERNATE, DDP, FSDP, FULL,
                                                  SELECTIVE, Configurations)
from planner.cost.analytic.ends import embedding, head
from planner.cost.analytic.hardware import Hardware
from planner.cost.analytic.layers import alternate, dense_layer, expert_layer
from planner.cost.analytic.operators import ELEMENT_BYTES, Operator
from planner.cost.analytic.pipeline import pipeline_time_s
from planner.cost.analytic.shares import (layer_parameters, stage_layers,
                                          stage_parameters)
from planner.cost.analytic.state import accumulation_s, optimizer_s
from planner.cost.analytic.transformer import Transformer
from planner.cost.experts import COUNT_BYTES
from planner.cost.queue import queued_s

__all__ = ["StepTime", "step_time"]

Number = Any
_FLOAT = 4
_TOKEN_SUMS = 3
"""Over tp, of numbers of each token: a loss needs the largest logit, the sum
of exponentials and the target's logit."""
_BACKWARD = 0.6
"""Of a micro-batch's time, where layers are recomputed or not."""
_LAYER_TENSORS = 9
"""Parameters of a layer: of five products, of two norms, and two biases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTime:
    """Seconds of one step on the slowest rank, by part.

    Parameters
    ----------
    compute_s : number or array
        Kernels of all micro-batches of one stage, recomputation included.
    host_s : number or array
        By how much the host's launches make that and the collectives longer.
    tensor_s, context_s, expert_s : number or array
        Collectives inside layers that nothing hides.
    pipeline_s : number or array
        Sends between stages, and waiting for them at both ends.
    data_s : number or array
        Collectives of gradients and parameters that nothing hides.
    optimizer_s : number or array
    """

    compute_s: Number
    host_s: Number
    tensor_s: Number
    context_s: Number
    expert_s: Number
    pipeline_s: Number
    data_s: Number
    optimizer_s: Number

    @property
    def time_s(self) -> Number:
        """The step."""
        return (self.compute_s + self.host_s + self.tensor_s + self.context_s +
                self.expert_s + self.pipeline_s + self.data_s +
                self.optimizer_s)


def step_time(model: Transformer, plan: Configurations,
              hardware: Hardware) -> StepTime:
    """Price steps; every argument holds arrays of one length, or numbers.

    Parameters
    ----------
    model : Transformer
    plan : Configurations
    hardware : Hardware
    """
    parts = _Parts(model, plan, hardware)
    count = plan.num_microbatches
    stretch = parts.stretch
    layer_s = stretch * parts.layers_s()
    tensor_s, context_s, expert_s = (stretch * parts.tensor_s(),
                                     stretch * parts.context_s(),
                                     stretch * parts.expert_s())
    ends_s = np.where(parts.even, parts.head_s(), 0.0)
    end_sums_s = np.where(parts.even, parts.end_sums_s(), 0.0)
    device_s = layer_s + tensor_s + context_s + expert_s
    host_s = stretch * parts.host_s()
    order = hardware.rates.queue_order
    stage_s = queued_s(device_s, host_s, order)
    # The loss is computed between the forward and the backward of all
    # layers, so neither can hide what the other leaves idle.
    end_queue_s = np.where(
        parts.even,
        queued_s(ends_s + end_sums_s,
                 parts.end_calls() * parts.dispatch_s, order), 0.0)
    pipeline_s = pipeline_time_s(plan, stage_s, parts.send_s())
    return StepTime(compute_s=count * (layer_s + ends_s),
                    host_s=plan.step_host_s + count *
                    (stage_s - device_s + end_queue_s - ends_s - end_sums_s),
                    tensor_s=count * (tensor_s + end_sums_s),
                    context_s=count * context_s,
                    expert_s=count * expert_s,
                    pipeline_s=pipeline_s - count * stage_s,
                    data_s=parts.data_s(stage_s),
                    optimizer_s=optimizer_s(model, plan, hardware.rates))


class _Parts:
    """The parts of a step, for one micro-batch on one stage."""

    def __init__(self, model: Transformer, plan: Configurations,
                 hardware: Hardware) -> None:
        self.model = model
        self.plan = plan
        self.hardware = hardware
        self.dense = (model.layers - model.expert_layers) / plan.pp
        self.routed = model.expert_layers / plan.pp
        self.layers = model.layers / plan.pp
        # Stages of whole layers: where these don't divide, the largest has
        # more than the mean, and the last leaves some to make up for the
        # head.
        whole = stage_layers(model, plan)
        self.even = np.equal(whole, self.layers)
        self.stretch = whole / self.layers
        self.again = np.where(np.equal(plan.recompute, FULL), 1.0, 0.0)
        self.stopped = np.where(plan.stops_early, self.again, 0.0)
        self.dispatch_s = hardware.rates.dispatch_s * plan.host_factor

    def _run_s(self, ops: list[Operator], *, backward: bool) -> Number:
        return operator_time.time_s(ops,
                                    self.hardware.rates,
                                    self.plan,
                                    backward=backward)

    def _passes_s(self, ops: list[Operator]) -> Number:
        forward_s = self._run_s(ops, backward=False)
        backward_s = self._run_s(ops, backward=True)
        return (1 + self.again) * forward_s + backward_s

    def layers_s(self) -> Number:
        """All layers of a stage, forward, backward and recomputed."""
        model, plan = self.model, self.plan
        dense = dense_layer(model, plan)
        total_s = self.dense * (self._passes_s(dense) - self.stopped *
                                self._run_s(dense[-1:], backward=False))
        if np.any(model.expert_layers):
            total_s = total_s + self.routed * self._passes_s(
                expert_layer(model, plan))
        core = attention_core(model, plan)
        selective = np.equal(plan.recompute, SELECTIVE) * self.layers
        halves = np.equal(plan.recompute, ALTERNATE) * self.layers
        return (total_s + selective * self._run_s(core, backward=False) +
                halves * self._run_s(alternate(dense), backward=False) +
                accumulation_s(self.layers * layer_parameters(model, plan),
                               plan, self.hardware.rates))

    def host_s(self) -> Number:
        """What the host takes to launch all layers of a stage."""
        model, plan = self.model, self.plan
        count = self.dense * self._launches(dense_layer(model, plan))
        if np.any(model.expert_layers):
            count = count + self.routed * self._launches(
                expert_layer(model, plan))
        count = count + self.layers * self._tensor_calls()
        return count * self.dispatch_s

    def _tensor_calls(self) -> Number:
        """Collectives of tensor parallelism in one layer."""
        plan, passes = self.plan, 2 + self.again
        # As in tensor_s: gathered and scattered, and gathered again.
        split = passes * 4 + 2 * (1 - self.again)
        calls = np.where(plan.sequence_parallel, split, passes * 2)
        return np.where(np.greater(plan.tp, 1), calls, 0.0)

    def end_calls(self) -> Number:
        """What the host launches beside the layers."""
        model, plan = self.model, self.plan
        count = self._both_ways(head(model, plan)) + np.where(
            np.equal(plan.pp, 1), self._both_ways(embedding(model, plan)), 0.0)
        sums = self._whole_sums() + _TOKEN_SUMS
        return count + np.where(np.greater(plan.tp, 1), sums, 0)

    def _whole_sums(self) -> Number:
        """Sums of activations over tp: the gradient that the head gives,
        and what the embedding gives where it is the same stage."""
        return np.where(np.equal(self.plan.pp, 1), 2, 1)

    def end_sums_s(self) -> Number:
        """Sums over tp beside the layers."""
        axis, plan, model = self.hardware.tp, self.plan, self.model
        tokens = model.target_tokens(plan.tokens(model.seq))
        whole_s = axis.time_s("all_reduce", self._activation_bytes())
        token_s = axis.time_s("all_reduce", _FLOAT * tokens)
        logits_s = axis.time_s("all_gather",
                               ELEMENT_BYTES * tokens * model.vocab)
        return self._whole_sums() * whole_s + np.where(
            plan.whole_logits, logits_s, _TOKEN_SUMS * token_s)

    @staticmethod
    def _both_ways(ops: list[Operator]) -> Number:
        return (operator_time.kernels(ops, backward=False) +
                operator_time.kernels(ops, backward=True))

    def _launches(self, ops: list[Operator]) -> Number:
        return self._both_ways(ops) + self.again * operator_time.kernels(
            ops, backward=False)

    def head_s(self) -> Number:
        """Logits and loss, and the embedding where it is the same stage."""
        model, plan = self.model, self.plan
        ops = head(model, plan)
        first = embedding(model, plan)
        head_s = (self._run_s(ops, backward=False) +
                  self._run_s(ops, backward=True))
        embedding_s = (self._run_s(first, backward=False) +
                       self._run_s(first, backward=True))
        one = np.equal(plan.pp, 1)
        tables = np.where(one & ~np.asarray(model.tied, dtype=bool), 2, 1)
        held = tables * model.embedding_parameters / plan.tp
        return (head_s + accumulation_s(held, plan, self.hardware.rates) +
                np.where(one, embedding_s, 0.0))

    def _activation_bytes(self) -> Number:
        return (self.plan.tokens(self.model.seq) * self.model.hidden *
                ELEMENT_BYTES)

    def tensor_s(self) -> Number:
        """Two sums over tp in a layer's forward and two in its backward."""
        axis, plan = self.hardware.tp, self.plan
        split = np.asarray(plan.sequence_parallel, dtype=bool)
        whole = self._activation_bytes()
        reduce_s = axis.time_s("all_reduce", whole)
        gather_s = axis.time_s("all_gather", whole)
        scatter_s = axis.time_s("reduce_scatter", whole)
        # Sequence shards are gathered once more for the weights' gradients,
        # unless they have just been for the recomputation.
        again_s = 2 * (1 - self.again) * gather_s
        passes = 2 * (2 + self.again)
        # What the last product gives isn't summed where it isn't made again.
        sums_s = (passes - self.stopped) * np.where(split, scatter_s, reduce_s)
        gathers_s = np.where(split, passes * gather_s + again_s, 0.0)
        behind_s = np.where(split, 2 * scatter_s + again_s, 2 * reduce_s)
        return self._beside_products_s(
            self.layers * (sums_s + gathers_s),
            self.layers * np.where(split, sums_s, sums_s / 2),
            self.layers * behind_s)

    def _columns_s(self) -> Number:
        """What the backward of those products computes whose weights' rows
        are divided, behind which collectives can run: one of its halves, or
        both where inputs are gathered behind the other."""
        columns = [
            o for o in dense_layer(self.model, self.plan)
            if o.name in ("qkv", "mlp up")
        ]
        halves = np.where(self.plan.sequence_parallel, 2, 1)
        return self.layers * halves * self._run_s(columns, backward=False)

    def _beside_products_s(self, moved_s: Number, scattered_s: Number,
                           behind_s: Number) -> Number:
        """What stays of it: where all runs beside products, these start on
        the part that is there and end with one that has yet to be scattered,
        one of tp, and can't hide what is longer than they are, about half of
        a layer's time; else what isn't `behind_s` of it, or is longer than
        what that runs behind."""
        plan = self.plan
        least_s = np.maximum(scattered_s / plan.tp,
                             moved_s - 0.5 * self.layers_s())
        later_s = moved_s - np.minimum(behind_s, self._columns_s())
        stays_s = np.select([
            np.asarray(plan.tensor_overlap, dtype=bool),
            np.asarray(plan.backward_overlap, dtype=bool)
        ], [least_s, later_s], moved_s)
        return stays_s + self.hardware.rates.interference * (moved_s - stays_s)

    def context_s(self) -> Number:
        """Keys and values around the ring, as far as attention is shorter.
        """
        model, plan, axis = self.model, self.plan, self.hardware.cp
        if np.all(np.equal(plan.cp, 1)):
            return 0.0
        shard = (plan.tokens(model.seq) * model.kv_heads / plan.tp *
                 (model.qk_dim + model.v_dim) * ELEMENT_BYTES)
        core = attention_core(model, plan)
        total_s = 0.0
        for backward, factor in ((False, 1.0), (True, 2.0)):
            moved_s = (plan.cp - 1) * axis.time_s("send", factor * shard)
            hidden_s = self._run_s(core, backward=backward)
            runs = 1 + (0.0 if backward else self.again)
            total_s = total_s + runs * np.maximum(moved_s - hidden_s, 0.0)
        return self.layers * total_s

    def expert_s(self) -> Number:
        """Rows to their experts and back, forward and backward.

        Before the forward ranks tell each other how many they send. Beside
        another micro-batch it hides as far as layers of that take as long.
        """
        model, plan = self.model, self.plan
        if not np.any(model.expert_layers):
            return 0.0
        rows = self._activation_bytes() * model.top_k / plan.tp
        once = np.where(plan.dedicated_exchange,
                        self.hardware.ep.distinct_islands(model.top_k), 1.0)
        each_s = self.hardware.ep.time_s("all_to_all", rows * once)
        counts_s = self.hardware.ep.time_s("all_to_all",
                                           COUNT_BYTES * model.experts)
        moved_s = self.routed * ((2 + self.again) * 2 * each_s +
                                 (1 + self.again) * counts_s)
        if not np.any(plan.exchange_overlap):
            return moved_s
        return np.where(plan.exchange_overlap,
                        self._exposed_s(moved_s, self.layers_s()), moved_s)

    def send_s(self) -> Number:
        """Activations or gradients of a micro-batch to the next stage."""
        plan = self.plan
        # Each rank of tp sends its part, and they are put together again.
        size = self._activation_bytes()
        gather_s = np.where(plan.sequence_parallel, 0.0,
                            self.hardware.tp.time_s("all_gather", size))
        return gather_s + self.hardware.pp.time_s("send", size / plan.tp)

    def data_s(self, stage_s: Number) -> Number:
        """What of gradients and parameters moves while nothing computes."""
        plan, axis = self.plan, self.hardware.data
        held = stage_parameters(self.model, plan)
        gradients = held * np.where(plan.frozen, 0, plan.gradient_bytes)
        weights = held * ELEMENT_BYTES
        reduce_s = axis.time_s("all_reduce", gradients)
        scatter_s = axis.time_s("reduce_scatter", gradients)
        gather_s = (self.hardware.shard.time_s("all_gather", weights) +
                    np.where(plan.whole_tensors, self._turns_s(), 0.0))
        # Groups that hold copies of the shards sum gradients over all.
        whole = np.equal(plan.shards, plan.dp * plan.cp)
        summed = np.asarray(plan.whole_sums, dtype=bool)
        once_s = np.where(
            np.equal(plan.sharding, DDP), reduce_s,
            np.where(whole & ~summed, scatter_s, reduce_s) + gather_s)
        window_s = np.where(plan.overlap, self._window_s(stage_s), 0.0)
        once_s = self._exposed_s(once_s, window_s)
        # With stages, parameters stay from the first to the last of them.
        each_s = 2 * gather_s + self.hardware.shard.time_s(
            "reduce_scatter", gradients)
        often_s = (plan.num_microbatches * self._exposed_s(each_s, stage_s) +
                   np.where(whole, 0.0, self._exposed_s(reduce_s, window_s)))
        sharded_s = np.where(plan.pp > 1, once_s, often_s)
        return np.where(np.equal(plan.sharding, FSDP), sharded_s,
                        np.where(plan.frozen, 0.0, once_s))

    def _window_s(self, stage_s: Number) -> Number:
        """What is computed between the first gradient that is whole and the
        last, and between the first use of parameters and the last.

        The last micro-batch's backward, of each of the stage's chunks: they
        take turns, each for as many micro-batches as there are stages.
        """
        plan = self.plan
        turns = (1 - 1 / plan.chunks) * np.minimum(plan.pp,
                                                   plan.num_microbatches)
        return stage_s * (_BACKWARD / plan.chunks + turns)

    def _turns_s(self) -> Number:
        """What rings take to fill, one for each tensor, on the way to all
        who share them."""
        shard = self.hardware.shard
        tensors = _LAYER_TENSORS * self.stretch * self.layers
        return tensors * (shard.size - 1) * shard.point.latency_s

    def _exposed_s(self, moved_s: Number, window_s: Number) -> Number:
        hidden_s = np.minimum(moved_s, window_s)
        slower_s = self.hardware.rates.interference * hidden_s
        return moved_s - hidden_s + slower_s
