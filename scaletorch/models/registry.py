"""Models by the names of their sizes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from planner.names import nearest

__all__ = ["build", "config", "names", "parameter_count", "register"]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Size:
    model: Callable[[Any], nn.Module]
    config: Any


_SIZES: dict[str, _Size] = {}


def register(model: Callable[[Any], nn.Module], sizes: Mapping[str,
                                                               Any]) -> None:
    """Make configs of a model known by their names.

    Raises
    ------
    ValueError
        When a name is taken.
    """
    for name, chosen in sizes.items():
        if name in _SIZES:
            raise ValueError(f"there is a model {name!r} already; register "
                             "another name")
        _SIZES[name] = _Size(model=model, config=chosen)


def names() -> tuple[str, ...]:
    """All names, family by family, small to large."""
    return tuple(_SIZES)


def config(name: str, **overrides: Any) -> Any:
    """The config of a name, with some fields replaced.

    Parameters
    ----------
    name : str
    **overrides
        Fields of the config.

    Raises
    ------
    ValueError
        When there is no such name or no such field, or the fields do not
        fit together.
    """
    chosen = _size(name).config
    fields = [f.name for f in dataclasses.fields(chosen)]
    unknown = sorted(set(overrides) - set(fields))
    if unknown:
        raise ValueError(f"{type(chosen).__name__} of {name!r} has no field "
                         f"{unknown[0]!r}; {nearest(unknown[0], fields)}")
    return dataclasses.replace(chosen, **overrides)


def build(name: str, **overrides: Any) -> nn.Module:
    """A model by name, on the device that is the default.

    Parameters
    ----------
    name : str
        One of `names()`.
    **overrides
        Fields of its config, such as ``depth=2``.

    Raises
    ------
    ValueError
        As for `config`.

    Examples
    --------
    >>> import torch
    >>> from scaletorch import models
    >>> with torch.device("meta"):
    ...     model = models.build("llama3-8b", depth=2)
    >>> sum(p.numel() for p in model.parameters())
    1486901248
    """
    return _size(name).model(config(name, **overrides))


def parameter_count(name: str) -> int:
    """How many parameters a model has; nothing is allocated."""
    with torch.device("meta"):
        return sum(p.numel() for p in build(name).parameters())


def _size(name: str) -> _Size:
    if name not in _SIZES:
        raise ValueError(
            f"there is no model {name!r}; {nearest(name, _SIZES)}")
    return _SIZES[name]
