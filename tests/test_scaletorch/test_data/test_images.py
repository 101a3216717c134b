"""Folders of images, from arrays and pictures."""

from __future__ import annotations

import tempfile
import unittest
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from scaletorch.data import build
from scaletorch.data.images import ImageFolder, decoded


class TestImages(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        draw = np.random.default_rng(0)
        for name in ("dog", "cat"):
            (self.folder / name).mkdir()
            for number in range(3):
                image = draw.integers(0, 256, (3, 9 + number, 12), np.uint8)
                np.save(self.folder / name / f"{number}.npy", image)

    def test_classes_are_numbered_by_name(self) -> None:
        found = ImageFolder(self.folder, size=8)
        self.assertEqual(found.classes, ("cat", "dog"))
        self.assertEqual([int(found[i]["labels"]) for i in range(6)],
                         [0, 0, 0, 1, 1, 1])
        self.assertEqual(tuple(found[0]["images"].shape), (3, 8, 8))

    def test_the_middle_is_cut_out_and_normalised(self) -> None:
        image = torch.zeros(3, 8, 24)
        image[:, :, 8:16] = 1.0
        torch.save(image, self.folder / "cat" / "0.pt")
        found = ImageFolder(self.folder, size=7, mean=[0.5], deviation=[0.5])
        sample = found[[p.name for p, _ in found.files].index("0.pt")]
        torch.testing.assert_close(sample["images"], torch.ones(3, 7, 7))

    def test_augmented(self) -> None:
        config = {
            "kind": "images",
            "path": str(self.folder),
            "size": 8,
            "batch_size": 3,
            "augment": True
        }
        loader = build(config)
        first, second = list(loader), list(loader)
        self.assertEqual(tuple(first[0]["images"].shape), (3, 3, 8, 8))
        again = list(build(config))
        self.assertTrue(torch.equal(first[1]["images"], again[1]["images"]))
        self.assertFalse(
            torch.equal(torch.cat([b["images"] for b in first]),
                        torch.cat([b["images"] for b in second])))
        self.assertEqual(tuple(loader.example()["images"].shape), (3, 3, 8, 8))

    def test_pictures(self) -> None:
        try:
            from PIL import Image
        except ImportError:
            self.skipTest("Pillow is not installed")
        pixels = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
        path = self.folder / "dog" / "x.png"
        Image.fromarray(pixels).save(path)
        torch.testing.assert_close(
            decoded(path) * 255,
            torch.from_numpy(pixels).permute(2, 0, 1).float())
        path.write_bytes(path.read_bytes()[:40])
        with self.assertRaisesRegex(ValueError, "x.png can't be read: it is "
                                    "truncated"):
            decoded(path)

    def test_pictures_need_pillow(self) -> None:
        with mock.patch.dict("sys.modules", {"PIL": None}), \
                self.assertRaisesRegex(ImportError, "x.jpg needs the package "
                                       "Pillow"):
            decoded(self.folder / "x.jpg")

    def test_errors_name_the_file(self) -> None:
        path = self.folder / "cat" / "0.npy"
        whole = path.read_bytes()
        for data in (b"", whole[:-5], b"text"):
            path.write_bytes(data)
            with self.assertRaisesRegex(ValueError, "0.npy can't be read"):
                decoded(path)
        np.save(path, np.zeros(3))
        with self.assertRaisesRegex(ValueError, r"0.npy holds \(3,\), not an "
                                    "image"):
            decoded(path)
        np.save(path, np.array([{"code": 1}]), allow_pickle=True)
        with self.assertRaisesRegex(ValueError, "0.npy can't be read"):
            decoded(path)
        torch.save({"a": 1}, self.folder / "cat" / "0.pt")
        with self.assertRaisesRegex(ValueError, "0.pt holds dict"):
            decoded(self.folder / "cat" / "0.pt")
        np.save(path, np.zeros((4, 8, 8), np.uint8))
        with self.assertRaisesRegex(ValueError, "has 4 channels, but mean "
                                    "has 3"):
            ImageFolder(self.folder, size=8)[0]

    def test_folders(self) -> None:
        for path, text in ((self.folder / "none", "is no folder"),
                           (self.folder / "cat", "no folders of classes")):
            with self.assertRaisesRegex(FileNotFoundError, text):
                ImageFolder(path)
        (self.folder / "bird").mkdir()
        with self.assertRaisesRegex(FileNotFoundError, "bird has no images"):
            ImageFolder(self.folder)


class TestPart(unittest.TestCase):
    CONFIG = {
        "kind": "random_images",
        "shape": [1, 2, 2],
        "length": 7,
        "batch_size": 1,
        "shuffle": False
    }

    def test_parts_share_nothing_and_leave_nothing_out(self) -> None:
        whole = list(build(self.CONFIG))
        parts = [
            batch for part in ([0, 0.3], [0.3, 1])
            for batch in build({
                **self.CONFIG, "part": part
            })
        ]
        self.assertEqual(len(parts), 7)
        for a, b in zip(whole, parts, strict=True):
            self.assertTrue(torch.equal(a["images"], b["images"]))

    def test_no_part(self) -> None:
        for part in ([0.5, 0.2], [0, 2], [1]):
            with self.assertRaisesRegex(ValueError, "two fractions"):
                build({**self.CONFIG, "part": part})


if __name__ == "__main__":
    unittest.main()
