"""Checksums of a checkpoint's files: what was damaged since is not read.

Every rank sums the files that it wrote, and the first one joins them in
``checksums.json`` beside them.
"""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.storage import StorageWriter, WriteResult
from torch.futures import Future

from scaletorch.runtime.agree import Agreement

__all__ = ["SummedWriter", "check", "check_shared"]

_NAME = "checksums.json"
_PART = ".crc32"
_CHUNK_BYTES = 1 << 24


class SummedWriter(StorageWriter):
    """Writes the files of ``torch.distributed.checkpoint`` and their sums.

    Files that are in the folder before are summed as well. It holds torch's
    writer and is none: ``async_save`` would take that for its stager, which
    leaves scalar DTensors uncopied.

    Parameters
    ----------
    path : str or Path
        The checkpoint's folder.
    """

    def __init__(self, path: str | Path) -> None:
        self._folder = Path(path)
        self._writer = dcp.FileSystemWriter(self._folder)

    def reset(self,
              checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        self._writer.reset(checkpoint_id)

    def set_up_storage_writer(self, is_coordinator: bool) -> None:
        self._writer.set_up_storage_writer(is_coordinator)

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        return self._writer.prepare_local_plan(plan)

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        return self._writer.prepare_global_plan(plans)

    def write_data(self, plan: SavePlan,
                   planner: SavePlanner) -> Future[list[WriteResult]]:
        """Write what this rank has to, and a sum beside each file."""
        written = self._writer.write_data(plan, planner)
        for name in {w.storage_data.relative_path for w in written.wait()}:
            (self._folder / f"{name}{_PART}").write_text(_sum(self._folder /
                                                              name),
                                                         encoding="utf-8")
        return written

    def finish(self, metadata: Metadata,
               results: list[list[WriteResult]]) -> None:
        """Write what the first rank has to, when all have written."""
        self._writer.finish(metadata, results)
        parts = sorted(self._folder.glob(f"*{_PART}"))
        sums = {p.stem: p.read_text(encoding="utf-8") for p in parts}
        for part in parts:
            part.unlink()
        others = {f.name for f in self._folder.iterdir()} - {*sums, _NAME}
        sums |= {name: _sum(self._folder / name) for name in others}
        (self._folder / _NAME).write_text(json.dumps(sums,
                                                     indent=1,
                                                     sort_keys=True),
                                          encoding="utf-8")

    @classmethod
    def validate_checkpoint_id(cls,
                               checkpoint_id: str | os.PathLike[str]) -> bool:
        return dcp.FileSystemWriter.validate_checkpoint_id(checkpoint_id)

    def storage_meta(self) -> StorageMeta | None:
        return self._writer.storage_meta()


def check(folder: Path, *, part: int = 0, parts: int = 1) -> None:
    """Compare files with the sums that were written with them.

    Checkpoints that have no sums, as those of other programs, pass.

    Parameters
    ----------
    folder : Path
        The checkpoint's.
    part, parts : int
        Which of the files: every `parts`-th.

    Raises
    ------
    OSError
        Naming a file that is damaged or not there.
    """
    sums = _sums(folder / _NAME)
    for name in sorted(sums)[part::parts]:
        file = folder / name
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is not there, but was written with the checkpoint; "
                "use another checkpoint")
        found = _sum(file)
        if found != sums[name]:
            raise OSError(f"{file} is damaged: its CRC-32 and size are "
                          f"{found}, and were {sums[name]} when it was "
                          "written; use another checkpoint")


def check_shared(folder: Path, agreement: Agreement) -> None:
    """The same on all ranks, each of which reads some of the files.

    Raises
    ------
    OSError
        On the rank that met it, and a RuntimeError on the others.
    """
    ranks = agreement.ranks
    with agreement.together(f"checking {folder}"):
        check(folder, part=ranks.index(dist.get_rank()), parts=len(ranks))


def _sum(file: Path) -> str:
    crc = size = 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            crc, size = zlib.crc32(chunk, crc), size + len(chunk)
    return f"{crc:08x} {size}"


def _sums(file: Path) -> dict[str, Any]:
    """By file name; none where the checkpoint has no sums."""
    if not file.is_file():
        return {}
    try:
        sums = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        sums = None
    if not isinstance(sums, dict):
        raise OSError(f"{file} is damaged; use another checkpoint, or delete "
                      "this file to read the checkpoint unchecked")
    return sums
