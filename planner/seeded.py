"""Draw random numbers under a seed, and leave torch's generators alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import torch

from planner.steady import STEADY, steady_draws

__all__ = ["next_seed", "seeded"]

# Ranks may be threads of one process, which share torch's generators.
_ONE_AT_A_TIME = threading.RLock()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw under a seed; torch's own generators stay as they were.

    Under `STEADY` draws depend on nothing.
    """
    if seed == STEADY:
        with steady_draws():
            yield
        return
    indices = [] if device.type == "cpu" else [device.index or 0]
    # fork_rng always covers the CPU.
    with _ONE_AT_A_TIME, torch.random.fork_rng(indices,
                                               device_type=device.type):
        torch.manual_seed(seed)
        yield


def next_seed() -> int:
    """The next number of torch's generator, of 62 bits.

    Not one of a generator that another rank's thread has seeded meanwhile,
    which would then draw other numbers than its peers.
    """
    with _ONE_AT_A_TIME:
        return int(torch.randint(1 << 62, ()))
