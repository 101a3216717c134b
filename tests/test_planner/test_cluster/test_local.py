"""Profiles of this machine: where they lie and which is taken."""

from __future__ import annotations

import tempfile
from pathlib import Path
from unittest import TestCase

from planner.cluster.local import (cache_folder, find_local, local_path,
                                   profile_key)


class TestLocal(TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def test_cache_folder(self) -> None:
        self.assertEqual(cache_folder({"XDG_CACHE_HOME": "/caches"}),
                         Path("/caches/scaletorch"))
        self.assertEqual(cache_folder({}),
                         Path.home() / ".cache" / "scaletorch")

    def test_key(self) -> None:
        key = profile_key("cpu", 4)
        self.assertRegex(key, r"^[a-z0-9-]+_cpu_4_torch-[a-z0-9-]+$")

    def test_the_smallest_that_is_large_enough(self) -> None:
        self.assertIsNone(find_local("cpu", 1, folder=self.folder))
        self.assertIsNone(find_local("cpu", folder=self.folder / "missing"))
        for count in (2, 4, 16):
            local_path("cpu", count, folder=self.folder).touch()
        (self.folder / "other-host_cpu_3_torch-1-0.yaml").touch()
        key = profile_key("cpu", 8).replace("_8_", "_8-copy_")
        (self.folder / f"{key}.yaml").touch()
        for wanted, found in ((1, 2), (2, 2), (3, 4), (16, 16), (None, 16)):
            self.assertEqual(find_local("cpu", wanted, folder=self.folder),
                             local_path("cpu", found, folder=self.folder))
        self.assertIsNone(find_local("cpu", 17, folder=self.folder))
