"""Parameters under the names and in the layouts of Hugging Face.

A family says how its names pair with those of a checkpoint; the two
directions follow from that one table.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

__all__ = ["Names", "Pair", "Stack", "from_hugging_face", "to_hugging_face"]

State = Mapping[str, torch.Tensor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A tensor or a module there, and what it is here.

    Parameters
    ----------
    theirs : tuple of str
        One, with ``*`` for a number. What names a module stands for each of
        its tensors.
    ours : tuple of str
        With the same numbers. Several are one there, joined along the
        first dim.
    transposed : bool
        Whether matrices are.
    """

    theirs: tuple[str]
    ours: tuple[str, ...]
    transposed: bool = False

    @classmethod
    def of(cls, theirs: str, ours: str) -> Pair:
        """One that differs in its name only."""
        return cls(theirs=(theirs, ), ours=(ours, ))


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Tensors of single experts there, which are one tensor here.

    Parameters
    ----------
    theirs : tuple of str
        With a ``*`` for each number, the last one that of the expert. Rows
        of several take turns here.
    ours : tuple of str
        One, of shape (experts, rows, columns).
    """

    theirs: tuple[str, ...]
    ours: tuple[str]

    def split(self,
              tensor: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Each one's name, with its expert's number, and what is in it."""
        step = len(self.theirs)
        for number, expert in enumerate(tensor):
            for place, theirs in enumerate(self.theirs):
                head, _, tail = theirs.rpartition("*")
                yield f"{head}{number}{tail}", expert[place::step].contiguous()

    def joined(self, parts: Mapping[tuple[int, int], torch.Tensor],
               name: str) -> torch.Tensor:
        """The inverse, of parts by the expert's number and their place."""
        step = len(self.theirs)
        count = 1 + max(number for number, _ in parts)
        for number, place in itertools.product(range(count), range(step)):
            if (number, place) not in parts:
                raise ValueError(
                    f"the checkpoint lacks {self.theirs[place]} of expert "
                    f"{number}, a part of {name}; give all of it")
        return torch.stack([
            torch.stack([parts[number, place]
                         for place in range(step)], 1).flatten(0, 1)
            for number in range(count)
        ])


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """All pairs of a family.

    Parameters
    ----------
    prefix : str
        That checkpoints of the model without its head leave out.
    pairs : tuple of Pair or Stack
        The first that fits a name is the one.
    ignored : tuple of str
        Theirs that hold nothing of ours: buffers, and copies of tied
        parameters.
    """

    prefix: str
    pairs: tuple[Pair | Stack, ...]
    ignored: tuple[str, ...] = ()


def to_hugging_face(state: State, config: Any) -> dict[str, torch.Tensor]:
    """Rename, join and transpose a state dict of ours.

    Parameters
    ----------
    state : mapping of str to Tensor
        All of it: ``model.state_dict()``.
    config : LlamaConfig or another family's
        Of the model.

    Returns
    -------
    dict of str to Tensor
        As ``save_pretrained`` writes it: a head that is the embedding is
        left out.

    Raises
    ------
    ValueError
        When a name is not of the family, or a part of a joined tensor is
        missing.
    """
    table = _names(config)
    found: dict[str, torch.Tensor] = {}
    for key in state:
        pair, place, numbers, leaf = _matched(
            key, [(ours, (pair, i)) for pair in table.pairs
                  for i, ours in enumerate(pair.ours)], config)
        if isinstance(pair, Stack):
            for name, part in pair.split(state[key]):
                found[_filled(name, numbers)] = part
            continue
        if place:
            continue
        parts = [
            _required(state,
                      _filled(ours, numbers) + leaf, config)
            for ours in pair.ours
        ]
        whole = torch.cat(parts) if len(parts) > 1 else parts[0]
        found[_filled(pair.theirs[0], numbers) + leaf] = _turned(whole, pair)
    return found


def from_hugging_face(state: State, config: Any) -> dict[str, torch.Tensor]:
    """Rename, split and transpose a checkpoint of Hugging Face's.

    Parameters
    ----------
    state : mapping of str to Tensor
        The tensors of a checkpoint, with or without the model's prefix.
    config : LlamaConfig or another family's
        Of the model that is to load the result.

    Raises
    ------
    ValueError
        When a name is not of the family.
    """
    table = _names(config)
    bare = not any(key.startswith(table.prefix) for key in state)
    found: dict[str, torch.Tensor] = {}
    stacks: dict[tuple[Stack, str], dict[tuple[int, int], torch.Tensor]] = {}
    for key, tensor in state.items():
        if any(
                _fits(pattern, name) for pattern in table.ignored
                for name in (key, table.prefix + key)):
            continue
        pair, place, numbers, leaf = _matched(
            table.prefix + key if bare else key,
            [(theirs, (pair, i)) for pair in table.pairs
             for i, theirs in enumerate(pair.theirs)], config)
        if isinstance(pair, Stack):
            name = _filled(pair.ours[0], numbers)
            parts = stacks.setdefault((pair, name), {})
            parts[int(numbers[-1]), place] = tensor
            continue
        for ours, part in zip(pair.ours, _parts(tensor, pair), strict=True):
            found[_filled(ours, numbers) + leaf] = part
    for (stack, name), parts in stacks.items():
        found[name] = stack.joined(parts, name)
    return found


def _names(config: Any) -> Names:
    if not hasattr(config, "hugging_face"):
        raise ValueError(f"{type(config).__name__} is of a family that has "
                         "no names in Hugging Face's checkpoints; load the "
                         "state dict as it is")
    return config.hugging_face()


def _matched(key: str, patterns: list[tuple[str, tuple[Pair | Stack, int]]],
             config: Any) -> tuple[Pair | Stack, int, tuple[str, ...], str]:
    """The pair whose pattern a name has, its numbers, and its last part
    where the pattern names a module."""
    for name, leaf in _splits(key):
        for pattern, (pair, place) in patterns:
            numbers = _fits(pattern, name)
            if numbers is not None:
                return pair, place, numbers, leaf
    raise ValueError(f"{key} is no tensor of the family of "
                     f"{type(config).__name__}; is the config the model's "
                     "own (tied, for one)?")


def _splits(key: str) -> Iterator[tuple[str, str]]:
    yield key, ""
    module, dot, leaf = key.rpartition(".")
    yield module, dot + leaf


def _fits(pattern: str, name: str) -> tuple[str, ...] | None:
    found = re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d+)"), name)
    return None if found is None else found.groups()


def _filled(pattern: str, numbers: tuple[str, ...]) -> str:
    for number in numbers:
        pattern = pattern.replace("*", number, 1)
    return pattern


def _required(state: State, key: str, config: Any) -> torch.Tensor:
    if key not in state:
        raise ValueError(f"the state dict lacks {key}, which Hugging Face's "
                         f"checkpoint for {type(config).__name__} joins with "
                         "others; give all of it")
    return state[key]


def _parts(tensor: torch.Tensor, pair: Pair) -> list[torch.Tensor]:
    whole = _turned(tensor, pair)
    count = len(pair.ours)
    # One part may be a number, which has no dim to split.
    return [whole] if count == 1 else [
        part.contiguous() for part in whole.chunk(count)
    ]


def _turned(tensor: torch.Tensor, pair: Pair) -> torch.Tensor:
    if pair.transposed and tensor.dim() == 2:
        return tensor.t().contiguous()
    return tensor
