"""Checkpoints of a run: complete or not there.

A checkpoint is written to ``step-00000100.partial``, which gets its name,
``step-00000100``, when all ranks have written. Who dies in between leaves a
``.partial`` that nobody reads.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp

from scaletorch.checkpoint import check_shapes
from scaletorch.checksums import SummedWriter, check_shared
from scaletorch.runtime.agree import Agreement

__all__ = ["Best", "Checkpoints", "check_folder"]

_LOGGER = logging.getLogger("scaletorch")
_PARTIAL = ".partial"
_EXTRAS = "trainer.pt"
_BEST = "best.json"
# The one of torch, which joins the ranks' errors, is no Exception.
_FAILED = (Exception, dcp.CheckpointException)


@dataclass(frozen=True, slots=True, kw_only=True)
class Best:
    """The lowest loss in evaluation, and after how many steps."""

    step: int
    loss: float


class Checkpoints:
    """Writes, finds and deletes the checkpoints in a folder.

    Parameters
    ----------
    folder : Path
        The same on every rank.
    agreement : Agreement
    keep : int
        How many of the last ones stay; 0: all.
    asynchronous : bool
        Whether ``save`` returns while files are written.
    """

    def __init__(self,
                 folder: Path,
                 agreement: Agreement,
                 *,
                 keep: int = 0,
                 asynchronous: bool = False) -> None:
        self.folder = folder
        self._agreement = agreement
        self._keep = keep
        self._pending: tuple[int, Best | None, Future[Any]] | None = None
        # Another thread must not share a group with the step's collectives.
        self._group = (dist.new_group(agreement.ranks, backend="gloo")
                       if asynchronous else None)
        with agreement.together(f"making {folder}"):
            if agreement.is_first:
                folder.mkdir(parents=True, exist_ok=True)

    def path(self, step: int) -> Path:
        """Where the checkpoint after so many steps is, once complete."""
        return self.folder / f"step-{step:08d}"

    def _partial(self, step: int) -> Path:
        return self.path(step).with_suffix(_PARTIAL)

    def steps(self) -> list[int]:
        """After how many steps there are complete checkpoints.

        What is not complete is logged and left out.
        """
        found = []
        for path in sorted(self.folder.glob("step-*")):
            number = re.fullmatch(r"step-(\d+)", path.name)
            if number and _is_complete(path):
                found.append(int(number[1]))
            else:
                _LOGGER.warning(
                    "%s is ignored: it is not complete, writing it was "
                    "interrupted", path)
        return found

    def latest(self) -> int | None:
        """The last complete checkpoint's step; called on every rank."""
        steps = self.steps() if self._agreement.is_first else []
        return self._agreement.first(steps[-1] if steps else None)

    def save(self,
             step: int,
             tensors: Mapping[str, torch.Tensor],
             extras: Mapping[str, Any],
             *,
             best: Best | None = None) -> None:
        """Write a checkpoint; called on every rank.

        Parameters
        ----------
        step : int
        tensors : mapping of str to Tensor
            What this rank holds; DTensors are written in shards.
        extras : mapping
            Of the first rank: numbers, texts, tensors and collections.
        best : Best, optional
            That this one stays until another one is better.

        Raises
        ------
        OSError
            On every rank, when one could not write.
        """
        self.finish()
        partial = self._partial(step)
        with _writing(partial), self._agreement.together(f"making {partial}"):
            if self._agreement.is_first:
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir()
                torch.save(dict(extras), partial / _EXTRAS)
        with _writing(partial):
            if self._group is not None:
                future = dcp.async_save(dict(tensors),
                                        storage_writer=SummedWriter(partial),
                                        process_group=self._group)
                assert isinstance(future, Future)
                self._pending = (step, best, future)
                return
            dcp.save(dict(tensors),
                     storage_writer=SummedWriter(partial),
                     process_group=self._agreement.group)
        self._complete(step, best)

    def poll(self) -> None:
        """Complete what has been written in the meantime."""
        if self._pending is not None and self._pending[2].done():
            self.finish()

    def finish(self) -> None:
        """Wait for what is being written.

        Raises
        ------
        OSError
            On every rank, when one could not write.
        """
        if self._pending is not None:
            step, best, future = self._pending
            self._pending = None
            with _writing(self._partial(step)):
                future.result()
            self._complete(step, best)

    def load(self, step: int, tensors: dict[str, torch.Tensor]) -> Any:
        """Read a checkpoint into tensors; called on every rank.

        Returns
        -------
        dict
            Its extras.

        Raises
        ------
        ValueError
            When it lacks some tensor, or has another shape of it.
        OSError
            When a file is damaged.
        """
        path = self.path(step)
        with _reading(path):
            check_shared(path, self._agreement)
            entries = dcp.FileSystemReader(
                path).read_metadata().state_dict_metadata
        _check_entries(tensors, entries, path)
        with _reading(path):
            dcp.load(tensors,
                     checkpoint_id=path,
                     process_group=self._agreement.group)
            return torch.load(path / _EXTRAS, weights_only=True)

    @property
    def best(self) -> Best | None:
        """The checkpoint that stays for its loss, while it is there."""
        path = self.folder / _BEST
        if not path.is_file():
            return None
        best = Best(**json.loads(path.read_text(encoding="utf-8")))
        return best if _is_complete(self.path(best.step)) else None

    def _complete(self, step: int, best: Best | None) -> None:
        """Give a checkpoint its name; all ranks have written."""
        if self._agreement.is_first:
            self._partial(step).rename(self.path(step))
            if best is not None:
                new = self.folder / f"{_BEST}.new"
                new.write_text(json.dumps(dataclasses.asdict(best)),
                               encoding="utf-8")
                new.replace(self.folder / _BEST)
            self._prune()

    def _prune(self) -> None:
        for path in sorted(self.folder.glob(f"step-*{_PARTIAL}")):
            shutil.rmtree(path)
        steps = self.steps()
        best = self.best
        kept = set(steps[-self._keep:]) | ({best.step} if best else set())
        for step in steps:
            if step not in kept:
                # Renamed first: half deleted is as bad as half written.
                gone = self._partial(step)
                self.path(step).rename(gone)
                shutil.rmtree(gone)


