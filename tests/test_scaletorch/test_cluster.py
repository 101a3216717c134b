"""Which cluster is planned for: named, profiled, or a preset."""

from __future__ import annotations

import contextlib
import os
import tempfile
import unittest
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import scaletorch
from planner.cluster import load_cluster
from planner.cluster.local import local_path, profile_key
from planner.profile.measure import Outcome
from planner.profile.point import Point
from planner.profile.points import Sizes, points_for
from planner.profile.run import POINTS_FILE
from planner.profile.store import Measured, Store
from scaletorch import parallel
from scaletorch.cluster import (VARIABLE, at_machines_pace, cluster_of,
                                profiled_cluster)
from scaletorch.runtime.ranks import run_ranks
from scaletorch.trainer.loop import Trainer
from tests.launch import launch
from tests.test_scaletorch.small import Mlp, batch, seeded
from tests.test_scaletorch.test_trainer.runs import tiny

_TEXT = """name: local
device:
  name: here
  memory_bytes: 1e9
  memory_bandwidth_bytes_per_s: 1e10
  peak_flops_per_s:
    float32: 1e11
  launch_overhead_s: 1e-5
tiers:
- name: node
  size: 4
  link:
    latency_s: 1e-5
    bandwidth_bytes_per_s: 1e9
"""


def _cache_in(folder: str) -> Any:
    """No cluster is named, and profiles lie there."""
    return mock.patch.dict(os.environ, {
        "XDG_CACHE_HOME": folder,
        VARIABLE: ""
    })


