"""A model, its inputs and its loss as one function of flat tensors."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from planner.capture.attributes import Attributes
from planner.capture.branches import plain_branches
from planner.capture.ctc import WholeCtc
from planner.capture.draws import watched
from planner.capture.gradients import DetachWithoutGrad
from planner.capture.known_values import KnownValues
from planner.capture.long_loops import LongLoops
from planner.capture.state import AssignedState
from planner.capture.statements import first_write
from planner.capture.structures import flattened
from planner.ir.errors import CaptureError

__all__ = [
    "TENSOR", "Call", "Entry", "Output", "bind_inputs",
    "default_example_inputs", "note_of_left", "split_example"
]

TENSOR = "<tensor>"
"""Stands for a tensor among the constant leaves of an output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """How one call of the model is spelled: its leaves and their tree."""

    leaves: tuple[Any, ...]
    paths: tuple[str, ...]
    tree: pytree.TreeSpec
    targets: int

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return tuple(x for x in self.leaves if isinstance(x, torch.Tensor))

    @property
    def tensor_positions(self) -> tuple[int, ...]:
        """Which of the leaves are tensors."""
        return tuple(i for i, x in enumerate(self.leaves)
                     if isinstance(x, torch.Tensor))


def bind_inputs(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str,
                                                                         Any],
                loss_fn: Callable[..., Any] | None) -> Call:
    """Flatten one call ``model(*args, **kwargs)`` with its targets.

    With a `loss_fn(output, *targets)` the last positional arguments (as
    many as `loss_fn` takes after the output), or the keyword arguments
    that ``model.forward`` doesn't take, are the targets.

    Raises
    ------
    TypeError
        When the arguments fit neither the model nor the loss.
    """
    args, targets, kwargs = _split_targets(model, args, dict(kwargs), loss_fn)
    kwargs = _without_cache(model, args, kwargs)
    try:
        inspect.signature(model.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"the inputs do not fit {type(model).__name__}.forward"
            f"{inspect.signature(model.forward)}: {error}; pass a tuple for "
            "positional and a dict for keyword arguments") from None
    tree = (args, kwargs, targets)
    flattened(tree)
    flat, spec = pytree.tree_flatten_with_path(tree)
    paths = tuple(_path_text(path) for path, _ in flat)
    return Call(leaves=tuple(leaf for _, leaf in flat),
                paths=paths,
                tree=spec,
                targets=len(targets))


def _path_text(path: tuple[Any, ...]) -> str:
    head, rest = path[0].idx, path[1:]
    text = pytree.keystr(rest) if rest else ""
    return ("args", "kwargs", "targets")[head] + text


def _split_targets(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any],
    loss_fn: Callable[..., Any] | None
) -> tuple[tuple[Any, ...], tuple[Any, ...], dict[str, Any]]:
    if loss_fn is None:
        return args, (), kwargs
    accepted = inspect.signature(model.forward).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in accepted.values())
    if kwargs and not takes_any:
        extra = [k for k in kwargs if k not in accepted]
        if extra:
            targets = tuple(kwargs.pop(k) for k in extra)
            return args, targets, kwargs
    wanted = _positional_count(loss_fn) - 1
    if wanted and len(args) <= wanted:
        raise TypeError(
            f"loss_fn takes {wanted} target(s) after the output, but only "
            f"{len(args)} positional inputs were given; give the model's "
            "inputs and then the targets")
    cut = len(args) - wanted
    return args[:cut], args[cut:], kwargs


def _positional_count(function: Callable[..., Any]) -> int:
    if isinstance(function, nn.Module):
        function = function.forward
    kinds = (inspect.Parameter.POSITIONAL_ONLY,
             inspect.Parameter.POSITIONAL_OR_KEYWORD)
    try:
        params = inspect.signature(function).parameters.values()
    except ValueError:
        name = getattr(function, "__name__", type(function).__name__)
        raise TypeError(
            f"loss_fn {name} is a builtin, which does not say how many "
            "targets it takes; wrap it: loss_fn=lambda output: "
            f"{name}(output), with the targets as further arguments") from None
    required = [p for p in params if p.kind in kinds and p.default is p.empty]
    variadic = any(p.kind is p.VAR_POSITIONAL for p in params)
    return max(len(required), 2 if variadic else 1)


