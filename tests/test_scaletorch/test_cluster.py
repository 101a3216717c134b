"""Which cluster is planned for: named, profiled, or a preset."""

from __future__ import annotations

import os
import tempfile
import unittest
import warnings
from pathlib import Path
from unittest import mock

import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

import scaletorch
from planner.cluster import load_cluster
from planner.cluster.local import local_path
from planner.profile.points import Sizes
from scaletorch import parallel
from scaletorch.cluster import cluster_of, found_cluster, profiled_cluster
from scaletorch.runtime.ranks import run_ranks
from tests.launch import launch
from tests.test_scaletorch.small import Mlp, batch, seeded

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


class _InCache(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        environment = mock.patch.dict(os.environ,
                                      {"XDG_CACHE_HOME": folder.name})
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
        told = [str(w.message) for w in caught]
        return ([t for t in told if "cluster was not given" in t],
                [r.getMessage() for r in logs.records[1:]])

    def test_preset(self) -> None:
        told, logged = self._told()
        self.assertEqual(len(told), 1)
        self.assertIn("preset cpu-gloo", told[0])
        self.assertIn("-m planner.profile", told[0])
        self.assertEqual(logged, [])

    def test_profile(self) -> None:
        self.write()
        told, logged = self._told()
        self.assertEqual(told, [])
        self.assertEqual(len(logged), 1)
        self.assertIn(str(self.path), logged[0])


def _profiled(rank: int, folder: str) -> tuple[str, str]:
    sizes = Sizes(products=(64, ),
                  elements=(4096, ),
                  sequences=(16, ),
                  messages=(4096, ),
                  dtypes=("float32", ))
    small = mock.patch.object(Sizes, "of", lambda device_type: sizes)
    with mock.patch.dict(os.environ, {"XDG_CACHE_HOME": folder}), small:
        module = scaletorch.auto_parallelize(seeded(Mlp),
                                             dist.get_world_size(),
                                             example_inputs=batch(),
                                             cluster="profile")
        assert module.plan is not None
        again = cluster_of(None, 2, "cpu")
        part = DeviceMesh("cpu", [0]) if rank == 0 else None
        if part is not None:
            with unittest.TestCase().assertRaisesRegex(ValueError, "1 of 2"):
                profiled_cluster(part)
    return str(again), again.device.source


class TestProfile(_InCache):

    def test_two_ranks(self) -> None:
        folder = os.environ["XDG_CACHE_HOME"]
        first, second = launch(2, _profiled, folder)
        self.assertEqual(first, second)
        self.assertEqual(first[1], "measured on this machine")
        names = sorted(p.name for p in Path(folder, "scaletorch").iterdir())
        self.assertEqual(
            names, sorted(["points-5.sqlite",
                           local_path("cpu", 2).name]))

    def test_simulated_ranks(self) -> None:

        def work(rank: int) -> None:
            del rank
            mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
            found_cluster(mesh, tell=False)
            with self.assertRaisesRegex(ValueError, "simulated"):
                profiled_cluster(mesh)

        run_ranks(2, work)
