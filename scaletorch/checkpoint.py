"""Load a checkpoint into a parallel module, each rank its slices only."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from safetensors import safe_open
from torch.distributed.tensor import DTensor

from scaletorch.checksums import check_shared
from scaletorch.module import ParallelModule
from scaletorch.sharding import local_slices

__all__ = ["check_shapes", "load_checkpoint"]


def load_checkpoint(module: ParallelModule,
                    path: str | Path,
                    *,
                    strict: bool = True) -> None:
    """Fill a module's parameters and buffers from files.

    Called on every rank. No tensor is read whole where the plan shards it.

    Parameters
    ----------
    module : ParallelModule
    path : str or Path
        A safetensors file, the index (``*.safetensors.index.json``) of
        several, a folder with either, or a folder that
        ``torch.distributed.checkpoint`` wrote from a state dict.
    strict : bool
        Whether every entry of ``module.state_dict()`` must be there and
        nothing else. Of tied tensors one is enough.

    Raises
    ------
    FileNotFoundError
        When there is no checkpoint of either kind.
    KeyError
        Naming entries that are missing, or left over in safetensors.
    ValueError
        When a shape differs.
    OSError
        When a file differs from the checksum that a training run has
        written with it (on the rank that read it; RuntimeError on others).
    """
    path = Path(path)
    if (path / ".metadata").is_file():
        check_shared(path, module.agreement)
        with module.agreement.together(f"loading {path}"):
            state = _saved(module.state_dict(), path, strict=strict)
        dcp.load(state,
                 checkpoint_id=path,
                 process_group=module.agreement.group)
        return
    with module.agreement.together(f"loading {path}"):
        files = _files(path)
        state = module.state_dict()
        if strict:
            _check_names(state, module.elsewhere, files, path)
        for file in sorted(set(files.values())):
            _read(file, {
                n: t
                for n, t in state.items() if files.get(n) == file
            })


def _saved(state: dict[str, Any], path: Path, *,
           strict: bool) -> dict[str, Any]:
    """What of a state dict ``torch.distributed.checkpoint`` has written.

    What else there is, such as a run's optimizer state, is nobody's concern.
    """
    entries = dcp.FileSystemReader(path).read_metadata().state_dict_metadata
    missing = _missing(state, entries)
    if strict and missing:
        raise KeyError(
            f"{path} does not fit the model: missing {_some(missing)}; pass "
            "strict=False to load what is in both")
    found = {n: t for n, t in state.items() if n in entries}
    check_shapes(found, entries, path)
    return found


def check_shapes(tensors: Mapping[str, Any], entries: Mapping[str, Any],
                 path: Path) -> None:
    """Compare tensors with what a checkpoint has under their names.

    Parameters
    ----------
    tensors : mapping of str to Tensor
    entries : mapping
        As ``torch.distributed.checkpoint`` describes what it wrote; with all
        names of `tensors`.
    path : Path
        Of the checkpoint, for the error.

    Raises
    ------
    ValueError
        Naming the tensor and both shapes.
    """
    for name, tensor in tensors.items():
        there = getattr(entries[name], "size", None)
        if there is not None and there != tensor.shape:
            raise ValueError(f"{name} has the shape {tuple(there)} in {path} "
                             f"and {tuple(tensor.shape)} in the model")


def _files(path: Path) -> dict[str, Path]:
    """Every tensor's name to the file that holds it."""
    if path.is_dir():
        indices = sorted(path.glob("*.safetensors.index.json"))
        if indices:
            return _files(indices[0])
        found = sorted(path.glob("*.safetensors"))
        if found:
            return {n: f for file in found for n, f in _files(file).items()}
    elif path.name.endswith(".index.json") and path.is_file():
        names = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {n: path.parent / file for n, file in names.items()}
    elif path.is_file():
        with safe_open(path, framework="pt") as file:
            return dict.fromkeys(file.keys(), path)
    raise FileNotFoundError(
        f"{path} holds no checkpoint: expected a .safetensors file, its "
        ".safetensors.index.json, or a folder with these or with a "
        ".metadata of torch.distributed.checkpoint")


def _check_names(state: Mapping[str, Any], elsewhere: Collection[str],
                 files: Mapping[str, Path], path: Path) -> None:
    missing = _missing(state, files)
    extra = [n for n in files if n not in state and n not in elsewhere]
    if missing or extra:
        raise KeyError(
            f"{path} does not fit the model: missing {_some(missing)}; "
            f"not in the model {_some(extra)}; pass strict=False to load "
            "what is in both")


def _missing(state: Mapping[str, Any], names: Collection[str]) -> list[str]:
    """Entries that are not there, nor anything that they are tied to."""
    there = {_place(t) for n, t in state.items() if n in names}
    return [
        n for n, t in state.items()
        if n not in names and _place(t) not in there
    ]


def _place(value: Any) -> int:
    """The same number for tied tensors."""
    if not isinstance(value, torch.Tensor):
        return id(value)
    local = value.to_local() if isinstance(value, DTensor) else value
    return local.untyped_storage()._cdata


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more if names else "nothing"


@torch.no_grad()
def _read(path: Path, targets: Mapping[str, Any]) -> None:
    with safe_open(path, framework="pt") as file:
        for name, target in targets.items():
            part = file.get_slice(name)
            shape = tuple(part.get_shape())
            if shape != tuple(target.shape):
                raise ValueError(f"{name} has the shape {shape} in {path} and "
                                 f"{tuple(target.shape)} in the model")
            if isinstance(target, DTensor) and shape:
                where = local_slices(shape, target.device_mesh,
                                     target.placements)
                target.to_local().copy_(part[where])
            elif isinstance(target, DTensor):
                target.to_local().copy_(file.get_tensor(name))
            else:
                target.copy_(file.get_tensor(name))
