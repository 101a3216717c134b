"""The statements of a model's source."""

from __future__ import annotations

import ast
import functools
import linecache

__all__ = ["innermost"]


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


@functools.lru_cache(maxsize=64)
def _statements(file: str) -> tuple[ast.stmt, ...]:
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except SyntaxError:
        return ()
    return tuple(n for n in ast.walk(tree) if isinstance(n, ast.stmt))
