"""Data sets of the `datasets` package, where it is installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from scaletorch.data.packing import PackedTokens
from scaletorch.data.registry import register
from scaletorch.data.source import Sample, Source
from scaletorch.data.text import packed_texts

__all__ = ["Columns", "hugging_face"]


class Columns:
    """Columns of numbers as samples.

    Parameters
    ----------
    table : object
        With ``len`` and rows that are mappings, found by index.
    columns : mapping of str to str
        The sample's names by the columns'.
    name : str
        Of the data, for errors.
    """

    def __init__(self, table: Any, columns: Mapping[str, str],
                 name: str) -> None:
        self._table = table
        self._columns = dict(columns)
        self._name = name

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: int) -> Sample:
        row = self._table[index]
        found: Sample = {}
        for column, name in self._columns.items():
            if column not in row:
                raise ValueError(f"{self._name} has no column {column!r}; it "
                                 f"has {', '.join(map(str, row))}")
            try:
                found[name] = torch.as_tensor(row[column])
            except (TypeError, ValueError, RuntimeError):
                raise ValueError(
                    f"{self._name}, row {index}: column {column!r} is a "
                    f"{type(row[column]).__name__}, which is no tensor; map "
                    "it to numbers first, or for text give text=") from None
        return found


@register("hugging_face")
def hugging_face(*,
                 path: str,
                 name: str | None = None,
                 split: str = "train",
                 columns: Mapping[str, str] | None = None,
                 text: str | None = None,
                 sequence_length: int | None = None,
                 tokenizer: str = "bytes",
                 documents: str = "join",
                 shift: bool = False) -> Source | PackedTokens:
    """A data set by name, or a folder that ``save_to_disk`` made.

    Parameters
    ----------
    path, name, split : str
        As ``datasets.load_dataset`` takes them.
    columns : mapping of str to str, optional
        Columns of numbers, and the model's names for them.
    text : str, optional
        In place of them a column of text, to be tokenised into memory and
        packed; with `sequence_length`, `tokenizer`, `documents` and
        `shift`.

    Raises
    ------
    ImportError
        Without the `datasets` package.
    ValueError
        Unless one of `columns` and `text` is given.
    """
    if (columns is None) == (text is None):
        raise ValueError("hugging_face needs either columns (of "
                         "numbers) or text (a column to tokenise)")
    if text is not None and sequence_length is None:
        raise ValueError("hugging_face with text needs the option "
                         "'sequence_length'")
    table = _table(path, name, split)
    if columns is not None:
        return Columns(table, columns, path)
    assert text is not None and sequence_length is not None
    texts = (_text(path, row, text) for row in table)
    return packed_texts(texts,
                        tokenizer=tokenizer,
                        sequence_length=sequence_length,
                        documents=documents,
                        shift=shift,
                        name=path)


def _table(path: str, name: str | None, split: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise ImportError(
            f"data: {path} needs the package datasets: pip install datasets, "
            "or export the data to .jsonl and use the kind text") from None
    if (Path(path) / "state.json").is_file() or (
            Path(path) / "dataset_dict.json").is_file():
        found = datasets.load_from_disk(path)
        return found[split] if isinstance(found, Mapping) else found
    return datasets.load_dataset(path, name, split=split)


def _text(path: str, row: Any, column: str) -> str:
    if not isinstance(row.get(column), str):
        raise ValueError(f"{path} has no text in a column {column!r}; it has "
                         f"{', '.join(map(str, row))}")
    return row[column]
