"""How transformers are spread and run: arrays, one entry per plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = [
    "ALTERNATE", "Configurations", "DDP", "DUALPIPEV", "FIRST", "FLUSH",
    "FSDP", "FULL", "GPIPE", "NONE", "OWN", "SECOND", "SELECTIVE", "ZBH1",
    "ZBV", "ZERO1", "ZERO2"
]

Number = Any

DDP, ZERO1, ZERO2, FSDP = range(4)
NONE, SELECTIVE, FULL, ALTERNATE = range(4)
FIRST, SECOND, OWN = range(3)
FLUSH, GPIPE, ZBH1, ZBV, DUALPIPEV = range(5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Configurations:
    """Parallel sizes and choices; every field a number or an array.

    Parameters
    ----------
    tp, cp, dp, pp, ep : int
        Sizes of the axes. Experts are spread over part of ``dp * cp``.
    expert_tp : int
        Ranks of tp that divide each expert; the others hold more experts.
    chunks : int
        Virtual stages on each pipeline rank.
    schedule : int
        Of the pipeline: ``FLUSH`` (1F1B, interleaved where there are several
        chunks), ``GPIPE`` (all forwards before the first backward), ``ZBH1``,
        or ``ZBV`` and ``DUALPIPEV``, of two chunks.
    micro_batch, num_microbatches : int
        Sequences that one rank of dp takes at once, and how many times.
    sequence_parallel : bool
        Activations between products are sharded over tp.
    tensor_overlap : bool
        Whether products run on parts that have come or have yet to go while
        others are on the way ("async" tensor parallelism).
    backward_overlap : bool
        Whether, in the backward of products whose weights' rows are divided
        over tp, inputs are gathered and their gradients summed while the
        gradients of inputs and weights are computed.
    sharding : int
        ``DDP``, ``ZERO1``, ``ZERO2`` or ``FSDP``.
    copied_gathers : bool
        Whether parameters are copied out of the buffer that all are gathered
        in, as PyTorch's second fully sharded data parallelism does.
    shard_group : int
        Over how many ranks of data, innermost first, what is sharded is
        divided; the groups hold copies. 0 is all of them.
    whole_tensors : bool
        Whether what is sharded is divided between tensors and not inside
        them: then the ranks send theirs to all, one after the other.
    whole_sums : bool
        Whether gradients are summed on all ranks that share state, and not
        scattered.
    recompute : int
        ``NONE``, ``SELECTIVE`` (unfused attention's scores; with fused
        attention the cheap half of what a layer keeps), ``FULL`` (each
        layer) or ``ALTERNATE`` (every second product of a layer, and all
        that is neither a product nor attention).
    stops_early : bool
        Whether recomputing a layer ends when its backward has all that it
        reads, as PyTorch's own does: the last product is not made again.
    fused_attention : bool
        A kernel that never stores the scores.
    attention_kernel : int
        Which one: ``FIRST`` (FlashAttention, Triton's), ``SECOND``
        (FlashAttention-2) or ``OWN`` (written for the kind of device).
    fused_kernels : bool
        Whether norms, activations and residuals run as one kernel each.
    host_factor : float
        How much longer the host takes to launch an operator than on the
        device's usual runs: libraries of many layers of Python do.
    step_host_s : float
        What the host does once in a step while the device waits: counters,
        norms and logs that it reads from the device.
    overlap : bool
        Whether gradients are reduced while the backward runs.
    linear_bits : int
        Width of what linear layers multiply: 16, 8 or 4.
    row_scales : bool
        Whether operands in 8 bits have a scale for each row of a product and
        not one for all: what a second product sums over the other dim is cast
        again, with the scales of that.
    dedicated_exchange : bool
        Whether rows travel to their experts by an exchange that sends a
        row once to each node, however many of its experts are there.
    exchange_overlap : bool
        Whether rows travel to their experts and back while another
        micro-batch is computed.
    expert_biases : bool
        Whether experts have biases, each added to its expert's rows by eager
        kernels in 32 bits, and gates that are clamped first, as GPT-OSS has.
    fused_experts : bool
        Whether the products of experts evaluate the gate between them before
        they write.
    attention_bits : int
        Width of what attention multiplies, 16 or 8.
    gradient_bytes : int
        Of one element of the gradient that is reduced.
    fused_accumulation : bool
        Whether the product that makes a weight's gradient adds it to the
        sum over micro-batches itself.
    copied_accumulation : bool
        Whether each gradient is added to what its parameter has, that is
        converted into a copy, and the copy added to the optimizer's sum.
    held_gradient_bytes : int
        Held of each gradient, sums included; 0 is what is reduced.
    fresh_gradient_bytes : int
        How many of those are only there from the backward to the optimizer's
        step, if there is but one micro-batch: gradients that are made anew
        and not added to a buffer.
    bucket_bytes : int
        Buffers in which gradients and parameters are put to be sent.
    frozen : bool
        Whether only small adapters beside the products are trained (Hu et al.
        2021, arXiv 2106.09685): weights have no gradients and no state.
    parameter_bytes : int
        Of one element of what the forward reads.
    whole_logits : bool
        Whether each rank of tp gathers the logits of all and has the whole
        loss.
    loss_bytes : int
        Held of each logit while the loss is computed: 6 where all happens
        in place in a copy of 32 bits, 14 where eager kernels keep that,
        its log-softmax and its gradient.
    dropout : bool
        Whether masks of dropout are kept.
    master_bytes : int
        What the optimizer holds of a parameter, its moments included.
    """

    tp: Number = 1
    cp: Number = 1
    dp: Number = 1
    pp: Number = 1
    ep: Number = 1
    expert_tp: Number = 1
    chunks: Number = 1
    schedule: Number = FLUSH
    micro_batch: Number = 1
    num_microbatches: Number = 1
    sequence_parallel: Number = False
    tensor_overlap: Number = False
    backward_overlap: Number = False
    sharding: Number = DDP
    copied_gathers: Number = False
    shard_group: Number = 0
    whole_tensors: Number = False
    whole_sums: Number = False
    recompute: Number = NONE
    stops_early: Number = False
    fused_attention: Number = True
    attention_kernel: Number = OWN
    fused_kernels: Number = True
    host_factor: Number = 1.0
    step_host_s: Number = 0.0
    overlap: Number = True
    linear_bits: Number = 16
    row_scales: Number = False
    dedicated_exchange: Number = False
    exchange_overlap: Number = False
    expert_biases: Number = False
    fused_experts: Number = False
    attention_bits: Number = 16
    gradient_bytes: Number = 4
    fused_accumulation: Number = False
    copied_accumulation: Number = False
    held_gradient_bytes: Number = 0
    fresh_gradient_bytes: Number = 0
    bucket_bytes: Number = 0
    frozen: Number = False
    parameter_bytes: Number = 2
    whole_logits: Number = False
    loss_bytes: Number = 6
    dropout: Number = False
    master_bytes: Number = 12

    @property
    def devices(self) -> Number:
        """Devices that one plan uses."""
        return self.tp * self.cp * self.dp * self.pp

    @property
    def shards(self) -> Number:
        """Ranks of data that share what is sharded: never more than all."""
        ranks = self.dp * self.cp
        return np.where(np.equal(self.shard_group, 0), ranks,
                        np.minimum(self.shard_group, ranks))

    def tokens(self, seq: Number) -> Number:
        """Of one micro-batch on one rank: sequence shards are parts."""
        return self.micro_batch * seq / self.cp

    @property
    def logits_tp(self) -> Number:
        """Among how many ranks of tp logits lie."""
        return np.where(self.whole_logits, 1, self.tp)

    @property
    def stored_tp(self) -> Number:
        """Among how many ranks of tp activations between products lie."""
        return np.where(self.sequence_parallel, self.tp, 1)
