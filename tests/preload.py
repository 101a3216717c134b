"""Imports what nearly every test module does.

``run_tests.py`` and ``tests.launch`` fork their processes from one that has
imported this file: it spares each of them four to five seconds.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import threading
import warnings
from collections.abc import Iterable

from tqdm import tqdm

from run_tests import OURS

__all__ = ["load"]

# The parts of torch and transformers are loaded late, by the first capture.
_NAMES = ("torch", "torch.distributed.checkpoint", "torch.distributed.tensor",
          "torch.export._trace", "torch._dynamo",
          "transformers.models.gpt2.modeling_gpt2",
          "transformers.models.llama.modeling_llama", "networkx",
          "scipy.optimize", "yaml", "planner.planning", "planner.explain",
          "scaletorch", "scaletorch.models")


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
# Its own lock is a semaphore of the system, which a rank that is killed, or
# ends without ado, would leave behind.
tqdm.set_lock(threading.RLock())
# Collections in the forks then look at what a fork itself made.
gc.collect()
gc.freeze()
