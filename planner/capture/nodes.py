"""What is noted on the nodes of a traced graph: spec, source, label."""

from __future__ import annotations

import functools
import re
from typing import Any

import torch
from torch import fx

from planner.ir.program import Source
from planner.rules.registry import TensorSpec

__all__ = ["op_label", "source_in_model", "spec_of", "strip_entry"]

_WITHOUT_GRADIENT = re.compile(
    r"(detach|(new_|)(ones|zeros|full|empty|rand|randn|randint)(_like|)"
    r"|new_empty_strided|bernoulli|histc|.*_like)")


def strip_entry(path: str) -> str:
    """A module path without the wrapper around the model."""
    return "" if path == "model" else path.removeprefix("model.")


def op_label(node: fx.Node) -> str:
    """The operator's name without name space and overload.

    Empty for what is no call.
    """
    schema = getattr(node.target, "_schema", None)
    return (schema.name.split("::")[-1] if schema else getattr(
        node.target, "__name__", ""))


def spec_of(node: fx.Node) -> Any:
    """A TensorSpec, or a tuple of them (None for no tensor)."""
    if node.target.__name__ == "getitem":
        return node.args[0].meta["spec"][node.args[1]]
    values = node.meta["val"]
    grad = not _WITHOUT_GRADIENT.fullmatch(op_label(node)) and any(
        spec.requires_grad for arg in node.all_input_nodes
        for spec in _flat_specs(arg))
    if isinstance(values, (tuple, list)):
        return tuple(_one(value, grad) for value in values)
    return _one(values, grad)


def _one(value: Any, grad: bool) -> TensorSpec | None:
    if not isinstance(value, torch.Tensor):
        return None
    floating = value.is_floating_point() or value.is_complex()
    return TensorSpec(shape=tuple(value.shape),
                      dtype=value.dtype,
                      requires_grad=grad and floating)


def _flat_specs(node: fx.Node) -> list[TensorSpec]:
    spec = node.meta.get("spec")
    found = spec if isinstance(spec, tuple) else (spec, )
    return [s for s in found if s is not None]


def source_in_model(node: fx.Node) -> Source:
    """The module that the call was made in, and its line."""
    trace = node.meta.get("stack_trace") or ""
    return Source(module_path=_module_path(node), location=_location(trace))


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return strip_entry(re.sub(r"(?<=[^.])@\d+$", "",
                              paths[-1])) if paths else ""


@functools.lru_cache(maxsize=4096)
def _location(trace: str) -> str:
    """File and line of the innermost user frame; layers share their traces.

    Torch keeps frames of modules alone: a loss, or a model that is run as it
    is, has none of its own.
    """
    found = re.findall(r'File "([^"]+)", line (\d+)', trace)
    own = [
        f for f in found
        if "/torch/" not in f[0] and "/planner/capture/" not in f[0]
    ]
    if found and all("/planner/capture/" in f[0] for f in found):
        return "in forward itself or in the loss"
    place = (own or found)[-1:]
    return f"{place[0][0]}:{place[0][1]}" if place else ""
