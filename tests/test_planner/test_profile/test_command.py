"""The command: measures, goes on where it stopped, and is found again."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import sys
import tempfile
from pathlib import Path
from unittest import TestCase, mock

import torch

from planner.cluster import load_cluster
from planner.cluster.local import find_local, local_path
from planner.profile import measure
from planner.profile.__main__ import main
from planner.profile.job import Job
from planner.profile.point import Point
from planner.profile.points import Sizes
from planner.profile.run import POINTS_FILE, profile
from planner.profile.store import Measured
from tests.launch import launch

_FEW = [
    Point(kind="mm", sizes=(64, 64, 64), variant="nn"),
    Point(kind="add", sizes=(64, 64)),
    Point(kind="attention", sizes=(1, 2, 16, 8), backward=True),
]


class _InFolder(TestCase):

    def setUp(self) -> None:
        quick = mock.patch.object(measure, "_SLOWEST_S", 0.1)
        quick.start()
        self.addCleanup(quick.stop)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def _rows(self) -> list[tuple[str, float]]:
        connection = sqlite3.connect(self.folder / POINTS_FILE)
        with contextlib.closing(connection):
            return connection.execute("SELECT kind, median FROM points "
                                      "ORDER BY rowid").fetchall()


class TestCommand(_InFolder):

    def _run(self, *argv: str) -> tuple[int, str, str]:
        out, err = io.StringIO(), io.StringIO()
        few = mock.patch("planner.profile.run.points_for", lambda *_: _FEW)
        with contextlib.redirect_stdout(out), \
                contextlib.redirect_stderr(err), few:
            code = main(
                ["--device", "cpu", "--cache",
                 str(self.folder), *argv])
        return code, out.getvalue(), err.getvalue()

    def test_profile(self) -> None:
        code, out, err = self._run("--budget-s", "5")
        self.assertEqual((code, err), (0, ""))
        self.assertEqual([kind for kind, _ in self._rows()],
                         ["mm", "add", "attention backward"])
        path = local_path("cpu", 1, folder=self.folder)
        self.assertIn(f"written to {path}", out)
        self.assertIn("products in float32", out)
        cluster = load_cluster(path)
        self.assertEqual((cluster.name, cluster.num_devices), ("local", 1))
        self.assertEqual(cluster.device.source, "measured on this machine")
        self.assertLess(cluster.device.launch_overhead_s, 0.1)

    def test_goes_on(self) -> None:
        self._run("--budget-s", "5")
        first = self._rows()
        self._run("--budget-s", "5")
        self.assertEqual(self._rows(), first)
        self._run("--budget-s", "5", "--refresh")
        again = self._rows()
        self.assertEqual([k for k, _ in again], [k for k, _ in first])
        self.assertNotEqual(again, first)

    def test_interrupted(self) -> None:
        real = measure._Meter.measured

        def stops(meter: measure._Meter, point: Point) -> object:
            if point.kind == "attention":
                raise KeyboardInterrupt
            return real(meter, point)

        with mock.patch.object(measure._Meter, "measured", stops):
            code, _, err = self._run("--budget-s", "5")
        self.assertEqual(code, 130)
        self.assertIn("goes on from there", err)
        self.assertEqual([k for k, _ in self._rows()], ["mm", "add"])
        self.assertEqual(self._run("--budget-s", "5")[0], 0)
        self.assertEqual(len(self._rows()), 3)

    def test_points_that_cannot_be_read_are_measured_anew(self) -> None:
        self._run("--budget-s", "5")
        spoilt = b"no database" * 100
        (self.folder / POINTS_FILE).write_bytes(spoilt)
        with self.assertLogs("scaletorch", "WARNING") as logs:
            self.assertEqual(self._run("--budget-s", "5")[0], 0)
        self.assertRegex(logs.output[0], "file is not a database.*anew")
        self.assertEqual(len(self._rows()), 3)
        aside = self.folder / f"{POINTS_FILE}.spoilt"
        self.assertEqual(aside.read_bytes(), spoilt)

    def test_interrupted_while_it_is_written(self) -> None:
        self._run("--budget-s", "5")
        before = sorted(self.folder.iterdir())
        texts = [p.read_bytes() for p in before]
        with mock.patch("os.fsync", side_effect=KeyboardInterrupt):
            self.assertEqual(self._run("--budget-s", "5")[0], 130)
        self.assertEqual(sorted(self.folder.iterdir()), before)
        self.assertEqual([p.read_bytes() for p in before], texts)

    def test_points_take_turns_and_bad_moments_do_not_count(self) -> None:
        order: list[str] = []

        def measured(_: measure._Meter, point: Point) -> Measured:
            order.append(point.kind)
            slow = 100.0 if len(order) in (4, 8) else 0.0
            return Measured(median=len(order) + slow, count=2)

        with mock.patch.object(measure._Meter, "measured", measured):
            found = measure.measure_points(_FEW,
                                           Job(torch.device("cpu")),
                                           None,
                                           budget_s=5)
        rounds = len(order) // 3
        self.assertEqual(order, [p.kind for p in _FEW] * rounds)
        # Of turns 1, 104, 7, 10, ... without the least and the most.
        self.assertEqual([found.known[p].median for p in _FEW],
                         [14.5, 15.0, 13.5])
        self.assertEqual(found.known[_FEW[0]].count, 2 * rounds)

    def test_too_little_time(self) -> None:
        code, _, err = self._run("--budget-s", "1e-9")
        self.assertEqual(code, 2)
        self.assertIn("--budget-s", err)

    def test_a_device_that_cannot_be_used(self) -> None:
        full = RuntimeError("out of memory")
        with mock.patch.object(measure, "clock_of", side_effect=full):
            self.assertEqual(self._run(), (2, "", "error: out of memory\n"))

    def test_a_kind_of_device_that_is_none(self) -> None:
        for name in ("bogus", "meta"):
            self.assertEqual(
                self._run("--device", name),
                (2, "", f"error: PyTorch has no devices of type '{name}' here;"
                 " pass --device cpu or that of an accelerator\n"))

    def test_a_file_that_cannot_be_written(self) -> None:
        inside = self.folder / "file"
        inside.touch()
        path = inside / "mine.yaml"
        code, _, err = self._run("--budget-s", "5", "--out", str(path))
        self.assertEqual(code, 2)
        self.assertIn(f"error: {path} can't be written", err)
        self.assertIn("what was measured is kept, pass another --out", err)

    def test_out_and_name(self) -> None:
        path = self.folder / "mine.yaml"
        self._run("--budget-s", "5", "--out", str(path), "--name", "mine")
        self.assertEqual(load_cluster(path).name, "mine")
        self.assertIsNone(find_local("cpu", folder=self.folder))

    def test_one_process_has_distributed_tensors(self) -> None:
        call = Point(kind="call", sizes=(1, ))
        with mock.patch.object(sys.modules[__name__], "_FEW", [*_FEW, call]):
            _, out, _ = self._run("--budget-s", "5")
        self.assertNotIn("does not run here", out)
        self.assertIn("call", [kind for kind, _ in self._rows()])
        self.assertFalse(torch.distributed.is_initialized())

    def test_what_does_not_run_is_told(self) -> None:

        def refuses(*_: object) -> None:
            raise RuntimeError("no such kernel\nsecond line")

        with mock.patch("planner.profile.measure.runner", refuses):
            code, _, err = self._run("--budget-s", "5")
        self.assertEqual(code, 2)
        self.assertEqual(
            err, "error: products do not run here: no such "
            "kernel\n")
        with mock.patch.object(measure, "OPERATIONS", {}), \
                mock.patch.object(measure, "optimizer_runner", refuses):
            outcome = measure.measure_points(_FEW,
                                             Job(torch.device("cpu")),
                                             None,
                                             budget_s=5)
        self.assertEqual(set(outcome.refused.values()), {"no such kernel"})


def _profiled(rank: int, folder: str) -> tuple[str, int, list[str], bool]:
    sizes = Sizes(products=(64, ),
                  elements=(4096, ),
                  sequences=(16, ),
                  messages=(4096, 65536),
                  dtypes=("float32", ))
    with mock.patch.object(measure, "_SLOWEST_S", 0.1):
        made = profile(Job.joined("cpu"),
                       budget_s=20.0,
                       folder=Path(folder),
                       sizes=sizes)
    kinds = [p.kind for p in made.outcome.known]
    return str(made.cluster), len(kinds), kinds, made.path.is_file()


class TestRanks(_InFolder):

    def test_two_ranks_agree(self) -> None:
        first, second = launch(2, _profiled, str(self.folder))
        self.assertEqual(first[:3], second[:3])
        self.assertTrue(first[3])
        self.assertLessEqual(
            {"mm", "all_reduce", "reduce_scatter", "send", "alone_speedup"},
            set(first[2]))
        path = find_local("cpu", 2, folder=self.folder)
        self.assertEqual(path, local_path("cpu", 2, folder=self.folder))
        assert path is not None
        cluster = load_cluster(path)
        self.assertEqual(cluster.num_devices, 2)
        link = cluster.tiers[0].link
        self.assertEqual(link.source, "measured on this machine")
        self.assertLess(link.latency_s + link.overhead_s, 1.0)
