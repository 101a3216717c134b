"""The plan that a published run states."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from planner.cost.analytic.configurations import (ALTERNATE, DDP, DUALPIPEV,
                                                  FLUSH, FSDP, FULL, GPIPE,
                                                  NONE, SELECTIVE, ZBH1, ZBV,
                                                  ZERO1, ZERO2, Configurations)
from scripts.published.case import Unreadable
from scripts.published.frameworks import is_plain
from scripts.published.recipes import repeats_a_layer
from scripts.published.software import software_of
from scripts.published.words import test_name

__all__ = ["plan_of", "world_size"]

_SHARDING = {
    "ddp": DDP,
    "zero0": DDP,
    "zero1": ZERO1,
    "zero2": ZERO2,
    "zero3": FSDP,
    "fsdp": FSDP
}
_RECOMPUTE = {"none": NONE, "selective": SELECTIVE, "full": FULL}
_FLUSH = ("", "none", "1f1b", "1f1binterleaved", "interleaved1f1b",
          "interleaved", "pipedreamflush", "virtualpipeline", "vpp")
_SCHEDULES = {
    "gpipe": GPIPE,
    "afab": GPIPE,
    "allforwardallbackward": GPIPE,
    "loopedbfs": GPIPE,
    "zbh1": ZBH1,
    "zb1p": ZBH1,
    "zbv": ZBV,
    "zbvzerobubble": ZBV,
    "dualpipev": DUALPIPEV
}
_MOST_DEVICES = 10**6
_NODE = 8
_RELEASE_NODES = 8
_USUAL_TOKENS = 8192
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


def plan_of(row: Mapping[str, Any], *, devices: int, preset: str, gated: bool,
            seq: int) -> Configurations:
    """The plan of a row; what is not stated is what its stack does.

    Raises
    ------
    Unreadable
        When the batch cannot be told, or a part is not modelled.
    """
    parallel = row["parallel"]
    if row.get("cpu_offload"):
        raise Unreadable("offloading is not modelled")
    tp, pp, cp = (_axis(parallel, n) for n in ("tp", "pp", "cp"))
    dp = devices // (tp * pp * cp)
    if tp * cp * dp < _axis(parallel, "ep"):
        raise Unreadable(f"ep {parallel['ep']} does not fit a stage of "
                         f"{tp * cp * dp} devices")
    micro, count = _batches(row, dp, seq)
    schedule = _schedule(row, pp)
    recent = preset.startswith(_RECENT)
    sharding = _sharding(parallel, _usual_sharding(row, recent))
    stated = parallel.get("sequence_parallel")
    return Configurations(
        tp=tp,
        cp=cp,
        dp=dp,
        pp=pp,
        ep=_axis(parallel, "ep"),
        expert_tp=_expert_tp(parallel, tp),
        chunks=_chunks(row, pp, schedule),
        schedule=schedule,
        micro_batch=micro,
        num_microbatches=count,
        sequence_parallel=bool(recent if stated is None else stated)
        and tp > 1,
        sharding=sharding,
        shard_group=_shard_group(parallel, dp * cp, test_name(row)),
        whole_tensors=bool(parallel.get("zero1_group")),
        recompute=_recompute(row),
        frozen=str(row.get("task")).lower() == "lora",
        **software_of(row, sharding=sharding, recent=recent, gated=gated))


def _usual_sharding(row: Mapping[str, Any], recent: bool) -> int:
    """Alpa scatters gradients rather than reduce them to all, and so has
    parts of them and of the optimizer's state."""
    if "alpa" in str(row["source"]).lower():
        return ZERO2
    return ZERO1 if recent else DDP


def _sharding(parallel: Mapping[str, Any], usual: int) -> int:
    if str(parallel.get("sharding")).startswith(("fsdp", "hsdp")):
        return FSDP
    return _stated(_SHARDING, parallel, "sharding", usual)


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
    if value not in known:
        raise Unreadable(f"{name} {value!r} is not modelled")
    return known[value]


def _recompute(row: Mapping[str, Any]) -> int:
    """As stated; a selection that PyTorch's own sharding goes with is that
    of its examples, every second product."""
    usual = FULL if repeats_a_layer(row) else NONE
    found = _stated(_RECOMPUTE, row, "recompute", usual)
    return ALTERNATE if found == SELECTIVE and is_plain(row) else found


def _expert_tp(parallel: Mapping[str, Any], tp: int) -> int:
    """As stated, else as many as are left of tp."""
    if parallel.get("etp"):
        return int(parallel["etp"])
    return tp


def _schedule(row: Mapping[str, Any], pp: int) -> int:
    """As stated; without stages there is none."""
    stated = row.get("schedule")
    word = re.sub(r"[^a-z0-9]", "", str(stated or "").lower())
    if pp == 1 or word in _FLUSH:
        return FLUSH
    if word not in _SCHEDULES:
        raise Unreadable(f"schedule {stated!r} is not modelled")
    return _SCHEDULES[word]


def _chunks(row: Mapping[str, Any], pp: int, schedule: int) -> int:
    if pp == 1:
        return 1
    if schedule in (ZBV, DUALPIPEV):
        return 2
    return int(row["parallel"].get("vpp") or 1)


def _batches(row: Mapping[str, Any], dp: int, seq: int) -> tuple[int, int]:
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
    if total:
        share = max(round(int(total) / dp), 1)
        micro = _usual_micro_batch(share, seq)
        return micro, share // micro
    raise Unreadable("neither the micro-batch nor the global nor the local "
                     "batch is stated")


def _usual_micro_batch(share: int, seq: int) -> int:
    """Sequences of a micro-batch that a run does not state: of a rank's
    share as many as make up the tokens that runs usually take at once."""
    most = max(_USUAL_TOKENS // seq, 1)
    return next(n for n in range(min(most, share), 0, -1) if share % n == 0)
