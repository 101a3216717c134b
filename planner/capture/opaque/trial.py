"""Find out what a module returns without knowing any values.

Tried in order: fake tensors; fake tensors whose values, when the module
asks for one, are made up; real tensors of made-up values. Several answers
must lead to the same shapes.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import function as autograd_function
from torch.utils._python_dispatch import (TorchDispatchMode,
                                          _disable_current_modes)
from torch.utils.flop_counter import flop_registry

from planner.capture.known_values import Examples
from planner.capture.opaque.call import Ended, NotIsolated
from planner.capture.opaque.exporting import not_exporting

__all__ = ["TRIALS", "TRIAL_BYTES", "Learnt", "Work", "made_up", "try_out"]

TRIAL_BYTES = 2 << 30
"""Up to this size a module is tried out on real tensors."""

_TIMES_LARGER = 2
"""What it may make of them is so many times as large."""

_ANSWERS = 10000
"""After as many made-up values a loop is taken to have no end."""

TRIALS = 3
"""How often it is tried out on real tensors."""

_MISTAKES = (AttributeError, NameError)
"""What is raised on numbers too."""

_DRAWN = (None, 0.0, 1 - 2**-24)
"""What it draws then: a layer that is seldom left out is so in one of them."""

_SAME_DRAWS = 1000
"""How often."""

_QUESTIONS = "prim"
"""Operators that tell what is known of a tensor, as a fake one's device."""

_aten = torch.ops.aten
_UNIFORM = frozenset(
    (_aten.rand.default, _aten.rand_like.default, _aten.uniform_.default))


@dataclass(slots=True)
class Work:
    """Of one forward run: flops of products, bytes moved, kernels."""

    flops: int = 0
    size_bytes: int = 0
    kernels: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Learnt:
    """A run that stands for all others, and the work it was.

    `draws` is whether any of them drew from generators that are not torch's.
    """

    ended: Ended
    work: Work
    real: bool
    draws: bool


