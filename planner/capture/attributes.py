"""What hangs on modules: to put it back, and to tell what a call leaves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import nn

from planner.capture.containers import (Container, classes_of, containers,
                                        has_tensor, holds_same, is_same,
                                        members, refill)
from planner.capture.state import computed_before

__all__ = ["Attributes"]

_PYTHONS = ("__", "_abc_")
_TABLES = ("_parameters", "_buffers", "_modules")


class Attributes:
    """Remembers what a module and those inside of it hold.

    Also what their classes hold, and what is in lists, dicts and objects that
    hang on them, or that they are `given`, or that their methods know by a
    global name.
    """

    def __init__(self, module: nn.Module, given: Any = ()) -> None:
        self._own = [(path, m.__dict__, dict(m.__dict__))
                     for path, m in module.named_modules()]
        self._classes = [(kind, dict(vars(kind)))
                         for kind in classes_of(module)]
        # Most are empty, and need no copy.
        self._inner = [(path, held, held.copy() if held else ())
                       for path, held in containers(module, given)]

    def restore(self) -> None:
        """Put everything back."""
        for _, now, before in (*self._own, *self._inner):
            refill(now, before)
        for kind, before in self._classes:
            for name in _assigned(kind, before):
                if name in before:
                    setattr(kind, name, before[name])
                else:
                    delattr(kind, name)

    def changed(self) -> str:
        """Where something else is now than before, or nothing.

        Parameters, buffers and modules are not meant, nor a `forward` that
        stands in for a module's own.
        """
        for path, now, before in self._own:
            for name in {**before, **now}:
                if name not in (*_TABLES, "forward") and not is_same(
                        now.get(name), before.get(name)):
                    return f"{path}.{name}".removeprefix(".")
        for kind, before in self._classes:
            for name in _assigned(kind, before):
                return f"{kind.__qualname__}.{name}"
        return next((path for path, now, before in self._inner
                     if not holds_same(now, before)
                     and path.rpartition(".")[2] not in _TABLES), "")

    def left(self) -> tuple[str, ...]:
        """Where there are tensors now that were not there before.

        Parameters, buffers and weights that hooks compute before each call
        are not meant.
        """
        named = [
            (f"{path}.{name}".removeprefix("."), value)
            for path, now, before in self._own for name, value in now.items()
            if value is not before.get(name) and name not in (*_TABLES,
                                                              *_by_hooks(now))
        ]
        named += [(f"{kind.__qualname__}.{name}", vars(kind).get(name))
                  for kind, before in self._classes
                  for name in _assigned(kind, before)]
        named += [(path, value) for path, now, before in self._inner
                  if path.rpartition(".")[2] not in _TABLES
                  for value in _new(now, before)]
        return tuple(
            dict.fromkeys(path for path, value in named if has_tensor(value)))


def _assigned(kind: type, before: Mapping[str, Any]) -> list[str]:
    """What a class has otherwise now, but for what Python keeps there."""
    now = vars(kind)
    return [
        n for n in dict.fromkeys((*before, *now)) if not n.startswith(_PYTHONS)
        and not (n in now and n in before and is_same(now[n], before[n]))
    ]


def _by_hooks(attributes: dict[str, Any]) -> set[str]:
    return computed_before(attributes["_forward_pre_hooks"].values())


def _new(now: Container, before: Container | tuple[()]) -> Iterable[Any]:
    if not now:
        return ()
    known = set(map(id, members(before)))
    return (x for x in members(now) if id(x) not in known)