def _check_entries(tensors: Mapping[str, torch.Tensor],
                   entries: Mapping[str, Any], path: Path) -> None:
    other = ("was the run of another model or optimizer? Give another "
             "checkpoint.folder")
    missing = sorted(set(tensors) - set(entries))
    if missing:
        raise ValueError(f"{path} lacks {missing[0]} and {len(missing) - 1} "
                         f"more; {other}")
    try:
        check_shapes(tensors, entries, path)
    except ValueError as error:
        raise ValueError(f"{error}; {other}") from None


def check_folder(folder: Path) -> None:
    """Find out whether checkpoints can be written, before anything else.

    Raises
    ------
    ValueError
        When the folder, or the nearest one above it that is there, is no
        folder or must not be written to.
    """
    there = next(path for path in (folder, *folder.absolute().parents)
                 if path.exists())
    if not there.is_dir():
        raise ValueError(f"checkpoint.folder: {there} is no folder; name one "
                         "that is, or that is not there yet")
    if not os.access(there, os.W_OK):
        raise ValueError(f"checkpoint.folder: {there} must not be written "
                         "to; name another folder")


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Say of an error inside what was written, and what room there is."""
    try:
        yield
    except _FAILED as error:
        free = shutil.disk_usage(path.parent).free / 2**20
        raise OSError(
            f"{path} could not be written, with {free:.0f} MiB free there: "
            f"{_cause(error)}; make room or name another checkpoint.folder. The same "
            "command goes on from the last complete checkpoint") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of an error inside what was read, and what to do."""
    try:
        yield
    except _FAILED as error:
        raise OSError(
            f"{path} could not be read: {_cause(error)}; a file of it is "
            "damaged or not there. Delete the folder, and the same command "
            "goes on from the checkpoint before it") from error


def _cause(error: BaseException) -> str:
    """The first rank's error, where several ranks' are joined."""
    found = error
    if isinstance(error, dcp.CheckpointException) and error.failures:
        found, _ = error.failures[min(error.failures)]
    return f"{type(found).__name__}: {found}"


def _is_complete(path: Path) -> bool:
    return (path / ".metadata").is_file() and (path / _EXTRAS).is_file()
