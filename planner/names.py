"""Error text for names that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["nearest"]


def nearest(name: str, known: Iterable[str]) -> str:
    """What to try instead of `name`: the nearest names, else all of them.

    Examples
    --------
    >>> nearest("h100-smx", ["h100-sxm", "cpu-gloo"])
    'did you mean h100-sxm?'
    >>> nearest("zzz", ["b", "a"])
    'known names: a, b'
    """
    known = sorted(known)
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known names: {', '.join(known)}"
