"""The captured program: blocks over named global values.

A :class:`Program` is the forward training program of one model for one set
of input shapes, cut into :class:`Block` s. Blocks that compute the same
thing on different parameters share a :class:`BlockClass`, whose graph is
the only place where operators are stored, so that everything costly is
done once per class, whatever the depth.

Global values have names: ``param:NAME``, ``buffer:NAME``, ``const:NAME``,
``input:INDEX`` and, for what a block computes, ``BLOCK/NODE``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx

from planner.ir.rewrites import Rewrites
from planner.rules.registry import TensorSpec

__all__ = [
    "Block", "BlockClass", "InputLeaf", "Program", "Source", "source_of",
    "value_kind"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where a node comes from in the user's model."""

    module_path: str
    location: str = ""

    def __str__(self) -> str:
        where = self.module_path or "the model"
        return f"{where} ({self.location})" if self.location else where


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockClass:
    """One distinct block: its forward graph over global shapes.

    Parameters
    ----------
    name : str
        Class name of the module the block was cut from, made unique.
    graph : fx.Graph
        Placeholders (parameters, buffers, inputs, live values), functional
        ATen calls, and one output node holding a tuple of live-out nodes.
        Every tensor node has ``meta["spec"]``: a TensorSpec, or a tuple of
        TensorSpec (None where there is no tensor) for several outputs,
        and ``meta["source"]``: a Source.
    """

    name: str
    graph: fx.Graph

    @property
    def placeholders(self) -> tuple[fx.Node, ...]:
        return tuple(n for n in self.graph.nodes if n.op == "placeholder")

    @property
    def calls(self) -> tuple[fx.Node, ...]:
        return tuple(n for n in self.graph.nodes if n.op == "call_function")

    @property
    def results(self) -> tuple[fx.Node, ...]:
        return tuple(self.graph.output_node().args[0])


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One use of a block class.

    Parameters
    ----------
    name : str
        The module path it was cut from, or ``glue.N`` between those.
    block_class : str
        Name of its class.
    operands : tuple of str
        Global value bound to each placeholder of the class.
    results : tuple of str
        Global value name of each result.
    """

    name: str
    block_class: str
    operands: tuple[str, ...]
    results: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InputLeaf:
    """One leaf of the user's (args, kwargs): a tensor or a constant."""

    path: str
    spec: TensorSpec | None = None
    constant: Any = None


@dataclass(frozen=True, kw_only=True)
class Program:
    """A captured model.

    Parameters
    ----------
    model_name : str
    classes : dict of str to BlockClass
    blocks : tuple of Block
        In execution order.
    specs : dict of str to TensorSpec
        Of every parameter, buffer, constant and input, by global name.
    leaves : tuple of InputLeaf
        Flattened user inputs; tensor leaf ``i`` is ``input:i``.
    aliases : dict of str to str
        Parameter name to the canonical name it is tied to.
    constants : dict of str to Tensor
        Values of ``const:`` names.
    outputs : tuple
        A global value name, or ``None`` with the constant in
        `output_constants`, per output leaf.
    mutations : dict of str to str
        Buffer (global name) to the global value written back to it after
        the forward pass.
    loss : int or None
        Which output leaf is the scalar that training differentiates.
    training : bool
    fixed : tuple of int
        Leaves whose values shapes follow from: it is a program for the
        values that it was captured with, and for no others.
    notes : tuple of str
        What capture replaced or left out, for the reader of a plan.
    rewrites : Rewrites or None
        New values that a call gives to parameters before all else.
    """

    model_name: str
    classes: Mapping[str, BlockClass]
    blocks: tuple[Block, ...]
    specs: Mapping[str, TensorSpec]
    leaves: tuple[InputLeaf, ...]
    aliases: Mapping[str, str]
    constants: Mapping[str, torch.Tensor]
    outputs: tuple[str | None, ...]
    output_constants: tuple[Any, ...]
    output_tree: Any
    input_tree: Any
    mutations: Mapping[str, str]
    loss: int | None
    training: bool
    fixed: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=())
    rewrites: Rewrites | None = None

    def class_of(self, block: Block) -> BlockClass:
        return self.classes[block.block_class]

    @property
    def params(self) -> tuple[str, ...]:
        """Global names of all parameters, in model order."""
        return tuple(n for n in self.specs if n.startswith("param:"))

    @property
    def written(self) -> tuple[str, ...]:
        """Global names of parameters that a call writes to."""
        return self.rewrites.writes if self.rewrites else ()

    @property
    def loss_name(self) -> str | None:
        """Global name of the scalar that training differentiates."""
        return None if self.loss is None else self.outputs[self.loss]

    def uses(self) -> Iterator[tuple[Block, fx.Node, str]]:
        """Every (block, placeholder, global value) in execution order."""
        nodes = {n: c.placeholders for n, c in self.classes.items()}
        for block in self.blocks:
            for node, name in zip(nodes[block.block_class],
                                  block.operands,
                                  strict=True):
                yield block, node, name

    def makes(self) -> Iterator[tuple[Block, fx.Node, str]]:
        """Every (block, result, global value) in execution order."""
        for block in self.blocks:
            for node, name in zip(self.classes[block.block_class].results,
                                  block.results,
                                  strict=True):
                yield block, node, name

    def __str__(self) -> str:
        lines = [
            f"program {self.model_name}: {len(self.blocks)} blocks of "
            f"{len(self.classes)} classes"
        ]
        for name, cls in self.classes.items():
            users = [b.name for b in self.blocks if b.block_class == name]
            lines.append(f"class {name}: {len(cls.calls)} calls, "
                         f"{len(users)} x ({users[0]}, ...)")
        return "\n".join(lines)


def value_kind(name: str) -> str:
    """``param``, ``buffer``, ``const``, ``input``, or ``value``."""
    kind, colon, _ = name.partition(":")
    known = ("param", "buffer", "const", "input")
    return kind if colon and kind in known else "value"


def source_of(node: fx.Node) -> Source:
    """The node's place in the user's model."""
    return node.meta.get("source", Source(module_path=""))
