"""Ranks go on together, whatever one of them meets."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import TestCase, mock

import torch
import torch.distributed as dist

from planner.profile import collectives
from planner.profile.job import Job, Refused
from planner.profile.measure import measure_points
from planner.profile.point import Groups, Point
from planner.profile.run import profile
from planner.profile.store import Store
from tests.launch import launch


def _told(action: Callable[[], Any]) -> str:
    """What is returned, or raised."""
    try:
        return str(action())
    except (RuntimeError, ValueError) as error:
        return f"{type(error).__name__}: {error}"


def _fails(error: Exception | None) -> int:
    if error is not None:
        raise error
    return 1


def _steps(rank: int) -> list[str]:
    job = Job(torch.device("cpu"))
    return [
        _told(lambda: job.together(lambda: rank)),
        _told(lambda: job.together(lambda: _fails(TypeError()
                                                  if rank == 1 else None))),
        _told(lambda: job.together(lambda: _fails(RuntimeError("on all\nmore"))
                                   )),
        _told(lambda: job.by_first(lambda: rank)),
        _told(lambda: job.by_first(lambda: _fails(OSError("full disk")))),
        _told(lambda: job.by_first(lambda: _fails(KeyError("a")))),
        _told(lambda: job.largest(float(rank))),
    ]


class TestSteps(TestCase):

    def test_ranks(self) -> None:
        for rank, told in enumerate(launch(2, _steps)):
            self.assertEqual(told, [
                str(rank), "Refused: TypeError (rank 1)", "Refused: on all",
                "0", "ValueError: full disk", "RuntimeError: KeyError: 'a'",
                "1.0"
            ])

    def test_alone(self) -> None:
        job = Job(torch.device("cpu"))
        self.assertEqual(job.together(lambda: 3), 3)
        self.assertEqual(job.by_first(lambda: 3), 3)
        with self.assertRaisesRegex(Refused, "^no kernel$"):
            job.together(lambda: _fails(RuntimeError("no kernel")))
        with self.assertRaisesRegex(ValueError, "full disk") as caught:
            job.by_first(lambda: _fails(OSError("full disk")))
        self.assertIsInstance(caught.exception.__cause__, OSError)


def _control(rank: int) -> tuple[str, str, bool]:
    """Of a job whose backend takes no tensor of the host."""
    with mock.patch.object(dist, "get_backend_config", lambda *_: "x:y"), \
            mock.patch.object(dist, "new_group", lambda **kinds: kinds), \
            mock.patch.object(Job, "gather", lambda job, value: [value]):
        job = Job(torch.device("cpu"))
        kinds = job._control
    job = Job(torch.device("cpu"))
    return str(kinds), str(job._control_device), job._control is \
        dist.group.WORLD


class TestControl(TestCase):

    def test_small_messages_need_no_memory_of_an_accelerator(self) -> None:
        self.assertEqual(launch(1, _control),
                         [("{'backend': 'gloo'}", "cpu", True)])


_WHOLE = Groups(shape=(1, 2), axis=1)
_MM = Point(kind="mm", sizes=(8, 8, 8), variant="nn")


def _no_buffer(rank: int) -> list[str]:
    """A collective for whose buffer one rank has no memory."""
    real = collectives.buffer_of

    def buffer(*args: Any, **options: Any) -> torch.Tensor:
        if rank == 1:
            raise torch.OutOfMemoryError("no memory")
        return real(*args, **options)

    points = [Point(kind="all_reduce", sizes=(64, ), groups=_WHOLE), _MM]
    with mock.patch.object(collectives, "buffer_of", buffer):
        found = measure_points(points,
                               Job(torch.device("cpu")),
                               None,
                               budget_s=1.0)
    return [p.kind for p in found.known] + list(found.refused.values())


def _full_disk(rank: int, folder: str) -> list[str]:
    """Points, then the profile, that the first rank can't write."""
    job = Job(torch.device("cpu"))

    def put(*_: object) -> None:
        raise ValueError("full disk")

    def replace(*_: object) -> None:
        raise OSError("no right")

    few = mock.patch("planner.profile.run.points_for", lambda *_: [_MM])

    def profiled() -> Any:
        return profile(job, budget_s=1.0, folder=Path(folder))

    with few, mock.patch.object(Store, "put", put):
        first = _told(profiled)
    with few, mock.patch("os.replace", replace):
        second = _told(profiled)
    return [first, second, _told(lambda: job.largest(float(rank)))]


class TestMeasuring(TestCase):

    def test_no_rank_waits_in_a_collective(self) -> None:
        self.assertEqual(launch(2, _no_buffer),
                         [["mm", "no memory (rank 1)"]] * 2)

    def test_what_the_first_cannot_write_fails_all(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            told = launch(2, _full_disk, folder)
            left = [p.name for p in Path(folder).iterdir()]
        self.assertEqual(told[0], told[1])
        first, second, largest = told[0]
        self.assertEqual((first, largest), ("ValueError: full disk", "1.0"))
        self.assertRegex(
            second, r"^ValueError: .*\.yaml can't be written "
            r"\(no right\)")
        self.assertEqual(left, ["points-5.sqlite"])
