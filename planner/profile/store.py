"""Raw points on disk, each kept as soon as it is measured."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from planner.profile.point import Point

__all__ = ["Measured", "Store"]

_TABLE = """CREATE TABLE IF NOT EXISTS points (
device TEXT, kind TEXT, dtype TEXT, shape TEXT, "group" TEXT,
median REAL NOT NULL, count INTEGER NOT NULL,
PRIMARY KEY (device, kind, dtype, shape, "group"))"""


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
    ValueError
        When the file is no such database.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.device = device
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = sqlite3.connect(path, timeout=30.0)
        try:
            with self._connection:
                self._connection.execute(_TABLE)
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise ValueError(f"{path} can't be used for measurements "
                             f"({error}); move it away or pass another "
                             "--cache") from error

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def all(self) -> dict[tuple[str, str, str, str], Measured]:
        """What is known, by :attr:`Point.row`."""
        rows = self._connection.execute(
            'SELECT kind, dtype, shape, "group", median, count FROM points '
            'WHERE device = ? ORDER BY kind, dtype, shape, "group"',
            (self.device, ))
        return {
            (kind, dtype, shape, group): Measured(median=median, count=count)
            for kind, dtype, shape, group, median, count in rows
        }

    def put(self, point: Point, measured: Measured) -> None:
        """Keep one point; one that is there is replaced."""
        with self._connection:
            self._connection.execute(
                "INSERT OR REPLACE INTO points VALUES (?, ?, ?, ?, ?, ?, ?)",
                (self.device, *point.row, measured.median, measured.count))
