"""Trace one of several layers that are alike, and mention the others.

While a model is traced, the first of its layers is recorded
(:mod:`planner.capture.repeats.recorded`). A later one is not traced: its
Python runs, and every answer it gets is the recorded one. Where it asks for
the same things in the same order it is the same graph on other operands, and
one call of ``scaletorch::again`` stands for it. Where it differs it is traced
as it is.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn
from torch.utils import _pytree as pytree

from planner.capture.attributes import Attributes
from planner.capture.entry import Entry
from planner.capture.repeats.known import Kept, Known, look_of, traced_layer
from planner.capture.repeats.recorded import ambient
from planner.capture.repeats.unroll import NotAlike
from planner.capture.repeats.withheld import Withheld

__all__ = ["Learnt", "Repeats", "repeated_layers"]

_MOST_VARIANTS = 8
"""Kinds of layers that look alike, among which one is looked for."""


def _has_unknown_size(value: Any) -> bool:
    """Such rows are chosen by values, by each layer anew."""
    sizes = value.shape if isinstance(value, torch.Tensor) else (value, )
    return any(isinstance(x, torch.SymInt) for x in sizes)


def _own(module: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and buffers by every name that they have."""
    return dict((*module.named_parameters(remove_duplicate=False),
                 *module.named_buffers(remove_duplicate=False)))


@dataclass(slots=True)
class Learnt:
    """What traces that can't be used tell those after them.

    Parameters
    ----------
    kept : dict of int to set of int
        Which tensors others keep, of those that the n-th traced layer makes.
    differing : set of nn.Module
        Layers that are like no other before them.
    withhold : bool
        Whether state may be withheld.
    reproach : bool
        Whether what is done here may be at fault for the last failure.
    refusals : set of str
        Errors that come up without any of this, too.
    """

    kept: dict[int, set[int]] = field(default_factory=dict)
    differing: set[nn.Module] = field(default_factory=set)
    withhold: bool = True
    reproach: bool = True
    refusals: set[str] = field(default_factory=set)

    @property
    def amount(self) -> int:
        return len(self.differing) + sum(map(len, self.kept.values()))

    def for_another(self) -> Learnt:
        """What is true as well where parts are run as they are."""
        return Learnt(differing=self.differing, refusals=self.refusals)


