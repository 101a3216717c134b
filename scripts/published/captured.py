"""Published runs priced as the search prices plans.

The model that a row describes is captured, the plan that it states made of
recipes, and the two priced by :class:`planner.planning.Planning`.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

from planner.candidate import Candidate
from planner.cluster.spec import ClusterSpec
from planner.cost.analytic.configurations import (ALTERNATE, DDP, DUALPIPEV,
                                                  FIRST, FSDP, FULL, GPIPE,
                                                  OWN, SELECTIVE, ZBH1, ZBV,
                                                  Configurations)
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES, Recipe
from scripts.published.batch import product_dtype
from scripts.published.built import facts_of
from scripts.published.case import Case, Unreadable
from scripts.published.otherwise import otherwise_bytes, otherwise_s

__all__ = ["CapturedPrice", "captured_price"]

_MOST_ACTIONS = 10**5


@dataclass(frozen=True, slots=True, kw_only=True)
class CapturedPrice:
    """What the search's price of a row is; `reason` where it has none.

    Parameters
    ----------
    time_s, peak_bytes : float or None
    otherwise_s, otherwise_bytes : float or None
        What the row's software adds to that (:mod:`scripts.published.
        otherwise`).
    plan : str
        The name of the candidate.
    reason : str or None
    """

    time_s: float | None = None
    peak_bytes: float | None = None
    otherwise_s: float | None = None
    otherwise_bytes: float | None = None
    plan: str = ""
    reason: str | None = None


def captured_price(case: Case) -> CapturedPrice:
    """Price a row's plan on the captured program of its model."""
    try:
        found = _candidate(case)
    except (ArithmeticError, LookupError, RuntimeError, TypeError,
            ValueError) as error:
        return CapturedPrice(reason=str(error).partition("\n")[0])
    return CapturedPrice(time_s=found.time_s,
                         peak_bytes=float(found.memory.total),
                         otherwise_s=otherwise_s(case),
                         otherwise_bytes=otherwise_bytes(case),
                         plan=found.name)


def _candidate(case: Case) -> Candidate:
    plan = case.plan
    _check(plan)
    facts = facts_of(case, product_dtype(case.preset))
    planning = Planning(facts.program, _with_kernel(case), facts=facts)
    found = planning.from_recipe(_recipe(case), _mesh(plan))
    if plan.recompute == FULL:
        found = planning.recomputed(found, planning.repeated_classes())
    return found


def _with_kernel(case: Case) -> ClusterSpec:
    """The cluster, with the row's kernel of attention as PyTorch's."""
    names = {FIRST: "first_attention", OWN: "attention"}
    device = case.cluster.device
    shares = {c.name: c for c in device.efficiencies}
    chosen = shares.get(names.get(case.plan.attention_kernel, ""))
    if chosen is None or "second_attention" not in shares:
        return case.cluster
    shares["second_attention"] = dataclasses.replace(chosen,
                                                     name="second_attention")
    return dataclasses.replace(
        case.cluster,
        device=dataclasses.replace(device,
                                   efficiencies=tuple(shares.values())))


def _check(plan: Configurations) -> None:
    """Refuse what no plan says of a captured program.

    Raises
    ------
    Unreadable
    """
    if plan.linear_bits < 16:
        raise Unreadable("products in 8 or 4 bits are not captured")
    if plan.frozen:
        raise Unreadable("adapters are not built")
    if plan.recompute in (SELECTIVE, ALTERNATE):
        raise Unreadable("a plan recomputes whole layers")
    if plan.num_microbatches * plan.pp * plan.chunks > _MOST_ACTIONS:
        raise Unreadable("its schedule is too long to be simulated")
    if plan.ep > plan.dp or plan.dp % plan.ep:
        raise Unreadable("experts lie on more ranks than have parts of the "
                         "batch")


def _mesh(plan: Configurations) -> MeshSpec:
    """The axes, tp innermost and pp outermost; groups that share state are
    an axis of their own, called after its recipe."""
    data = plan.dp // plan.ep
    group = int(plan.shard_group) or data
    inside = {_data(plan): group} if group < data else {}
    sizes = {
        "pp": plan.pp if _in_parts(plan) else 1,
        "dp": data // group if inside else data,
        **inside, "ep": plan.ep,
        "cp": plan.cp,
        "tp": plan.tp
    }
    names = tuple(n for n, size in sizes.items()
                  if size > 1 or (n == "pp" and _in_parts(plan)))
    names = names if names not in ((), ("pp", )) else (*names, "dp")
    return MeshSpec(names, tuple(int(sizes[n]) for n in names))


def _data(plan: Configurations) -> str:
    return ("ddp" if plan.sharding == DDP else
            "fsdp" if plan.sharding == FSDP else "zero1")


def _cuts(case: Case) -> tuple[str, ...]:
    """Stages of as many layers, as libraries cut them; none, and so chosen
    ones, where there are too few layers for that."""
    units, layers = int(case.plan.pp * case.plan.chunks), int(
        case.model.layers)
    each = -(-layers // units)
    if each * (units - 1) >= layers:
        return ()
    return tuple(f"layers.{each * n}" for n in range(1, units))


def _schedule(plan: Configurations) -> str:
    several = plan.chunks > 1
    return {
        GPIPE: "loopedbfs" if several else "gpipe",
        ZBH1: "zbh1",
        ZBV: "zbv",
        DUALPIPEV: "dualpipev"
    }.get(plan.schedule, "interleaved1f1b" if several else "1f1b")


def _in_parts(plan: Configurations) -> bool:
    return bool(plan.pp > 1 or plan.num_microbatches > 1)


def _recipe(case: Case) -> Recipe:
    plan = case.plan
    sizes = _mesh(plan)
    data = _data(plan)
    parts = {
        "dp": RECIPES["ddp" if data in sizes.names else data](),
        data: RECIPES[data](),
        "ep": RECIPES["expert"](),
        "cp": RECIPES["ring"](),
        "tp": RECIPES["megatron"](bool(plan.sequence_parallel))
    }
    chosen = [parts[n] for n in sizes.names if n != "pp"]
    if _in_parts(plan):
        chosen.append(RECIPES["pipeline"](schedule=_schedule(plan),
                                          microbatches=int(
                                              plan.num_microbatches),
                                          chunks=int(plan.chunks),
                                          cuts=_cuts(case)))
    return functools.reduce(lambda a, b: a * b, chosen)
