"""From a model to a :class:`planner.ir.program.Program`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from planner.capture.blocks import cut_blocks, repeated_child
from planner.capture.entry import (TENSOR, Call, Entry, bind_inputs,
                                   default_example_inputs, split_example)
from planner.capture.export import export_model
from planner.ir.program import InputLeaf, Program, Source
from planner.rules.registry import TensorSpec

__all__ = ["capture", "capture_call"]

_ASSERTS = ("_assert_tensor_metadata", "_assert_async", "_assert_scalar",
            "sym_constrain_range", "sym_constrain_range_for_size")
_PASS_THROUGH = (torch.ops.aten.alias.default,
                 torch.ops.aten.lift_fresh_copy.default)


def capture(model: nn.Module,
            example_inputs: Any = None,
            *,
            loss_fn: Callable[..., Any] | None = None) -> Program:
    """Capture a model's forward training program, cut into blocks.

    Parameters
    ----------
    model : nn.Module
        On any device, also meta; nothing is computed.
    example_inputs : tuple, dict or Tensor, optional
        One global batch (meta or fake tensors will do). Left out: the
        model's ``example_inputs()`` or ``dummy_inputs``.
    loss_fn : callable, optional
        ``loss_fn(output, *targets)``; the targets come after the model's
        inputs in `example_inputs`.

    Raises
    ------
    CaptureError
        When the model can't be traced, with its line and a way out.
    TypeError
        When the inputs do not fit the model.
    """
    args, kwargs = (default_example_inputs(model) if example_inputs is None
                    else split_example(example_inputs))
    return capture_call(model,
                        bind_inputs(model, args, kwargs, loss_fn),
                        loss_fn=loss_fn)


def capture_call(model: nn.Module,
                 call: Call,
                 *,
                 loss_fn: Callable[..., Any] | None = None) -> Program:
    """Capture for a call whose inputs are already bound."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    entry, exported = export_model(model, call, loss_fn, mode)
    return _Builder(model, call, entry, exported).build()


def _strip(path: str) -> str:
    """Module path without the wrapper around the model."""
    return path.removeprefix("model").removeprefix(".")


class _Builder:
    """Turns one exported graph into a Program."""

    def __init__(self, model: nn.Module, call: Call, entry: Entry,
                 exported: ExportedProgram) -> None:
        self.model = model
        self.call = call
        self.entry = entry
        self.exported = exported
        self.graph = exported.graph_module.graph
        self.aliases = _tied_names(model)
        self.names: dict[fx.Node, str] = {}
        self.specs: dict[str, TensorSpec] = {}
        self.constants: dict[str, torch.Tensor] = {}

    def build(self) -> Program:
        self._name_leaves()
        _drop_asserts(self.graph)
        self._annotate()
        outputs, mutations = self._returned()
        live = [
            n for n in (*outputs, *mutations.values())
            if isinstance(n, fx.Node)
        ]
        calls = [n for n in self.graph.nodes if n.op == "call_function"]
        classes, blocks, names = cut_blocks(calls,
                                            key=self._block_key,
                                            class_name=self._class_name,
                                            leaf_names=self.names,
                                            live_out=live)
        return Program(model_name=type(self.model).__name__,
                       classes=classes,
                       blocks=blocks,
                       specs=self.specs,
                       leaves=self._leaves(),
                       aliases=self.aliases,
                       constants=self.constants,
                       outputs=self._output_names(outputs, names),
                       output_constants=self.entry.output.leaves,
                       output_tree=self.entry.output.tree,
                       input_tree=self.call.tree,
                       mutations={
                           b: names[n]
                           for b, n in mutations.items()
                       },
                       loss=self.entry.output.loss,
                       training=self.model.training)

    def _name_leaves(self) -> None:
        signature = self.exported.graph_signature
        kinds = {
            InputKind.PARAMETER: "param",
            InputKind.BUFFER: "buffer",
            InputKind.CONSTANT_TENSOR: "const",
            InputKind.USER_INPUT: "input"
        }
        by_name = {
            n.name: n
            for n in self.graph.nodes if n.op == "placeholder"
        }
        positions = iter(i for i, x in enumerate(self.call.leaves)
                         if isinstance(x, torch.Tensor))
        ordered = {name: None for name in self._model_order()}
        for spec in signature.input_specs:
            node = by_name[spec.arg.name]
            kind = kinds[spec.kind]
            if kind == "input":
                name = f"input:{next(positions)}"
            else:
                target = _strip(spec.target or "")
                name = f"{kind}:{self.aliases.get(target, target)}"
            if kind == "const":
                name = f"const:{spec.target}"
                self.constants[name] = self.exported.constants[spec.target]
            self.names[node] = name
            self._note_spec(name, node)
        for name in ordered:
            if name in self.specs:
                self.specs[name] = self.specs.pop(name)

    def _model_order(self) -> list[str]:
        return [f"param:{n}" for n, _ in self.model.named_parameters()
                ] + [f"buffer:{n}" for n, _ in self.model.named_buffers()]

    def _note_spec(self, name: str, node: fx.Node) -> None:
        value = node.meta["val"]
        grad = False
        kind, _, target = name.partition(":")
        if kind == "param":
            grad = dict(self.model.named_parameters())[target].requires_grad
        elif kind == "input":
            grad = self.call.leaves[int(target)].requires_grad
        spec = TensorSpec(shape=tuple(value.shape),
                          dtype=value.dtype,
                          requires_grad=grad)
        self.specs[name] = spec
        node.meta["spec"] = spec

    def _annotate(self) -> None:
        """Give every call its spec, its source and its label."""
        for node in self.graph.nodes:
            if node.op == "placeholder":
                target = self.names[node].partition(":")[2]
                node.meta["label"] = self._relative(target)
                continue
            if node.op != "call_function":
                continue
            node.meta["spec"] = _spec_of(node)
            path = _module_path(node)
            node.meta["source"] = Source(module_path=path,
                                         location=_location(node))
            short = getattr(node.target, "_schema", None)
            op = short.name.split("::")[-1] if short else node.target.__name__
            inner = self._relative(path)
            node.meta["label"] = f"{inner}.{op}" if inner else op

    def _relative(self, path: str) -> str:
        key = repeated_child(self.model, path)
        return path.removeprefix(key).removeprefix(".") if key else path

    def _block_key(self, node: fx.Node) -> str:
        return repeated_child(self.model, node.meta["source"].module_path)

    def _class_name(self, key: str) -> str:
        module = self.model.get_submodule(key) if key else self.model
        return type(module).__name__

    def _leaves(self) -> tuple[InputLeaf, ...]:
        return tuple(
            InputLeaf(path=path, spec=self.specs[f"input:{i}"]) if isinstance(
                leaf, torch.Tensor) else InputLeaf(path=path, constant=leaf)
            for i, (leaf, path) in enumerate(
                zip(self.call.leaves, self.call.paths, strict=True)))

    def _returned(self) -> tuple[list[Any], dict[str, fx.Node]]:
        """The user's outputs in order, and what is written to buffers."""
        nodes = {n.name: n for n in self.graph.nodes}
        outputs: list[Any] = []
        mutations: dict[str, fx.Node] = {}
        for spec in self.exported.graph_signature.output_specs:
            node = nodes.get(getattr(spec.arg, "name", ""))
            if spec.kind is OutputKind.BUFFER_MUTATION:
                name = _strip(spec.target)
                assert node is not None
                mutations[f"buffer:{self.aliases.get(name, name)}"] = node
            elif spec.kind is OutputKind.USER_OUTPUT:
                outputs.append(node)
        return outputs, mutations

    def _output_names(self, outputs: list[Any],
                      names: Mapping[fx.Node, str]) -> tuple[str | None, ...]:
        tensors = iter(outputs)
        return tuple(names[next(tensors)] if leaf is TENSOR else None
                     for leaf in self.entry.output.leaves)


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