@dataclass(slots=True)
class _Meter(TorchDispatchMode):
    """Counts work, and answers with `answer` when a value is asked for.

    Stops a run whose operators give more than `most_bytes`, which autograd
    may keep all. Numbers that are drawn from a range are the one that lies
    `drawn` of the way from its least to its largest, if that is given; not
    without end, for loops that draw until they get another.
    """

    answer: bool | None = None
    drawn: float | None = None
    most_bytes: float = math.inf
    work: Work = field(default_factory=Work)
    asked: int = 0
    draws: int = 0
    made_bytes: int = 0

    def __post_init__(self) -> None:
        TorchDispatchMode.__init__(self)

    def __torch_dispatch__(self,
                           func: Any,
                           types: Any,
                           args: Any = (),
                           kwargs: Any = None) -> Any:
        if self.answer is not None and func in _VALUES:
            self.asked += 1
            if self.asked > _ANSWERS:
                raise RuntimeError("its Python asks for values without end")
            return _VALUES[func](args[0], self.answer)
        out = func(*args, **(kwargs or {}))
        if self.drawn is not None and func in _UNIFORM \
                and self.draws < _SAME_DRAWS:
            self.draws += 1
            least, largest = _range(*args, **(kwargs or {})) \
                if func is _aten.uniform_.default else (0, 1)
            out.fill_(least + self.drawn * (largest - least))
        self._count(func, args, kwargs or {}, out)
        return out

    def _count(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        if func.is_view or func.namespace == _QUESTIONS:
            return
        formula = flop_registry.get(func.overloadpacket)
        if formula is not None:
            self.work.flops += int(formula(*args, **kwargs, out_val=out))
        made_bytes = _size_bytes(out)
        self.work.size_bytes += _size_bytes((args, kwargs)) + made_bytes
        self.work.kernels += 1
        self.made_bytes += made_bytes
        if self.made_bytes > self.most_bytes:
            raise NotIsolated(
                "fake tensors do not tell what it returns, and on numbers it "
                f"makes more than {self.most_bytes / 2**30:.0f} GiB of them")


def _range(tensor: torch.Tensor,
           least: float = 0,
           largest: float = 1,
           **_: Any) -> tuple[float, float]:
    del tensor
    return least, largest


def _size_bytes(tree: Any) -> int:
    return sum(x.numel() * x.element_size()
               for x in torch.utils._pytree.tree_leaves(tree)
               if isinstance(x, torch.Tensor))


def _scalar(tensor: torch.Tensor, answer: bool) -> Any:
    if tensor.dtype is torch.bool:
        return answer
    kind = float if tensor.is_floating_point() else int
    return kind(answer)


def _places(tensor: torch.Tensor, answer: bool) -> torch.Tensor:
    count = tensor.numel() if answer else 0
    return tensor.new_zeros((count, tensor.ndim), dtype=torch.int64)


_VALUES: dict[Any, Callable[[torch.Tensor, bool], Any]] = {
    _aten._local_scalar_dense.default: _scalar,
    _aten.nonzero.default: _places,
}

Make = Callable[[Sequence[torch.Tensor], int], Ended]


def try_out(run: Make,
            like: Sequence[torch.Tensor],
            wants: Sequence[bool],
            *,
            examples: Examples = (),
            answers: bool = True) -> Learnt:
    """Learn what `run` gives for tensors like these.

    Parameters
    ----------
    run : callable
        Runs the module on its parameters, buffers and inputs, and the
        number of the trial, by which it is seeded.
    like : sequence of Tensor
        Of their shapes, strides and dtypes.
    wants : sequence of bool
        Which of them carry a gradient.
    examples : sequence of sequence of Tensor, optional
        Values that the last of them may have, several times.
    answers : bool
        Whether to make up answers where Python asks for values.

    Raises
    ------
    NotIsolated
        When what it returns depends on values, or it can't be run.
    """
    shapes = [(tuple(t.shape), t.stride(), t.dtype) for t in like]
    with _untraced():
        first: list[Exception] = []
        on_numbers = functools.partial(_on_numbers, examples=examples)
        made_up = (_with_answers, ) if answers else ()
        for attempt in (_as_fakes, *made_up, on_numbers):
            try:
                return attempt(run, shapes, wants)
            except NotIsolated:
                raise
            except _MISTAKES as error:
                first.append(error)
                break
            except Exception as error:
                first.append(error)
    raise NotIsolated(f"it can't be run on its own: {first[-1]}") from first[0]


_Shape = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def _as_fakes(run: Make,
              shapes: Sequence[_Shape],
              wants: Sequence[bool],
              *,
              answer: bool | None = None) -> Learnt:
    found = [_as_fakes_once(run, shapes, wants, answer=answer)]
    if found[0].ended.draws:
        found += [
            _as_fakes_once(run, shapes, wants, answer=answer, trial=number)
            for number in range(1, TRIALS)
        ]
        if not _alike(found):
            raise NotIsolated("what it returns (a shape, or a number) depends "
                              "on the numbers that it draws")
    return _for_all(found)


def _as_fakes_once(run: Make,
                   shapes: Sequence[_Shape],
                   wants: Sequence[bool],
                   *,
                   answer: bool | None,
                   trial: int = 0) -> Learnt:
    # Tensors that modules hold as plain attributes are real.
    with FakeTensorMode(allow_non_fake_inputs=True):
        given = [
            torch.empty_strided(shape, stride, dtype=dtype)
            for shape, stride, dtype in shapes
        ]
        meter = _Meter(answer)
        with meter:
            ended = run(_differentiable(given, wants), trial)
    return _learnt(ended, meter.work, real=False)


def _with_answers(run: Make, shapes: Sequence[_Shape],
                  wants: Sequence[bool]) -> Learnt:
    found = [
        _as_fakes(run, shapes, wants, answer=answer)
        for answer in (True, False)
    ]
    if not _alike(found):
        raise RuntimeError("made-up answers contradict each other")
    return _for_all(found)


def _on_numbers(run: Make, shapes: Sequence[_Shape], wants: Sequence[bool], *,
                examples: Examples) -> Learnt:
    size = sum(
        torch.Size(shape).numel() * dtype.itemsize
        for shape, _, dtype in shapes)
    if size > TRIAL_BYTES:
        raise NotIsolated(
            "fake tensors do not tell what it returns, and its parameters "
            f"and inputs are too large ({size / 2**30:.1f} GiB) to try it on "
            "numbers")
    found: list[Learnt] = []
    errors: list[Exception] = []
    for number in range(TRIALS):
        meter = _Meter(drawn=_DRAWN[number],
                       most_bytes=_TIMES_LARGER * TRIAL_BYTES)
        try:
            given = [made_up(*shape, number) for shape in shapes]
            if number < len(examples):
                _fill(given, examples[number])
            with meter, torch.random.fork_rng([]):
                torch.manual_seed(number)
                ended = run(_differentiable(given, wants), number)
            found.append(_learnt(ended, meter.work, real=True))
        except NotIsolated:
            raise
        except Exception as error:
            errors.append(error)
    if not found:
        raise errors[0]
    if len(found) == 1 and not any(map(_real_values, examples)):
        raise NotIsolated("what it returns is not known: of the numbers that "
                          f"it was tried on it takes some only ({errors[0]})")
    if not _alike(found):
        raise NotIsolated("what it returns (a shape, or a number) depends on "
                          "the values of tensors")
    return _for_all(found)


def made_up(shape: tuple[int, ...], stride: tuple[int, ...],
            dtype: torch.dtype, number: int) -> torch.Tensor:
    """Small numbers; integers are what tables and masks have: 0 or 1.

    The first time none is negative, as variances and sizes are; the last
    time all are one, as a mask may be that is no integer.
    """
    made = torch.empty_strided(shape, stride, dtype=dtype)
    if dtype is torch.bool:
        return made.fill_(number != 0)
    if not dtype.is_floating_point and not dtype.is_complex:
        return made.fill_(int(number != 1))
    if number == TRIALS - 1:
        return made.fill_(1)
    # In place: what is tried may be a good part of the memory.
    made.normal_(0, 0.1, generator=torch.Generator().manual_seed(number))
    return made if number else made.abs_()


def _fill(given: Sequence[torch.Tensor],
          examples: Sequence[torch.Tensor | None]) -> None:
    """Put in the examples where they are real and of these shapes."""
    last = given[len(given) - len(examples):]
    for example, tensor in zip(examples, last, strict=True):
        if example is not None and example.device.type != "meta" \
                and not isinstance(example, FakeTensor) \
                and (example.shape, example.dtype) == (tensor.shape,
                                                       tensor.dtype):
            tensor.copy_(example.detach())


def _real_values(examples: Sequence[torch.Tensor | None]) -> bool:
    return any(x is not None and x.device.type != "meta"
               and not isinstance(x, FakeTensor) for x in examples)


def _differentiable(given: Sequence[torch.Tensor],
                    wants: Sequence[bool]) -> list[torch.Tensor]:
    return [t.requires_grad_(w) for t, w in zip(given, wants, strict=True)]


def _learnt(ended: Ended, work: Work, *, real: bool) -> Learnt:
    return Learnt(ended=ended, work=work, real=real, draws=ended.draws)


def _for_all(found: Sequence[Learnt]) -> Learnt:
    """The one of most work stands for them."""
    return dataclasses.replace(max(found, key=lambda f: f.work.flops),
                               draws=any(f.draws for f in found))


def _alike(found: Sequence[Learnt]) -> bool:
    known = [([(tuple(x.shape), x.dtype)
               for x in f.ended.tensors], f.ended.leaves, f.ended.tree)
             for f in found]
    return all(k == known[0] for k in known)


@contextlib.contextmanager
def _untraced() -> Iterator[None]:
    """As if nothing were traced around this."""
    owner: Any = autograd_function._SingleLevelFunction
    kept = owner.__dict__.get("apply")
    if kept is not None:
        del owner.apply
    try:
        with not_exporting(), _disable_current_modes(), \
                torch._C.DisableTorchFunction(), torch.enable_grad():
            yield
    finally:
        if kept is not None:
            owner.apply = kept
