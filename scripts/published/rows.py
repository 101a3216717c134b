"""Rows of published runs from files."""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.published.read import source_of

__all__ = ["read_rows"]


def read_rows(paths: Iterable[Path],
              pattern: str = "*",
              limit: int | None = None,
              *,
              every: int = 1) -> list[Mapping[str, Any]]:
    """Rows in the order of the files, of sources that a pattern matches.

    Parameters
    ----------
    paths : iterable of Path
    pattern : str
        As of a shell.
    limit : int, optional
        How many at the most.
    every : int
        Of so many that follow each other, the first.

    Raises
    ------
    SystemExit
        Naming a file that is no YAML list.
    """
    rows = itertools.chain.from_iterable(map(_rows_of, paths))
    found = [r for r in rows if fnmatch.fnmatch(source_of(r), pattern)]
    return found[::every][:limit]


def _rows_of(path: Path) -> list[Any]:
    try:
        rows = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise SystemExit(f"{path}: cannot be read as YAML: {error}") from None
    if not isinstance(rows, list):
        raise SystemExit(f"{path}: a list of rows is expected, not "
                         f"{type(rows).__name__}")
    return rows
