"""The pages of the documentation, and what stands in them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from tests.tree import ROOT

__all__ = ["anchors", "blocks", "links", "pages"]

MARK = "<!-- runs: one process -->\n"
"""Stands before a block of Python that the tests run."""


def pages() -> list[Path]:
    """README.md and doc/*.md."""
    return [ROOT / "README.md", *sorted((ROOT / "doc").glob("*.md"))]


def without_code(text: str) -> str:
    """A page without its blocks and spans of code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", text)


def links(text: str) -> list[str]:
    """Targets of a page's links."""
    return re.findall(
        r"\]\(([^)\s]+)\)",
        re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors(text: str) -> set[str]:
    """Names of a page's headings, as GitHub and MkDocs make them.

    Examples
    --------
    >>> sorted(anchors("# A b\\n\\n## The `c/d`, *e*\\n"))
    ['a-b', 'the-cd-e']
    """
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    found = set()
    for title in re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", title).strip().lower()
        found.add(re.sub(r"[\s-]+", "-", plain))
    return found


def blocks(text: str, language: str, *, marked: bool = False) -> Iterator[str]:
    """Blocks of code in a language; marked: only those that are to run."""
    mark = re.escape(MARK) if marked else ""
    yield from re.findall(rf"^{mark}```{language}\n(.*?)^```", text,
                          re.DOTALL | re.MULTILINE)
