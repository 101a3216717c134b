"""Command lines that ask for what can't be done, refused before any work."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from pathlib import Path

__all__ = ["check_arguments"]

_LEAST = {"batch": 1, "seq": 1, "top": 0, "time_limit_s": 0}
_FILES = ("html", "trace", "dot", "save")
_SEARCHED = ("mesh", "plan", "fit", "global_batch", "objective",
             "time_limit_s", "half_batch", "price_per_device_hour")


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse numbers out of range, options that would do nothing, and files
    that can't be written.

    Raises
    ------
    ValueError
        Whose text says what to change.
    """
    _check_numbers(args)
    if args.compare:
        _refuse(args, (*_SEARCHED, *_FILES),
                "--compare prices two plans as they are, and prints")
    if args.plan:
        _refuse(args, ("mesh", ), "--plan brings its mesh")
    if args.fit and args.objective not in (None, "devices"):
        raise ValueError("--fit looks for the fewest devices: leave out "
                         f"--objective {args.objective}")
    if not args.fit:
        _refuse(args, ("price_per_device_hour", ),
                "only what --fit finds is priced")
    if args.global_batch:
        _refuse(args, ("batch", ), "--global-batch says the sizes")
    if args.model.suffix == ".py":
        _refuse(args, ("batch", "seq", "dtype"),
                f"{str(args.model)!r} brings its model and inputs")
    for name in _FILES:
        _check_file(name, getattr(args, name))
    _check_written(args)


def _check_numbers(args: argparse.Namespace) -> None:
    for name, least in _LEAST.items():
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise ValueError(f"{_option(name)} {value}: give at least {least}")
    limit = args.memory_limit_gib
    if limit is not None and not 1 <= limit * 2**30 < math.inf:
        raise ValueError(f"--memory-limit-gib {limit:g}: give more than 0 (at "
                         "least a byte, no infinity), or leave it out for all "
                         "that a device has")
    price = args.price_per_device_hour
    if price is not None and not 0 < price < math.inf:
        raise ValueError(f"--price-per-device-hour {price:g}: give more than "
                         "0 (no infinity), or leave it out")


def _refuse(args: argparse.Namespace, names: Iterable[str], why: str) -> None:
    for name in names:
        if getattr(args, name) not in (None, False):
            raise ValueError(f"{why}: leave out {_option(name)}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _check_written(args: argparse.Namespace) -> None:
    """Refuse to write a file twice, or over what is read."""
    taken = {args.model.resolve(): "the model"}
    for name in _FILES:
        path = getattr(args, name)
        if path is None:
            continue
        if path.resolve() in taken:
            raise ValueError(f"{_option(name)} {path}: {taken[path.resolve()]}"
                             " is in that file; name another")
        taken[path.resolve()] = f"what {_option(name)} writes"


def _check_file(name: str, path: Path | None) -> None:
    if path is None:
        return
    if path.is_dir():
        raise ValueError(f"{_option(name)} {path}: this is a folder; name a "
                         "file in it")
    if not path.parent.is_dir():
        raise ValueError(f"{_option(name)} {path}: there is no folder "
                         f"{str(path.parent)!r}; make it first")
