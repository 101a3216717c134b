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

from planner.capture.idle_draws import is_idle
from planner.capture.opaque.call import running_whole
from planner.generators import KINDS, generators_of, kept, states
from planner.ir.errors import CaptureError

__all__ = ["Draws", "watched"]

_TORCHS = (Path(torch.__file__).parent, Path(__file__).parents[1])
_NUMPY = Path(numpy.__file__).parent
_STANDARD = Path(sysconfig.get_paths()["stdlib"])
_LONG_S = 1000.0


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
    before, interval = sys.getprofile(), sys.getswitchinterval()
    # The hook would note what other threads draw while it runs.
    sys.setswitchinterval(_LONG_S)
    sys.setprofile(hook)
    try:
        yield
    finally:
        sys.setprofile(before)
        sys.setswitchinterval(interval)


class _Refusing:
    """Raises in the first function of the user's that drew.

    As a profiler's hook. What is drawn while torch runs is another
    thread's. A call that begins right after a draw is not at fault; its
    caller is, as soon as it goes on.
    """

    def __init__(self, draws: Draws) -> None:
        self.draws = draws
        self.guilty: FrameType | None = None
        self.line = 0
        self.drawn: tuple[str, ...] = ()
        self.away: FrameType | None = None

    def __call__(self, frame: FrameType, event: str, arg: Any) -> None:
        if running_whole() or self.guilty not in (None, frame):
            return
        if event in ("call", "return"):
            self._at_a_border(frame, event)
        elif _is_users(frame):
            # Functions in C may call others, and let other threads run.
            self._look(None if self.away is frame else frame)
            calls = event == "c_call" and not _may_draw(arg)
            self.away = frame if calls else None
        if self.guilty is frame:
            self._refuse(frame, event)

    def _at_a_border(self, frame: FrameType, event: str) -> None:
        caller = frame.f_back
        if event == "call" and _is_users(caller):
            self._look(None if self.away is caller else caller)
        elif _is_users(frame):
            self._look(frame if event == "return" else None)
        elif event == "return" and _is_users(caller):
            torchs = _is_torchs(frame.f_code.co_filename)
            self._look(None if torchs else caller)

    def _look(self, frame: FrameType | None) -> None:
        """Whether what a frame did since the last look was a draw."""
        drawn = self.draws.update()
        if drawn and self.guilty is None and frame is not None:
            self.guilty, self.line, self.drawn = frame, frame.f_lineno, drawn

    def _refuse(self, frame: FrameType, event: str) -> None:
        if is_idle(frame, self.line):
            self.guilty = None
            return
        error = CaptureError(
            f"forward draws from {self.drawn[0]}, at "
            f"{frame.f_code.co_filename}:{self.line} in "
            f"{frame.f_code.co_name}; a program would keep the numbers of "
            "its first call: draw with torch, or switch it off")
        # What is raised while a function returns does not name it.
        place = TracebackType(None, frame, frame.f_lasti, self.line)
        raise error.with_traceback(place if event == "return" else None)


def _may_draw(function: Any) -> bool:
    """Whether a function in C is a generator's."""
    return isinstance(getattr(function, "__self__", None), KINDS)


def _is_users(frame: FrameType | None) -> bool:
    return frame is not None and _is_users_file(frame.f_code.co_filename)


@functools.cache
def _is_users_file(file: str) -> bool:
    path = Path(file)
    if any(map(path.is_relative_to, (*_TORCHS, _NUMPY))):
        return False
    if file == "<string>" or file.startswith("<frozen"):
        return False
    installed = {"site-packages", "dist-packages"} & set(path.parts)
    return bool(installed) or not path.is_relative_to(_STANDARD)


@functools.cache
def _is_torchs(file: str) -> bool:
    """Or ours, which draws nothing either, but for those that stand in."""
    return file != __file__ and any(map(Path(file).is_relative_to, _TORCHS))
