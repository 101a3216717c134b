"""What the software of a published run does that its row does not state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.configurations import FIRST, FSDP, OWN, SECOND
from scripts.published.frameworks import (has_copied_accumulation,
                                          has_narrow_gradients,
                                          has_partitioned_gradients, is_eager,
                                          is_megatron_of_2022, is_plain,
                                          is_plain_fsdp, is_pure,
                                          lacks_fused_attention)
from scripts.published.recipes import (BLACKWELL, has_narrow_attention,
                                       has_plain_exchange, is_gpt_oss,
                                       is_graphed, is_unfused)
from scripts.published.words import (gpu_of, is_half, is_test, linear_bits,
                                     test_name)

__all__ = ["software_of"]

_BUCKET_BYTES = 2 * 5 * 10**8
"""Of DeepSpeed: half a billion elements of 16 bits, one to reduce and one to
gather."""
_CORE_FACTOR = 2.0
_LOGGED_S = 0.0385
"""Both as ``scripts.calibrate_cost_model --host`` fits them on the times of
Megatron-LM's tests of 12 layers and a width of 512, whose kernels take a
tenth of the step."""
_NODE = 8
_STORED = "unfused|local|eager|naive|math"
_FUSED = "flash|fused|sdpa|xformers|cudnn|triton|efficient"
"""What is said of attention that stores its scores, and that does not."""


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
    return {
        **_kernels(row, sharding, recent, gated),
        **_host(row),
        **_communication(row, sharding, recent),
        **_memory(row, sharding, recent, gated),
        **_gradients(row, sharding),
    }


def _kernels(row: Mapping[str, Any], sharding: int, recent: bool,
             gated: bool) -> dict[str, Any]:
    """Which kernels compute, and in how many bits."""
    fused = not is_eager(row) and _fused_kernels(row, sharding, gated)
    return {
        "fused_attention": _fused_attention(row, recent),
        "attention_kernel": _attention_kernel(row),
        "attention_bits": 8 if has_narrow_attention(row) else 16,
        "fused_kernels": fused,
        "fused_experts": is_graphed(row),
        "expert_biases": is_gpt_oss(row) and not is_graphed(row),
        "linear_bits": linear_bits(row),
        "row_scales": "rowwise" in str(row.get("dtype")).lower(),
        "stops_early": is_plain(row) and not is_pure(row),
    }


def _communication(row: Mapping[str, Any], sharding: int,
                   recent: bool) -> dict[str, Any]:
    """What is sent as what, and beside which kernels."""
    parallel = row["parallel"]
    return {
        "overlap": _overlap(parallel, recent or sharding == FSDP),
        "tensor_overlap": _tensor_overlap(parallel, recent
                                          and sharding != FSDP),
        "backward_overlap": _backward_overlap(row),
        "copied_gathers": str(parallel.get("sharding")).startswith("fsdp2"),
        "dedicated_exchange": recent and not has_plain_exchange(row),
        "exchange_overlap": _exchange_overlap(row),
        "whole_sums": has_copied_accumulation(row),
        "whole_logits": is_eager(row),
    }


def _memory(row: Mapping[str, Any], sharding: int, recent: bool,
            gated: bool) -> dict[str, Any]:
    """What is kept beside parameters, and in which passes."""
    eager = is_eager(row)
    half = is_half(row)
    gated_experts = gated and row["model"].get("experts")
    return {
        "loss_bytes": _loss_bytes(row, eager or is_plain_fsdp(row, sharding)),
        "dropout": half or (is_test(row) and not gated_experts),
        "master_bytes": _master_bytes(row, eager),
        "fused_accumulation": recent
        or (is_megatron_of_2022(row) and not eager),
        "copied_accumulation": has_copied_accumulation(row),
        "bucket_bytes":
        2 * _BUCKET_BYTES if has_partitioned_gradients(row) else 0,
    }


def _gradients(row: Mapping[str, Any], sharding: int) -> dict[str, int]:
    """How wide gradients are, and how long they are held."""
    eager = is_eager(row)
    if is_plain_fsdp(row, sharding):
        width = 2 if has_narrow_gradients(row) else 4
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
    if has_copied_accumulation(row):
        return {
            "gradient_bytes": 4,
            "held_gradient_bytes": 2 if has_partitioned_gradients(row) else 6
        }
    half = is_half(row) or has_narrow_gradients(row)
    return {"gradient_bytes": 2 if half else 4}


def _host(row: Mapping[str, Any]) -> dict[str, float]:
    """How long the host takes. Megatron Core's modules take longer than
    those of the Megatron-LM of 2021, and its tests log every step."""
    if is_graphed(row):
        return {"host_factor": 0.0}
    if not is_test(row):
        return {}
    return {"host_factor": _CORE_FACTOR, "step_host_s": _LOGGED_S}


def _overlap(parallel: Mapping[str, Any], usual: bool) -> bool:
    stated = parallel.get("overlap_grad_reduce")
    if stated is None:
        return usual or bool(parallel.get("zero1_group"))
    return bool(stated)


def _master_bytes(row: Mapping[str, Any], eager: bool) -> int:
    """Of the optimizer's state.

    Optimizers that shard it over groups hold gradients in 32 bits besides,
    and update all parameters at once, with two temporaries of each.
    DeepSpeed's that shard it have them, and the copy in 16 bits that they
    are made from.
    """
    if row["parallel"].get("zero1_group"):
        return 24
    if has_partitioned_gradients(row):
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
        return 20 if divided and not is_eager(row) else 14
    return 10 if "cross_entropy_loss_fusion" in test_name(row) else 6


def _compiled_loss(row: Mapping[str, Any]) -> bool:
    """Whether torchtitan's loss is compiled: not before 2025, for it failed
    then."""
    year = re.search(r"_(20\d\d)", str((row.get("source") or {}).get("file")))
    return bool(row.get("torch_compile") and year and int(year[1]) >= 2025)


def _fused_attention(row: Mapping[str, Any], recent: bool) -> bool:
    stated = str(row.get("attention")).lower()
    if re.search(_STORED, stated):
        return False
    if re.search(_FUSED, stated):
        return True
    library = row.get("transformer_impl")
    if lacks_fused_attention(row) or is_unfused(row):
        return False
    if library is not None:
        return library == "transformer_engine"
    return recent or not is_half(row)


def _attention_kernel(row: Mapping[str, Any]) -> int:
    """Which fused kernel of attention the software has.

    Frameworks of the A100's days call theirs "flash", Composer's runs have
    Triton's, and PyTorch's own since then is FlashAttention-2.
    """
    old = row.get("mp_mode") or row["parallel"].get("zero1_group")
    if old and str(row.get("attention")) in ("None", "flash"):
        return FIRST
    return SECOND if is_plain(row) else OWN


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
            or is_megatron_of_2022(row))


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
    return (not is_test(row) and chunks > 1
            and int(parallel.get("ep") or 1) > node)
