"""Runs that are killed go on; the command, its scripts and its configs."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path
from unittest import mock

import torch

from scaletorch import data
from scaletorch.train import main
from scaletorch.trainer.build import build_model
from scaletorch.trainer.config import Config, load_config
from scaletorch.trainer.reference import reference
from tests.e2e import train_ranks
from tests.launch import LaunchError, launch
from tests.markers import nightly
from tests.test_scaletorch.test_trainer.runs import tiny
from tests.tree import ROOT

CONFIGS = sorted((ROOT / "examples/configs").glob("*.yaml"))


def curve(rows: list[dict[str, float]]) -> dict[int, float]:
    return {int(r["step"]): r["loss"] for r in rows if "loss" in r}


class InFolder(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)


class TestKilled(InFolder):

    def config(self) -> Config:
        return tiny(plan="fsdp",
                    checkpoint={
                        "folder": str(self.folder / "run"),
                        "every": 2,
                        "asynchronous": True
                    })

    def whole(self, ranks: int) -> dict[int, float]:
        return curve(launch(ranks, train_ranks.run, tiny(plan="fsdp"))[0][1])

    def check_stopped(self, ranks: int, *received: int) -> None:
        first = launch(ranks, train_ranks.run, self.config(), 3, received)
        self.assertEqual([code for code, _ in first],
                         [128 + received[0]] * ranks)
        self.assertTrue((self.folder / "run/step-00000003").is_dir())
        second = launch(ranks, train_ranks.run, self.config())
        self.assertEqual([code for code, _ in second], [0] * ranks)
        found = [curve(first[0][1]), curve(second[0][1])]
        self.assertEqual([list(x) for x in found], [[1, 2, 3], [4, 5, 6]])
        self.assertEqual(found[0] | found[1], self.whole(ranks))

    def check_killed(self, ranks: int) -> None:
        with self.assertRaisesRegex(LaunchError, "died"):
            launch(ranks, train_ranks.run, self.config(), 5, [signal.SIGKILL])
        code, rows = launch(ranks, train_ranks.run, self.config())[0]
        self.assertEqual(code, 0)
        found, whole = curve(rows), self.whole(ranks)
        self.assertIn(min(found), (3, 5))
        self.assertEqual(max(found), 6)
        self.assertEqual(found, {n: whole[n] for n in found})
        self.assertFalse(list((self.folder / "run").glob("*.partial")))
        last = self.folder / "run/step-00000006"
        names = {p.name for p in last.iterdir()}
        self.assertIn(f"__{ranks - 1}_0.distcp", names)
        self.assertEqual(
            set(json.loads((last / "checksums.json").read_text())),
            names - {"checksums.json"})

    def test_killed(self) -> None:
        self.check_killed(2)

    @nightly
    def test_interrupted(self) -> None:
        self.check_stopped(1, signal.SIGINT)

    @nightly
    def test_interrupted_twice(self) -> None:
        for second in (signal.SIGINT, signal.SIGTERM):
            with self.assertRaisesRegex(LaunchError, "died"):
                launch(1, train_ranks.run, self.config(), 3,
                       [signal.SIGINT, second])
            self.assertFalse((self.folder / "run/step-00000003").exists())

    @nightly
    def test_terminated(self) -> None:
        self.check_stopped(2, signal.SIGTERM, signal.SIGTERM)

    @nightly
    def test_interrupted_on_one_of_two(self) -> None:
        self.check_stopped(2, signal.SIGINT)

    @nightly
    def test_alone(self) -> None:
        self.check_stopped(1, signal.SIGTERM, signal.SIGTERM)
        self.folder /= "killed"
        self.check_killed(1)


class TestCommand(InFolder):

    def test_one_node(self) -> None:
        """The launch script, and the command of doc/training.md."""
        done = subprocess.run([
            "scripts/launch.sh", "examples/configs/gpt_tiny.yaml",
            "train.steps=6", "train.lr=3e-4", "train.evaluate_every=3",
            f"checkpoint.folder={self.folder}", "profile.start=2",
            "profile.steps=1", f"profile.folder={self.folder}/profile"
        ],
                              cwd=ROOT,
                              env=os.environ | {
                                  "PYTHON": sys.executable,
                                  "RANKS": "2",
                                  "OMP_NUM_THREADS": "1"
                              },
                              capture_output=True,
                              text=True,
                              timeout=300,
                              check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        rows = [
            json.loads(line)
            for line in (self.folder /
                         "metrics.jsonl").read_text().splitlines()
        ]
        self.assertEqual([r["step"] for r in rows], [1, 2, 3, 3, 4, 5, 6, 6])
        self.assertIn("evaluation_loss", rows[-1])
        self.assertIn("lr: 0.0003", (self.folder / "config.yaml").read_text())
        self.assertTrue((self.folder / "step-00000006/.metadata").is_file())
        for rank in (0, 1):
            trace = (self.folder / f"profile/rank{rank}.json").read_text()
            self.assertTrue(json.loads(trace)["traceEvents"])

    @nightly
    def test_interrupted_under_torchrun(self) -> None:
        """Ctrl-C on the launcher, in a run that would never end."""
        run = subprocess.Popen([
            "scripts/launch.sh", "examples/configs/gpt_tiny.yaml",
            "train.steps=1000000", f"checkpoint.folder={self.folder}"
        ],
                               cwd=ROOT,
                               env=os.environ | {
                                   "PYTHON": sys.executable,
                                   "RANKS": "2"
                               },
                               stderr=subprocess.DEVNULL)
        self.addCleanup(run.kill)
        rows = self.folder / "metrics.jsonl"
        while not rows.exists() or not rows.read_text():
            self.assertIsNone(run.poll())
            time.sleep(0.1)
        run.send_signal(signal.SIGINT)
        self.assertEqual(run.wait(timeout=60), 1)
        last = json.loads(rows.read_text().splitlines()[-1])["step"]
        self.assertTrue((self.folder / f"step-{last:08d}/.metadata").is_file())
        self.assertFalse(list(self.folder.glob("*.partial")))

    @nightly
    def test_every_config(self) -> None:
        for path in CONFIGS:
            with self.subTest(path.name):
                folder = self.folder / path.stem
                self.assertEqual(
                    main([
                        str(path), "train.steps=6", "schedule.warmup_steps=0",
                        f"checkpoint.folder={folder}"
                    ] + (["schedule.decay_steps=2"] if "wsd" in
                         path.read_text() else [])), 0)
                self.assertTrue((folder / "step-00000006").is_dir())

    def test_a_config_that_is_refused(self) -> None:
        done = subprocess.run([
            sys.executable, "-m", "scaletorch.train",
            "examples/configs/gpt_tiny.yaml", "train.stepz=3"
        ],
                              cwd=ROOT,
                              capture_output=True,
                              text=True,
                              timeout=100,
                              check=False)
        self.assertEqual(done.returncode, 2)
        self.assertEqual(
            done.stderr, "examples/configs/gpt_tiny.yaml: there is no key "
            "'stepz' in train: did you mean steps?\n")


class TestRefused(unittest.TestCase):
    """Mistakes that are found before ranks start, in one line."""

    def check(self, override: str, text: str) -> None:
        path = str(ROOT / "examples/configs/gpt_tiny.yaml")
        with contextlib.redirect_stderr(io.StringIO()) as printed:
            self.assertEqual(main([path, override]), 2)
        self.assertTrue(printed.getvalue().startswith(f"{path}: {text}"),
                        printed.getvalue())

    def test_model(self) -> None:
        self.check("model.name=gtp2",
                   "there is no model 'gtp2'; did you mean gpt2")
        self.check(
            "model.overrides.dept=2", "GPT2Config of 'gpt2' has no field "
            "'dept'; did you mean depth")
        self.check("model.weights=nowhere",
                   "model.weights: there is no nowhere; name what")
        self.check("model={hugging_face: nowhere}",
                   "model.hugging_face: there is no file nowhere")

    def test_data(self) -> None:
        self.check(
            "data.kind=random_token", "data: kind 'random_token' is not "
            "known; did you mean random_tokens")
        self.check(
            "evaluation_data.sed=1",
            "evaluation_data: random_tokens has no option 'sed'; did you mean "
            "seed?")
        self.check("data.batch_size='8'",
                   "data.batch_size must be a whole number, got '8'")
        self.check("evaluation_data.shuffle=maybe",
                   "evaluation_data.shuffle must be true or false, got")

    def test_tensorboard(self) -> None:
        with mock.patch("importlib.util.find_spec", return_value=None):
            self.check("metrics.tensorboard=true",
                       "metrics.tensorboard is true, but TensorBoard is not")

    def test_cluster(self) -> None:
        self.check(
            "cluster=h100", "no cluster is called 'h100' and no such "
            "file exists; did you mean h100-")


class TestConfigs(unittest.TestCase):

    def test_there_are_some(self) -> None:
        self.assertEqual([p.stem for p in CONFIGS],
                         ["gpt_tiny", "llama_tiny", "moe_tiny", "resnet_tiny"])

    def test_models_fit_their_data(self) -> None:
        for path in CONFIGS:
            with self.subTest(path.name):
                config = load_config(path)
                model = build_model(config.model)
                batch = next(iter(data.build(config.data)))
                count = sum(p.numel() for p in model.parameters())
                self.assertLess(count, 500_000)
                model = model.to_empty(device="cpu")
                for module in model.modules():
                    reset = getattr(module, "reset_parameters", None)
                    if reset is not None:
                        reset()
                self.assertTrue(torch.isfinite(model(**batch).loss))


class TestDocumentation(unittest.TestCase):

    def test_the_reference_is_the_command_s(self) -> None:
        text = (ROOT / "doc/training.md").read_text(encoding="utf-8")
        self.assertIn(
            reference(), text, "paste what python -m scaletorch.train "
            "--help-config prints into doc/training.md")

    def test_scripts_are_shell(self) -> None:
        for name in ("launch.sh", "launch_multinode.sh", "slurm.sbatch"):
            done = subprocess.run(["bash", "-n", f"scripts/{name}"],
                                  cwd=ROOT,
                                  capture_output=True,
                                  text=True,
                                  check=False)
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
