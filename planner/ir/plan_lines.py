"""A block class in a plan: a line for each call and each held value."""

from __future__ import annotations

from collections.abc import Mapping

from planner.ir.errors import LayoutError
from planner.ir.layout import Layout, R, format_layout, parse_layout
from planner.ir.layouts import CallLayout, ClassLayout
from planner.ir.mesh import MeshSpec
from planner.ir.program import BlockClass, source_of
from planner.ir.values import Value, call_of, calls_of, outputs_of
from planner.rules import options
from planner.rules.registry import OpCall, Option

__all__ = ["class_layout", "class_lines", "read_layout"]


def class_lines(cls: BlockClass, layout: ClassLayout) -> dict[str, str]:
    """The lines of a block class, without what is replicated."""
    lines = {}
    for node in cls.placeholders:
        label = Value(node).label
        if set(layout.hubs[label]) != {R}:
            lines[f"hold {label}"] = format_layout(layout.hubs[label])
    for node in calls_of(cls.graph):
        chosen = layout.calls[node.meta["label"]]
        text = [_short(o) for o in chosen.options]
        if set(text) != {"R"}:
            lines[node.meta["label"]] = " | ".join(text)
        for number, value in enumerate(outputs_of(node)):
            held = layout.hubs.get(value.label, chosen.output(number))
            if held != chosen.output(number):
                lines[f"hold {value.label}"] = format_layout(held)
    return lines


def read_layout(text: str, mesh: MeshSpec, where: str) -> Layout:
    """One placement for each axis of a mesh.

    Parameters
    ----------
    text : str
        Such as ``R S(1)``.
    mesh : MeshSpec
    where : str
        The line of the plan, for the message.

    Raises
    ------
    LayoutError
        Naming the line, when the text is something else.
    """
    try:
        layout = parse_layout(text)
    except ValueError as error:
        raise LayoutError(f"{where}: {error}") from None
    if len(layout) != len(mesh.sizes):
        raise LayoutError(
            f"{where}: {text!r} has {len(layout)} placements for "
            f"{len(mesh.sizes)} axes ({mesh})")
    return layout


def class_layout(name: str, cls: BlockClass, given: Mapping[str, str],
                 mesh: MeshSpec) -> ClassLayout:
    """The layouts that lines give a block class.

    Raises
    ------
    LayoutError
        Naming the line that is of nothing in the block, or not legal.
    """
    lines = dict(given)
    whole = (R, ) * len(mesh.sizes)
    calls, hubs = {}, {}
    for node in cls.placeholders:
        label = Value(node).label
        text = lines.pop(f"hold {label}", None)
        hubs[label] = whole if text is None else read_layout(
            text, mesh, f"blocks: {name}: hold {label}")
    for node in calls_of(cls.graph):
        label = node.meta["label"]
        where = f"blocks: {name}: {label} at {source_of(node)}"
        calls[label] = _options(call_of(node), lines.pop(label, None), mesh,
                                where)
        for number, value in enumerate(outputs_of(node)):
            text = lines.pop(f"hold {value.label}", None)
            hubs[value.label] = (calls[label].output(number) if text is None
                                 else read_layout(text, mesh, where))
    if lines:
        raise LayoutError(f"blocks: {name}: there is no "
                          f"{sorted(lines)[0]!r} in this block")
    return ClassLayout(calls=calls, hubs=hubs)


def _options(call: OpCall, text: str | None, mesh: MeshSpec,
             where: str) -> CallLayout:
    parts = (text.split(" | ") if text is not None else ["R"] *
             len(mesh.sizes))
    if len(parts) != len(mesh.sizes):
        raise LayoutError(f"{where}: {text!r} has {len(parts)} options "
                          f"for {len(mesh.sizes)} axes ({mesh})")
    return CallLayout(options=tuple(
        _option(call, part.strip(), size, axis, where) for part, size, axis in
        zip(parts, mesh.sizes, mesh.names, strict=True)))


def _option(call: OpCall, text: str, size: int, axis: str,
            where: str) -> Option:
    legal = options(call, size)
    for option in legal:
        if _short(option) == text:
            return option
    raise LayoutError(
        f"{where}: {text!r} is no option of {call.target} over {axis} "
        f"({size} ranks); its options are "
        f"{'; '.join(_short(o) for o in legal)}")


def _short(option: Option) -> str:
    """``R`` or ``V`` where everything is, else the option in full."""
    if option.lowering is None and not option.is_sharded:
        kinds = {str(p)
                 for p in option.outputs} | {str(p)
                                             for p in option.inputs}
        if kinds == {"R"} or not kinds:
            return "R"
        if kinds <= {"R", "V"} and "V" in {str(p) for p in option.outputs}:
            return "V"
    return str(option)
