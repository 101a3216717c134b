"""A progress bar for long searches, on a terminal only."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

from tqdm import tqdm

from planner.candidate import Candidate

__all__ = ["search_progress"]

_NAME = 60
"""Characters of a plan's name that are shown."""


@contextlib.contextmanager
def search_progress() -> Iterator[Callable[[Candidate], None]]:
    """An observer for :class:`~planner.planning.Planning`.

    It counts candidates on standard error, and is silent where that is no
    terminal. The bar is gone when the search is over.
    """
    with tqdm(desc="pricing plans",
              unit=" plans",
              file=sys.stderr,
              leave=False,
              disable=None) as bar:

        def show(candidate: Candidate) -> None:
            if not bar.disable:
                bar.set_postfix_str(candidate.name[:_NAME], refresh=False)
                bar.update()

        yield show
