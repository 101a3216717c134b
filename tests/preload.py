"""Imports what nearly every test module does.

``run_tests.py`` forks the modules' processes from one that has imported this
file: it spares each of them three to four seconds.
"""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterable

from run_tests import OURS

__all__ = ["load"]

_NAMES = ("torch", "torch.distributed.checkpoint", "torch.distributed.tensor",
          "torch.export", "torch._dynamo", "transformers.modeling_utils",
          "networkx", "scipy.optimize", "yaml", "planner.planning",
          "planner.explain", "scaletorch", "scaletorch.models")


def load(names: Iterable[str]) -> None:
    """Import modules under the rules for warnings that tests run under.

    What cannot be imported is left to the tests: those that import it fail.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", module=OURS)
        for name in names:
            with contextlib.suppress(Exception):
                importlib.import_module(name)


load(_NAMES)
