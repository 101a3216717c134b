"""What a layer calls while it runs: written down, and compared.

Everything that is asked of a tensor goes through a ``TorchFunctionMode``,
with the arguments as Python gave them; also properties such as shapes. Two
runs that ask the same things of corresponding tensors are the same graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor
from torch.autograd.graph import increment_version
from torch.overrides import TorchFunctionMode

from planner.capture.autocast import autocast_devices
from planner.capture.known_values import ASKING

__all__ = ["Differs", "Recording", "Replay", "ambient", "described"]

_PLAIN = (bool, int, str, bytes, type(None), type(Ellipsis), torch.dtype,
          torch.device, torch.layout, torch.memory_format)
_SEQUENCES = (tuple, list, torch.Size)
_SET_GRAD = torch._C._set_grad_enabled
_MAKES_CONSTANTS = (torch.tensor, torch.as_tensor, torch.asarray,
                    torch.from_numpy)
_BATCH_NORMS = {
    torch.nn.functional.batch_norm:
    ("input", "running_mean", "running_var", "weight", "bias", "training"),
    torch.batch_norm:
    ("input", "weight", "bias", "running_mean", "running_var", "training")
}


class Differs(BaseException):
    """Ends a run; no handler of the model's is meant to catch it."""


def ambient() -> tuple[Any, ...]:
    """What decides on a call besides its arguments."""
    return (torch.is_grad_enabled(), torch.get_default_dtype(),
            *((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d))
              for d in autocast_devices()))


def described(value: Any, names: Mapping[int, int]) -> Any:
    """A value as plain data that compares by type and content.

    Parameters
    ----------
    value : object
    names : mapping of int to int
        Tensors, by ``id``, that count as others. A tensor is its ``id``:
        whoever compares keeps them alive.

    Raises
    ------
    Differs
        When the value holds what can't be compared.
    """
    if isinstance(value, torch.Tensor):
        return "tensor", names.get(id(value), id(value))
    if isinstance(value, float):
        return "float", repr(value)
    if type(value) in _PLAIN:
        return type(value), value
    if isinstance(value, _SEQUENCES):
        return type(value), *(described(v, names) for v in value)
    if type(value) is dict:
        return dict, *((k, described(v, names)) for k, v in value.items())
    if type(value) is slice:
        return slice, *(described(v, names)
                        for v in (value.start, value.stop, value.step))
    raise Differs(f"a {type(value).__name__}")


def _tensors(value: Any) -> Iterable[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (*_SEQUENCES, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    called: Any
    arguments: Any
    around: tuple[Any, ...]
    result: Any
    written: tuple[torch.Tensor, ...]


class Recording(TorchFunctionMode):
    """Runs a layer and writes down what it calls.

    `steps` is complete where `usable` stays true. `taken` are the tensors
    that come from outside, in the order of their use, with their versions
    then; `made` are the others, by their ``id``. `statistics` are those of
    batch norms that are updated, which have no versions in a trace.

    Parameters
    ----------
    buffers : sequence of Tensor
        What may be written to.
    """

    def __init__(self, buffers: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self.buffers = buffers
        self.steps: list[_Step] = []
        self.usable = True
        self.taken: dict[int, tuple[torch.Tensor, int]] = {}
        self.made: dict[int, torch.Tensor] = {}
        self.statistics: set[int] = set()

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        kwargs = kwargs or {}
        if func is _SET_GRAD or not self.usable:
            return func(*args, **kwargs)
        around = ambient()
        try:
            arguments = described((args, kwargs), {})
        except Differs:
            arguments, self.usable = None, False
        self._take((args, kwargs))
        self.statistics.update(map(id, _updated(func, args, kwargs)))
        before = _versions(self.buffers)
        result = func(*args, **kwargs)
        self._give(func, result)
        pairs = zip(self.buffers, before, _versions(self.buffers))
        self.steps.append(
            _Step(called=func,
                  arguments=arguments,
                  around=around,
                  result=result,
                  written=tuple(b for b, old, new in pairs if old != new)))
        return result

    def _take(self, value: Any) -> None:
        with torch._C.DisableTorchFunction():
            for tensor in _tensors(value):
                if id(tensor) not in self.made:
                    self.taken.setdefault(id(tensor),
                                          (tensor, tensor._version))

    def _give(self, func: Any, result: Any) -> None:
        self.usable &= func not in _MAKES_CONSTANTS and getattr(
            func, "__name__", "") not in ASKING
        try:
            described(result, {})
        except Differs:
            self.usable = False
        for tensor in _tensors(result):
            if id(tensor) not in self.taken:
                self.made[id(tensor)] = tensor

    def is_closed(self) -> bool:
        """Whether only traced values were read."""
        return self.usable and all(
            isinstance(t, FakeTensor) for t, _ in self.taken.values())

    def written(self) -> list[torch.Tensor]:
        """What was taken and written to."""
        with torch._C.DisableTorchFunction():
            return [
                t for i, (t, version) in self.taken.items()
                if t._version != version or i in self.statistics
            ]


def _versions(tensors: Sequence[torch.Tensor]) -> list[int]:
    with torch._C.DisableTorchFunction():
        return [t._version for t in tensors]


def _updated(func: Any, args: tuple[Any, ...],
             kwargs: dict[str, Any]) -> Iterable[Any]:
    """The running statistics that a call of a batch norm updates."""
    order = _BATCH_NORMS.get(func, ())
    given = {**dict(zip(order, args)), **kwargs}
    if order and given.get("training"):
        return given["running_mean"], given["running_var"]
    return ()


class Replay(TorchFunctionMode):
    """Answers as in a recording, as long as the same things are asked.

    What is written to has another version afterwards.

    Parameters
    ----------
    steps : list
        Of the recording.
    pairs : list of (Tensor, Tensor)
        Recorded tensors and those that stand for them here: operands,
        parameters, buffers, results. Others are the recorded ones.
    """

    def __init__(self, steps: list[_Step],
                 pairs: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        super().__init__()
        self.steps = steps
        self.pairs = pairs
        self.names = {id(new): id(old) for old, new in pairs}
        self.here = {id(old): new for old, new in pairs}
        self.done = 0
        self.differs = False

    def __torch_function__(self,
                           func: Any,
                           types: Any,
                           args: tuple[Any, ...] = (),
                           kwargs: dict[str, Any] | None = None) -> Any:
        if func is _SET_GRAD:
            with torch._C.DisableTorchFunction():
                return func(*args)
        if not self.differs:
            self.differs = not self._is_next(func, (args, kwargs or {}))
        if self.differs:
            raise Differs
        step = self.steps[self.done]
        self.done += 1
        increment_version(self.here[id(t)] for t in step.written)
        return self._stands_for(step.result)

    def _stands_for(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self.here.get(id(value), value)
        if isinstance(value, (tuple, list)) and any(
                isinstance(x, torch.Tensor) for x in value):
            return type(value)([self._stands_for(x) for x in value])
        return list(value) if type(value) is list else value

    def _is_next(self, func: Any, arguments: Any) -> bool:
        if self.done == len(self.steps):
            return False
        step = self.steps[self.done]
        if step.called != func or step.around != ambient():
            return False
        try:
            return bool(step.arguments == described(arguments, self.names))
        except Differs:
            return False

    def is_complete(self) -> bool:
        """Whether everything recorded was asked for, and nothing else."""
        return not self.differs and self.done == len(self.steps)
