"""Examples on the ranks of a launch, in place of torchrun's."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import warnings
from unittest import mock

from tests.tree import ROOT

__all__ = ["run_example"]


def run_example(rank: int, name: str, *options: str) -> str:
    """What an example prints on a rank."""
    del rank
    path = str(ROOT / "examples" / name)
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", [path, *options]))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        runpy.run_path(path, run_name="__main__")
    return printed.getvalue()