class _InCache(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        environment = _cache_in(folder.name)
        environment.start()
        self.addCleanup(environment.stop)
        self.path = local_path("cpu", 4)

    def write(self) -> None:
        self.path.parent.mkdir(parents=True)
        self.path.write_text(_TEXT, encoding="utf-8")


class TestNamed(_InCache):

    def test_without_a_profile(self) -> None:
        self.assertEqual(cluster_of(None, 2, "cpu").name, "cpu-gloo")
        for name in ("local", "profile"):
            with self.assertRaisesRegex(ValueError, "-m planner.profile"):
                cluster_of(name, 2, "cpu")
        with self.assertRaisesRegex(ValueError, "-m planner.profile"):
            load_cluster("local:2")

    def test_with_a_profile(self) -> None:
        self.write()
        for name in (None, "local", "profile"):
            self.assertEqual(cluster_of(name, 2, "cpu").device.name, "here")
        self.assertEqual(load_cluster("local").num_devices, 4)
        self.assertEqual(load_cluster("local:2").num_devices, 2)
        self.assertEqual(load_cluster("local:64").num_devices, 64)
        # Nothing says how more processes than were measured get on.
        self.assertEqual(cluster_of(None, 8, "cpu").name, "cpu-gloo")

    def test_a_profile_that_cannot_be_read(self) -> None:
        self.path.parent.mkdir(parents=True)
        old = _TEXT.replace("launch_overhead_s", "launch_s")
        for content in (b"", _TEXT[:-9].encode(), old.encode(), b"\xff\xfe",
                        _TEXT.replace("1e9", ".inf").encode()):
            self.path.write_bytes(content)
            self.assertEqual(cluster_of(None, 2, "cpu").name, "cpu-gloo")
            for name in ("local", "profile"):
                with self.assertRaisesRegex(
                        ValueError, "(?s)can't be read .*planner.profile"):
                    cluster_of(name, 2, "cpu")
            with self.assertRaisesRegex(ValueError,
                                        "(?s)can't be read .*planner.profile"):
                load_cluster("local:2")

    def test_named_by_the_environment(self) -> None:
        self.write()
        with mock.patch.dict(os.environ, {VARIABLE: "h100-sxm"}):
            self.assertEqual(
                cluster_of(None, 2, "cpu").device.name, "H100-80GB-SXM")
            self.assertEqual(cluster_of("local", 2, "cpu").device.name, "here")

    def test_another_name(self) -> None:
        with self.assertRaisesRegex(ValueError, "did you mean local"):
            load_cluster("locall")


class TestTold(_InCache):

    def _told(self) -> tuple[list[str], list[str]]:
        """Warnings and log records of a call without a cluster."""

        def work(rank: int) -> None:
            del rank
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
            scaletorch.auto_parallelize(seeded(Mlp),
                                        mesh,
                                        example_inputs=batch(),
                                        plan=parallel.ddp())

        with warnings.catch_warnings(record=True) as caught, \
                self.assertLogs("scaletorch", "INFO") as logs:
            warnings.simplefilter("always")
            logs.records.clear()
            scaletorch.cluster._LOGGER.info("so that there is a record")
            run_ranks(2, work)
        caught = [w for w in caught if "was not given" in str(w.message)]
        self.assertEqual({w.filename for w in caught} - {__file__}, set())
        told = [str(w.message) for w in caught]
        return told, [r.getMessage() for r in logs.records[1:]]

    def test_preset(self) -> None:
        told, logged = self._told()
        self.assertEqual(len(told), 1)
        self.assertIn("preset cpu-gloo", told[0])
        self.assertIn("-m planner.profile", told[0])
        self.assertEqual(logged, [])

    def test_unreadable_profile(self) -> None:
        self.write()
        self.path.write_text("name: local\n", encoding="utf-8")
        (told, ), logged = self._told()
        self.assertIn("preset cpu-gloo", told)
        self.assertIn(f"{self.path}: device is missing", told)
        self.assertIn("-m planner.profile", told)
        self.assertEqual(logged, [])

    def test_profile(self) -> None:
        self.write()
        told, logged = self._told()
        self.assertEqual(told, [])
        self.assertEqual(len(logged), 1)
        self.assertIn(str(self.path), logged[0])


def _slower(ratio: float) -> Any:
    """Kernels are measured to take so much longer than 1 s."""

    def measure(points: Sequence[Point], *args: Any,
                **options: Any) -> Outcome:
        return Outcome(
            known={p: Measured(median=ratio, count=1)
                   for p in points},
            missing=(),
            refused={})

    return mock.patch("planner.profile.pace.measure_points", measure)


def _full() -> Any:
    """No memory is left to measure with."""
    return mock.patch("planner.profile.measure.runner",
                      side_effect=torch.OutOfMemoryError("no memory"))


def _at_pace(rank: int, folder: str, full: int) -> tuple[list[str], float]:
    """What a rank logs, and how much slower it takes the device to be."""
    mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
    spec = load_cluster("cpu-gloo")
    cache = _cache_in(folder)
    logs = unittest.TestCase().assertLogs("scaletorch", "INFO")
    measured = contextlib.nullcontext() if full >= 0 else _slower(
        1.5 if rank == 0 else 1.7)
    memory = _full() if rank == full else contextlib.nullcontext()
    with cache, measured, memory, logs as found:
        scaletorch.cluster._LOGGER.info("so that there is a record")
        paced = at_machines_pace(spec, mesh, tell=rank == 0)
    told = [r.getMessage() for r in found.records[1:]]
    before, after = (s.device.peak_flops_per_s[0][1] for s in (spec, paced))
    return told, before / after


def _trained(rank: int, folder: str) -> tuple[str, str]:
    """Of whom the trainer's module and a module without a cluster are."""
    del rank
    cache = _cache_in(folder)
    with cache, _slower(1.5):
        trained = Trainer(tiny(plan="fsdp", cluster=None)).module
        mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
        module = scaletorch.auto_parallelize(seeded(Mlp),
                                             mesh,
                                             example_inputs=batch(),
                                             plan=parallel.ddp())
    first, second = (m._replan.planning.cluster.device.source
                     for m in (trained, module))
    return first, second


class TestPace(_InCache):

    def setUp(self) -> None:
        super().setUp()
        self.folder = os.environ["XDG_CACHE_HOME"]
        path = local_path("cpu", 2)
        path.parent.mkdir(parents=True)
        path.write_text(_TEXT.replace("size: 4", "size: 2"), encoding="utf-8")
        store = Store(path.parent / POINTS_FILE, profile_key("cpu", 2))
        store.put(points_for("cpu", 2)[0], Measured(median=1.0, count=1))
        store.close()

    def test_ranks_plan_for_the_pace_of_the_first(self) -> None:
        (told, first), (nothing, second) = launch(2, _at_pace, self.folder, -1)
        self.assertAlmostEqual(first, 1.5)
        self.assertEqual(first, second)
        self.assertEqual(nothing, [])
        self.assertEqual(len(told), 1)
        self.assertIn("kernels take 1.50 times as long", told[0])

    def test_nothing_is_scaled_where_one_rank_cannot_measure(self) -> None:
        for full in (0, 1):
            (told, first), (nothing, second) = launch(2, _at_pace, self.folder,
                                                      full)
            self.assertEqual((first, second), (1.0, 1.0))
            self.assertEqual(nothing, [])
            self.assertEqual(len(told), 1)
            self.assertIn(f"could not be measured (no memory (rank {full}))",
                          told[0])

    def test_the_trainer_goes_the_same_way(self) -> None:
        for found in launch(2, _trained, self.folder):
            self.assertEqual(found, (", at 1.50 times the time", ) * 2)

    def test_simulated_ranks_have_none(self) -> None:

        def work(rank: int) -> None:
            del rank
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
            spec = load_cluster("cpu-gloo")
            self.assertIs(at_machines_pace(spec, mesh, tell=False), spec)

        run_ranks(2, work)


@contextlib.contextmanager
def _few_points() -> Iterator[None]:
    """Measured within seconds."""
    sizes = Sizes(products=(64, ),
                  elements=(4096, ),
                  sequences=(16, ),
                  messages=(4096, ),
                  dtypes=("float32", ))
    with mock.patch.object(Sizes, "of", lambda device_type: sizes), \
            mock.patch("scaletorch.cluster._BRIEFLY_S", 3.0):
        yield


def _planned(**options: Any) -> list[str]:
    """What is logged and warned of while a plan is searched."""
    logs = unittest.TestCase().assertLogs("scaletorch", "INFO")
    with logs as found, warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scaletorch.cluster._LOGGER.info("so that there is a record")
        scaletorch.auto_parallelize(seeded(Mlp),
                                    dist.get_world_size(),
                                    example_inputs=batch(),
                                    **options)
    return [
        *(r.getMessage() for r in found.records[1:]),
        *(str(w.message) for w in caught if "was not given" in str(w.message))
    ]


def _profiled(rank: int, folder: str) -> tuple[str, str]:
    with _cache_in(folder), _few_points():
        _planned(cluster="profile")
        again = cluster_of(None, 2, "cpu")
        part = DeviceMesh("cpu", [0]) if rank == 0 else None
        if part is not None:
            with unittest.TestCase().assertRaisesRegex(ValueError, "1 of 2"):
                profiled_cluster(part)
    return str(again), again.device.source


def _unnamed(rank: int, folder: str) -> list[list[str]]:
    """Where a recipe is given, where a plan is searched, and once more."""
    del rank
    with _cache_in(folder), _few_points():
        return [
            _planned(**options) for options in ({
                "plan": parallel.ddp()
            }, {}, {})
        ]


def _unmeasured(rank: int, folder: str) -> list[str]:
    full = _full() if rank == 1 else contextlib.nullcontext()
    with _cache_in(folder), _few_points(), full:
        return _planned()


class TestProfile(_InCache):

    def setUp(self) -> None:
        super().setUp()
        self.folder = os.environ["XDG_CACHE_HOME"]

    def test_two_ranks(self) -> None:
        first, second = launch(2, _profiled, self.folder)
        self.assertEqual(first, second)
        self.assertEqual(first[1], "measured on this machine")
        self.check_files()

    def check_files(self) -> None:
        names = sorted(p.name
                       for p in Path(self.folder, "scaletorch").iterdir())
        self.assertEqual(
            names, sorted(["points-5.sqlite",
                           local_path("cpu", 2).name]))

    def test_made_where_no_cluster_is_named(self) -> None:
        told, silent = launch(2, _unnamed, self.folder)
        (preset, ), (measured, ), found = told
        self.assertIn("preset cpu-gloo", preset)
        self.assertIn("measuring it for at most 3 s, once", measured)
        self.assertIn(str(local_path("cpu", 2)), found[0])
        self.assertEqual(silent, [[], [], []])
        self.check_files()

    def test_a_preset_where_one_rank_cannot_measure(self) -> None:
        (measured, preset), silent = launch(2, _unmeasured, self.folder)
        self.assertIn("measuring it for at most 3 s, once", measured)
        self.assertIn("preset cpu-gloo; measuring the machine failed", preset)
        self.assertIn("no memory (rank 1)", preset)
        self.assertEqual(silent, [])

    def test_simulated_ranks(self) -> None:
        told: list[str] = []

        def work(rank: int) -> None:
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
            with self.assertRaisesRegex(ValueError, "simulated"):
                profiled_cluster(mesh)
            if rank == 0:
                told.extend(_planned())
            else:
                scaletorch.auto_parallelize(seeded(Mlp),
                                            2,
                                            example_inputs=batch())

        run_ranks(2, work)
        self.assertIn("preset cpu-gloo", told[0])
