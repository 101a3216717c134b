"""The plan that a published run states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.configurations import (DDP, FSDP, FULL, NONE,
                                                  SELECTIVE, ZERO1, ZERO2,
                                                  Configurations)
from scripts.published.case import Unreadable

__all__ = ["plan_of", "world_size"]

_SHARDING = {
    "ddp": DDP,
    "zero0": DDP,
    "zero1": ZERO1,
    "zero2": ZERO2,
    "fsdp": FSDP,
    "fsdp2": FSDP,
    "hsdp": FSDP,
    "zero3": FSDP
}
_RECOMPUTE = {
    "none": NONE,
    "false": NONE,
    "selective": SELECTIVE,
    "full": FULL,
    "true": FULL
}
_MOST_DEVICES = 10**6
_NODE = 8
_RELEASE_NODES = 8
_RECENT = ("h100", "h200", "h800", "b200", "b300", "gb200", "gb300")


def _axis(parallel: Mapping[str, Any], name: str) -> int:
    return int(parallel.get(name) or 1)


def world_size(row: Mapping[str, Any]) -> int:
    """Devices of a run.

    Raises
    ------
    Unreadable
        When they cannot be told.
    """
    found = _world_size(row)
    if found > _MOST_DEVICES:
        raise Unreadable(f"no run had {found} devices")
    return found


def _world_size(row: Mapping[str, Any]) -> int:
    parallel = row["parallel"]
    sizes = any(parallel.get(n) for n in ("tp", "pp", "cp", "dp", "fsdp"))
    if not sizes and row["hardware"].get("count") == 1:
        return 1
    if not sizes:
        what = parallel.get("plan")
        raise Unreadable(f"the plan is {what!r}, its sizes are not stated"
                         if what else "the parallel sizes are not stated")
    model = (_axis(parallel, "tp") * _axis(parallel, "pp") *
             _axis(parallel, "cp"))
    dp = parallel.get("dp")
    if parallel.get("fsdp"):
        dp = _axis(parallel, "dp") * int(parallel["fsdp"])
    if dp:
        return model * int(dp)
    count = row["hardware"].get("count")
    if not count:
        inside = _axis(parallel, "tp") * _axis(parallel, "cp")
        experts = model * max(_axis(parallel, "ep") // inside, 1)
        return max(experts, _usual_devices(row) // model * model)
    if int(count) % model:
        raise Unreadable(f"{count} devices are no multiple of tp x pp x cp = "
                         f"{model}")
    return int(count)


def _usual_devices(row: Mapping[str, Any]) -> int:
    """Of a run that does not say: a node, and eight for the runs that are
    named after a release of their library."""
    release = "release" in str(row["model"].get("name"))
    return _NODE * (_RELEASE_NODES if release else 1)


def plan_of(row: Mapping[str, Any], *, devices: int, preset: str,
            gated: bool) -> Configurations:
    """The plan of a row; what is not stated is what its stack does.

    Raises
    ------
    Unreadable
        When the batch cannot be told, or a part is not modelled.
    """
    parallel = row["parallel"]
    task = str(row.get("task") or "")
    if task == "lora":
        raise Unreadable("low-rank adaptation is not modelled")
    if row.get("cpu_offload"):
        raise Unreadable("offloading is not modelled")
    tp, pp, cp = (_axis(parallel, n) for n in ("tp", "pp", "cp"))
    dp = devices // (tp * pp * cp)
    if tp * cp * dp < _axis(parallel, "ep"):
        raise Unreadable(f"ep {parallel['ep']} does not fit a stage of "
                         f"{tp * cp * dp} devices")
    micro, count = _batches(row, dp)
    recent = preset.startswith(_RECENT)
    sharding = _stated(_SHARDING, parallel, "sharding",
                       ZERO1 if recent else DDP)
    flash = _fused_attention(row, recent)
    stated = parallel.get("sequence_parallel")
    half = str(row.get("dtype")) == "fp16"
    # Plain torch.optim on parameters of 16 bits: no copies in 32.
    eager = (str(row.get("dtype")) == "bf16" and sharding == DDP and not recent
             and row["model"].get("family") is None
             and not _copied_accumulation(row))
    plain_fsdp = sharding == FSDP and row.get("transformer_impl") is None
    overlap = parallel.get("overlap_grad_reduce")
    if overlap is None:
        overlap = (recent or sharding == FSDP
                   or bool(parallel.get("zero1_group")))
    return Configurations(
        tp=tp,
        cp=cp,
        dp=dp,
        pp=pp,
        ep=_axis(parallel, "ep"),
        expert_tp=_expert_tp(parallel, tp),
        chunks=_chunks(row, pp),
        micro_batch=micro,
        num_microbatches=count,
        sequence_parallel=bool(recent if stated is None else stated)
        and tp > 1,
        tensor_overlap=_tensor_overlap(parallel, recent and sharding != FSDP),
        sharding=sharding,
        shard_group=_shard_group(parallel, dp * cp, _test(row)),
        whole_tensors=bool(parallel.get("zero1_group")),
        recompute=_stated(_RECOMPUTE, row, "recompute", NONE),
        fused_attention=flash,
        fused_kernels=not eager and _fused_kernels(row, sharding, gated),
        overlap=bool(overlap),
        linear_bits=_linear_bits(row),
        dedicated_exchange=recent,
        loss_bytes=_loss_bytes(row, eager or plain_fsdp),
        dropout=half or row["model"].get("family") is not None,
        master_bytes=_master_bytes(row, sharding, eager),
        fused_accumulation=recent,
        copied_accumulation=_copied_accumulation(row),
        gradient_bytes=2 if half or eager or _narrow(row) else 4)


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
    return (str(row.get("mp_mode")) == "PURE"
            or bool(row["parallel"].get("zero1_group")))


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
    keeps the copy in 32 bits beside its exponentials."""
    if eager:
        return 14
    return 10 if "cross_entropy_loss_fusion" in _test(row) else 6