def _drop_asserts(graph: fx.Graph) -> None:
    """Remove guards, fold aliases, and drop what nothing uses."""
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        schema = getattr(node.target, "_schema", None)
        if schema and schema.name.split("::")[-1] in _ASSERTS:
            graph.erase_node(node)
        elif node.target in _PASS_THROUGH and node.args:
            _replace_unless_output(graph, node)
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and not node.users:
            graph.erase_node(node)


def _replace_unless_output(graph: fx.Graph, node: fx.Node) -> None:
    """Outputs keep their node: the signature finds them by name."""
    output = graph.output_node()
    if output in node.users:
        return
    node.replace_all_uses_with(node.args[0])
    graph.erase_node(node)


def _spec_of(node: fx.Node) -> Any:
    values = node.meta["val"]
    inputs = [s for n in node.all_input_nodes for s in _flat_specs(n)]
    detached = node.target is torch.ops.aten.detach.default
    grad = any(s.requires_grad for s in inputs) and not detached
    if node.target.__name__ == "getitem":
        source = node.args[0].meta["spec"]
        return source[node.args[1]]

    def one(value: Any) -> TensorSpec | None:
        if not isinstance(value, torch.Tensor):
            return None
        floating = value.is_floating_point() or value.is_complex()
        return TensorSpec(shape=tuple(value.shape),
                          dtype=value.dtype,
                          requires_grad=grad and floating)

    if isinstance(values, (tuple, list)):
        return tuple(one(v) for v in values)
    return one(values)


def _flat_specs(node: fx.Node) -> list[TensorSpec]:
    spec = node.meta.get("spec")
    found = spec if isinstance(spec, tuple) else (spec, )
    return [s for s in found if s is not None]


def _module_path(node: fx.Node) -> str:
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return re.sub(r"@\d+$", "", _strip(paths[-1])) if paths else ""


def _location(node: fx.Node) -> str:
    """File and line of the innermost user frame."""
    trace = node.meta.get("stack_trace") or ""
    found = re.findall(r'File "([^"]+)", line (\d+)', trace)
    own = [f for f in found if "/torch/" not in f[0]] or found
    return f"{own[-1][0]}:{own[-1][1]}" if own else ""