def _without_cache(model: nn.Module, args: tuple[Any, ...],
                   kwargs: dict[str, Any]) -> dict[str, Any]:
    """Training needs no key-value cache; Hugging Face returns one."""
    signature = inspect.signature(model.forward).parameters
    config = getattr(model, "config", None)
    if (config is None or "use_cache" in kwargs
            or not hasattr(config, "to_dict")):
        return kwargs
    position = list(signature).index(
        "use_cache") if "use_cache" in signature else None
    if position is None and not _config_caches(model, signature):
        return kwargs
    if position is not None and len(args) > position:
        return kwargs
    return {**kwargs, "use_cache": False}


def _config_caches(model: nn.Module,
                   signature: Mapping[str, inspect.Parameter]) -> bool:
    takes_any = any(p.kind is p.VAR_KEYWORD for p in signature.values())
    return takes_any and any(
        getattr(c, "use_cache", False) for c in _configs(model.config))


def _configs(config: Any) -> Iterator[Any]:
    """A config and those in it: a model of several has one of each."""
    yield config
    for value in vars(config).values():
        if hasattr(value, "to_dict"):
            yield from _configs(value)


def default_example_inputs(
        model: nn.Module) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The model's own example: ``example_inputs()`` or ``dummy_inputs``.

    Raises
    ------
    ValueError
        When the model offers neither.
    """
    own = getattr(model, "example_inputs", None)
    if callable(own):
        return split_example(own())
    dummy = getattr(model, "dummy_inputs", None)
    if isinstance(dummy, dict):
        shapes = {
            k: tuple(v.shape)
            for k, v in dummy.items() if isinstance(v, torch.Tensor)
        }
        warnings.warn(
            f"example_inputs were not given: planning for the model's "
            f"dummy_inputs, of shapes {shapes}; other shapes are captured "
            "again when they come",
            stacklevel=3)
        return (), dict(dummy)
    raise ValueError(
        f"{type(model).__name__} has no example_inputs() and no "
        "dummy_inputs: pass example_inputs= (a tuple or dict of tensors "
        "with the global batch; meta tensors will do)")


def split_example(example: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of one call.

    Parameters
    ----------
    example : tuple, list, dict or Tensor
        A tuple is positional, a mapping is keywords, a tensor is one.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(example, torch.Tensor):
        return (example, ), {}
    if isinstance(example, Mapping):
        return (), dict(example)
    if isinstance(example, (tuple, list)):
        return tuple(example), {}
    raise TypeError(
        "example_inputs must be a tensor, a tuple of positional inputs or a "
        f"dict of keyword inputs, got {type(example).__name__}")


@dataclass(slots=True)
class Output:
    """What was learnt of the model's output while it was traced.

    `tree` is its structure, `leaves` the leaves that are no tensors
    (`TENSOR` where one stands), `loss` the index of the scalar leaf that
    training differentiates. `drawn` are generators that are not torch's
    and were drawn from.
    """

    tree: pytree.TreeSpec | None = None
    leaves: tuple[Any, ...] = ()
    loss: int | None = None
    notes: tuple[str, ...] = ()
    drawn: tuple[str, ...] = ()


class Entry(nn.Module):
    """``model`` with `loss_fn` applied, from flat tensors to flat tensors.

    `autocast` is the dtype of an autocast around the whole call. Draws from
    generators that are not torch's are refused where `refuse_draws` is set.
    `known` tells values that the model's Python asks for, `around` is
    entered while it runs.
    """

    refuse_draws = False
    known: KnownValues | None = None
    around: Callable[[],
                     contextlib.AbstractContextManager[Any]] = (staticmethod(
                         contextlib.nullcontext))

    def __init__(self,
                 model: nn.Module,
                 call: Call,
                 loss_fn: Callable[..., Any] | None,
                 *,
                 autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.autocast = autocast
        self.model = model
        self.call = call
        self.loss_fn = loss_fn
        self.output = Output()

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        with self.around():
            return self._flatten(self._run(tensors))

    def _run(self, tensors: tuple[torch.Tensor, ...]) -> Any:
        supply = iter(tensors)
        leaves = [
            next(supply) if isinstance(x, torch.Tensor) else x
            for x in self.call.leaves
        ]
        args, kwargs, targets = pytree.tree_unflatten(leaves, self.call.tree)
        state = AssignedState(self.model)
        before, attributes = _numbers(self.model), Attributes(self.model)
        with DetachWithoutGrad(), self._ambient_autocast(), \
                watched(self, refuse=self.refuse_draws) as draws, \
                self._known_values(tensors), plain_branches(), WholeCtc(), \
                LongLoops():
            output = self.model(*args, **kwargs)
            if self.loss_fn is not None:
                output = self.loss_fn(output, *targets)
        state.settle()
        self.output.drawn = tuple(draws.names)
        self.output.notes = (*_changed(before, _numbers(self.model)),
                             *(note_of_left(self.model, n)
                               for n in attributes.left()))
        return output

    def _ambient_autocast(self) -> contextlib.AbstractContextManager[Any]:
        """As a region of the graph, on the device that it is traced on."""
        if self.autocast is None:
            return contextlib.nullcontext()
        return torch.autocast("cpu", dtype=self.autocast)

    def tells(self, tensor: torch.Tensor) -> bool:
        """Whether the model may ask for the values of a traced tensor."""
        return self.known is not None and self.known.tells(tensor)

    @property
    def fixed_leaves(self) -> tuple[int, ...]:
        """Leaves of the call whose values the last trace was told."""
        positions = self.call.tensor_positions
        asked = self.known.asked if self.known else ()
        return tuple(sorted(positions[i] for i in asked if i >= 0))

    @property
    def fixed_paths(self) -> tuple[str, ...]:
        """Where those stand in the call."""
        return tuple(self.call.paths[i] for i in self.fixed_leaves)

    def _known_values(
        self, tensors: tuple[torch.Tensor, ...]
    ) -> contextlib.AbstractContextManager[None]:
        if self.known is None:
            return contextlib.nullcontext()
        return self.known.watched(tensors, self)

    def _flatten(self, output: Any) -> tuple[torch.Tensor, ...]:
        flat, tree = flattened(output)
        for leaf in flat:
            if not isinstance(
                    leaf, (torch.Tensor, int, float, str, bool, type(None))):
                raise CaptureError(
                    f"the model returns a {type(leaf).__name__}, which is no "
                    "pytree: register it with torch.utils._pytree or return "
                    "tensors (for a Hugging Face cache pass use_cache=False)")
        self.output.tree = tree
        self.output.leaves = tuple(TENSOR if isinstance(x, torch.Tensor) else x
                                   for x in flat)
        self.output.loss = _find_loss(output, flat)
        return tuple(x for x in flat if isinstance(x, torch.Tensor))


def _numbers(model: nn.Module) -> dict[str, int | float]:
    """The public numbers that the model's modules hold, by path."""
    return {
        f"{path}.{name}".removeprefix("."): value
        for path, module in model.named_modules()
        for name, value in vars(module).items()
        if type(value) in (int, float) and not name.startswith("_")
    }


