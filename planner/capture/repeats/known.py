"""A layer that was traced, to which others are compared."""

from __future__ import annotations

import contextlib
import gc
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx._symbolic_trace import _orig_module_call
from torch.fx.experimental.proxy_tensor import \
    _temp_remove_pre_dispatch_torch_function_mode
from torch.utils import _pytree as pytree

from planner.capture.repeats.operator import AGAIN
from planner.capture.repeats.recorded import (Differs, Recording, Replay,
                                              described)

__all__ = ["Kept", "Known", "look_of", "traced_layer"]

_Pairs = list[tuple[torch.Tensor, torch.Tensor]]


def look_of(values: Sequence[Any]) -> tuple[Any, ...]:
    """All that Python can tell of tensors without their values.

    Which of them are the same is part of it. What is no tensor is itself.
    """
    first = {id(t): i for i, t in reversed(list(enumerate(values)))}
    with torch._C.DisableTorchFunction():
        return tuple(
            (first[id(t)], type(t), tuple(t.shape), t.stride(),
             t.storage_offset(), t.dtype, t.device, t.requires_grad,
             t.is_leaf) if isinstance(t, torch.Tensor) else _constant(t, {})
            for t in values)


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Hide from the trace which modules and modes are entered meanwhile."""
    call = nn.Module.__call__
    nn.Module.__call__ = _orig_module_call
    try:
        with _temp_remove_pre_dispatch_torch_function_mode():
            yield
    finally:
        nn.Module.__call__ = call


def _constant(value: Any, names: dict[int, int]) -> Any:
    try:
        return described(value, names)
    except Differs:
        return "object", id(value)


def _shape(returned: Any, names: dict[int, int]) -> Any:
    """A result by its structure, its tensors and its constants."""
    leaves, tree = pytree.tree_flatten(returned)
    return tree, [_constant(x, names) for x in leaves]


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """A layer that was traced.

    Parameters
    ----------
    given : list
        Leaves of its arguments, then its parameters and buffers.
    recording : Recording
    outputs : list of Tensor
        What it has made that others see.
    returned : object
    withheld : mapping of int to str
        Tensors, by ``id``, that are mentioned by name.
    """

    given: list[Any]
    recording: Recording
    outputs: list[torch.Tensor]
    returned: Any
    withheld: Mapping[int, str]

    def again(self, given: Sequence[Any]) -> _Pairs:
        """Mention a call on other operands in the graph.

        Returns
        -------
        list of (Tensor, Tensor)
            Tensors of this call and those of the other one.
        """
        pairs = [(old, new) for old, new in zip(self.given, given, strict=True)
                 if isinstance(old, torch.Tensor)]
        here = {id(old): new for old, new in pairs}
        takes = [here.get(i, t) for i, (t, _) in self.recording.taken.items()]
        names = [self.withheld.get(id(t), "") for t in takes]
        shown = [t for t in takes if id(t) not in self.withheld]
        with torch._C.DisableTorchFunction():
            found = AGAIN(shown, names, self.outputs)
        return [*pairs, *zip(self.outputs, found, strict=True)]

    def repeated(self, run: Callable[[], Any],
                 given: Sequence[Any]) -> tuple[bool, Any]:
        """Whether `run` does to `given` what was done here, and its result.

        Raises
        ------
        Kept
            When `run` left values of this call with others, or its own
            although it does something else.
        """
        pairs = self.again(given)
        inside = list(self.recording.made.values())
        results = [new for _, new in pairs[-len(self.outputs):]]
        before = _references(inside), _references(results)
        alike, returned = self._replayed(run, pairs)
        kept = _more(before[0], inside)
        if kept:
            raise Kept(kept)
        if not alike and _more(before[1], results):
            raise Kept(())
        return alike, returned

    def _replayed(self, run: Callable[[], Any],
                  pairs: _Pairs) -> tuple[bool, Any]:
        replay = Replay(self.recording.steps, pairs)
        try:
            with _unseen(), replay:
                returned = run()
        except (Differs, Exception):
            return False, None
        if replay.is_complete() and _shape(returned, replay.names) == _shape(
                self.returned, {}):
            return True, returned
        return False, None


class Kept(Exception):
    """Some tensors of a layer, by number, are kept by others."""

    def __init__(self, numbers: Collection[int]) -> None:
        super().__init__(numbers)
        self.numbers = numbers


def _references(tensors: list[torch.Tensor]) -> list[int]:
    return [sys.getrefcount(t) for t in tensors]


def _more(before: list[int], tensors: list[torch.Tensor]) -> list[int]:
    """Which are referred to more often than before."""
    if _references(tensors) == before:
        return []
    gc.collect()
    after = _references(tensors)
    return [i for i, n in enumerate(after) if n > before[i]]


def traced_layer(run: Callable[[], Any], given: list[Any], *,
                 kept: Collection[int],
                 withheld: Mapping[int, str]) -> tuple[Any, Known | None]:
    """Run and trace a layer.

    Parameters
    ----------
    run : callable
    given : list
        Leaves of its arguments, then its parameters and buffers.
    kept : collection of int
        Which of the tensors that it makes others keep.
    withheld : mapping of int to str
        See `Known`.

    Returns
    -------
    returned : object
    known : Known or None
        None where what others see doesn't follow from its operands alone,
        or where it does more.
    """
    with Recording() as recording:
        returned = run()
    own = {id(x) for x in given}
    made = list(recording.made.values())
    seen = [
        *(x for x in pytree.tree_leaves(returned)
          if isinstance(x, torch.Tensor) and id(x) not in own),
        *(made[i] for i in kept)
    ]
    outputs = list({id(x): x for x in seen}.values())
    if not _is_function(recording, outputs):
        return returned, None
    known = Known(given=given,
                  recording=recording,
                  outputs=outputs,
                  returned=returned,
                  withheld=withheld)
    here = {id(old): new for old, new in known.again(given)}
    return pytree.tree_map_only(torch.Tensor, lambda t: here.get(id(t), t),
                                returned), known


def _is_function(recording: Recording, outputs: list[torch.Tensor]) -> bool:
    if not recording.is_closed() or not outputs:
        return False
    taken = [t for t, _ in recording.taken.values()]
    with torch._C.DisableTorchFunction():
        storages = [t.untyped_storage()._cdata for t in (*taken, *outputs)]
        inherits = torch.is_grad_enabled() and any(t.requires_grad
                                                   for t in taken)
        return all(
            isinstance(t, FakeTensor) and id(t) in recording.made
            and storages.count(t.untyped_storage()._cdata) == 1
            and t.requires_grad == (inherits and t.is_floating_point())
            for t in outputs)
