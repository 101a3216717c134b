"""Turn a traced graph into a Program."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from planner.capture.blocks import cut_blocks, repeated_child
from planner.capture.entry import TENSOR, Call, Entry
from planner.capture.nodes import (op_label, source_in_model, spec_of,
                                   strip_entry)
from planner.capture.traced import Traced
from planner.ir.program import InputLeaf, Program
from planner.ir.rewrites import Rewrites
from planner.ir.values import is_getitem
from planner.rules.registry import TensorSpec

__all__ = ["build_program"]

_MOST_COMPARED = 4096
"""Elements of constants that may be alike."""


def build_program(entry: Entry, traced: Traced) -> Program:
    """Name the leaves, annotate the calls, and cut into blocks.

    Parameters
    ----------
    entry : Entry
        What was traced, with its own (no fake) state.
    traced : Traced
        Its normalised graph.
    """
    names = _Leaves.of(entry, traced)
    annotate = _Annotator(entry.model)
    for node, name in names.by_node.items():
        annotate.leaf(node, name, names.specs[name])
    calls = [n for n in traced.graph.nodes if n.op == "call_function"]
    for node in calls:
        annotate.call(node)
    classes, blocks, values = cut_blocks(calls,
                                         key=annotate.block_key,
                                         class_name=annotate.class_name,
                                         leaf_names=names.by_node,
                                         live_out=(*traced.outputs,
                                                   *traced.mutations.values()))
    output = entry.output
    return Program(model_name=type(entry.model).__name__,
                   classes=classes,
                   blocks=blocks,
                   specs=names.specs,
                   leaves=_input_leaves(entry.call, names.specs),
                   aliases=names.aliases,
                   constants=names.constants,
                   outputs=_output_names(output.leaves, traced.outputs,
                                         values),
                   output_constants=output.leaves,
                   output_tree=output.tree,
                   input_tree=entry.call.tree,
                   mutations={
                       names.buffer(b): values[n]
                       for b, n in traced.mutations.items()
                   },
                   loss=output.loss,
                   training=entry.model.training,
                   fixed=entry.fixed_leaves,
                   notes=traced.notes,
                   rewrites=names.rewrites(traced))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Leaves:
    """The global names of what a graph takes, and their specs."""

    by_node: dict[fx.Node, str]
    specs: dict[str, TensorSpec]
    aliases: dict[str, str]
    constants: dict[str, torch.Tensor]

    def rewrites(self, traced: Traced) -> Rewrites | None:
        """By global names."""
        found = traced.rewrites
        if found is None:
            return None
        names = {traced.leaves[n]: name for n, name in self.by_node.items()}
        return Rewrites(reads=tuple(names[x] for x in found.reads),
                        writes=tuple(names[x] for x in found.writes),
                        graph=found.graph)

    @staticmethod
    def of(entry: Entry, traced: Traced) -> _Leaves:
        model = entry.model
        aliases = _tied_names(model)
        params = dict(model.named_parameters())
        positions = entry.call.tensor_positions
        own = dict(entry.named_buffers()) | dict(entry.named_parameters())
        by_node, specs = {}, {}
        constants: dict[str, torch.Tensor] = {}
        alike: dict[Hashable, str] = {}
        for node, leaf in traced.leaves.items():
            kind, _, target = leaf.partition(":")
            grad = False
            if kind == "input":
                name = f"input:{positions[int(target)]}"
                grad = entry.call.tensors[int(target)].requires_grad
            elif kind == "const":
                value = traced.constants[target]
                name = alike.setdefault(_content(value), leaf)
                constants.setdefault(name, value)
            elif target.startswith("loss_fn."):
                name = f"const:{target}"
                constants[name] = own[target].detach()
            else:
                target = strip_entry(target)
                target = aliases.get(target, target)
                name = f"{kind}:{target}"
                grad = kind == "param" and params[target].requires_grad
            by_node[node] = name
            specs[name] = _leaf_spec(node, grad)
        return _Leaves(by_node=by_node,
                       specs=_in_model_order(model, specs),
                       aliases=aliases,
                       constants=constants)

    def buffer(self, target: str) -> str:
        name = strip_entry(target)
        return f"buffer:{self.aliases.get(name, name)}"


def _content(value: torch.Tensor) -> Hashable:
    """What small constants that are alike have in common: each layer may
    have its own, of which its class is not to depend."""
    if (type(value) is not torch.Tensor or value.is_meta
            or value.numel() > _MOST_COMPARED):
        return id(value)
    raw = value.detach().reshape(-1).resolve_conj().view(torch.uint8)
    return value.dtype, value.shape, value.device, bytes(raw.tolist())


def _leaf_spec(node: fx.Node, grad: bool) -> TensorSpec:
    value = node.meta["val"]
    return TensorSpec(shape=tuple(value.shape),
                      dtype=value.dtype,
                      requires_grad=grad)


def _in_model_order(model: nn.Module,
                    specs: dict[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Inputs and constants, then parameters and buffers as in the model."""
    order = [f"param:{n}" for n, _ in model.named_parameters()]
    order += [f"buffer:{n}" for n, _ in model.named_buffers()]
    known = set(order)
    rest = {n: s for n, s in specs.items() if n not in known}
    return rest | {n: specs[n] for n in order if n in specs}


def _tied_names(model: nn.Module) -> dict[str, str]:
    """Every other name of a tied parameter or buffer to its first name."""
    first: dict[int, str] = {}
    aliases: dict[str, str] = {}
    both = [
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False)
    ]
    for name, tensor in both:
        if first.setdefault(id(tensor), name) != name:
            aliases[name] = first[id(tensor)]
    return aliases


class _Annotator:
    """Notes spec, source and label on nodes; knows the repeated parts."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._keys: dict[str, str] = {}

    def leaf(self, node: fx.Node, name: str, spec: TensorSpec) -> None:
        node.meta["spec"] = spec
        node.meta["label"] = self._relative(name.partition(":")[2])

    def call(self, node: fx.Node) -> None:
        node.meta["spec"] = spec_of(node)
        source = source_in_model(node)
        node.meta["source"] = source
        inner = self._relative(source.module_path)
        op = op_label(node)
        node.meta["label"] = f"{inner}.{op}" if inner else op

    def block_key(self, node: fx.Node) -> str:
        # A pick goes where the call is that it picks from.
        while is_getitem(node):
            node = node.args[0]
        return self._key(node.meta["source"].module_path)

    def class_name(self, key: str) -> str:
        module = self.model.get_submodule(key) if key else self.model
        return type(module).__name__

    def _key(self, path: str) -> str:
        if path not in self._keys:
            self._keys[path] = repeated_child(self.model, path)
        return self._keys[path]

    def _relative(self, path: str) -> str:
        key = self._key(path)
        return path.removeprefix(key).removeprefix(".") if key else path


def _input_leaves(call: Call,
                  specs: Mapping[str, TensorSpec]) -> tuple[InputLeaf, ...]:
    return tuple(
        InputLeaf(path=path, spec=specs[f"input:{i}"]) if isinstance(
            leaf, torch.Tensor) else InputLeaf(path=path, constant=leaf)
        for i, (leaf,
                path) in enumerate(zip(call.leaves, call.paths, strict=True)))


def _output_names(leaves: tuple[Any, ...], outputs: tuple[fx.Node, ...],
                  names: Mapping[fx.Node, str]) -> tuple[str | None, ...]:
    tensors = iter(outputs)
    return tuple(names[next(tensors)] if leaf is TENSOR else None
                 for leaf in leaves)
