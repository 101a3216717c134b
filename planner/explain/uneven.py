"""Options that are not offered because a dim does not divide."""

from __future__ import annotations

from planner.cost.flops import op_name
from planner.ir.mesh import MeshSpec
from planner.rules.registry import OpCall, Option
from planner.search.facts import CallFacts, Facts

__all__ = ["uneven_dims"]

_NAMES = {"scaled_dot_product_attention": ("batch", "heads", "sequence")}


def uneven_dims(facts: Facts, mesh: MeshSpec) -> list[str]:
    """Why products and attention can't be divided in some way.

    Parameters
    ----------
    facts : Facts
    mesh : MeshSpec
        Axes over which any of their dims might be divided.

    Returns
    -------
    list of str
        One sentence for each dim and axis, in program order.
    """
    found: dict[str, None] = {}
    for facts_of in facts.classes.values():
        for call in facts_of.calls.values():
            if call.work.forward_flops:
                for axis, size in zip(mesh.names, mesh.sizes, strict=True):
                    found.update(dict.fromkeys(_lost(call, axis, size)))
    return list(found)


def _lost(call: CallFacts, axis: str, size: int) -> list[str]:
    kept = set(call.options(size).options)
    lost = []
    for option in call.options(1).options:
        if option not in kept:
            lost += _reasons(call.call, option, axis, size)
    return lost


def _reasons(call: OpCall, option: Option, axis: str, size: int) -> list[str]:
    name = op_name(call.target)
    pairs = zip(call.inputs + call.outputs,
                option.inputs + option.outputs,
                strict=True)
    reasons = []
    for spec, placement in pairs:
        if placement.is_shard and spec.shape[placement.dim] % size:
            names = _NAMES.get(name, ())
            what = (names[placement.dim]
                    if placement.dim < len(names) else f"dim {placement.dim}")
            reasons.append(f"{what} {spec.shape[placement.dim]} of {name} "
                           f"do not divide by {axis}={size}")
    if not reasons and option.units % size:
        reasons.append(f"{option.units} groups of {name} do not divide by "
                       f"{axis}={size}")
    return reasons[:1]
