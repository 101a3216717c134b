"""Random numbers that are not torch's, which no graph can draw.

A trace would keep the numbers of its first call. So a model whose forward
draws from Python's or numpy's generators is traced once more, and refused
where it draws: what is at fault there runs as it is.
"""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy
import torch
from torch import nn

from planner.capture.opaque.call import running_whole
from planner.generators import generators_of, kept, states
from planner.ir.errors import CaptureError

__all__ = ["Draws", "watched"]

_LIBRARIES = (Path(torch.__file__).parent, Path(numpy.__file__).parent,
              Path(__file__).parents[1])
_STANDARD = Path(sysconfig.get_paths()["stdlib"])


class Draws:
    """Which generators were drawn from since this was made.

    What is drawn after the model seeds a generator itself is the same in
    every call, and no chance.
    """

    def __init__(self, model: nn.Module) -> None:
        self.generators = generators_of(model)
        self.known = states(self.generators)
        self.fixed: set[str] = set()
        self.made: list[str] = []
        self.names: dict[str, None] = {}

    def update(self) -> tuple[str, ...]:
        """Names of those that were drawn from since the last update."""
        now = states(self.generators)
        drawn = (*self.made, *(n for n, s in now.items()
                               if s != self.known[n] and n not in self.fixed))
        self.known, self.made = now, []
        self.names.update(dict.fromkeys(drawn))
        return drawn

    def seeded(self, name: str) -> None:
        """Note that the model is about to seed one."""
        self.update()
        self.fixed.add(name)


@contextlib.contextmanager
def watched(model: nn.Module, *, refuse: bool) -> Iterator[Draws]:
    """Watch a model's forward pass for draws; put the generators back.

    Parameters
    ----------
    model : nn.Module
    refuse : bool
        Whether to raise where it draws.

    Yields
    ------
    draws : Draws
        Its `names` are those drawn from, at the end.

    Raises
    ------
    CaptureError
        From inside of the function that draws.
    """
    draws = Draws(model)
    with contextlib.ExitStack() as stack:
        stack.enter_context(kept(draws.generators))
        stack.enter_context(_seeding_told(draws))
        if refuse:
            stack.enter_context(_profiled(_Refusing(draws)))
        yield draws
        draws.update()


@contextlib.contextmanager
def _seeding_told(draws: Draws) -> Iterator[None]:
    """Where the model seeds a generator itself; in this thread."""
    thread = threading.get_ident()
    owners: dict[str, Any] = {"random": random, "numpy.random": numpy.random}
    originals = {n: o.seed for n, o in owners.items()}

    def telling(name: str) -> Callable[..., None]:

        def seed(*args: Any, **kwargs: Any) -> None:
            if threading.get_ident() == thread and not running_whole():
                draws.seeded(name)
            originals[name](*args, **kwargs)

        return seed

    make = numpy.random.default_rng

    def default_rng(seed: Any = None) -> numpy.random.Generator:
        if seed is None and threading.get_ident() == thread \
                and not running_whole():
            draws.made.append("numpy.random.default_rng")
        return make(seed)

    for name, owner in owners.items():
        owner.seed = telling(name)
    numpy.random.default_rng = default_rng
    try:
        yield
    finally:
        numpy.random.default_rng = make
        for name, owner in owners.items():
            owner.seed = originals[name]


@contextlib.contextmanager
def _profiled(hook: Callable[[FrameType, str, Any], None]) -> Iterator[None]:
    before = sys.getprofile()
    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(before)


class _Refusing:
    """Raises in the first function of the user's that drew.

    As a profiler's hook. A call that begins right after a draw is not at
    fault; its caller is, as soon as it goes on.
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.guilty: FrameType | None = None
        self.line = 0
        self.drawn: tuple[str, ...] = ()

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if running_whole():
            return
        own = frame.f_back if event == "call" else frame
        if own is None or not _is_users(own.f_code.co_filename):
            return
        if self.guilty is None:
            self.drawn = self.draws.update()
            if self.drawn:
                self.guilty, self.line = own, own.f_lineno
        if self.guilty is frame:
            error = CaptureError(
                f"forward draws from {self.drawn[0]}, at "
                f"{frame.f_code.co_filename}:{self.line} in "
                f"{frame.f_code.co_name}; a program would keep the numbers "
                "of its first call: draw with torch, or switch it off")
            # What is raised while a function returns does not name it.
            raise error.with_traceback(
                TracebackType(None, frame, frame.f_lasti, self.line
                              ) if event == "return" else None)


@functools.cache
def _is_users(file: str) -> bool:
    path = Path(file)
    if any(map(path.is_relative_to, _LIBRARIES)):
        return False
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(installed) or not (file.startswith("<frozen")
                                   or path.is_relative_to(_STANDARD))
