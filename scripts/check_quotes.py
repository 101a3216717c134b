"""Check that string literals use double quotes where that is possible.

``python scripts/check_quotes.py FILE...`` prints each literal that is
written in single quotes although it holds no double quote, and exits with
1 if there is one.
"""

from __future__ import annotations

import io
import sys
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path

__all__ = ["main", "single_quoted"]

# Python 3.12 cuts an f-string into several tokens, 3.11 has none of these.
_START = getattr(tokenize, "FSTRING_START", -1)
_END = getattr(tokenize, "FSTRING_END", -1)


def _literals(source: str) -> Iterator[tuple[int, str]]:
    """Every outermost string literal: its line number and its text."""
    depth, parts, line = 0, [""], 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == _START:
            depth += 1
            if depth == 1:
                parts, line = [], token.start[0]
        if depth:
            parts.append(token.string)
        elif token.type == tokenize.STRING:
            yield token.start[0], token.string
        if token.type == _END:
            depth -= 1
            if depth == 0:
                yield line, "".join(parts)


def single_quoted(source: str) -> list[int]:
    """Find literals that could use double quotes and do not.

    Parameters
    ----------
    source : str
        Python source text.

    Returns
    -------
    list of int
        The line on which each of them starts.

    Examples
    --------
    >>> single_quoted("a = 'x'")
    [1]
    """
    return [
        line for line, text in _literals(source)
        if text.lstrip("rRbBuUfF").startswith("'") and '"' not in text
    ]


def main(paths: Sequence[str]) -> int:
    """Check files; 1 if any has a literal to change, else 0."""
    found = 0
    for path in paths:
        for line in single_quoted(Path(path).read_text(encoding="utf-8")):
            print(f"{path}:{line}: write this string in double quotes")
            found = 1
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
