"""Examples on the ranks of a launch, in place of torchrun's."""

from __future__ import annotations

import contextlib
import io
import runpy
import sys
import warnings
from unittest import mock

import torch.distributed as dist

from tests.launch import launch
from tests.tree import ROOT

__all__ = ["printed_by_example"]


def printed_by_example(ranks: int, name: str, *options: str) -> str:
    """What an example prints on the first of some ranks."""
    return launch(ranks,
                  _run,
                  name,
                  *options,
                  timeout_s=200,
                  group_timeout_s=100)[0]


def _run(rank: int, name: str, *options: str) -> str:
    """What an example prints on a rank."""
    del rank
    path = str(ROOT / "examples" / name)
    printed = io.StringIO()
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(sys, "argv", [path, *options]))
        # A launch has made the group, and ends it.
        for at in ("init_process_group", "destroy_process_group"):
            stack.enter_context(mock.patch.object(dist, at))
        stack.enter_context(contextlib.redirect_stdout(printed))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        runpy.run_path(path, run_name="__main__")
    return printed.getvalue()
