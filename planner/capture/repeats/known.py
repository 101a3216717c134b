"""A layer that was traced, to which others are compared."""

from __future__ import annotations

import contextlib
import functools
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

from planner.capture.repeats.operator import AGAIN, VALUE_HERE
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


_hidden = False


@contextlib.contextmanager
def _unseen() -> Iterator[None]:
    """Hide from the trace which modules and modes are entered meanwhile."""
    global _hidden
    # Python forgets what it knows of all modules' classes when it is set, so
    # that it stays for as long as the trace's own does.
    call = nn.Module.__call__
    if call is not _orig_module_call and not hasattr(call, "_hides"):
        nn.Module.__call__ = _hiding(call)
    before, _hidden = _hidden, True
    try:
        with _temp_remove_pre_dispatch_torch_function_mode():
            yield
    finally:
        _hidden = before


def _hiding(call: Callable[..., Any]) -> Callable[..., Any]:
    """A trace's call of modules, but for while it is not to see any."""

    @functools.wraps(call)
    def hiding(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return (_orig_module_call if _hidden else call)(module, *args,
                                                        **kwargs)

    setattr(hiding, "_hides", True)
    return hiding


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
    written : list of Tensor
        Buffers that it writes to.
    left : list of Tensor
        What it left in them.
    returned : object
    withheld : mapping of int to str
        Tensors, by ``id``, that are mentioned by name.
    """

    given: list[Any]
    recording: Recording
    outputs: list[torch.Tensor]
    written: list[torch.Tensor]
    left: list[torch.Tensor]
    returned: Any
    withheld: Mapping[int, str]

    def mention(self, here: Mapping[int, torch.Tensor],
                number: int) -> list[torch.Tensor]:
        """Put a call into the graph, with other tensors in the place of some.

        Returns
        -------
        list of Tensor
            In the place of `outputs`, then of `left`.
        """
        takes = [here.get(i, t) for i, (t, _) in self.recording.taken.items()]
        names = [self.withheld.get(id(t), "") for t in takes]
        shown = [t for t in takes if id(t) not in self.withheld]
        places = list(self.recording.taken)
        with torch._C.DisableTorchFunction():
            found: list[torch.Tensor] = AGAIN(
                shown, names, [*self.outputs, *self.left],
                [places.index(id(t)) for t in self.written], number)
        return found

    def results(self, found: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """In the place of `outputs`: with a gradient where those have one."""
        pairs = zip(self.outputs, found)
        with torch._C.DisableTorchFunction():
            return [
                new
                if old.requires_grad == new.requires_grad else VALUE_HERE(new)
                for old, new in pairs
            ]

    def repeated(self, run: Callable[[], Any], given: Sequence[Any],
                 number: int) -> tuple[bool, Any]:
        """Whether `run` does to `given` what was done here, and its result.

        Parameters
        ----------
        run : callable
        given : sequence
            As `Known.given`.
        number : int
            By which the call is known in the graph.

        Raises
        ------
        Kept
            When `run` left values of this call with others, or its own
            although it does something else.
        """
        pairs = [(old, new) for old, new in zip(self.given, given, strict=True)
                 if isinstance(old, torch.Tensor)]
        here = {id(old): new for old, new in pairs}
        found = self.mention(here, number)
        results = self.results(found)
        inside = list(self.recording.made.values())
        before = _references(inside), _references(results)
        alike, returned = self._replayed(
            run, [*pairs, *zip(self.outputs, results, strict=True)])
        kept = _more(before[0], inside)
        if kept:
            raise Kept(kept)
        if not alike and _more(before[1], results):
            raise Kept(())
        if alike:
            self._write([here[id(t)] for t in self.written],
                        found[len(self.outputs):])
        return alike, returned

    def _write(self, written: list[torch.Tensor],
               left: list[torch.Tensor]) -> None:
        """What is mentioned by name is written to where it gets its place."""
        with torch._C.DisableTorchFunction(), torch.no_grad():
            for buffer, value in zip(written, left, strict=True):
                if id(buffer) not in self.withheld:
                    buffer.copy_(VALUE_HERE(value, True))

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
                 buffers: Sequence[torch.Tensor], kept: Collection[int],
                 withheld: Mapping[int, str],
                 number: int) -> tuple[Any, Known | None]:
    """Run and trace a layer.

    Parameters
    ----------
    run : callable
    given : list
        Leaves of its arguments, then its parameters and buffers.
    buffers : sequence of Tensor
        Those of them that it may write to.
    kept : collection of int
        Which of the tensors that it makes others keep.
    withheld : mapping of int to str
        See `Known`.
    number : int
        By which the call is known in the graph.

    Returns
    -------
    returned : object
    known : Known or None
        None where what others see doesn't follow from its operands alone,
        or where it does more.
    """
    before = _values({id(t): t for t in buffers})
    with Recording(buffers) as recording:
        returned = run()
    own = {id(x) for x in given}
    made = list(recording.made.values())
    seen = [
        *(x for x in pytree.tree_leaves(returned)
          if isinstance(x, torch.Tensor) and id(x) not in own),
        *(made[i] for i in kept)
    ]
    outputs = list({id(x): x for x in seen}.values())
    written = recording.written()
    if not all(
            id(t) in before and _stays(t, recording, outputs)
            for t in written) or not _is_function(recording, outputs):
        return returned, None
    known = Known(given=given,
                  recording=recording,
                  outputs=outputs,
                  written=written,
                  left=list(_values({
                      id(t): t
                      for t in written
                  }).values()),
                  returned=returned,
                  withheld=withheld)
    found = known.mention({id(t): before[id(t)] for t in written}, number)
    here = {id(old): new for old, new in zip(outputs, known.results(found))}
    return pytree.tree_map_only(torch.Tensor, lambda t: here.get(id(t), t),
                                returned), known


def _values(tensors: Mapping[int, torch.Tensor]) -> dict[int, torch.Tensor]:
    """What they hold now, in the graph."""
    with torch._C.DisableTorchFunction():
        return {i: VALUE_HERE(t) for i, t in tensors.items()}


def _stays(buffer: torch.Tensor, recording: Recording,
           outputs: list[torch.Tensor]) -> bool:
    """Whether nobody else has its memory, and it carries no gradient."""
    with torch._C.DisableTorchFunction():
        memory = buffer.untyped_storage()._cdata
        others = [t for t, _ in recording.taken.values()] + outputs
        return not buffer.requires_grad and sum(
            t.untyped_storage()._cdata == memory for t in others) == 1


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
            and storages.count(t.untyped_storage()._cdata) == 1 and (
                inherits and t.is_floating_point() or not t.requires_grad)
            for t in outputs)
