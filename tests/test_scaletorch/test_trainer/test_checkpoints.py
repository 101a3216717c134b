"""A checkpoint is complete or not there, and the right ones stay."""

from __future__ import annotations

import shutil
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh

from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.ranks import run_ranks
from scaletorch.trainer import checkpoints
from scaletorch.trainer.checkpoints import Best, Checkpoints, check_folder


class TestCheckpoints(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name) / "run"

    def alone(self, function: Any, **keys: Any) -> Any:

        def work(rank: int) -> Any:
            del rank
            agreement = Agreement(
                init_device_mesh("cpu", (dist.get_world_size(), )))
            return function(Checkpoints(self.folder, agreement, **keys))

        return run_ranks(2, work)[0]

    def names(self) -> list[str]:
        return sorted(p.name for p in self.folder.iterdir())

    def test_there_and_back(self) -> None:

        def work(store: Checkpoints) -> None:
            assert store.latest() is None
            store.save(3, {"a": torch.arange(4.0)}, {"step": 3})
            assert store.latest() == 3
            found = {"a": torch.zeros(4)}
            assert store.load(3, found) == {"step": 3}
            assert torch.equal(found["a"], torch.arange(4.0))
            try:
                store.load(3, {"b": torch.zeros(4), "c": torch.zeros(1)})
            except ValueError as error:
                assert "lacks b and 1 more; was the run" in str(error)
            else:
                raise AssertionError
            try:
                store.load(3, {"a": torch.zeros(2, 2)})
            except ValueError as error:
                assert "a has the shape (4,) in " in str(error)
                assert "and (2, 2) in the model; was the run" in str(error)
            else:
                raise AssertionError

        self.alone(work)

    def test_the_last_and_the_best_stay(self) -> None:

        def work(store: Checkpoints) -> Best | None:
            for step in range(1, 6):
                best = Best(step=2, loss=0.5) if step == 2 else None
                store.save(step, {"a": torch.zeros(1)}, {}, best=best)
            return store.best

        self.assertEqual(self.alone(work, keep=2), Best(step=2, loss=0.5))
        self.assertEqual(
            self.names(),
            ["best.json", "step-00000002", "step-00000004", "step-00000005"])
        shutil.rmtree(self.folder / "step-00000002")
        self.assertIsNone(self.alone(lambda store: store.best))

    def test_all_stay(self) -> None:

        def work(store: Checkpoints) -> None:
            for step in (1, 2):
                store.save(step, {"a": torch.zeros(1)}, {})

        self.alone(work)
        self.assertEqual(self.names(), ["step-00000001", "step-00000002"])

    def test_what_is_half_written_is_not_there(self) -> None:

        def interrupted(store: Checkpoints) -> None:
            store.save(1, {"a": torch.ones(1)}, {"step": 1})
            with mock.patch.object(store, "_complete"):
                store.save(2, {"a": torch.ones(1)}, {"step": 2})

        self.alone(interrupted)
        broken = self.folder / "step-00000007"
        broken.mkdir()
        self.assertIn("step-00000002.partial", self.names())
        with self.assertLogs("scaletorch", "WARNING") as logs:
            self.assertEqual(self.alone(lambda store: store.latest()), 1)
        self.assertEqual(len(logs.output), 2)
        self.assertIn("step-00000002.partial is ignored: it is not complete",
                      logs.output[0])
        broken.rmdir()
        self.alone(lambda store: store.save(2, {"a": torch.ones(1)}, {}))
        self.assertEqual(self.names(), ["step-00000001", "step-00000002"])

    def test_a_rank_that_can_not_write(self) -> None:

        def failing(*args: Any, **keys: Any) -> None:
            raise OSError("the disk is full")

        def work(store: Checkpoints) -> None:
            store.save(1, {"a": torch.ones(1)}, {})

        with mock.patch.object(checkpoints.torch, "save", failing):
            self.check_refused(work)
        self.assertEqual(self.names(), ["step-00000001.partial"])
        for name, keys in (("save", {}), ("async_save", {
                "asynchronous": True
        })):
            with mock.patch.object(checkpoints.dcp, name, failing):
                self.check_refused(work, **keys)

    def check_refused(self, work: Any, **keys: Any) -> None:
        with self.assertRaisesRegex(
                RuntimeError,
                r"run/step-00000001.partial could not be written, "
                r"with \d+ MiB free there: .*the disk is full; make room"):
            self.alone(work, **keys)

    def test_a_folder_that_can_not_be_written(self) -> None:
        file = self.folder.parent / "file"
        file.touch()
        for folder in (file, file / "run"):
            with self.assertRaisesRegex(
                    ValueError, r"checkpoint.folder: \S+file is no folder"):
                check_folder(folder)
        with mock.patch.object(checkpoints.os, "access", lambda *args: False):
            with self.assertRaisesRegex(ValueError,
                                        "must not be written to; name"):
                check_folder(self.folder)
        check_folder(self.folder)

    def test_damaged_files(self) -> None:

        def load(store: Checkpoints) -> None:
            store.load(1, {"a": torch.zeros(2)})

        self.alone(lambda store: store.save(1, {"a": torch.ones(2)}, {}))
        for name in (".metadata", "trainer.pt", "__0_0.distcp"):
            path = self.folder / "step-00000001" / name
            whole = path.read_bytes()
            for damaged in (whole[:20], whole[:-9] + b"?" + whole[-8:]):
                path.write_bytes(damaged)
                with self.assertRaisesRegex(
                        RuntimeError, "step-00000001 could not be read: .*"
                        rf"OSError: \S+/{name} is damaged: .*"
                        "Delete the folder, and the same command goes on from"
                ):
                    self.alone(load)
            path.write_bytes(whole)
        self.alone(load)

    def test_a_checkpoint_without_checksums(self) -> None:

        def load(store: Checkpoints) -> float:
            found = {"a": torch.zeros(2)}
            store.load(1, found)
            return found["a"].sum().item()

        self.alone(lambda store: store.save(1, {"a": torch.ones(2)}, {}))
        (self.folder / "step-00000001/checksums.json").unlink()
        self.assertEqual(self.alone(load), 2.0)
        for name in (".metadata", "trainer.pt", "__0_0.distcp"):
            path = self.folder / "step-00000001" / name
            whole = path.read_bytes()
            path.write_bytes(whole[:20])
            with self.assertRaisesRegex(
                    RuntimeError, r"step-00000001 could not be read: \w+: "):
                self.alone(load)
            path.write_bytes(whole)

    def test_a_model_alone_can_be_read(self) -> None:
        """Keys of the model are those of its state dict."""
        self.alone(lambda store: store.save(1, {"w": torch.ones(2)}, {}))
        found = {"w": torch.zeros(2)}
        self.alone(lambda store: dcp.load(
            found, checkpoint_id=self.folder / "step-00000001"))
        self.assertEqual(found["w"].tolist(), [1.0, 1.0])


if __name__ == "__main__":
    unittest.main()
