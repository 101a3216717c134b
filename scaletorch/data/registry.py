"""Sources by name, and loaders from a mapping such as a config file's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from planner.names import nearest
from scaletorch.data.loader import Loader
from scaletorch.data.options import check_values
from scaletorch.data.part import part_of
from scaletorch.data.source import Augmented, Sample, Source

__all__ = ["build", "check", "kinds", "register"]

Made = TypeVar("Made", bound=Callable[..., Any])

_KINDS: dict[str, Callable[..., Any]] = {}


def register(kind: str) -> Callable[[Made], Made]:
    """Make a source known by a name, with its keywords as options.

    Raises
    ------
    ValueError
        When the name is taken.
    """
    if kind in _KINDS:
        raise ValueError(f"there is a source {kind!r} already; register "
                         "another name")

    def add(make: Made) -> Made:
        _KINDS[kind] = make
        return make

    return add


def kinds() -> tuple[str, ...]:
    """The names of all sources, sorted."""
    return tuple(sorted(_KINDS))


def build(config: Mapping[str, Any], *, name: str = "data") -> Loader:
    """A loader from a mapping.

    Parameters
    ----------
    config : mapping
        ``kind`` names the source (see :func:`kinds`); ``batch_size``,
        ``shuffle``, ``workers``, ``prefetch``, ``drop_last`` and
        ``pin_memory`` are the loader's, ``seed`` is of both, ``names``
        gives tensors other names, ``part`` takes a range of the samples
        by fractions, ``[0, 0.9]``; the rest are the source's options.
    name : str
        Of the mapping, for errors.

    Returns
    -------
    Loader
        Of dicts of host tensors, the global batch.

    Raises
    ------
    ValueError
        For an unknown kind or option, one that is missing or of a wrong
        type, and what the source and the loader refuse.

    Examples
    --------
    >>> loader = build({"kind": "random_tokens", "sequence_length": 16,
    ...                 "vocabulary_size": 32, "batch_size": 4})
    >>> next(iter(loader))["tokens"].shape
    torch.Size([4, 16])
    """
    check(config, name=name)
    try:
        return _built(config)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def _built(config: Mapping[str, Any]) -> Loader:
    options = dict(config)
    make = _KINDS[options.pop("kind")]
    names = options.pop("names", {})
    part = options.pop("part", None)
    of_source, of_loader = _options(make), _options(Loader)
    source = make(**{n: v for n, v in options.items() if n in of_source})
    if part is not None:
        source = part_of(source, part)
    if names:
        source = _renamed(source, names)
    return Loader(source, **{
        n: v
        for n, v in options.items() if n in of_loader
    })


def check(config: Mapping[str, Any], *, name: str = "data") -> None:
    """Find out whether `build` takes a mapping; nothing is read.

    Parameters
    ----------
    config : mapping
    name : str
        Of the mapping, for errors.

    Raises
    ------
    ValueError
        For an unknown kind or option, and one that is missing or of a
        wrong type.
    """
    kind = config.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise ValueError(f"{name}: kind {kind!r} is not known; "
                         f"{nearest(str(kind), kinds())}")
    taken = _options(_KINDS[kind]) | _options(Loader)
    del taken["source"]
    known = sorted({*taken, "kind", "names", "part"})
    for option in config:
        if option not in known:
            raise ValueError(f"{name}: {kind} has no option {option!r}; "
                             f"{nearest(str(option), known)}")
    for option, needed in taken.items():
        if needed and option not in config:
            raise ValueError(f"{name}: {kind} needs the option {option!r}")
    try:
        for make in (_KINDS[kind], Loader, part_of, _with_names):
            check_values(make, config)
    except ValueError as error:
        raise ValueError(f"{name}.{error}") from None


def _options(make: Callable[..., Any]) -> dict[str, bool]:
    """Names of what a callable takes, and whether it is needed."""
    return {
        n: p.default is p.empty
        for n, p in inspect.signature(make).parameters.items()
    }


class _Renamed:
    """A source whose tensors have other names."""

    def __init__(self, source: Source, names: Mapping[str,
                                                      str | None]) -> None:
        self._source = source
        self._names = dict(names)

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Sample:
        return _with_names(self._source[index], self._names)


class _RenamedAugmented:
    """An augmented source whose tensors have other names."""

    def __init__(self, source: Augmented, names: Mapping[str,
                                                         str | None]) -> None:
        self._source = source
        self._names = dict(names)

    def __len__(self) -> int:
        return len(self._source)

    def augmented(self, index: int, seed: int) -> Sample:
        return _with_names(self._source.augmented(index, seed), self._names)


def _renamed(source: Source | Augmented,
             names: Mapping[str, str | None]) -> Source | Augmented:
    if isinstance(source, Augmented):
        return _RenamedAugmented(source, names)
    return _Renamed(source, names)


def _with_names(sample: Sample, names: Mapping[str, str | None]) -> Sample:
    """A sample under other names; a name of None leaves a tensor out."""
    missing = sorted(set(names) - set(sample))
    if missing:
        raise ValueError(f"names has {missing[0]!r}, but the source gives "
                         f"{', '.join(sample)}")
    found: dict[str, torch.Tensor] = {}
    for name, tensor in sample.items():
        new = names.get(name, name)
        if new is not None:
            found[new] = tensor
    return found
