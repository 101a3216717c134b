"""The model as a tree of modules, with how its parameters lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from planner.candidate import Candidate
from planner.explain.page.markup import Markup, element, join
from planner.ir.layout import Layout, format_layout
from planner.ir.program import Program, value_kind
from planner.ir.values import Value

__all__ = ["module_tree", "parameter_rows"]

_OPEN = 2
"""Levels that are open at first."""


def parameter_rows(program: Program,
                   chosen: Candidate) -> list[dict[str, Any]]:
    """Each parameter with its layouts, in the order of the model."""
    layout = chosen.layout
    hubs: dict[str, Layout] = {}
    for block, node, name in program.uses():
        if value_kind(name) == "param":
            own = layout.classes[block.block_class].hubs[Value(node).label]
            hubs.setdefault(name, own)
    return [{
        "name": name.partition(":")[2],
        "shape": list(program.specs[name].shape),
        "at_rest": format_layout(layout.at_rest[name]),
        "in_use": _in_use(hubs.get(name, layout.at_rest[name])),
        "regathered": name in layout.regather,
    } for name in program.params]


def _in_use(layout: Layout) -> str:
    return " ".join("R" if p.is_replicated else str(p) for p in layout)


@dataclass(slots=True, kw_only=True)
class _Module:
    """A module while the tree is built."""

    modules: dict[str, _Module] = field(default_factory=dict)
    parameters: dict[str, dict[str, Any]] = field(default_factory=dict)

    def shape(self) -> tuple[Any, ...]:
        """Equal for modules that look alike."""
        own = tuple((n, str(p["shape"]), p["at_rest"], p["in_use"])
                    for n, p in self.parameters.items())
        return own, tuple((n, m.shape()) for n, m in self.modules.items())


def module_tree(name: str, parameters: Sequence[dict[str, Any]]) -> Markup:
    """Modules that fold, with neighbours that are alike told once.

    Parameters
    ----------
    name : str
        Of the model.
    parameters : sequence of dict
        As :func:`parameter_rows` gives them.
    """
    root = _Module()
    for row in parameters:
        *path, last = row["name"].split(".")
        place = root
        for part in path:
            place = place.modules.setdefault(part, _Module())
        place.parameters[last] = row
    return element("div", {"class": "tree"}, _branch(name, root, 0))


def _branch(name: str, module: _Module, depth: int) -> Markup:
    inside = [_leaf(n, p) for n, p in module.parameters.items()]
    inside += [
        _branch(title, child, depth + 1) for title, child in _folded(module)
    ]
    return element("details", {"open": depth < _OPEN},
                   element("summary", None, name), inside)


def _folded(module: _Module) -> list[tuple[str, _Module]]:
    """Children; numbered ones that are alike and side by side as one."""
    runs: list[tuple[list[str], _Module]] = []
    for name, child in module.modules.items():
        if runs and name.isdigit() and runs[-1][0][-1].isdigit() and (
                runs[-1][1].shape() == child.shape()):
            runs[-1][0].append(name)
        else:
            runs.append(([name], child))
    return [(names[0] if len(names) == 1 else
             f"{names[0]} to {names[-1]} ({len(names)} alike)", child)
            for names, child in runs]


def _leaf(name: str, row: dict[str, Any]) -> Markup:
    shape = " x ".join(map(str, row["shape"])) or "scalar"
    again = ", gathered again for the backward" if row["regathered"] else ""
    changed = "" if row["at_rest"] == row["in_use"] else (
        f" at rest, {row['in_use']} in use")
    return element(
        "p", {"class": "leaf"},
        join(element("span", {"class": "name"}, name), " ",
             element("span", {"class": "shape"}, shape), " ",
             element("code", None, row["at_rest"]), changed + again))
