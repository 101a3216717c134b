"""Compile a graph around what no compiler can look into.

Experts exchange as many rows as their router says; a compiled graph has
fixed sizes. So the graph is cut at these calls, which run as they are, and
the pieces between are compiled.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.fx.passes.split_module import split_module

__all__ = ["compiled_pieces"]

_WAIT = torch.ops._c10d_functional.wait_tensor.default


def compiled_pieces(module: fx.GraphModule,
                    is_apart: Callable[[fx.Node], bool]) -> Callable[..., Any]:
    """Compile a module, but for some calls and what is taken out of them.

    Parameters
    ----------
    module : fx.GraphModule
    is_apart : callable
        Which calls are not compiled.
    """
    if not any(map(is_apart, module.graph.nodes)):
        return _compiled(module)
    pieces, apart = _pieces(module.graph, is_apart)
    split = split_module(module, module, pieces.__getitem__)
    for name, part in list(split.named_children()):
        if int(name.removeprefix("submod_")) not in apart:
            setattr(split, name, _compiled(part))
    return split


def _compiled(module: torch.nn.Module) -> Any:
    return torch.compile(module, fullgraph=True, dynamic=False)


def _pieces(
    graph: fx.Graph,
    is_apart: Callable[[fx.Node],
                       bool]) -> tuple[dict[fx.Node, int], set[int]]:
    """The piece of each call, and which pieces are not compiled.

    What is taken out of a call stays with it, as its size may vary; a
    collective is waited for where it was started, as compiled code may
    use its memory again.
    """
    pieces: dict[fx.Node, int] = {}
    apart: set[int] = set()
    current = 0
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        if is_apart(node):
            apart.add(current + 1)
            pieces[node] = current + 1
            current += 2
        elif node.target is _WAIT or _is_taken(node, pieces, apart):
            pieces[node] = pieces[node.args[0]]
        else:
            pieces[node] = current
    return pieces, apart


def _is_taken(node: fx.Node, pieces: dict[fx.Node, int],
              apart: set[int]) -> bool:
    return node.target is operator.getitem and pieces[node.args[0]] in apart
