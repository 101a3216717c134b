"""Runs of each kind of model that are killed go on along the same curve."""

from __future__ import annotations

import signal
import tempfile
import unittest
from pathlib import Path

import numpy as np

from scaletorch.trainer.config import Config, load_config
from tests.e2e import train_ranks
from tests.launch import LaunchError, launch
from tests.markers import nightly
from tests.tree import ROOT

Curve = dict[int, float]


class TestResume(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def config(self, name: str, *overrides: str) -> Config:
        return load_config(ROOT / f"examples/configs/{name}.yaml", [
            "train.steps=6", "checkpoint.every=2",
            "checkpoint.asynchronous=false", "metrics.progress=false",
            f"checkpoint.folder={self.folder / 'run'}", *overrides
        ])

    def pictures(self) -> str:
        """A folder of them, of which each is seen at random."""
        draw = np.random.default_rng(0)
        for name in ("cat", "dog"):
            (self.folder / "data" / name).mkdir(parents=True)
            for number in range(20):
                np.save(self.folder / "data" / name / f"{number}.npy",
                        draw.integers(0, 256, (3, 20, 24), np.uint8))
        return (f"data={{kind: images, path: {self.folder / 'data'}, size: 16,"
                " batch_size: 8, augment: true}")

    def curve(self, ranks: int, config: Config, at: int = 0) -> Curve:
        """Losses by step; none of a run that is killed."""
        if not at:
            code, rows = launch(ranks, train_ranks.run, config)[0]
            self.assertEqual(code, 0)
            return {int(r["step"]): r["loss"] for r in rows}
        with self.assertRaisesRegex(LaunchError, "died"):
            launch(ranks, train_ranks.run, config, at, [signal.SIGKILL])
        return {}

    def check(self, name: str, *overrides: str) -> None:
        """On the same mesh, and on 4, 2 and 4 ranks."""
        whole = self.curve(
            2, self.config(name, "checkpoint.folder=null", *overrides))
        self.assertEqual([*whole], [1, 2, 3, 4, 5, 6])
        config = self.config(name, *overrides)
        self.curve(2, config, 5)
        self.near(self.curve(2, config), {n: whole[n] for n in (5, 6)}, 1e-6)
        config = self.config(name, f"checkpoint.folder={self.folder}/meshes",
                             *overrides)
        self.curve(4, config, 3)
        self.curve(2, config, 5)
        self.near(self.curve(4, config), {n: whole[n] for n in (5, 6)}, 1e-4)

    def near(self, found: Curve, expected: Curve, delta: float) -> None:
        self.assertEqual([*found], [*expected])
        for step, loss in expected.items():
            self.assertAlmostEqual(found[step], loss, delta=delta)

    @nightly
    def test_experts(self) -> None:
        self.check("moe_tiny")

    @nightly
    def test_images(self) -> None:
        self.check("resnet_tiny", self.pictures())


if __name__ == "__main__":
    unittest.main()
