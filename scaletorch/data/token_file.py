"""Tokens on disk, read through a memory map.

``NAME.bin`` holds the tokens of all documents, one after another, little
endian; behind them, from the next multiple of eight bytes on, where each
document starts and the last one ends, as int64. ``NAME.json`` says how many
there are, and is written last: without it, or with one that does not fit,
the data are not whole. Only data are read, nothing is executed.
"""

from __future__ import annotations

import array
import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["TokenFile", "TokenWriter"]

_FORMAT = "scaletorch.tokens"
_VERSION = 1
_DTYPES: dict[str, np.dtype[Any]] = {
    "uint16": np.dtype("<u2"),
    "uint32": np.dtype("<u4")
}
_KEYS = ("format", "version", "dtype", "tokens", "documents", "crc32",
         "vocabulary_size", "tokenizer")


class TokenWriter:
    """Writes tokens document by document.

    What is written appears under its name when the ``with`` block is left
    without an error, and never in part.

    Parameters
    ----------
    path : str or Path
        Without suffix, or with that of either file.
    vocabulary_size : int
        All tokens are below it; it decides how many bytes one takes.
    tokenizer : str
        What made the tokens, for whoever reads them.
    """

    def __init__(self,
                 path: str | Path,
                 *,
                 vocabulary_size: int,
                 tokenizer: str = "") -> None:
        if not 0 < vocabulary_size <= 1 << 32:
            raise ValueError(f"{path}: vocabulary_size {vocabulary_size} is "
                             "not between 1 and 2**32")
        self._bin, self._json = _paths(path)
        self._size = vocabulary_size
        self._tokenizer = tokenizer
        self._dtype = "uint16" if vocabulary_size <= 1 << 16 else "uint32"
        self._offsets = array.array("q", [0])
        self._crc = 0

    def __enter__(self) -> TokenWriter:
        self._bin.parent.mkdir(parents=True, exist_ok=True)
        self._part = _beside(self._bin)
        self._file = open(self._part, "wb")
        return self

    def add(self, tokens: Sequence[int] | NDArray[Any]) -> None:
        """Append one document.

        Raises
        ------
        ValueError
            When a token is not of the vocabulary.
        """
        found = np.asarray(tokens)
        if found.size == 0:
            return
        if found.ndim != 1 or found.dtype.kind not in "iu":
            raise ValueError(f"{self._bin}: a document is a row of integers, "
                             f"got {found.dtype} {found.shape}")
        least, most = int(found.min()), int(found.max())
        if least < 0 or most >= self._size:
            raise ValueError(
                f"{self._bin}: document {len(self._offsets) - 1} has the "
                f"token {least if least < 0 else most}, but the vocabulary "
                f"has {self._size}; give the tokenizer's own size")
        self._write(found.astype(_DTYPES[self._dtype]).tobytes())
        self._offsets.append(self._offsets[-1] + len(found))

    @property
    def tokens(self) -> int:
        """How many were added."""
        return self._offsets[-1]

    def __exit__(self, kind: type[BaseException] | None,
                 error: BaseException | None,
                 trace: TracebackType | None) -> None:
        try:
            with self._file:
                if kind is None:
                    self._finish()
            if kind is None:
                self._publish()
        finally:
            self._part.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        self._crc = zlib.crc32(data, self._crc)
        self._file.write(data)

    def _finish(self) -> None:
        if self.tokens == 0:
            raise ValueError(f"{self._bin}: there are no tokens to write; the "
                             "input has no text")
        size_bytes = self.tokens * _DTYPES[self._dtype].itemsize
        self._write(bytes(-size_bytes % 8))
        self._write(np.asarray(self._offsets, "<i8").tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())

    def _publish(self) -> None:
        header = {
            "format": _FORMAT,
            "version": _VERSION,
            "dtype": self._dtype,
            "tokens": self.tokens,
            "documents": len(self._offsets) - 1,
            "crc32": self._crc,
            "vocabulary_size": self._size,
            "tokenizer": self._tokenizer
        }
        # An old header must not stand beside new tokens.
        self._json.unlink(missing_ok=True)
        os.replace(self._part, self._bin)
        part = _beside(self._json)
        part.write_text(json.dumps(header, indent=1) + "\n", encoding="utf-8")
        os.replace(part, self._json)


