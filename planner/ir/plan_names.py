"""How a plan names parameters and inputs: by their paths, with ``*`` for a
block's number where blocks agree."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from planner.ir.errors import LayoutError
from planner.ir.program import Program
from planner.names import nearest

__all__ = ["folded", "matching", "plain"]


def plain(program: Program, name: str) -> str:
    """A global name as the user knows it."""
    kind, _, target = name.partition(":")
    return (f"input {program.leaves[int(target)].path}"
            if kind == "input" else target)


def _starred(name: str) -> str:
    return re.sub(r"(?<=\.)\d+(?=\.)", "*", name)


def folded(rest: Mapping[str, str], every: Iterable[str]) -> dict[str, str]:
    """Names of repeated blocks as one pattern, where they agree."""
    groups: dict[str, list[str]] = {}
    for name in every:
        groups.setdefault(_starred(name), []).append(name)
    found: dict[str, str] = {}
    for name, text in rest.items():
        group = groups.get(_starred(name), [name])
        if all(rest.get(n) == text for n in group):
            found[_starred(name) if len(group) > 1 else name] = text
        else:
            found[name] = text
    return found


def matching(pattern: str, names: Mapping[str, str]) -> list[str]:
    """The names that a line of a plan is about.

    Raises
    ------
    LayoutError
        When there are none.
    """
    expression = re.compile(re.escape(pattern).replace(r"\*", r"\d+"))
    found = [n for n in names if expression.fullmatch(n)]
    if not found:
        raise LayoutError(f"the plan names {pattern!r}, which the model does "
                          f"not have; {nearest(pattern, names)}")
    return found