def _changed(before: Mapping[str, int | float],
             after: Mapping[str, int | float]) -> tuple[str, ...]:
    names = [n for n in after if after[n] != before.get(n, after[n])]
    return tuple(f"forward changes the number {name}; the captured program "
                 "keeps the value of its first call: make it a buffer if "
                 "the result depends on it" for name in names)


def note_of_left(model: nn.Module, name: str) -> str:
    """That a forward pass leaves tensors somewhere, and what to do."""
    line = _written_at(dict(model.named_modules()), name)
    where = f" (see {line})" if line else ""
    return (
        f"forward leaves tensors in {name}{where}; the captured program does "
        "not, so neither the next call nor anyone else finds them there: "
        "return them, or register a buffer and write to it")


def _written_at(modules: Mapping[str, nn.Module], name: str) -> str:
    parts = name.split(".")
    owners = (i for i in reversed(range(len(parts)))
              if ".".join(parts[:i]) in modules)
    i = next(owners)
    return first_write(type(modules[".".join(parts[:i])]), parts[i])


def _find_loss(output: Any, flat: list[Any]) -> int | None:
    """Index of the output leaf that training differentiates."""
    loss = output if isinstance(output, torch.Tensor) else getattr(
        output, "loss", None)
    if loss is None and isinstance(output, Mapping):
        loss = output.get("loss")
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
        return None
    return next(i for i, x in enumerate(flat) if x is loss)
