"""A checkpoint's files are what was written."""

from __future__ import annotations

import json
import tempfile
import unittest
import zlib
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from scaletorch.checksums import SummedWriter, check, check_shared
from scaletorch.runtime.agree import Agreement
from scaletorch.runtime.ranks import run_ranks


def save(folder: Path) -> None:
    """A tensor of eight in as many parts as there are ranks."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(), ))
    whole = torch.arange(8.0)
    dcp.save({"a": distribute_tensor(whole, mesh, [Shard(0)])},
             storage_writer=SummedWriter(folder))


class TestChecksums(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def written(self) -> dict[str, str]:
        (self.folder / "extras").write_bytes(b"1234")
        run_ranks(2, lambda rank: save(self.folder))
        found: dict[str, str] = json.loads(
            (self.folder / "checksums.json").read_text(encoding="utf-8"))
        return found

    def test_every_file_has_one(self) -> None:
        sums = self.written()
        names = {p.name for p in self.folder.iterdir()}
        self.assertEqual({*sums}, names - {"checksums.json"})
        self.assertIn("__1_0.distcp", sums)
        self.assertEqual(sums["extras"], f"{zlib.crc32(b'1234'):08x} 4")
        check(self.folder)
        found = {"a": torch.zeros(8)}
        dcp.load(found, checkpoint_id=self.folder, no_dist=True)
        self.assertEqual(found["a"].tolist(), list(range(8)))

    def test_damage_is_seen_in_whichever_part(self) -> None:
        sums = self.written()
        for name in sums:
            path = self.folder / name
            whole = path.read_bytes()
            for at in (0, len(whole) // 2, len(whole) - 1):
                flipped = bytearray(whole)
                flipped[at] ^= 1
                path.write_bytes(flipped)
                with self.assertRaisesRegex(
                        OSError, rf"/{name} is damaged: its CRC-32 and size "
                        rf"are \w+ {len(whole)}, and were {sums[name]} when "
                        "it was written; use another checkpoint"):
                    check(self.folder)
            path.unlink()
            with self.assertRaisesRegex(FileNotFoundError,
                                        f"/{name} is not there"):
                check(self.folder)
            path.write_bytes(whole)

    def test_all_ranks_hear_of_it(self) -> None:
        self.written()
        (self.folder / "extras").write_bytes(b"1235")

        def work(rank: int) -> str:
            del rank
            agreement = Agreement(
                init_device_mesh("cpu", (dist.get_world_size(), )))
            try:
                check_shared(self.folder, agreement)
            except (OSError, RuntimeError) as error:
                return str(error)
            return ""

        for text in run_ranks(3, work):
            self.assertIn("extras is damaged", text)

    def test_sums_that_are_damaged(self) -> None:
        for text in ("{", "[]"):
            (self.folder / "checksums.json").write_text(text)
            with self.assertRaisesRegex(OSError, "or delete this file to"):
                check(self.folder)


if __name__ == "__main__":
    unittest.main()
