"""The project's own files, for tests that read them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["PACKAGES", "ROOT", "project_files", "python_files"]

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("passes", "planner", "scaletorch")

_BUILT = ("build", "dist")


def _is_ours(above: Path, folder: str) -> bool:
    hidden = folder.startswith(".") and folder != ".ci"
    built = folder.endswith(".egg-info") or (above == ROOT
                                             and folder in _BUILT)
    return not (hidden or built or folder == "__pycache__")


def project_files() -> Iterator[Path]:
    """Every file of the project, sorted; none that a tool has made."""
    for folder, folders, names in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if _is_ours(Path(folder), f))
        # In a git worktree, .git is a file.
        yield from (Path(folder, name) for name in sorted(names)
                    if name != ".git" and not name.endswith(".pyc"))


def python_files(*tops: str) -> Iterator[Path]:
    """The Python files below folders of the root, sorted."""
    for top in tops:
        yield from (path for path in sorted((ROOT / top).rglob("*.py"))
                    if "__pycache__" not in path.parts)
