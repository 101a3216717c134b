"""The blocks of a model and the layouts between them, for Graphviz."""

from __future__ import annotations

from collections.abc import Iterator

from planner.candidate import Candidate
from planner.ir.layout import Layout, format_layout
from planner.ir.program import Program, value_kind
from planner.ir.values import Value, value_of
from planner.pipeline.means import count_ahead

__all__ = ["format_dot"]


def format_dot(program: Program, chosen: Candidate) -> str:
    """A graph in the DOT language: one node a block, one edge a value.

    An edge says how the value lies where it is made and, if it is converted
    on the way, where it is read. Parameters are left out.

    Parameters
    ----------
    program : Program
        As captured.
    chosen : Candidate
        Of this program.
    """
    if chosen.pipeline is not None:
        program = count_ahead(program)  # whose values its layouts name
    lines = [
        f"digraph {_quoted(program.model_name)} {{",
        "  node [shape=box, fontname=monospace];",
        "  edge [fontname=monospace, fontsize=10];"
    ]
    for block in program.blocks:
        label = f"{block.name}\n{block.block_class}"
        lines.append(f"  {_quoted(block.name)} [label={_quoted(label)}];")
    for source, target, label in _edges(program, chosen):
        lines.append(f"  {_quoted(source)} -> {_quoted(target)} "
                     f"[label={_quoted(label)}];")
    return "\n".join([*lines, "}"]) + "\n"


def _edges(program: Program,
           chosen: Candidate) -> Iterator[tuple[str, str, str]]:
    """(from, to, label) in program order."""
    layout = chosen.layout
    held: dict[str, tuple[str, Layout]] = {
        n: (n, lay)
        for n, lay in layout.at_rest.items() if value_kind(n) == "input"
    }
    for block in program.blocks:
        cls = program.class_of(block)
        hubs = layout.classes[cls.name].hubs
        for node, name in zip(cls.placeholders, block.operands, strict=True):
            if name in held:
                source, made = held[name]
                value = Value(node)
                read = hubs.get(value.label, made)
                shape = "x".join(map(str, value.spec.shape)) or "scalar"
                yield source, block.name, f"{shape}\n{_change(made, read)}"
        for node, name in zip(cls.results, block.results, strict=True):
            held[name] = block.name, hubs[value_of(node).label]


def _change(made: Layout, read: Layout) -> str:
    before, after = format_layout(made), format_layout(read)
    return before if before == after else f"{before} to {after}"


def _quoted(text: str) -> str:
    """A string of the DOT language."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + escaped.replace("\n", "\\n") + '"'
