"""Plans in real processes: equality, checkpoints, and faults."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import torch

from tests.e2e import real_ranks
from tests.launch import LaunchError, launch
from tests.markers import nightly
from tests.tree import ROOT


class TestEquality(unittest.TestCase):

    def check(self, name: str, plan: str, **axes: int) -> None:
        world_size = 1
        for size in axes.values():
            world_size *= size
        for rank, (entry, error) in enumerate(
                launch(world_size, real_ranks.worst_difference, name, plan,
                       axes)):
            # Parts of Hugging Face models compute in float32.
            self.assertLess(error, 1e-4, f"{entry} on rank {rank}")

    def test_gpt2_auto(self) -> None:
        self.check("gpt2", "auto", dp=2)

    def test_llama_on_two_axes(self) -> None:
        self.check("llama", "fsdp * megatron-sp", dp=2, tp=2)

    def test_llama_ring(self) -> None:
        self.check("llama", "ring", cp=2)

    @nightly
    def test_llama_fsdp(self) -> None:
        self.check("llama", "fsdp", dp=2)

    def test_resnet_with_batch_norm(self) -> None:
        self.check("resnet", "ddp", dp=2)

    def test_mixtral_with_dispatched_tokens(self) -> None:
        self.check("mixtral", "expert", ep=2)

    def test_torchrun(self) -> None:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone",
            "--nproc-per-node", "2", "--no-python", sys.executable, "-c",
            "import sys; from tests.e2e.real_ranks import main; "
            "main(sys.argv[1])"
        ]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([*command, folder],
                                  cwd=ROOT,
                                  timeout=120,
                                  capture_output=True,
                                  text=True)
            self.assertEqual(done.returncode, 0, done.stderr[-3000:])
            for rank in range(2):
                text = (Path(folder) / f"rank{rank}").read_text()
                self.assertLess(float(text.split()[1]), 1e-4)


class TestCheckpoint(unittest.TestCase):

    def test_saved_on_four_loaded_on_two(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            saved = launch(4, real_ranks.save, folder)
            for state in launch(2, real_ranks.load, folder):
                for name, value in saved[0].items():
                    self.assertTrue(torch.equal(state[name], value), name)


class TestFaults(unittest.TestCase):

    def test_a_killed_rank(self) -> None:
        start = time.monotonic()
        with self.assertRaises(LaunchError) as caught:
            launch(2, real_ranks.die_in_the_middle)
        self.assertLess(time.monotonic() - start, 55.0)
        self.assertEqual(caught.exception.failures[1], "died")
        self.assertIn("Error", caught.exception.failures[0])

    def test_an_error_on_one_rank_reaches_all(self) -> None:
        told = {
            "inputs": ("planning failed on rank 1: TypeError", "do not fit"),
            "model": ("planning failed on rank 1: ", "cannot capture Mlp"),
            "shape": ("ranks call the model with different inputs", ) * 2,
            "arguments": ("do not fit Mlp", "different inputs"),
            "mode": ("ranks call the model with different inputs", ) * 2,
            "grad mode": ("in the same mode", ) * 2,
        }
        for rank, found in enumerate(launch(2, real_ranks.fail_alone)):
            self.assertEqual(found.pop("after all"), "")
            for what, text in found.items():
                self.assertIn(told[what][rank], text, what)


class TestMeshesAndDraws(unittest.TestCase):

    def test_a_mesh_of_some_ranks(self) -> None:
        found = launch(3, real_ranks.partial_mesh)
        self.assertIn("rank 0 is not in the mesh [1, 2]", found[0])
        self.assertEqual(found[1:], ["True", "True"])

    def test_the_seed_governs_dropout(self) -> None:
        (first, second), other_rank = launch(2, real_ranks.draws, 1)
        (again, _), _ = launch(2, real_ranks.draws, 1)
        (different, _), _ = launch(2, real_ranks.draws, 2)
        self.assertTrue(torch.equal(first, other_rank[0]))
        self.assertTrue(torch.equal(first, again))
        self.assertFalse(torch.equal(first, second))
        self.assertFalse(torch.equal(first, different))


if __name__ == "__main__":
    unittest.main()
