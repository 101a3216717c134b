"""Documents of text files and of JSON lines."""

from __future__ import annotations

import array
import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from scaletorch.data.packing import PackedTokens
from scaletorch.data.registry import register
from scaletorch.data.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "documents_of", "encoded", "packed_text", "packed_texts", "text_files"
]

_SUFFIXES = (".txt", ".jsonl")
_SPLITS = ("file", "line")
_AT_ONCE = 256

Progress = Callable[[int], object]


def text_files(paths: Sequence[str | Path]) -> list[Path]:
    """The files that paths name; folders stand for what is below them.

    Raises
    ------
    FileNotFoundError
        When a path does not exist, or a folder has no text.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            below = sorted(p for p in path.rglob("*")
                           if p.suffix in _SUFFIXES and p.is_file())
            if not below:
                raise FileNotFoundError(f"{path} has no .txt or .jsonl files")
            found += below
        elif path.is_file():
            found.append(path)
        else:
            raise FileNotFoundError(f"{path} does not exist")
    return found


def documents_of(path: Path,
                 *,
                 field: str = "text",
                 split: str = "file",
                 progress: Progress | None = None) -> Iterator[str]:
    """The documents of one file.

    Parameters
    ----------
    path : Path
        ``.jsonl``: an object on each line; else plain text.
    field : str
        Of the objects.
    split : {"file", "line"}
        Whether a plain text is one document, or each of its lines.
    progress : callable, optional
        Gets the bytes of every line that was read.

    Raises
    ------
    ValueError
        Naming the file and the line, for what can't be read.
    """
    if split not in _SPLITS:
        raise ValueError(f"split must be file or line, got {split!r}")
    lines = _lines(path, progress)
    if path.suffix == ".jsonl":
        found: Iterator[str] = (_field(path, number, line, field)
                                for number, line in lines if line.strip())
    elif split == "line":
        found = (line.rstrip("\r\n") for _, line in lines)
    else:
        found = iter(["".join(line for _, line in lines)])
    count = 0
    for text in found:
        if text:
            count += 1
            yield text
    if not count:
        raise ValueError(f"{path} is empty; leave it out, or see what should "
                         "have written it")


def _lines(path: Path, progress: Progress | None) -> Iterator[tuple[int, str]]:
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if progress is not None:
                progress(len(line))
            try:
                yield number, line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(f"{path}, line {number}: this is no UTF-8 "
                                 f"text ({error.reason}); convert the file "
                                 "first") from None


def _field(path: Path, number: int, line: str, field: str) -> str:
    where = f"{path}, line {number}"
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON ({error}); the file is truncated "
                         "or corrupt") from None
    if not isinstance(entry, dict) or not isinstance(entry.get(field), str):
        has = ", ".join(sorted(entry)) if isinstance(
            entry, dict) else type(entry).__name__
        raise ValueError(f"{where}: there is no text {field!r}, only {has}; "
                         "name the field that holds the text")
    return entry[field]


def encoded(texts: Iterator[str], tokenizer: Tokenizer) -> Iterator[list[int]]:
    """Tokens of each document, with the token that ends it."""
    end = [] if tokenizer.end is None else [tokenizer.end]
    while some := list(itertools.islice(texts, _AT_ONCE)):
        for tokens in tokenizer.encode(some):
            yield tokens + end


def packed_texts(texts: Iterator[str], *, tokenizer: str, sequence_length: int,
                 documents: str, shift: bool, name: str) -> PackedTokens:
    """Documents as packed tokens in memory."""
    tokens, offsets = array.array("I"), array.array("q", [0])
    for found in encoded(texts, load_tokenizer(tokenizer)):
        tokens.extend(found)
        offsets.append(len(tokens))
    return PackedTokens(np.asarray(tokens),
                        np.asarray(offsets, np.int64),
                        sequence_length=sequence_length,
                        documents=documents,
                        shift=shift,
                        name=name)


@register("text")
def packed_text(*,
                path: str | Sequence[str],
                sequence_length: int,
                tokenizer: str = "bytes",
                field: str = "text",
                split: str = "file",
                documents: str = "join",
                shift: bool = False) -> PackedTokens:
    """Text that is tokenised when the loader is built, into memory.

    For texts that take long, ``python -m scaletorch.data prepare`` does it
    once.

    Parameters
    ----------
    path : str or sequence of str
        Files, or folders of them.
    sequence_length : int
        In tokens.
    tokenizer : str
        ``bytes``, or what :func:`load_tokenizer` takes.
    field, split
        What of a file is a document, see :func:`documents_of`.
    documents, shift
        See :class:`PackedTokens`.
    """
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    texts = itertools.chain.from_iterable(
        documents_of(p, field=field, split=split) for p in text_files(paths))
    return packed_texts(texts,
                        tokenizer=tokenizer,
                        sequence_length=sequence_length,
                        documents=documents,
                        shift=shift,
                        name=", ".join(map(str, paths)))
