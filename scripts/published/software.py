"""What the software of a published run does that its row does not state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.configurations import FIRST, FSDP, OWN, SECOND
from scripts.published.recipes import (BLACKWELL, has_narrow_attention,
                                       has_plain_exchange, is_gpt_oss,
                                       is_graphed, is_unfused)
from scripts.published.words import gpu_of, linear_bits, test_name

__all__ = ["is_plain", "software_of"]

_BUCKET_BYTES = 2 * 5 * 10**8
"""Of DeepSpeed: half a billion elements of 16 bits, one to reduce and one to
gather."""
_CORE_FACTOR = 2.0
_LOGGED_S = 0.0385
"""Both as ``scripts.calibrate_cost_model --host`` fits them on the times of
Megatron-LM's tests of 12 layers and a width of 512, whose kernels take a
tenth of the step."""
_ALL_WIDE = "Rebalancing layers"
_NODE = 8


def software_of(row: Mapping[str, Any], *, sharding: int, recent: bool,
                gated: bool) -> dict[str, Any]:
    """The fields of a plan that the row's software decides.

    Parameters
    ----------
    row : mapping
    sharding : int
        Of the plan.
    recent : bool
        Whether the devices are ones that only newer software runs on.
    gated : bool
        Whether the model's MLP has a gate.
    """
    half = str(row.get("dtype")) == "fp16"
    copied, partitioned = _copied_accumulation(row), _partitioned(row)
    eager = _is_eager(row)
    plain_fsdp = sharding == FSDP and row.get("transformer_impl") is None
    parallel = row["parallel"]
    return {
        "fused_attention":
        _fused_attention(row, recent),
        "attention_kernel":
        _attention_kernel(row),
        "stops_early":
        is_plain(row) and not _pure(row),
        "fused_kernels":
        not eager and _fused_kernels(row, sharding, gated),
        **_host(row), "overlap":
        _overlap(parallel, recent or sharding == FSDP),
        "tensor_overlap":
        _tensor_overlap(parallel, recent and sharding != FSDP),
        "backward_overlap":
        _backward_overlap(row),
        "copied_gathers":
        str(parallel.get("sharding")).lower() == "fsdp2",
        "linear_bits":
        linear_bits(row),
        "row_scales":
        "rowwise" in str(row.get("dtype")).lower(),
        "dedicated_exchange":
        recent and not has_plain_exchange(row),
        "exchange_overlap":
        _exchange_overlap(row),
        "expert_biases":
        is_gpt_oss(row) and not is_graphed(row),
        "fused_experts":
        is_graphed(row),
        "attention_bits":
        8 if has_narrow_attention(row) else 16,
        "loss_bytes":
        _loss_bytes(row, eager or plain_fsdp),
        "dropout":
        half or (row["model"].get("family") is not None
                 and not (gated and row["model"].get("experts"))),
        "master_bytes":
        _master_bytes(row, eager),
        "fused_accumulation":
        recent or (_is_megatron_of_2022(row) and not eager),
        "copied_accumulation":
        copied,
        "whole_sums":
        copied,
        "whole_logits":
        eager,
        "bucket_bytes":
        2 * _BUCKET_BYTES if partitioned else 0,
        **_gradients(row, partitioned, eager, plain_fsdp)
    }


def _gradients(row: Mapping[str, Any], partitioned: bool, eager: bool,
               plain_fsdp: bool) -> dict[str, int]:
    """How wide gradients are, and how long they are held."""
    if plain_fsdp:
        width = 2 if _narrow(row) else 4
        return {"gradient_bytes": width, "fresh_gradient_bytes": width}
    if eager and int(row["parallel"].get("dp") or 1) > 1:
        # Buckets sum in 32 bits; the optimizer gets copies in 16.
        return {
            "gradient_bytes": 4,
            "held_gradient_bytes": 6,
            "fresh_gradient_bytes": 2
        }
    if eager:
        return {"gradient_bytes": 2, "fresh_gradient_bytes": 2}
    if _copied_accumulation(row):
        return {
            "gradient_bytes": 4,
            "held_gradient_bytes": 2 if partitioned else 6
        }
    half = str(row.get("dtype")) == "fp16" or _narrow(row)
    return {"gradient_bytes": 2 if half else 4}


def _host(row: Mapping[str, Any]) -> dict[str, float]:
    """How long the host takes. Megatron Core's modules take longer than
    those of the Megatron-LM of 2021, and its tests log every step."""
    if is_graphed(row):
        return {"host_factor": 0.0}
    if row["model"].get("family") is None:
        return {}
    return {"host_factor": _CORE_FACTOR, "step_host_s": _LOGGED_S}


def _is_eager(row: Mapping[str, Any]) -> bool:
    """Whether it is a framework to learn from, ScaleTorch or Picotron: with
    eager kernels, logits gathered for the loss, and PyTorch's optimizer on
    parameters of 16 bits without copies in 32."""
    return bool(re.search("scaletorch|picotron", str(row["source"]), re.I))


def is_plain(row: Mapping[str, Any]) -> bool:
    """Whether the run is PyTorch's own sharded data parallelism, with its
    own recomputation and attention, and not that of a library.

    Vendors' libraries call theirs the same; their summaries of performance
    say what task a run had.
    """
    sharding = str(row["parallel"].get("sharding")).lower()
    return (sharding.startswith(("fsdp", "hsdp"))
            and not (row.get("transformer_impl") or row.get("task")))


def _overlap(parallel: Mapping[str, Any], usual: bool) -> bool:
    stated = parallel.get("overlap_grad_reduce")
    if stated is None:
        return usual or bool(parallel.get("zero1_group"))
    return bool(stated)


def _copied_accumulation(row: Mapping[str, Any]) -> bool:
    """Whether gradients in 16 bits are kept beside sums in 32.

    DeepSpeed's optimizers for bfloat16 do, as rows say that use them.
    """
    return ("bf16 optimizer" in str(row.get("notes"))
            and str(row.get("dtype")) == "bf16")


def _partitioned(row: Mapping[str, Any]) -> bool:
    """Whether DeepSpeed's optimizer holds gradients in 16 bits, and has only
    those of its shard in 32.

    Its newer one for bfloat16 has all in 32 bits: the chronicle of BLOOM's
    runs says from which table on that was used.
    """
    sharding = str(row["parallel"].get("sharding"))
    table = str((row.get("source") or {}).get("table") or _ALL_WIDE)
    return (sharding in ("zero1", "zero2")
            and "DeepSpeed" in str(row.get("notes"))
            and not (_copied_accumulation(row) and table == _ALL_WIDE))


def _narrow(row: Mapping[str, Any]) -> bool:
    """Whether gradients are reduced in the 16 bits they are made in.

    Composer's "pure" precision does, and optimizers that shard their state
    over groups (ColossalAI's and what came of it).
    """
    return _pure(row) or bool(row["parallel"].get("zero1_group"))


def _pure(row: Mapping[str, Any]) -> bool:
    """Whether it is Composer's "pure" precision, whose runs are of PyTorch
    1.13: recomputation has stopped early since PyTorch 2.0."""
    return str(row.get("mp_mode")) == "PURE"


def _master_bytes(row: Mapping[str, Any], eager: bool) -> int:
    """Of the optimizer's state.

    Optimizers that shard it over groups hold gradients in 32 bits besides,
    and update all parameters at once, with two temporaries of each.
    DeepSpeed's that shard it have them, and the copy in 16 bits that they
    are made from.
    """
    if row["parallel"].get("zero1_group"):
        return 24
    if _partitioned(row):
        return 18
    return 4 if eager else 12


def _loss_bytes(row: Mapping[str, Any], eager: bool) -> int:
    """Of each logit: Megatron's fused loss, which tests are named after,
    keeps the copy in 32 bits beside its exponentials. A compiler fuses all
    that eager kernels do between the logits and their gradient. Eager
    kernels on divided logits make the distance to the largest and its
    exponential besides, of which half overlap with the gradient."""
    if eager and _compiled_loss(row):
        return 4
    if eager:
        divided = int(row["parallel"].get("tp") or 1) > 1
        return 20 if divided and not _is_eager(row) else 14
    return 10 if "cross_entropy_loss_fusion" in test_name(row) else 6


def _compiled_loss(row: Mapping[str, Any]) -> bool:
    """Whether torchtitan's loss is compiled: not before 2025, for it failed
    then."""
    year = re.search(r"_(20\d\d)", str((row.get("source") or {}).get("file")))
    return bool(row.get("torch_compile") and year and int(year[1]) >= 2025)


def _fused_attention(row: Mapping[str, Any], recent: bool) -> bool:
    stated = str(row.get("attention"))
    if stated in ("flash", "fused"):
        return True
    if stated in ("unfused", "local"):
        return False
    library = row.get("transformer_impl")
    if _is_old_container(row) or is_unfused(row):
        return False
    if library is not None:
        return library == "transformer_engine"
    return recent or str(row.get("dtype")) != "fp16"


def _attention_kernel(row: Mapping[str, Any]) -> int:
    """Which fused kernel of attention the software has.

    Frameworks of the A100's days call theirs "flash", Composer's runs have
    Triton's, and PyTorch's own since then is FlashAttention-2.
    """
    old = row.get("mp_mode") or row["parallel"].get("zero1_group")
    if old and str(row.get("attention")) in ("None", "flash"):
        return FIRST
    return SECOND if is_plain(row) else OWN


def _is_old_container(row: Mapping[str, Any]) -> bool:
    """Whether the software is one that lacked fused attention: the older
    container of one data center, as memory without it shows."""
    notes = str((row.get("hardware") or {}).get("notes"))
    return "lts" in notes and "oci" in notes


def _fused_kernels(row: Mapping[str, Any], sharding: int, gated: bool) -> bool:
    """Whether norms and activations are single kernels.

    Megatron's are, what a compiler made, those of the libraries that
    multiply in 8 bits, and the layer norms and GELU of any; the root mean
    square norms, rotary embeddings and gates of eager PyTorch are not.
    """
    compiled = row.get("torch_compile")
    if compiled is not None:
        return bool(compiled)
    if linear_bits(row) < 16:
        return True
    eager = sharding == FSDP or row["parallel"].get("zero1_group")
    return not (eager and gated) or "JAX" in str(row.get("notes"))


def _tensor_overlap(parallel: Mapping[str, Any], usual: bool) -> bool:
    for name in ("tp_comm_overlap", "async_tp"):
        if parallel.get(name) is not None:
            return bool(parallel[name])
    return usual


def _backward_overlap(row: Mapping[str, Any]) -> bool:
    """Whether products hide collectives behind their backward's halves.

    Megatron-LM's do since 2022, and so do FlashAttention's, which InternEvo
    has.
    """
    return (bool(row["parallel"].get("zero1_group"))
            or _is_megatron_of_2022(row))


def _is_megatron_of_2022(row: Mapping[str, Any]) -> bool:
    """Whether it is Megatron-LM since that has sequence parallelism and
    selective recomputation; Megatron-DeepSpeed is older."""
    if is_plain(row) or "DeepSpeed" in str(row.get("notes")):
        return False
    return bool(row["parallel"].get("sequence_parallel")
                or row.get("transformer_impl")
                or row.get("recompute") == "selective")


def _exchange_overlap(row: Mapping[str, Any]) -> bool:
    """Whether rows travel to experts beside another micro-batch.

    Megatron Core can where ranks of a pipeline have several chunks. Recipes
    of Megatron-Bridge do so where experts lie on several nodes, and those
    for Blackwell devices in 8 bits.
    """
    parallel, hardware = row["parallel"], row["hardware"]
    if gpu_of(row).startswith(BLACKWELL):
        return is_graphed(row)
    chunks = int(parallel.get("vpp") or 1)
    node = int(hardware.get("gpus_per_node") or _NODE)
    return (row["model"].get("family") is None and chunks > 1
            and int(parallel.get("ep") or 1) > node)
