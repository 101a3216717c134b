"""Rows of published runs from files."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.published.read import source_of

__all__ = ["read_rows"]


def read_rows(paths: Iterable[Path],
              pattern: str = "*",
              limit: int | None = None) -> list[Mapping[str, Any]]:
    """Rows in the order of the files, of sources that a pattern matches."""
    found: list[Mapping[str, Any]] = []
    for path in paths:
        rows = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
        found += [r for r in rows if fnmatch.fnmatch(source_of(r), pattern)]
    return found[:limit]
