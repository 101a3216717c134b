"""Graphs as stable text: one line a node, made to be read and compared."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from passes.conversions import convert_node
from passes.local_layouts import layouts_of, specs_of
from planner.ir.layout import Layout, local_shape
from planner.ir.mesh import MeshSpec
from planner.ir.values import is_getitem
from planner.rules.registry import TensorSpec

__all__ = ["joint_text", "local_text", "op_text", "spec_text"]


def local_text(graph: fx.Graph, mesh: MeshSpec) -> str:
    """Print a forward graph with conversions, before differentiation.

    A line is ``name = op(args) : local shape dtype, axis: placement``;
    conversions are ``name = convert[axis: source -> target](x)``.
    """
    layouts, specs = layouts_of(graph, mesh), specs_of(graph)
    lines = []
    for node in graph.nodes:
        line = _line(node)
        if node in layouts:
            line += f" : {_value_text(specs[node], layouts[node], mesh)}"
        lines.append(line + _notes(node))
    return "\n".join(lines)


def joint_text(graph: fx.Graph) -> str:
    """Print a graph of local operators and collectives.

    A line is ``name = op(args) : local shape dtype``; collectives are
    ``name = all_reduce[sum, axis](x)``.
    """
    lines = []
    for node in graph.nodes:
        shapes = _recorded(node.meta.get("val"))
        lines.append(
            _line(node) + (f" : {shapes}" if shapes else "") +
            _stream_text(node))
    return "\n".join(lines)


def op_text(target: Any) -> str:
    """An operator's name without its library and default overload."""
    if isinstance(target, torch._ops.OpOverload):
        name = str(target).removesuffix(".default")
        return name.removeprefix("aten.").removeprefix("_c10d_functional.")
    return getattr(target, "__name__", str(target))


def spec_text(spec: TensorSpec) -> str:
    """Shape and dtype, ``(4, 8) float32``."""
    return f"{spec.shape} {_dtype_text(spec.dtype)}"


def _line(node: fx.Node) -> str:
    if node.op == "placeholder":
        return f"{node.name} = placeholder"
    if node.op == "output":
        return f"return {_arg_text(list(node.args[0]))}"
    if is_getitem(node):
        return f"{node.name} = {node.args[0]}[{node.args[1]}]"
    if node.target is convert_node:
        how = node.kwargs
        return (f"{node.name} = convert[{how['axis']}: {how['source']} -> "
                f"{how['target']}]({node.args[0]})")
    if _is_collective(node):
        tensors = [a for a in node.args if isinstance(a, fx.Node)]
        rest = [a for a in node.args if not isinstance(a, fx.Node)]
        how_text = f"[{', '.join(map(_arg_text, rest))}]" if rest else ""
        return (f"{node.name} = {op_text(node.target)}{how_text}"
                f"({', '.join(map(str, tensors))})")
    given = [_arg_text(a) for a in node.args]
    given += [f"{k}={_arg_text(a)}" for k, a in node.kwargs.items()]
    return f"{node.name} = {op_text(node.target)}({', '.join(given)})"


def _is_collective(node: fx.Node) -> bool:
    return "_c10d_functional" in str(node.target)


def _arg_text(arg: Any) -> str:
    if isinstance(arg, (list, tuple)):
        return f"[{', '.join(map(_arg_text, arg))}]"
    if isinstance(arg, torch.dtype):
        return _dtype_text(arg)
    return str(arg)


def _dtype_text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _value_text(spec: TensorSpec, layout: Layout, mesh: MeshSpec) -> str:
    shape = local_shape(spec.shape, layout, mesh.sizes)
    places = ", ".join(
        f"{axis}: {placement}"
        for axis, placement in zip(mesh.names, layout, strict=True))
    return f"{shape} {_dtype_text(spec.dtype)}, {places}"


def _notes(node: fx.Node) -> str:
    text = ""
    if "lowering" in node.meta:
        text += f" by {node.meta['lowering'].__name__}"
    stream = node.meta.get("random")
    if stream is not None:
        text += f" random {stream.label}[{', '.join(stream.axes)}]"
    return text


def _stream_text(node: fx.Node) -> str:
    stream = (node.meta.get("custom") or {}).get("random")
    tags = getattr(node.target, "tags", ())
    if stream is None or torch.Tag.nondeterministic_seeded not in tags:
        return ""
    label, axes = stream
    return f" random {label}[{', '.join(axes)}]"


def _recorded(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{tuple(value.shape)} {_dtype_text(value.dtype)}"
    if isinstance(value, (list, tuple)):
        return ", ".join(filter(None, map(_recorded, value)))
    return ""
