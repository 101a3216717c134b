"""Rows that ranks of a gloo job measure: of one that is there, or started."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

__all__ = ["rows_of_job", "rows_of_ranks"]


class _Row(Protocol):
    """A dataclass of what JSON has."""

    __dataclass_fields__: Any


_T = TypeVar("_T", bound=_Row)


def rows_of_job(measured: Callable[[], list[_T]]) -> list[_T]:
    """As one rank of the job that started this process.

    Parameters
    ----------
    measured : callable
        Runs on all ranks, on the process group that is up.

    Returns
    -------
    list
        Its rows on the first rank, none on others.
    """
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rows = measured()
    is_first = dist.get_rank() == 0
    dist.destroy_process_group()
    return rows if is_first else []


def rows_of_ranks(ranks: int, row: type[_T], measured: Callable[..., list[_T]],
                  *args: Any) -> list[_T]:
    """On so many processes of their own.

    Parameters
    ----------
    ranks : int
    row : type
        A dataclass of what JSON has.
    measured : callable
        Of a module; runs on all ranks, on the process group that is up.
    *args
        What it is called with.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_rank, (ranks, folder, measured, args), nprocs=ranks)
        text = _path(folder).read_text(encoding="utf-8")
    return [row(**fields) for fields in json.loads(text)]


def _rank(rank: int, ranks: int, folder: str,
          measured: Callable[..., list[_T]], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(f"{folder}/store", ranks)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=store)
    rows = measured(*args)
    if rank == 0:
        _path(folder).write_text(json.dumps([asdict(r) for r in rows]),
                                 encoding="utf-8")
    dist.destroy_process_group()


def _path(folder: str) -> Path:
    return Path(folder) / "rows.json"
