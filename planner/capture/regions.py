"""Make gradient-free regions explicit, before they are inlined.

``torch.export`` keeps ``torch.no_grad`` blocks as sub-graphs and forgets
them when it inlines. What such a block computes must not carry gradients:
every value that could bring one in passes through ``aten.detach``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import fx

from planner.ir.errors import CaptureError

__all__ = ["detach_no_grad_regions"]

_HOPS = torch.ops.higher_order


def detach_no_grad_regions(module: fx.GraphModule,
                           differentiable: Iterable[str]) -> None:
    """Cut gradients where the model asked for it, in place.

    Parameters
    ----------
    module : fx.GraphModule
        A graph of ``torch.export`` with ``wrap_with_set_grad_enabled``
        regions.
    differentiable : iterable of str
        Names of the placeholders that require gradients.

    Raises
    ------
    CaptureError
        When a ``torch.no_grad`` block writes into a value that carries a
        gradient, which no functional graph can tell.
    """
    wanted = set(differentiable)
    flags = [
        n.name in wanted for n in module.graph.find_nodes(op="placeholder")
    ]
    _Region(module, flags, enabled=True).run()


class _Region:
    """One (sub-)graph, and which of its values may carry a gradient."""

    def __init__(self, module: fx.GraphModule, flags: list[bool], *,
                 enabled: bool) -> None:
        self.module = module
        self.graph = module.graph
        self.enabled = enabled
        self.carries: dict[fx.Node, Any] = dict(
            zip(self.graph.find_nodes(op="placeholder"), flags, strict=True))
        self.detached: dict[fx.Node, fx.Node] = {}

    def run(self) -> list[bool]:
        """Returns which outputs may carry a gradient."""
        for node in list(self.graph.nodes):
            if node.op == "call_function":
                self._visit(node)
        self.module.recompile()
        outputs = self.graph.output_node().args[0]
        return [
            isinstance(x, fx.Node) and bool(self._carries(x)) for x in outputs
        ]

    def _carries(self, node: fx.Node) -> bool:
        flag = self.carries.get(node, False)
        return any(flag) if isinstance(flag, list) else bool(flag)

    def _visit(self, node: fx.Node) -> None:
        if node.target in (_HOPS.wrap_with_set_grad_enabled,
                           _HOPS.wrap_with_autocast):
            self.carries[node] = self._inner(node)
        elif node.target.__name__ == "getitem":
            flag = self.carries.get(node.args[0], False)
            self.carries[node] = (flag[node.args[1]]
                                  if isinstance(flag, list) else flag)
        elif self.enabled:
            self._propagate(node)
        else:
            self._cut(node)

    def _inner(self, node: fx.Node) -> list[bool]:
        is_grad = node.target is _HOPS.wrap_with_set_grad_enabled
        position = 1 if is_grad else 4
        region = getattr(self.module, node.args[position].target)
        enabled = bool(node.args[0]) if is_grad else self.enabled
        flags = [
            isinstance(x, fx.Node) and self._carries(x)
            for x in node.args[position + 1:]
        ]
        return _Region(region, flags, enabled=enabled).run()

    def _propagate(self, node: fx.Node) -> None:
        if node.target is torch.ops.aten.detach.default:
            return
        if any(self._carries(n) for n in node.all_input_nodes):
            self.carries[node] = _is_floating(node.meta.get("val"))
            if _writes(node):
                self._mark_written(node.args[0])

    def _mark_written(self, node: Any) -> None:
        """What is written through a view is written to what it views."""
        while isinstance(node, fx.Node):
            self.carries[node] = True
            node = node.args[0] if _is_view(node) else None

    def _cut(self, node: fx.Node) -> None:
        sources = [n for n in node.all_input_nodes if self._carries(n)]
        if sources and _writes(node) and node.args[0] in sources:
            raise CaptureError(
                f"a torch.no_grad block writes ({node.target}) into a value "
                f"that carries a gradient, at {_line(node)}; clone or detach "
                "the value before it is written")
        for source in sources:
            node.replace_input_with(source, self._detach(source))

    def _detach(self, source: fx.Node) -> fx.Node:
        if source not in self.detached:
            place = source if source.op != "placeholder" else \
                self.graph.find_nodes(op="placeholder")[-1]
            with self.graph.inserting_after(place):
                cut = self.graph.call_function(torch.ops.aten.detach.default,
                                               (source, ))
            cut.meta = dict(source.meta)
            self.detached[source] = cut
        return self.detached[source]


def _is_floating(value: Any) -> bool:
    values = value if isinstance(value, (tuple, list)) else (value, )
    return any(
        isinstance(v, torch.Tensor) and (
            v.is_floating_point() or v.is_complex()) for v in values)


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable


def _is_view(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return (schema is not None and bool(schema.arguments)
            and schema.arguments[0].alias_info is not None)


def _line(node: fx.Node) -> str:
    trace = node.meta.get("stack_trace") or ""
    lines = [x.strip() for x in trace.splitlines() if "File " in x]
    return lines[-1] if lines else "an unknown line"
