"""Convert weights between safetensors and torch.distributed.checkpoint.

The source says what it is; the target is the other::

    python -m scripts.convert_checkpoint runs/llama/step-00001000 llama --model llama3-8b
    python -m scripts.convert_checkpoint Meta-Llama-3-8B start --model llama3-8b

Safetensors have Hugging Face's names if ``--model`` says whose they are; else
names stay, as is right for a model of Hugging Face's itself. Of a training
run's checkpoint the model is taken and the optimizer is left. One process,
whose memory holds the weights once.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

from scaletorch import models
from scaletorch.checksums import SummedWriter, check
from scaletorch.trainer.build import fields_of
from scaletorch.trainer.overrides import overridden

__all__ = [
    "convert", "main", "read_dcp", "read_safetensors", "write_safetensors"
]

State = Mapping[str, torch.Tensor]
_INDEX = "model.safetensors.index.json"


def convert(source: Path,
            target: Path,
            *,
            config: object | None = None,
            dtype: torch.dtype | None = None,
            shard_bytes: int = 5 * 2**30) -> int:
    """Write a checkpoint in the other format.

    Parameters
    ----------
    source : Path
        A folder of ``torch.distributed.checkpoint``, or a safetensors file
        or a folder of such.
    target : Path
        A folder that is not there yet, or is empty.
    config : LlamaConfig or another family's, optional
        Of the model, whose names are Hugging Face's in safetensors.
    dtype : torch.dtype, optional
        Of floating-point tensors in the target.
    shard_bytes : int
        The most in one safetensors file, unless one tensor is larger.

    Returns
    -------
    int
        How many tensors were written.

    Raises
    ------
    FileNotFoundError
        When the source is neither.
    FileExistsError
        When there is something in the target.
    ValueError
        When a name is not of the config's family.
    OSError
        When a file of the source is damaged.
    """
    if target.exists() and (target.is_file() or any(target.iterdir())):
        raise FileExistsError(f"{target} is there already; name a new folder")
    distributed = (source / ".metadata").is_file()
    state = read_dcp(source) if distributed else read_safetensors(source)
    if config is not None:
        change = (models.to_hugging_face
                  if distributed else models.from_hugging_face)
        state = change(state, config)
    if dtype is not None:
        state = {
            n: t.to(dtype) if t.is_floating_point() else t
            for n, t in state.items()
        }
    if distributed:
        write_safetensors(state, target, shard_bytes=shard_bytes)
    else:
        dcp.save(dict(state),
                 storage_writer=SummedWriter(target),
                 no_dist=True)
    return len(state)


def read_dcp(folder: Path) -> dict[str, torch.Tensor]:
    """The model's tensors of a distributed checkpoint, whole."""
    check(folder)
    metadata = dcp.FileSystemReader(folder).read_metadata()
    state = {
        name: torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in metadata.state_dict_metadata.items()
        if isinstance(entry, TensorStorageMetadata)
        and not name.startswith("optimizer:")
    }
    dcp.load(state, checkpoint_id=folder, no_dist=True)
    return state


def read_safetensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file, or of all files of a folder."""
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{path} holds no checkpoint: expected a .safetensors file, a "
            "folder with these, or one with a .metadata of "
            "torch.distributed.checkpoint")
    return {n: t for file in files for n, t in load_file(file).items()}


def write_safetensors(state: State, folder: Path, *, shard_bytes: int) -> None:
    """One file, or several with an index, named as Hugging Face does."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = list(_shards(state, shard_bytes))
    places: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        name = ("model.safetensors" if len(shards) == 1 else
                f"model-{number:05}-of-{len(shards):05}.safetensors")
        # Tied tensors share memory, which the format does not allow.
        save_file({
            n: t.contiguous().clone()
            for n, t in shard.items()
        },
                  folder / name,
                  metadata={"format": "pt"})
        places |= dict.fromkeys(shard, name)
    if len(shards) > 1:
        total = sum(t.nbytes for t in state.values())
        (folder / _INDEX).write_text(json.dumps(
            {
                "metadata": {
                    "total_size": total
                },
                "weight_map": places
            },
            indent=2) + "\n",
                                     encoding="utf-8")


def _shards(state: State, most: int) -> Iterator[dict[str, torch.Tensor]]:
    """Tensors in order, as many at a time as fit."""
    shard: dict[str, torch.Tensor] = {}
    size = 0
    for name, tensor in state.items():
        if shard and size + tensor.nbytes > most:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 2 for what can't be done."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.convert_checkpoint",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--model", help="of python -m scaletorch.models")
    parser.add_argument("--overrides",
                        nargs="*",
                        default=[],
                        metavar="FIELD=VALUE",
                        help="of the model's config")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--shard-gib",
                        type=float,
                        default=5.0,
                        help="the most in one safetensors file")
    args = parser.parse_args(arguments)
    try:
        config = _config(args.model, args.overrides)
        count = convert(args.source,
                        args.target,
                        config=config,
                        dtype=getattr(torch, args.dtype or "", None),
                        shard_bytes=int(args.shard_gib * 2**30))
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{count} tensors written to {args.target}")
    return 0


def _config(name: str | None, overrides: Sequence[str]) -> object | None:
    if name is None:
        return None
    fields = fields_of(models.config(name), overridden({}, overrides))
    return models.config(name, **fields)


if __name__ == "__main__":
    sys.exit(main())
