"""Values that a trace knows, for what a model's Python asks of them.

``for t, h, w in grid.tolist()`` decides how many operators there are: of
such a model there is no program for all values of `grid`, but one for each.
A trace has no values; so what a model computes of constants and of its
integer inputs alone is computed beside the trace as well. Where Python asks
for such a value, or where a shape follows from it, it is told. Constants it
is always told, and buffers of integers that belong to how a module was built:
no checkpoint holds them and the forward pass does not write to them. An
input's values it is told only where that was allowed, since the program then
holds for these values alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import (TorchDispatchMode,
                                          _disable_current_modes)
from torch.utils.weak import WeakIdKeyDictionary

from planner.capture.built_in import built_in, integers
from planner.capture.gradients import writes_in_place

__all__ = ["ASKING", "Examples", "KnownValues", "unknown_sizes"]

ASKING = frozenset({
    "item", "tolist", "__bool__", "__int__", "__float__", "__index__",
    "__contains__", "is_nonzero", "equal", "allclose", "numpy"
})
"""Functions of torch that give a value to Python."""

_SHAPED_BY_VALUES = frozenset({
    "nonzero", "argwhere", "masked_select", "unique", "_unique2",
    "unique_consecutive", "bincount"
})

_MAKING = frozenset({
    "arange", "range", "linspace", "zeros", "ones", "full", "tensor",
    "as_tensor", "eye", "tril_indices", "triu_indices"
})
"""Make constants from numbers."""

_LARGEST = 1 << 24
"""Elements of a value that is computed beside a trace."""

_ROW = 4
"""Most numbers in a row of a table of sizes; a row of tokens has more."""

_SIZING = frozenset({
    "__getitem__", "__setitem__", "split", "split_with_sizes", "view",
    "reshape", "expand", "repeat", "narrow", "unflatten", "pad"
})
"""Take numbers, for which a tensor may stand, beside a tensor."""

Examples = Sequence[Sequence[torch.Tensor | None]]
_Positions = frozenset[int]
_NONE: _Positions = frozenset()


@dataclass(slots=True)
class KnownValues:
    """Of a model that is traced again and again, until it can be.

    Parameters
    ----------
    given : tuple of Tensor or None
        Values of the tensors that it is called with, where they are known
        and no floating-point numbers.

    Attributes
    ----------
    allowed : set of int
        Positions of the inputs whose values may be told.
    asked : set of int
        Those whose values were, in the last trace; buffers are numbered
        from -1 downwards.
    buffers : dict of str to Tensor
        Values of the buffers that stay as they are, by name.
    """

    given: tuple[torch.Tensor | None, ...]
    buffers: dict[str, torch.Tensor] = field(default_factory=dict)
    allowed: set[int] = field(default_factory=set)
    asked: set[int] = field(default_factory=set)
    _watch: _Watch | None = None

    @staticmethod
    def of(tensors: Sequence[torch.Tensor], model: nn.Module) -> KnownValues:
        """Of a call's tensors; meta and fake ones have no values."""
        return KnownValues(tuple(map(integers, tensors)), built_in(model))

    @contextlib.contextmanager
    def watched(self, traced: Sequence[torch.Tensor],
                model: nn.Module) -> Iterator[None]:
        """While the model's code runs on tensors that are traced."""
        self.asked.clear()
        own = dict(model.named_buffers())
        self._watch = _Watch(
            self,
            zip([*traced, *(own[n] for n in self.buffers)],
                [*self.given, *self.buffers.values()],
                [*range(len(traced)), *range(-1, -1 - len(self.buffers), -1)],
                strict=True))
        with self._watch:
            yield

    def forget_written(self, names: Collection[str]) -> bool:
        """Buffers that the last trace writes to are told no more.

        Returns
        -------
        bool
            Whether one of them was told.
        """
        told = [n for i, n in enumerate(self.buffers) if -1 - i in self.asked]
        for name in names:
            self.buffers.pop(name, None)
        return any(n in names for n in told)

    def tells(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor's values are known, and may be told."""
        return self._watch is not None and self._watch.tells(tensor)

    def examples(self, tensors: Sequence[torch.Tensor]) -> Examples:
        """Values of traced tensors, where they are known, and other values.

        Shapes that follow from the values are others then.
        """
        values = [self._watch and self._watch.value(t) for t in tensors]
        if all(v is None for v in values):
            return []
        with _beside():
            return [[None if v is None else v.clone() for v in values],
                    [
                        v if v is None or v.dtype is torch.bool else v * 2
                        for v in values
                    ]]

    def blamed(self, errors: Iterator[BaseException]) -> frozenset[int]:
        """The inputs for whose values a trace has failed, if any.

        Parameters
        ----------
        errors : iterator of BaseException
            The error of the last trace, and those behind it.

        Returns
        -------
        frozenset of int
            None of them where one is no table of sizes: tokens and masks
            are others in every batch.
        """
        found = _NONE if self._watch is None else self._watch.blamed(errors)
        found = frozenset(i for i in found if i >= 0)
        return found if all(map(self._is_table, found)) else _NONE

    def _is_table(self, position: int) -> bool:
        value = self.given[position]
        return value is not None and (value.ndim < 2
                                      or value.shape[-1] <= _ROW)


@dataclass(frozen=True, slots=True)
class _Computed:
    """What a call gives beside the trace, and the inputs that it is of."""

    result: Any
    sources: _Positions


class _WithoutDraws(TorchDispatchMode):
    """Lets nothing draw; the generators may be in use by other threads."""

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise RuntimeError(f"{func} draws random numbers")
        return func(*args, **(kwargs or {}))


class _Watch(TorchFunctionMode):
    """Computes beside a trace, and answers.

    Tensors that share memory share what they are computed of.
    """

    def __init__(
        self, known: KnownValues, traced: Iterable[tuple[torch.Tensor,
                                                         torch.Tensor | None,
                                                         int]]) -> None:
        super().__init__()
        self.known = known
        self.values: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.sources: dict[int, _Positions] = {}
        self.unknown: set[int] = set()
        self.failed: _Positions = _NONE
        self.sizes: dict[str, _Positions] = {}
        # The memory of what is forgotten is not to be another's.
        self.kept: list[torch.Tensor] = []
        for tensor, value, position in traced:
            if value is not None:
                with _beside():
                    value = value.clone()
                self._remember(tensor, value, frozenset({position}))

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        computed = self._computed(func, name, args, kwargs)
        if computed is None:
            if writes_in_place(name) or "out" in kwargs:
                self._forget(kwargs.get("out", args[0] if args else None))
            if name in _SIZING:
                args = (*args[:1], *map(self._numbers, args[1:]))
            return func(*args, **kwargs)
        told = self._may_tell(computed.sources)
        if told and (name in ASKING or _is_shaped_by_values(name, args)):
            return self._told(computed)
        try:
            result = func(*args, **kwargs)
        except Exception:
            if told:
                return self._told(computed)
            self.failed = computed.sources
            raise
        self._compare(result, computed)
        return result

    def _may_tell(self, sources: _Positions) -> bool:
        return all(i < 0 or i in self.known.allowed for i in sources)

    def _numbers(self, value: Any) -> Any:
        """With numbers for the tensors that stand for a size.

        An index that is a tensor is none; a bound of a slice is.
        """
        if isinstance(value, slice):
            return slice(*(self._number(x)
                           for x in (value.start, value.stop, value.step)))
        if isinstance(value, (tuple, list)) and not any(
                isinstance(x, torch.Tensor) and x.ndim for x in value):
            return type(value)([
                self._numbers(x) if isinstance(x, slice) else self._number(x)
                for x in value
            ])
        return self._number(value)

    def _number(self, value: Any) -> Any:
        known = self.value(value) if isinstance(value, torch.Tensor) else None
        if known is None or known.ndim or known.dtype is torch.bool:
            return value
        sources = self.sources[_memory(known)]
        if not self._may_tell(sources):
            self.failed = sources
            return value
        self.known.asked |= sources
        with _beside():
            return known.item()

    def _computed(self, func: Any, name: str, args: Any,
                  kwargs: Any) -> _Computed | None:
        tensors = [
            x for x in pytree.tree_leaves((args, kwargs))
            if isinstance(x, torch.Tensor)
        ]
        if name == "__set__" or not tensors and name not in _MAKING:
            return None
        values = {id(t): self.value(t) for t in tensors}
        if any(v is None for v in values.values()):
            return None
        args, kwargs = pytree.tree_map_only(torch.Tensor,
                                            lambda t: values[id(t)],
                                            (args, kwargs))
        with _beside(), _WithoutDraws():
            try:
                result = func(*args, **kwargs)
            except Exception:
                return None
        sources = _NONE.union(*(self.sources[_memory(v)]
                                for v in values.values() if v is not None))
        if writes_in_place(name):
            self.sources[_memory(args[0])] = sources
        return _Computed(result, sources)

    def value(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """The value of a tensor of the trace, if it is known."""
        value = self.values.get(tensor)
        known = isinstance(value,
                           torch.Tensor) and _memory(value) not in self.unknown
        return value if known else None

    def tells(self, tensor: torch.Tensor) -> bool:
        """Whether Python may ask for the values of a tensor of the trace."""
        value = self.value(tensor)
        return value is not None and self._may_tell(
            self.sources[_memory(value)])

    def _remember(self, tensor: torch.Tensor, value: torch.Tensor,
                  sources: _Positions) -> None:
        memory = _memory(value)
        self.sources[memory] = self.sources.get(memory, _NONE) | sources
        self.values[tensor] = value
        self.kept.append(value)

    def _forget(self, written: Any) -> None:
        for tensor in pytree.tree_leaves(written):
            value = (self.values.get(tensor) if isinstance(
                tensor, torch.Tensor) else None)
            if isinstance(value, torch.Tensor):
                self.unknown.add(_memory(value))

    def _told(self, computed: _Computed) -> Any:
        """The result itself; tensors are constants of the trace."""
        self.known.asked |= computed.sources

        def constant(value: torch.Tensor) -> torch.Tensor:
            with _beside():
                made = value.detach().clone()
            self._remember(made, value, computed.sources)
            return made

        return pytree.tree_map_only(torch.Tensor, constant, computed.result)

    def _compare(self, result: Any, computed: _Computed) -> None:
        """Keep the values of what the trace gave, and whose sizes it has."""
        traced = pytree.tree_leaves(result)
        values = pytree.tree_leaves(computed.result)
        for name in unknown_sizes(result):
            self.sizes[name] = computed.sources
        if len(traced) != len(values):
            return
        for x, value in zip(traced, values, strict=True):
            if isinstance(x, torch.Tensor) and isinstance(
                    value, torch.Tensor) and value.numel() <= _LARGEST:
                self._remember(x, value, computed.sources)

    def blamed(self, errors: Iterator[BaseException]) -> _Positions:
        """The inputs whose values an error is about."""
        for error in errors:
            question = getattr(error, "cond", None)
            symbols = (*getattr(question, "free_symbols",
                                ()), *getattr(error, "unknown_sizes", ()))
            for name in map(str, symbols):
                if name in self.sizes:
                    return self.sizes[name]
        return self.failed


def unknown_sizes(value: Any) -> frozenset[str]:
    """Names of the sizes, or numbers, in a value that no trace knows."""
    leaves = pytree.tree_leaves(value)
    sizes = (s for x in leaves
             for s in (x.shape if isinstance(x, torch.Tensor) else (x, )))
    return frozenset(
        str(symbol) for size in sizes
        if isinstance(size, (torch.SymInt, torch.SymFloat, torch.SymBool))
        for symbol in size.node.expr.free_symbols)


def _memory(value: torch.Tensor) -> int:
    return value.untyped_storage()._cdata


def _is_shaped_by_values(name: str, args: tuple[Any, ...]) -> bool:
    if name in _SHAPED_BY_VALUES:
        return True
    if name == "where":
        return len(args) == 1
    if name == "repeat_interleave":
        return any(isinstance(x, torch.Tensor)
                   for x in args[1:]) or (len(args) == 1)
    if name == "__getitem__":
        return any(
            isinstance(x, torch.Tensor) and x.dtype in (torch.bool,
                                                        torch.uint8)
            for x in pytree.tree_leaves(args[1]))
    return False


@contextlib.contextmanager
def _beside() -> Iterator[None]:
    """As if nothing were traced around this."""
    with _disable_current_modes(), torch._C.DisableTorchFunction():
        yield
