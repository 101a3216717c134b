"""Generators of random numbers other than torch's own.

Python's, numpy's, and those that modules hold or find as globals of the
files that define them.
"""

from __future__ import annotations

import contextlib
import pickle
import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from types import FunctionType
from typing import Any

import numpy
import torch
from torch import nn

__all__ = ["GLOBAL", "KINDS", "generators_of", "kept", "seeded_all", "states"]

GLOBAL: Mapping[str, Any] = {"random": random, "numpy.random": numpy.random}
"""Those that every program has, by name."""

KINDS = (random.Random, numpy.random.RandomState, numpy.random.Generator,
         torch.Generator)
"""Of generators."""

_OTHERS = frozenset(
    (bool, dict, int, str, type, type(None), FunctionType, OrderedDict))
"""What most attributes are: told from generators without asking torch."""

# Ranks may be threads of one process, which share most generators.
_ONE_AT_A_TIME = threading.RLock()


def generators_of(module: nn.Module) -> dict[str, Any]:
    """All generators that a call of a module may draw from, by name.

    Python's and numpy's; those among the attributes of modules, and among
    the globals of the files of their classes and of functions they hold.
    """
    found = dict(GLOBAL)
    files: set[str] = set()
    for path, owner in module.named_modules():
        _add(found, path, vars(owner))
        for each in (type(owner), *vars(owner).values()):
            if (each is type(owner) or isinstance(
                    each, FunctionType)) and each.__module__ not in files:
                files.add(each.__module__)
                scope = sys.modules.get(each.__module__)
                _add(found, each.__module__, vars(scope) if scope else {})
    return found


def _add(found: dict[str, Any], owner: str, scope: Mapping[str, Any]) -> None:
    for name, value in scope.items():
        if type(value) not in _OTHERS and isinstance(
                value,
                KINDS) and not isinstance(value, random.SystemRandom) and all(
                    value is not x for x in found.values()):
            found[f"{owner}.{name}".removeprefix(".")] = value


def states(generators: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the numbers that each will draw; to be compared."""
    return {n: _comparable(_state(g)) for n, g in generators.items()}


def _comparable(state: Any) -> Any:
    if isinstance(state, torch.Tensor):
        return state.numpy().tobytes()
    if isinstance(state, dict):
        return pickle.dumps(state)
    return tuple(x.tobytes() if isinstance(x, numpy.ndarray) else x
                 for x in state)


@contextlib.contextmanager
def kept(generators: Mapping[str, Any]) -> Iterator[None]:
    """Put every generator back to where it was."""
    with _ONE_AT_A_TIME:
        before = {n: _state(g) for n, g in generators.items()}
        try:
            yield
        finally:
            for name, generator in generators.items():
                _restore(generator, before[name])


@contextlib.contextmanager
def seeded_all(generators: Mapping[str, Any],
               seed: int) -> Iterator[Callable[[], bool]]:
    """Let every generator draw under a seed; put them back after it.

    So does one that is made meanwhile by ``numpy.random.default_rng()``.

    Parameters
    ----------
    generators : mapping
    seed : int
        Any; a negative one (`planner.steady.STEADY`) is as good as others.

    Yields
    ------
    drawn : callable
        Whether any of them was drawn from since.
    """
    with kept(generators), _seeded_when_made(seed) as made:
        for generator in generators.values():
            _seed(generator, seed)
        before = states(generators)
        yield lambda: bool(made) or states(generators) != before


@contextlib.contextmanager
def _seeded_when_made(seed: int) -> Iterator[list[None]]:
    space: Any = numpy.random
    original, thread = space.default_rng, threading.get_ident()
    made: list[None] = []

    def default_rng(given: Any = None) -> numpy.random.Generator:
        own = given is None and threading.get_ident() == thread
        if own:
            made.append(None)
        made_now = original(_word(seed) if own else given)
        assert isinstance(made_now, numpy.random.Generator)
        return made_now

    space.default_rng = default_rng
    try:
        yield made
    finally:
        space.default_rng = original


def _state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, numpy.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random) or generator is random:
        return generator.getstate()
    return generator.get_state()


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, numpy.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random) or generator is random:
        generator.setstate(state)
    else:
        getattr(generator, "set_state")(state)


def _seed(generator: Any, seed: int) -> None:
    word = _word(seed)
    if isinstance(generator, torch.Generator):
        generator.manual_seed(word)
    elif isinstance(generator, numpy.random.Generator):
        kind = type(generator.bit_generator)
        generator.bit_generator.state = kind(word).state
    else:
        generator.seed(word)


def _word(seed: int) -> int:
    """The old generators of numpy take 32 bits."""
    return (seed ^ seed >> 32) % (1 << 32)
