"""Trace with ``torch.export``: the first way, which knows module paths."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Mapping

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from planner.capture.entry import Entry
from planner.capture.functional import make_functional
from planner.capture.parameter_writes import taken_out
from planner.capture.repeats.runs import fold_runs, unfold_runs
from planner.capture.traced import Traced
from planner.ir.errors import CaptureError

__all__ = ["trace_by_export"]

_KINDS = {
    InputKind.PARAMETER: "param",
    InputKind.BUFFER: "buffer",
    InputKind.CONSTANT_TENSOR: "const"
}


def trace_by_export(entry: Entry, fakes: tuple[torch.Tensor, ...]) -> Traced:
    """Export the entry as one functional forward graph.

    Parameters
    ----------
    entry : Entry
        Its model's state is already fake.
    fakes : tuple of Tensor
        Fake inputs.

    Returns
    -------
    Traced
        Functional pre-dispatch ATen with composite operators kept whole;
        values made under ``torch.no_grad`` pass through ``aten.detach``.
    """
    exported = torch.export.export(entry, fakes, strict=False)
    _reject_fake_constants(exported)
    _keep_paths_of_regions(exported)
    instead = make_functional(exported.graph)
    if instead is None:
        exported, instead = _decomposed(exported)
    return _traced(exported, entry, instead)


def _decomposed(
        exported: ExportedProgram
) -> tuple[ExportedProgram, dict[str, fx.Node]]:
    """As torch does it, and what stands for nodes by their names."""
    runs = fold_runs(exported.graph)
    _drop_second_names(exported)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = exported.run_decompositions({})
    return exported, unfold_runs(exported.graph, runs)


def _drop_second_names(exported: ExportedProgram) -> None:
    """Of buffers that have several: what is written to has to have one."""
    nodes = {n.name: n for n in exported.graph.nodes}
    first: dict[int, fx.Node] = {}
    for spec in list(exported.graph_signature.input_specs):
        if spec.kind is not InputKind.BUFFER:
            continue
        name, node = spec.target or "", nodes[spec.arg.name]
        state = (exported.state_dict
                 if spec.persistent else exported.constants)
        other = first.setdefault(id(state[name]), node)
        if other is not node:
            node.replace_all_uses_with(other)
            exported.graph.erase_node(node)
            exported.graph_signature.input_specs.remove(spec)
            del state[name]


def _keep_paths_of_regions(exported: ExportedProgram) -> None:
    """Regions (of autocast) are graphs of their own, which are inlined.

    Run as Python they would take the module path of the call of the region.
    """
    for module in exported.graph_module.modules():
        if isinstance(module,
                      fx.GraphModule) and module is not exported.graph_module:
            module.__dict__["forward"] = fx.Interpreter(module).run


def _reject_fake_constants(exported: ExportedProgram) -> None:
    for spec in exported.graph_signature.input_specs:
        name = spec.target or ""
        if spec.kind is InputKind.CONSTANT_TENSOR and isinstance(
                exported.constants[name], FakeTensor):
            raise CaptureError(
                f"the model turns a traced value into a constant ({name}): "
                "`.data`, `torch.tensor(traced)` or a tensor kept in a "
                "global do that; use `.detach()` and buffers instead")


def _traced(exported: ExportedProgram, entry: Entry,
            instead: Mapping[str, fx.Node]) -> Traced:
    graph = exported.graph_module.graph
    nodes = {**{n.name: n for n in graph.nodes}, **instead}
    positions = itertools.count()
    leaves: dict[fx.Node, str] = {}
    for spec in exported.graph_signature.input_specs:
        kind = _KINDS.get(spec.kind)
        leaves[nodes[spec.arg.name]] = (f"{kind}:{spec.target}" if kind else
                                        f"input:{next(positions)}")
    outputs, mutations, written, parameters = _returned(exported, nodes, entry)
    rewrites = taken_out(graph, leaves, parameters)
    constants = {
        name: exported.constants[name]
        for name in (v.removeprefix("const:") for v in leaves.values()
                     if v.startswith("const:"))
    }
    return Traced(graph=graph,
                  leaves=leaves,
                  outputs=outputs,
                  mutations=mutations,
                  constants=constants,
                  notes=tuple(map(_written_input, written)),
                  rewrites=rewrites)


def _returned(
    exported: ExportedProgram, nodes: dict[str, fx.Node], entry: Entry
) -> tuple[tuple[fx.Node, ...], dict[str, fx.Node], tuple[str, ...], dict[
        str, fx.Node]]:
    """The user's outputs in order, what is written to buffers, the paths of
    inputs that are written to, and what is written to parameters."""
    outputs: list[fx.Node] = []
    mutations: dict[str, fx.Node] = {}
    parameters: dict[str, fx.Node] = {}
    inputs: list[str] = []
    for spec in exported.graph_signature.output_specs:
        node = nodes[spec.arg.name]
        target = spec.target or ""
        if spec.kind is OutputKind.USER_OUTPUT:
            outputs.append(node)
        elif spec.kind is OutputKind.BUFFER_MUTATION:
            mutations[target] = node
        elif spec.kind is OutputKind.PARAMETER_MUTATION:
            parameters[target] = node
        else:
            inputs.append(_input_path(exported, target, entry))
    return tuple(outputs), mutations, tuple(inputs), parameters


def _input_path(exported: ExportedProgram, name: str, entry: Entry) -> str:
    """Of an input that is written to.

    Raises
    ------
    CaptureError
        When another input shares its memory, and would be written to.
    """
    names = [
        spec.arg.name for spec in exported.graph_signature.input_specs
        if spec.kind is InputKind.USER_INPUT
    ]
    position = names.index(name)
    path = entry.call.paths[entry.call.tensor_positions[position]]
    tensors = entry.call.tensors
    memory = tensors[position].untyped_storage()._cdata
    if sum(t.untyped_storage()._cdata == memory for t in tensors) > 1:
        raise CaptureError(
            f"the forward pass writes in place to its input {path}, whose "
            "memory is another input's too; write to a copy (`x = x.clone()`)")
    return path


def _written_input(path: str) -> str:
    return (f"forward writes in place to its input {path}: the program writes "
            "to a copy, so that the batch stays as it is")
