"""Checkpoints: safetensors by slices, and DCP under another plan."""

from __future__ import annotations

import json
import math
import tempfile
import unittest
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn
from torch.distributed.checkpoint.state_dict import (get_state_dict,
                                                     set_state_dict)

import scaletorch
from scaletorch import checkpoint, parallel
from scaletorch.runtime.ranks import run_ranks
from tests.model_zoo import MODELS
from tests.test_scaletorch.small import (Mlp, TiedLM, batch, ids, seeded,
                                         spread, whole)

TWO = {"dp": 2, "tp": 2}
PLAN = parallel.fsdp() * parallel.megatron()


def other(build: Any = Mlp) -> nn.Module:
    torch.manual_seed(7)
    return build().double()


def state_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: whole(t) for n, t in model.state_dict().items()}


class TestCheckpoint(unittest.TestCase):

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def check(self, path: Path, axes: dict[str, int], plan: Any) -> None:

        def work(rank: int) -> dict[str, torch.Tensor]:
            del rank
            module = spread(seeded(Mlp), batch(), axes, plan)
            scaletorch.load_checkpoint(module, path)
            return state_of(module)

        for found in run_ranks(math.prod(axes.values()), work):
            for name, value in other().state_dict().items():
                self.assertTrue(torch.equal(found[name], value), name)

    def test_one_file_into_two_axes(self) -> None:
        save_file(other().state_dict(), self.folder / "model.safetensors")
        self.check(self.folder / "model.safetensors", TWO, PLAN)

    def test_an_index_of_files(self) -> None:
        state = other().state_dict()
        names = {n: f"part{i % 2}.safetensors" for i, n in enumerate(state)}
        for file in sorted(set(names.values())):
            save_file({
                n: t
                for n, t in state.items() if names[n] == file
            }, self.folder / file)
        index = self.folder / "model.safetensors.index.json"
        index.write_text(json.dumps({"weight_map": names}))
        self.check(self.folder, {"dp": 2}, parallel.fsdp())

    def test_dcp_across_plans(self) -> None:
        # Built once: threads share the generator that is seeded.
        model = other()

        def save(rank: int) -> None:
            del rank
            module = spread(model, batch(), TWO, PLAN)
            dcp.save(module.state_dict(), checkpoint_id=self.folder)

        run_ranks(4, save)
        self.check(self.folder, {"dp": 2}, parallel.fsdp())

    def test_dcp_misfits(self) -> None:
        dcp.save(
            {
                "up.weight": torch.zeros(3, 8),
                "optimizer:up.weight:step": torch.zeros(1)
            },
            checkpoint_id=self.folder,
            no_dist=True)

        def work(rank: int) -> list[str]:
            del rank
            module = spread(seeded(Mlp), batch(), {"dp": 2}, parallel.fsdp())
            texts = []
            for strict in (True, False):
                try:
                    scaletorch.load_checkpoint(module,
                                               self.folder,
                                               strict=strict)
                except (KeyError, ValueError) as error:
                    texts.append(str(error))
            return texts

        missing, shape = run_ranks(2, work)[1]
        self.assertIn("does not fit the model: missing ", missing)
        self.assertNotIn("up.weight,", missing)
        self.assertIn("up.weight has the shape (3, 8) in ", shape)

    def test_a_rank_reads_its_slices(self) -> None:
        save_file(other().state_dict(), self.folder / "model.safetensors")
        read: list[int] = []
        original = checkpoint.local_slices

        def recording(shape: Any, *rest: Any) -> Any:
            found = original(shape, *rest)
            read.append(math.prod(s.stop - s.start for s in found))
            return found

        with mock.patch.object(checkpoint, "local_slices", recording):
            self.check(self.folder, {"dp": 2}, parallel.fsdp())
        whole_size = sum(p.numel() for p in other().parameters())
        self.assertEqual(sum(read), whole_size)

    def test_ties_and_misfits(self) -> None:
        state = dict(other(TiedLM).state_dict())
        del state["head.weight"]
        save_file(state, self.folder / "tied.safetensors")
        save_file({
            "up.weight": torch.zeros(3, 8),
            "rest": torch.zeros(1)
        }, self.folder / "odd.safetensors")

        def work(rank: int) -> list[str]:
            del rank
            module = spread(seeded(TiedLM), (ids(), ), {"dp": 2},
                            parallel.fsdp())
            scaletorch.load_checkpoint(module,
                                       self.folder / "tied.safetensors")
            assert torch.equal(whole(module.get_parameter("head.weight")),
                               state["embed.weight"])
            module = spread(seeded(Mlp), batch(), {"dp": 2}, parallel.fsdp())
            texts = []
            for path, strict in (("odd.safetensors", True), ("odd.safetensors",
                                                             False),
                                 ("none.safetensors", True)):
                try:
                    scaletorch.load_checkpoint(module,
                                               self.folder / path,
                                               strict=strict)
                except (KeyError, ValueError, FileNotFoundError) as error:
                    texts.append(str(error))
            return texts

        for texts in run_ranks(2, work):
            self.assertIn(
                "missing up.bias, norm.weight, norm.bias and 2 "
                "more; not in the model rest", texts[0])
            self.assertIn("up.weight has the shape (3, 8)", texts[1])
            self.assertIn("holds no checkpoint", texts[2])


def steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        model(*batch())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()


class TestResume(unittest.TestCase):

    def test_hugging_face_into_a_model_on_meta(self) -> None:
        saved, inputs, _ = MODELS["gpt2"]()
        with torch.device("meta"):
            model = MODELS["gpt2"]()[0]
        with tempfile.TemporaryDirectory() as folder:
            saved.save_pretrained(folder)

            def work(rank: int) -> float:
                del rank
                module = spread(model, inputs, {"dp": 2}, parallel.fsdp())
                scaletorch.load_checkpoint(module, folder)
                return float(module(**inputs).loss.detach())

            expected = float(saved(**inputs).loss.detach())
            for loss in run_ranks(2, work):
                self.assertAlmostEqual(loss, expected, places=5)

    def test_optimizer_state_moves_to_another_mesh(self) -> None:
        """Two steps on four ranks, two on two: four steps alone."""
        single = seeded(Mlp)
        optimizer = torch.optim.AdamW(single.parameters(), lr=1e-2)
        steps(single, optimizer)
        steps(single, optimizer)
        with tempfile.TemporaryDirectory() as folder:

            def begin(rank: int) -> None:
                del rank
                module = spread(seeded(Mlp), batch(), TWO, PLAN)
                optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
                steps(module, optimizer)
                model, state = get_state_dict(module, optimizer)
                dcp.save({
                    "model": model,
                    "optimizer": state
                },
                         checkpoint_id=folder)

            def resume(rank: int) -> dict[str, torch.Tensor]:
                del rank
                module = spread(seeded(Mlp), batch(), {"dp": 2},
                                parallel.fsdp())
                optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
                model, state = get_state_dict(module, optimizer)
                dcp.load({
                    "model": model,
                    "optimizer": state
                },
                         checkpoint_id=folder)
                set_state_dict(module,
                               optimizer,
                               model_state_dict=model,
                               optim_state_dict=state)
                steps(module, optimizer)
                return state_of(module)

            run_ranks(4, begin)
            for found in run_ranks(2, resume):
                for name, value in single.state_dict().items():
                    torch.testing.assert_close(found[name], value)


if __name__ == "__main__":
    unittest.main()
