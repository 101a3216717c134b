"""What the software of a published run does that its row does not state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.configurations import DDP, FIRST, FSDP, OWN, SECOND

__all__ = ["is_plain", "software_of", "test_name"]


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
    copied = _copied_accumulation(row)
    # Plain torch.optim on parameters of 16 bits: no copies in 32.
    eager = (str(row.get("dtype")) == "bf16" and sharding == DDP and not recent
             and row["model"].get("family") is None and not copied)
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
        "overlap":
        _overlap(parallel, recent or sharding == FSDP),
        "tensor_overlap":
        _tensor_overlap(parallel, recent and sharding != FSDP),
        "linear_bits":
        _linear_bits(row),
        "dedicated_exchange":
        recent,
        "loss_bytes":
        _loss_bytes(row, eager or plain_fsdp),
        "dropout":
        half or (row["model"].get("family") is not None
                 and not (gated and row["model"].get("experts"))),
        "master_bytes":
        _master_bytes(row, sharding, eager),
        "fused_accumulation":
        recent,
        "copied_accumulation":
        copied,
        "gradient_bytes":
        2 if half or eager or _narrow(row) else 4
    }


def is_plain(row: Mapping[str, Any]) -> bool:
    """Whether the run is PyTorch's own sharded data parallelism, with its
    own recomputation and attention, and not that of a library.

    Vendors' libraries call theirs the same; their summaries of performance
    say what task a run had.
    """
    sharding = str(row["parallel"].get("sharding")).lower()
    return (sharding.startswith(("fsdp", "hsdp"))
            and not (row.get("transformer_impl") or row.get("task")))


def test_name(row: Mapping[str, Any]) -> str:
    """The name of a row's model; tests of Megatron-LM have no such name but
    one of what they test."""
    return str(row["model"].get("name"))


def _overlap(parallel: Mapping[str, Any], usual: bool) -> bool:
    stated = parallel.get("overlap_grad_reduce")
    if stated is None:
        return usual or bool(parallel.get("zero1_group"))
    return bool(stated)


def _copied_accumulation(row: Mapping[str, Any]) -> bool:
    """Whether gradients in 16 bits are kept beside sums in 32.

    DeepSpeed's optimizer for bfloat16 does, as rows say that use it.
    """
    return ("bf16 optimizer" in str(row.get("notes"))
            and str(row.get("dtype")) == "bf16")


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


def _master_bytes(row: Mapping[str, Any], sharding: int, eager: bool) -> int:
    """Of the optimizer's state.

    Optimizers that shard it over groups hold gradients in 32 bits besides,
    and update all parameters at once, with two temporaries of each.
    DeepSpeed's that shard it have them in fp16, and the copy in 16 bits
    that they are made from.
    """
    if row["parallel"].get("zero1_group"):
        return 24
    if (sharding != DDP and str(row.get("dtype")) == "fp16"
            and "DeepSpeed" in str(row.get("notes"))):
        return 18
    return 4 if eager else 12


def _loss_bytes(row: Mapping[str, Any], eager: bool) -> int:
    """Of each logit: Megatron's fused loss, which tests are named after,
    keeps the copy in 32 bits beside its exponentials. Eager kernels on
    divided logits make the distance to the largest and its exponential
    besides, of which half overlap with the gradient."""
    if eager:
        return 20 if int(row["parallel"].get("tp") or 1) > 1 else 14
    return 10 if "cross_entropy_loss_fusion" in test_name(row) else 6


def _fused_attention(row: Mapping[str, Any], recent: bool) -> bool:
    stated = str(row.get("attention"))
    if stated in ("flash", "fused"):
        return True
    if stated in ("unfused", "local"):
        return False
    library = row.get("transformer_impl")
    if _is_old_container(row):
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
    if _linear_bits(row) < 16:
        return True
    eager = sharding == FSDP or row["parallel"].get("zero1_group")
    return not (eager and gated) or "JAX" in str(row.get("notes"))


def _tensor_overlap(parallel: Mapping[str, Any], usual: bool) -> bool:
    for name in ("tp_comm_overlap", "async_tp"):
        if parallel.get(name) is not None:
            return bool(parallel[name])
    return usual


def _linear_bits(row: Mapping[str, Any]) -> int:
    dtype = str(row.get("dtype")).lower()
    if "fp4" in dtype:
        return 4
    return 8 if "fp8" in dtype or "float8" in dtype else 16