class TokenFile:
    """Tokens that a :class:`TokenWriter` wrote.

    Parameters
    ----------
    path : str or Path
        Without suffix, or with that of either file.

    Raises
    ------
    FileNotFoundError
        When one of the two files is missing.
    ValueError
        Naming the file that is corrupt, truncated or of another kind.

    Attributes
    ----------
    tokens : array
        All of them; read from disk where they are used.
    offsets : array of int64
        Where each document starts, and the last one ends.
    vocabulary_size : int
    tokenizer : str
    """

    def __init__(self, path: str | Path) -> None:
        self._path = path
        self._bin, self._json = _paths(path)
        for name in (self._json, self._bin):
            if not name.is_file():
                raise FileNotFoundError(
                    f"{name} does not exist; make it with python -m "
                    "scaletorch.data prepare (an interrupted one leaves "
                    "nothing)")
        header = self._header()
        dtype = _DTYPES[header["dtype"]]
        count, documents = header["tokens"], header["documents"]
        start = (count * dtype.itemsize + 7) // 8 * 8
        wanted, found = start + 8 * (documents + 1), self._bin.stat().st_size
        if found != wanted:
            raise ValueError(f"{self._bin} has {found} bytes, but its header "
                             f"{self._json.name} says {wanted}: it is "
                             "truncated or of another run; prepare it again")
        self.tokens = np.memmap(self._bin, dtype, "r", shape=(count, ))
        self.offsets = np.memmap(self._bin,
                                 np.dtype("<i8"),
                                 "r",
                                 offset=start,
                                 shape=(documents + 1, ))
        if self.offsets[0] != 0 or self.offsets[-1] != count:
            raise ValueError(f"{self._bin} is corrupt: its documents do not "
                             f"make up its {count} tokens; prepare it again")
        self.vocabulary_size: int = header["vocabulary_size"]
        self.tokenizer: str = header["tokenizer"]
        self._crc: int = header["crc32"]

    def __reduce__(self) -> tuple[Any, ...]:
        # A pickled memory map is a copy of the whole file.
        return TokenFile, (self._path, )

    def _header(self) -> dict[str, Any]:
        try:
            header = json.loads(self._json.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self._json} is no JSON ({error}): it is "
                             "corrupt; prepare it again") from None
        if not isinstance(header, dict) or header.get("format") != _FORMAT:
            raise ValueError(f"{self._json} is no header of tokens: its "
                             f"format is not {_FORMAT!r}")
        if header.get("version") != _VERSION:
            raise ValueError(f"{self._json} has version "
                             f"{header.get('version')}, not {_VERSION}; "
                             "prepare it again")
        for key in _KEYS:
            kind = str if key in ("format", "dtype", "tokenizer") else int
            if not isinstance(header.get(key), kind):
                raise ValueError(f"{self._json} has no {kind.__name__} "
                                 f"{key!r}: it is corrupt; prepare it again")
        if (header["dtype"] not in _DTYPES or header["tokens"] < 1
                or header["documents"] < 1):
            raise ValueError(f"{self._json} is corrupt: {header['tokens']} "
                             f"tokens of {header['dtype']} in "
                             f"{header['documents']} documents")
        return header

    def check(self) -> None:
        """Read all of the file and compare it with its checksum.

        Raises
        ------
        ValueError
            When its content has changed since it was written.
        """
        crc = 0
        with open(self._bin, "rb") as file:
            while block := file.read(1 << 24):
                crc = zlib.crc32(block, crc)
        if crc != self._crc:
            raise ValueError(f"{self._bin} is corrupt: its checksum is "
                             f"{crc:08x}, not {self._crc:08x}; copy or "
                             "prepare it again")


def _paths(path: str | Path) -> tuple[Path, Path]:
    path = Path(path)
    if path.suffix in (".bin", ".json"):
        path = path.with_suffix("")
    return (path.with_name(path.name + ".bin"),
            path.with_name(path.name + ".json"))


def _beside(path: Path) -> Path:
    """A name for what is being written, which no other process takes."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")
