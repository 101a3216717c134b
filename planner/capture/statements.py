"""The statements of a model's source."""

from __future__ import annotations

import ast
import functools
import linecache
from types import CodeType, FunctionType

__all__ = ["first_write", "innermost"]


def innermost(file: str,
              line: int,
              kind: type[ast.stmt] = ast.stmt) -> ast.stmt | None:
    """The smallest statement of a kind around a line of a file.

    None where there is no source.
    """
    held = [
        s for s in _statements(file) if isinstance(s, kind)
        and s.lineno <= line <= (s.end_lineno or s.lineno)
    ]
    return min(held,
               key=lambda s: (s.end_lineno or s.lineno) - s.lineno,
               default=None)


def first_write(kind: type, attribute: str) -> str:
    """Where a method of a class first seems to write to an attribute.

    Other methods than ``__init__``; an assignment, or a call of what hangs
    on it (``self.seen.append(x)``).

    Returns
    -------
    str
        As file:line, or nothing where there is none.
    """
    for owner in kind.__mro__:
        for name, function in vars(owner).items():
            if isinstance(function, FunctionType) and name != "__init__":
                line = _write_in(function.__code__, attribute)
                if line is not None:
                    return f"{function.__code__.co_filename}:{line}"
    return ""


def _write_in(code: CodeType, attribute: str) -> int | None:
    lines = [line for _, _, line in code.co_lines() if line is not None]
    written = [
        s.lineno for s in _statements(code.co_filename)
        if min(lines) <= s.lineno <= max(lines) and any(
            isinstance(n, ast.Attribute) and n.attr == attribute
            for part in _written_parts(s) for n in ast.walk(part))
    ]
    return min(written, default=None)


def _written_parts(statement: ast.stmt) -> list[ast.expr]:
    if isinstance(statement, ast.Assign):
        return statement.targets
    if isinstance(statement, (ast.AugAssign, ast.AnnAssign)):
        return [statement.target]
    if isinstance(statement, ast.Expr) and isinstance(statement.value,
                                                      ast.Call):
        return [statement.value.func]
    return []


@functools.lru_cache(maxsize=64)
def _statements(file: str) -> tuple[ast.stmt, ...]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return ()
    return tuple(n for n in ast.walk(tree) if isinstance(n, ast.stmt))
