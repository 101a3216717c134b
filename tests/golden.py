"""Golden texts, written inline in the test that checks them.

Run the test with ``SCALETORCH_ACCEPT=1`` in the environment to have every
text that differs rewritten in the test's own file; then read the diff.
"""

from __future__ import annotations

import ast
import functools
import inspect
import os
import sys
import textwrap
from pathlib import Path
from unittest import TestCase

__all__ = ["check_golden"]


def check_golden(test: TestCase, actual: str, expected: str) -> None:
    """Compare with a text given as a string literal in the call.

    Common indentation, blanks at line ends and surrounding newlines do not
    count, so that the literal can be indented like the code around it.

    Parameters
    ----------
    test : TestCase
        The test; it fails when the texts differ.
    actual : str
        What the code printed.
    expected : str
        A string literal (no variable): accepting rewrites it in place.
    """
    if _normal(actual) == _normal(expected):
        return
    if os.environ.get("SCALETORCH_ACCEPT") != "1":
        test.maxDiff = None
        test.assertEqual(_normal(expected), _normal(actual))
    caller = inspect.getframeinfo(sys._getframe(1))
    assert caller.positions is not None
    end = caller.positions.end_lineno, caller.positions.end_col_offset
    _rewrite(Path(caller.filename), end, actual)


def _normal(text: str) -> str:
    lines = textwrap.dedent(text.expandtabs()).splitlines()
    return "\n".join(line.rstrip() for line in lines).strip("\n")


def _calls(source: str) -> list[ast.Call]:
    """The calls of check_golden in a source text, in order."""
    found = [
        node for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call) and "check_golden" in (
            getattr(node.func, "id", ""), getattr(node.func, "attr", ""))
    ]
    return sorted(found, key=lambda call: (call.lineno, call.col_offset))


@functools.cache
def _original(path: Path) -> str:
    """The text as it was imported: line numbers in frames refer to it."""
    return path.read_text(encoding="utf-8")


def _rewrite(path: Path, end: tuple[int | None, int | None],
             actual: str) -> None:
    """Rewrite the text of the call that ends at (line, column) `end`."""
    calls = _calls(_original(path))
    ends = [(call.end_lineno, call.end_col_offset) for call in calls]
    index = ends.index(end)
    source = path.read_text(encoding="utf-8")
    literal = _calls(source)[index].args[2]
    segment = ast.get_source_segment(source, literal)
    if not isinstance(literal, ast.Constant) or segment is None:
        raise TypeError(f"{path}:{end[0]}: check_golden takes the expected "
                        "text as a string literal, so that it can be "
                        "rewritten; write \"\" to begin with")
    lines = source.splitlines(keepends=True)
    before = "".join(lines[:literal.lineno - 1])
    prefix = len(before) + _column(lines[literal.lineno - 1],
                                   literal.col_offset)
    source = (source[:prefix] + _literal(actual, calls[index].col_offset + 4) +
              source[prefix + len(segment):])
    path.write_text(source, encoding="utf-8", newline="\n")


def _column(line: str, offset_bytes: int) -> int:
    """A column counted in bytes, as ast does, in characters."""
    return len(line.encode()[:offset_bytes].decode())


def _literal(text: str, indent: int) -> str:
    escaped = _normal(text).replace("\\", "\\\\").replace('"""', '\\"\\"\\"')
    body = textwrap.indent(f"{escaped}\n", " " * indent)
    return f'"""\n{body}{" " * indent}"""'
