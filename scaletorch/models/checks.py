"""What the fields of a config must satisfy, with errors that name them."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["check_context", "check_divides", "check_positive"]


def check_context(config: Any, tokens: torch.Tensor) -> None:
    """A batch of sequences, for which there are enough positions.

    Raises
    ------
    ValueError
        Naming the config and both lengths.
    """
    if tokens.shape[1] > config.context:
        raise ValueError(
            f"a sequence has {tokens.shape[1]} tokens, but "
            f"{type(config).__name__}.context is {config.context}; take "
            "shorter sequences or a larger context")


def check_positive(config: Any, *names: str) -> None:
    """Whole numbers from 1 up.

    Raises
    ------
    ValueError
        Naming the config and the field.
    """
    for name in names:
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{type(config).__name__}.{name} must be a "
                             f"whole number from 1 up, got {value!r}")


def check_divides(config: Any, part: str, whole: str) -> None:
    """One field divides another.

    Parameters
    ----------
    config : dataclass
    part, whole : str
        Names of its fields.

    Raises
    ------
    ValueError
        Naming the config and both fields.
    """
    small, large = getattr(config, part), getattr(config, whole)
    if large % small:
        raise ValueError(
            f"{type(config).__name__}.{part} = {small} does not divide "
            f"{whole} = {large}; choose {whole} as a multiple of {part}")