def _test(row: Mapping[str, Any]) -> str:
    """Tests of Megatron-LM have no name of a model but of what they test."""
    return str(row["model"].get("name"))


def _shard_group(parallel: Mapping[str, Any], ranks: int, test: str) -> int:
    """Ranks that share what is sharded; 0 for all of them."""
    stated = parallel.get("zero1_group") or parallel.get("fsdp_group") or (
        parallel.get("fsdp") if parallel.get("dp") else None)
    group = int(stated or 0)
    if "multi_dist_optimizer_instances" in test:
        group = ranks // 2
    return group if 0 < group < ranks and ranks % group == 0 else 0


def _stated(known: Mapping[str, int], table: Mapping[str, Any], name: str,
            usual: int) -> int:
    value = table.get(name)
    if value is None:
        return usual
    word = str(value).lower().replace("-", "").replace("_", "")
    if word not in known:
        raise Unreadable(f"{name} {value!r} is not modelled")
    return known[word]


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


def _expert_tp(parallel: Mapping[str, Any], tp: int) -> int:
    """As stated, else as many as are left of tp."""
    if parallel.get("etp"):
        return int(parallel["etp"])
    return tp


def _linear_bits(row: Mapping[str, Any]) -> int:
    dtype = str(row.get("dtype")).lower()
    if "fp4" in dtype:
        return 4
    return 8 if "fp8" in dtype or "float8" in dtype else 16


def _chunks(row: Mapping[str, Any], pp: int) -> int:
    if pp == 1:
        return 1
    return int(row["parallel"].get("vpp") or 1)


def _batches(row: Mapping[str, Any], dp: int) -> tuple[int, int]:
    """Sequences in a micro-batch, and micro-batches of one rank of dp."""
    local, total = row.get("local_batch"), row.get("global_batch")
    micro, count = row.get("micro_batch"), row.get("grad_accum")
    if micro and total:
        count = max(round(int(total) / (dp * int(micro))), 1)
        return int(micro), count
    if micro and count:
        return int(micro), int(count)
    if micro:
        # What a rate of tokens and memory need: a pipeline just filled.
        return int(micro), _axis(row["parallel"], "pp")
    if local:
        pp = _axis(row["parallel"], "pp")
        # A pipeline divides the local batch; its rows name one sequence.
        return (int(micro or 1), int(local)) if pp > 1 else (int(local), 1)
    raise Unreadable("neither the micro-batch with the global batch nor the "
                     "local batch is stated")
