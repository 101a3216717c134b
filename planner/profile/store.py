"""Raw points on disk, each kept as soon as it is measured."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from planner.profile.point import Point

__all__ = ["Measured", "SpoiltStore", "Store"]

_TABLE = """CREATE TABLE IF NOT EXISTS points (
device TEXT, kind TEXT, dtype TEXT, shape TEXT, "group" TEXT,
median REAL NOT NULL, count INTEGER NOT NULL,
PRIMARY KEY (device, kind, dtype, shape, "group"))"""

_ALL = """SELECT kind, dtype, shape, "group", median, count FROM points
WHERE device = ? AND typeof(median) = 'real' AND median > 0
ORDER BY kind, dtype, shape, "group"
"""

_SPOILT = frozenset(
    {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_NOTADB})
"""What a file without this table, or without any, is answered with."""
_KIND = 0xff
"""The part of an SQLite error's code that is no detail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What was measured at a point.

    Parameters
    ----------
    median : float
        Seconds per call on the slowest rank: of the samples of a round the
        median, of several rounds the trimmed mean. For ``allocator``,
        reserved over allocated bytes.
    count : int
        Samples.
    """

    median: float
    count: int


class SpoiltStore(ValueError):
    """A file that has to be begun anew before it can be used."""


class Store:
    """The points of one kind of machine in a file for all of them.

    Parameters
    ----------
    path : Path
        An SQLite file, made if missing.
    device : str
        From :func:`planner.cluster.local.profile_key`.

    Raises
    ------
    SpoiltStore
        When the file is no such database, or its rows can't be read.
    ValueError
        When it can't be used otherwise.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path = path
        self.device = device
        with self._used():
            path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path, timeout=30.0)
        try:
            with self._used(), self._connection:
                self._connection.execute(_TABLE)
            self.all()
        except ValueError:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def all(self) -> dict[tuple[str, str, str, str], Measured]:
        """What is known, by :attr:`Point.row`."""
        with self._used():
            rows = self._connection.execute(_ALL, (self.device, )).fetchall()
        return {
            (kind, dtype, shape, group): Measured(median=median, count=count)
            for kind, dtype, shape, group, median, count in rows
        }

    def put(self, point: Point, measured: Measured) -> None:
        """Keep one point; one that is there is replaced."""
        with self._used(), self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self.device, *point.row, measured.median, measured.count))

    @contextlib.contextmanager
    def _used(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            code = getattr(error, "sqlite_errorcode", None)
            spoilt = code is not None and code & _KIND in _SPOILT
            raise (SpoiltStore if spoilt else ValueError)(
                f"{self.path} can't be used for measurements ({error}); move "
                "it away or pass another --cache") from error
