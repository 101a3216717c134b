"""One call of a module that is run and not traced."""

from __future__ import annotations

import contextlib
import io
import pickle
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.capture.attributes import Attributes
from planner.capture.branches import plain_branches
from planner.capture.copies import copied
from planner.capture.opaque.autograd import above_autograd
from planner.capture.opaque.writes import Watched
from planner.capture.state import AssignedState
from planner.capture.structures import flattened
from planner.generators import generators_of, seeded_all
from planner.ir.errors import CaptureError
from planner.rules.registry import TensorSpec
from planner.seeded import seeded

__all__ = [
    "LEAF", "Ended", "NotIsolated", "OpaqueCall", "Settled", "is_constant",
    "is_plain", "running_whole", "state_names"
]

LEAF = "<tensor>"
"""Stands for a tensor among the leaves of arguments and results."""

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device,
          type(None), torch.Size, slice)

_RUNNING = threading.local()


class NotIsolated(Exception):
    """Why a module can't be run apart from the module that calls it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """What one run of a module gave.

    Parameters
    ----------
    tensors : tuple of Tensor
        Of its result, in order.
    leaves : tuple
        All leaves of its result, `LEAF` for a tensor.
    tree : TreeSpec
    buffers : dict of str to Tensor
        New values of those that it wrote to.
    draws : bool
        Whether it drew from generators that are not torch's.
    """

    tensors: tuple[torch.Tensor, ...]
    leaves: tuple[Any, ...]
    tree: pytree.TreeSpec
    buffers: Mapping[str, torch.Tensor]
    draws: bool


class Settled(nn.Module):
    """A module whose assignments to buffers are settled after its call.

    Holds a copy without tensors, so that the user's module stays as it is.
    Of a `whole` model its last call has left tensors in `left`, which nobody
    reads within a call.
    """

    def __init__(self, module: nn.Module, *, whole: bool) -> None:
        super().__init__()
        memo: dict[int, Any] = {
            id(t): _without_values(t)
            for t in (*module.parameters(), *module.buffers())
        }
        self.module = copied(module, memo)
        self.whole = whole
        self.running = threading.RLock()
        self.generators = generators_of(self.module)
        self.left: tuple[str, ...] = ()

    def forward(self, then: Callable[[Any], Ended], args: Any,
                kwargs: Mapping[str, Any]) -> Ended:
        state = AssignedState(self.module)
        with _kept(self.module, (args, kwargs)) as left, plain_branches():
            output = self.module(*args, **kwargs)
            state.settle()
            self.left = left()
            if self.left and not self.whole:
                raise NotIsolated(f"it leaves tensors in {self.left[0]}, for "
                                  "others to read")
            return then(output)

    def run(self,
            values: Mapping[str, torch.Tensor],
            args: Any,
            kwargs: Mapping[str, Any],
            *,
            seed: int | None,
            written: Sequence[str] | None = None,
            then: Callable[[Ended], None] | None = None) -> Ended:
        """Call the module with these parameters and buffers.

        Parameters
        ----------
        values : mapping of str to Tensor
            By name; buffers are copied before anything writes to them.
        args, kwargs
            Of the call.
        seed : int or None
            For generators that are not torch's; None where it uses none.
        written : sequence of str, optional
            Buffers that it is known to write to; without it all writes are
            looked for, also those behind autograd's back.
        then : callable, optional
            Called before parameters, attributes and generators are put
            back: a backward may ask for them.

        Raises
        ------
        NotIsolated, CaptureError
            When it changes what an operator must not change.
        """
        own = {n for n, _ in self.module.named_buffers()}
        given = {n: t.clone() if n in own else t for n, t in values.items()}
        watched = Watched(
            t for t in (*given.values(), *pytree.tree_leaves((args, kwargs)))
            if isinstance(t, torch.Tensor) and not t.is_inference())
        state = {f"module.{n}": t for n, t in given.items()}

        def ending(output: Any) -> Ended:
            buffers = _written(watched, {n: given[n]
                                         for n in own}, written or ())
            ended = _ended(output, buffers, draws())
            if then is not None:
                then(ended)
            return ended

        looking = watched if written is None else contextlib.nullcontext()
        with self.running, _whole(), self._drawing(seed) as draws, looking:
            found: Ended = torch.func.functional_call(self, state,
                                                      (ending, args, kwargs))
        return found

    def _drawing(
        self, seed: int | None
    ) -> contextlib.AbstractContextManager[Callable[[], bool]]:
        """Seed the other generators; gives whether they were drawn from."""
        if seed is None:
            return contextlib.nullcontext(lambda: False)
        return seeded_all(self.generators, seed)


def _written(watched: Watched, buffers: Mapping[str, torch.Tensor],
             known: Sequence[str]) -> dict[str, torch.Tensor]:
    """Those of the buffers that have new values."""
    changed = watched.changed()
    new = {n: t for n, t in buffers.items() if id(t) in changed or n in known}
    if changed - {id(t) for t in new.values()}:
        raise NotIsolated("it writes in place to a parameter or to what "
                          "it is called with")
    return new


def _ended(output: Any, buffers: Mapping[str, torch.Tensor],
           draws: bool) -> Ended:
    flat, tree = flattened(output)
    return Ended(tensors=tuple(x for x in flat if isinstance(x, torch.Tensor)),
                 leaves=tuple(LEAF if isinstance(x, torch.Tensor) else x
                              for x in flat),
                 tree=tree,
                 buffers=buffers,
                 draws=draws)


def _without_values(tensor: torch.Tensor) -> torch.Tensor:
    made = torch.empty_strided(tensor.shape,
                               tensor.stride(),
                               dtype=tensor.dtype,
                               device="meta")
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(made, requires_grad=tensor.requires_grad)
    return made


@contextlib.contextmanager
def _kept(module: nn.Module,
          given: Any) -> Iterator[Callable[[], tuple[str, ...]]]:
    """Put back what the call leaves on modules and in what they are given.

    It runs again. Yields what tells where it left tensors.
    """
    attributes = Attributes(module, given)
    try:
        yield attributes.left
    finally:
        attributes.restore()


@contextlib.contextmanager
def _whole() -> Iterator[None]:
    _RUNNING.depth = getattr(_RUNNING, "depth", 0) + 1
    try:
        yield
    finally:
        _RUNNING.depth -= 1


def running_whole() -> bool:
    """Whether this thread is inside of what runs as it is."""
    return getattr(_RUNNING, "depth", 0) > 0


class _Tensorless(pickle.Pickler):

    def persistent_id(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            raise TypeError("a tensor")


def is_constant(value: Any) -> bool:
    """Whether a value is plain, or an object without any tensors.

    Such as a config. What can't be pickled may hold anything.
    """
    if is_plain(value):
        return True
    try:
        _Tensorless(io.BytesIO()).dump(value)
    except Exception:
        return False
    return True


def is_plain(value: Any) -> bool:
    """Whether a value is its own description: a number, a name, ..."""
    return isinstance(value, _PLAIN)


def state_names(module: nn.Module) -> tuple[str, ...]:
    """Names of all parameters, then of all buffers."""
    return (*(n for n, _ in module.named_parameters()),
            *(n for n, _ in module.named_buffers()))


@dataclass(frozen=True, kw_only=True, eq=False)
class OpaqueCall:
    """A module with its arguments but the tensors, and what it returns.

    Parameters
    ----------
    path : str
        Of the module in the model, for messages.
    settled : Settled
    state : tuple of str
        Parameters and buffers, which come before the arguments' tensors.
    arguments : tuple
        Leaves of (args, kwargs), `LEAF` for a tensor.
    tree : TreeSpec
        Of (args, kwargs).
    autocast : dtype or None
        Of the region that the call stands in.
    results : tuple of TensorSpec
        Of the result's tensors; `requires_grad` where the module gives it
        a gradient.
    leaves : tuple
        Of the result, `LEAF` for a tensor.
    result_tree : TreeSpec
    written : tuple of str
        Buffers that get new values, which come after the results.
    buffers : tuple of TensorSpec
        Of those.
    draws : bool
        Whether it draws from generators that are not torch's, which are
        then seeded as torch's own are.
    """

    path: str
    settled: Settled
    state: tuple[str, ...]
    arguments: tuple[Any, ...]
    tree: pytree.TreeSpec
    autocast: torch.dtype | None
    results: tuple[TensorSpec, ...]
    leaves: tuple[Any, ...]
    result_tree: pytree.TreeSpec
    written: tuple[str, ...]
    buffers: tuple[TensorSpec, ...]
    draws: bool

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """Of the operator: results, then new values of buffers."""
        return (*self.results, *self.buffers)

    def forward(self, tensors: Sequence[torch.Tensor], seed: int,
                device: torch.device) -> list[torch.Tensor]:
        """The operator's outputs, sharing no memory with its inputs.

        What comes from arrays is moved to the device.
        """
        found = [
            x.to(device)
            for x in self._run([t.detach() for t in tensors], seed)
        ]
        used = {t.untyped_storage()._cdata for t in tensors}
        own: list[torch.Tensor] = []
        for x in found:
            x = x.detach().contiguous()
            if x.untyped_storage()._cdata in used:
                x = x.clone()
            used.add(x.untyped_storage()._cdata)
            own.append(x)
        return own

    def backward(self, grads: Sequence[torch.Tensor | None],
                 tensors: Sequence[torch.Tensor], seed: int,
                 wanted: Sequence[bool]) -> list[torch.Tensor]:
        """Gradients of the wanted inputs: the module runs once more."""
        given = [
            t.detach().requires_grad_(w)
            for t, w in zip(tensors, wanted, strict=True)
        ]

        def differentiate(ended: Ended) -> None:
            pairs = [(x, g)
                     for x, g in zip(self._tensors(ended), grads, strict=True)
                     if g is not None and x.requires_grad]
            # Not autograd.grad: functions whose backward calls another one,
            # as those that compute a region again, add to .grad.
            with torch.autocast(tensors[0].device.type, enabled=False):
                if pairs:
                    torch.autograd.backward([x for x, _ in pairs],
                                            [g for _, g in pairs])

        self._run(given, seed, then=differentiate)
        return [
            torch.zeros_like(t, memory_format=torch.contiguous_format)
            if t.grad is None else t.grad.detach().contiguous() for t in given
            if t.requires_grad
        ]

    def _tensors(self, ended: Ended) -> list[torch.Tensor]:
        return [*ended.tensors, *(ended.buffers[n] for n in self.written)]

    def _run(
            self,
            tensors: Sequence[torch.Tensor],
            seed: int,
            then: Callable[[Ended], None] | None = None) -> list[torch.Tensor]:
        count = len(self.state)
        values = dict(zip(self.state, tensors[:count], strict=True))
        supply = iter(tensors[count:])
        leaves = [next(supply) if x == LEAF else x for x in self.arguments]
        args, kwargs = pytree.tree_unflatten(leaves, self.tree)
        device = tensors[0].device if tensors else torch.device("cpu")
        with above_autograd(), seeded(seed, device), torch.autocast(
                device.type,
                dtype=self.autocast or torch.bfloat16,
                enabled=self.autocast is not None):
            try:
                ended = self.settled.run(values,
                                         args,
                                         kwargs,
                                         seed=seed if self.draws else None,
                                         written=self.written,
                                         then=then)
            except NotIsolated as error:
                raise RuntimeError(f"{self.path}: {error}, which it did not "
                                   "do when the model was captured") from None
        self._check(ended)
        return self._tensors(ended)

    def _check(self, ended: Ended) -> None:
        """Only what the values are may differ from call to call."""
        found = [(tuple(x.shape), x.dtype) for x in ended.tensors]
        known = [(s.shape, s.dtype) for s in self.results]
        surplus = sorted(set(ended.buffers) - set(self.written))
        if found == known and ended.leaves == self.leaves and not surplus:
            return
        what = (f"writes to the buffer {surplus[0]}" if surplus else
                f"returns {found} and {_constants(ended.leaves)}")
        raise CaptureError(
            f"{self.path}, which runs uncaptured, {what}, but {known} and "
            f"{_constants(self.leaves)} when the model was captured: shapes "
            "and numbers that it returns must not depend on the values of "
            "tensors; return tensors of fixed shape")


def _constants(leaves: Sequence[Any]) -> list[Any]:
    return [x for x in leaves if x != LEAF]