class Repeats:
    """Runs the calls of layers while a model is traced.

    Parameters
    ----------
    learnt : Learnt
        What is found out is added.
    withheld : Withheld
        State of layers that are not expected to be traced.

    Attributes
    ----------
    risky : bool
        Whether a trace that fails may do so because of what is done here.
    refused : str
        Why the trace can't be used.
    in_model : bool
        Whether it has failed in the model's code, outside of all layers.
    writing : set of int
        Calls by number, of those in the graph that stand for a layer, that
        write to withheld buffers.
    """

    def __init__(self, learnt: Learnt, withheld: Withheld) -> None:
        self.risky = False
        self.refused = ""
        self.in_model = False
        self.withheld = withheld
        self.writing: set[int] = set()
        self._numbers = itertools.count()
        self._learnt = learnt
        self._inside = False
        self._broken = False
        self._known: dict[Any, list[Known | None]] = {}
        self._traced: list[Known | None] = []

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Around the model's call.

        Raises
        ------
        NotAlike
            When the trace can't be used.
        """
        try:
            with self.withheld.put_back():
                yield
        except Exception:
            self.in_model = not (self._broken or self.refused)
            raise
        self.risky |= bool(self.withheld.names)
        if self.refused:
            raise NotAlike(self.refused)

    def call(self, module: nn.Module, forward: Callable[..., Any], args: Any,
             kwargs: Any) -> Any:
        """``forward(module, *args, **kwargs)``, traced or mentioned."""
        run = functools.partial(forward, module, *args, **kwargs)
        if self._inside:
            return run()
        self._inside = True
        try:
            return self._run(run, module, (forward, args, kwargs))
        except Exception:
            self._broken = True
            raise
        finally:
            self._inside = False

    def _run(self, run: Callable[[], Any], module: nn.Module,
             called: tuple[Any, ...]) -> Any:
        leaves, tree = pytree.tree_flatten(called)
        own = _own(module)
        given = [*leaves, *own.values()]
        if any(map(_has_unknown_size, leaves)):
            return run()
        variants = self._known.setdefault(
            (tree, tuple(own), look_of(given), ambient()), [])
        for known in variants:
            alike, returned = self._repeated(known, run, module, given)
            if alike:
                return returned
        if len(variants) == _MOST_VARIANTS or None in variants:
            return run()
        if not self._is_shown(module):
            self.risky, self.refused = True, "a layer differs from the first"
            self._learnt.differing.add(module)
        returned, known = traced_layer(
            run,
            given,
            buffers=[b for b in module.buffers() if not b.requires_grad],
            kept=self._learnt.kept.get(len(self._traced), ()),
            withheld=self.withheld.names,
            number=next(self._numbers))
        after = pytree.tree_leaves(called)
        unchanged = list(map(id, after)) == list(map(id, leaves))
        variants.append(known if unchanged else None)
        self._traced.append(known)
        return returned

    def _is_shown(self, module: nn.Module) -> bool:
        """Whether the graph has its state."""
        return self.withheld.names.keys().isdisjoint(
            map(id,
                _own(module).values()))

    def _repeated(self, known: Known | None, run: Callable[[], Any],
                  module: nn.Module, given: list[Any]) -> tuple[bool, Any]:
        if known is None:
            return False, None
        self.risky = True
        attributes = Attributes(module)
        call = next(self._numbers)
        try:
            alike, returned = known.repeated(run, given, call)
        except Kept as error:
            self.refused = "a layer keeps values for others to read"
            number = self._traced.index(known)
            self._learnt.kept.setdefault(number, set()).update(error.numbers)
            raise NotAlike(self.refused) from error
        if not alike:
            attributes.restore()
        elif known.written and not self._is_shown(module):
            self.writing.add(call)
        return alike, returned


@contextlib.contextmanager
def repeated_layers(entry: Entry, learnt: Learnt) -> Iterator[Repeats]:
    """Let calls of layers that may be alike be looked at meanwhile."""
    groups = list(_candidates(entry.model))
    layers = list(dict.fromkeys(itertools.chain(*groups)))
    withheld = Withheld(entry,
                        [(layer, first) for first, *others in groups
                         for layer in others
                         if learnt.withhold and layer not in learnt.differing])
    repeats = Repeats(learnt, withheld)
    classes = {type(m): _watched(type(m), repeats) for m in layers}
    for module in layers:
        module.__class__ = classes[type(module)]
    entry.around = repeats.running
    try:
        with withheld.taken_off():
            yield repeats
    finally:
        del entry.around
        for module in layers:
            module.__class__ = type(module).__mro__[1]


def _watched(cls: type[nn.Module], repeats: Repeats) -> type[nn.Module]:
    original = cls.forward

    @functools.wraps(original)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return repeats.call(self, original, args, kwargs)

    return type(
        cls.__name__, (cls, ), {
            "forward": forward,
            "__module__": cls.__module__,
            "__qualname__": cls.__qualname__
        })


def _candidates(module: nn.Module) -> Iterator[list[nn.Module]]:
    """Children of lists that have others with the same state beside them.

    Such that look the same come together.
    """
    children = list(module.children())
    alike: dict[Any, list[nn.Module]] = {}
    if isinstance(module, (nn.ModuleList, nn.Sequential)):
        for child in filter(_is_layer, children):
            own = _own(child)
            key = (type(child), tuple(own), look_of(list(own.values())))
            alike.setdefault(key, []).append(child)
    groups = [layers for layers in alike.values() if len(layers) > 1]
    yield from groups
    taken = set(itertools.chain(*groups))
    for child in children:
        if child not in taken:
            yield from _candidates(child)


def _is_layer(module: nn.Module) -> bool:
    """Whether it has parts, and its class says what it computes."""
    return (any(True for _ in module.children())
            and "forward" not in module.__dict__
            and not isinstance(module,
                               (fx.GraphModule, torch.jit.ScriptModule)))
