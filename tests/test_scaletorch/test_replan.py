"""From one mesh to another: what moves is what ranks lack, and runs go on.
"""

from __future__ import annotations

import math
import tempfile
import unittest
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.checkpoint.state_dict import (get_state_dict,
                                                     set_state_dict)
from torch.distributed.tensor import DTensor

import scaletorch
from planner.ir.mesh import MeshSpec
from scaletorch import parallel
from scaletorch.runtime.ranks import run_ranks
from tests.test_scaletorch.small import (Mlp, Normed, TiedLM, batch, images,
                                         seeded, spread, whole)

_OLD = {"dp": 2, "tp": 2}
_OLD_PLAN = parallel.fsdp() * parallel.megatron()
_STAGES = {"pp": 2, "dp": 2}
_PIPELINE = parallel.pipeline(microbatches=2) * parallel.fsdp()


def _mesh(axes: dict[str, int]) -> MeshSpec:
    return MeshSpec(tuple(axes), tuple(axes.values()))


def _numbered() -> nn.Module:
    """Every element of a parameter has a value of its own."""
    model = seeded(Mlp)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel()).view_as(p))
    return model


def _held(axes: dict[str, int], plan: Any) -> list[dict[str, set[float]]]:
    """The elements of each parameter that each rank holds."""
    model = _numbered()

    def work(rank: int) -> dict[str, set[float]]:
        del rank
        module = spread(model, batch(), axes, plan)
        return {
            n: set(p.to_local().flatten().tolist())
            for n, p in module.named_parameters() if isinstance(p, DTensor)
        }

    return run_ranks(math.prod(axes.values()), work)


def _plan(axes: dict[str, int], recipe: Any) -> scaletorch.Plan:

    def work(rank: int) -> scaletorch.Plan:
        del rank
        return spread(seeded(Mlp), batch(), axes, recipe).plan

    return run_ranks(math.prod(axes.values()), work)[0]


def _replanned(plan: Any, axes: dict[str, int],
               **options: Any) -> scaletorch.Replanned:
    return scaletorch.replan(plan,
                             _mesh(axes),
                             model=seeded(Mlp),
                             example_inputs=batch(),
                             cluster="cpu-gloo",
                             **options)


class TestMoves(unittest.TestCase):

    def test_are_what_ranks_lack(self) -> None:
        for old_axes, recipe, new_axes in ((_OLD, _OLD_PLAN, {
                "dp": 2
        }), (_STAGES, _PIPELINE, {
                "tp": 4
        })):
            with self.subTest(old=old_axes, new=new_axes):
                old = _plan(old_axes, recipe)
                new = _replanned(old, new_axes, optimizer="sgd")
                before = _held(old_axes, old)
                after = _held(new_axes, new.plan)
                none: dict[str, set[float]] = {}
                lacking = [{
                    name: len(values - have.get(name, set()))
                    for name, values in want.items()
                } for want, have in zip(after, before + [none] * 4)]
                self.assertEqual(
                    new.moves.received_bytes,
                    tuple(8 * sum(each.values()) for each in lacking))
                for move in new.moves.parameters:
                    self.assertEqual(
                        move.size_bytes,
                        8 * sum(each.get(move.name, 0) for each in lacking))

    def test_optimizer_state_moves_too(self) -> None:
        plan = _plan({"dp": 2}, parallel.fsdp())
        bare, full = (_replanned(plan, {
            "dp": 4
        }, optimizer=o).moves.total_bytes for o in ("sgd", "sgd-momentum"))
        self.assertEqual(full, 2 * bare)

    def test_nothing_moves_to_the_same_plan(self) -> None:
        plan = _plan({"tp": 2}, None)
        moves = _replanned(plan, {"tp": 2}).moves
        self.assertEqual((moves.parameters, moves.total_bytes), ((), 0))


class TestReplan(unittest.TestCase):

    def test_text(self) -> None:
        text = str(_replanned(_plan(_STAGES, _PIPELINE), {"tp": 2}))
        self.assertIn(
            "Mlp: from pp=2 x dp=2 to tp=2\n"
            "as before: 8 samples a step", text)
        self.assertRegex(
            text, r"\n  up.weight: S\(0\) over dp on pp 0 -> .*, "
            r"[\d.]+ .*B\n")

    def test_a_module_knows_the_rest(self) -> None:

        def work(rank: int) -> tuple[MeshSpec, int]:
            del rank
            module = spread(seeded(Mlp), batch(), _OLD, _OLD_PLAN)
            found = scaletorch.replan(module, 8)
            return found.plan.mesh, found.work.count

        mesh, rows = run_ranks(4, work)[0]
        self.assertEqual((mesh.world_size, rows), (8, 8))

    def test_statistics_of_micro_batches_are_kept(self) -> None:

        def old(rank: int) -> scaletorch.Plan:
            del rank
            recipe = parallel.pipeline(microbatches=2,
                                       batch_statistics="microbatch")
            return spread(seeded(Normed), images(), {"pp": 2}, recipe).plan

        plan = run_ranks(2, old)[0]
        options = {
            "model": seeded(Normed),
            "example_inputs": images(),
            "cluster": "cpu-gloo"
        }
        found = scaletorch.replan(plan, _mesh(_STAGES), **options)
        self.assertEqual(
            found.plan.pipeline and (found.plan.pipeline.microbatches,
                                     found.plan.pipeline.batch_statistics),
            (2, "microbatch"))
        with self.assertRaisesRegex(
                scaletorch.InfeasiblePlan,
                r"each of its 2 micro-batches \(1f1b\), and no such pipeline "
                r"fits dp=4; give a mesh with an axis 'pp'"):
            scaletorch.replan(plan, 4, **options)

    def test_mistakes(self) -> None:
        plan = _plan({"dp": 2}, parallel.fsdp())
        with self.assertRaisesRegex(TypeError, "replan needs model="):
            scaletorch.replan(plan, 4)
        with self.assertRaisesRegex(scaletorch.LayoutError, "of Mlp"):
            scaletorch.replan(plan,
                              2,
                              model=seeded(TiedLM),
                              example_inputs=(torch.zeros(4, 6).long(), ),
                              cluster="cpu-gloo")
        for given, mesh, error, text in (("no.yaml", 4, ValueError,
                                          "there is no plan 'no.yaml'"),
                                         (None, 4, TypeError,
                                          "the path of one, got NoneType"),
                                         (plan, "dp=2", TypeError,
                                          "a number of devices, got str"),
                                         (plan, 0, ValueError,
                                          "0 devices: give at least 1")):
            with self.assertRaisesRegex(error, text):
                scaletorch.replan(given, mesh, model=seeded(Mlp))


def _steps(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    for _ in range(2):
        model(*batch())["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()


def _adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=1e-2)


class TestRunsGoOn(unittest.TestCase):

    def test_equal_to_one_device(self) -> None:
        """Two steps under the old plan, two under the new: four alone."""
        single = seeded(Mlp)
        optimizer = _adamw(single)
        _steps(single, optimizer)
        _steps(single, optimizer)
        with tempfile.TemporaryDirectory() as folder:
            old = self._begun(folder, _OLD, _OLD_PLAN)
            new = _replanned(old, {"dp": 2})
            for found in self._resumed(folder, {"dp": 2}, new.plan):
                for name, value in single.state_dict().items():
                    torch.testing.assert_close(found[name], value)

    @staticmethod
    def _begun(folder: str, axes: dict[str, int],
               recipe: Any) -> scaletorch.Plan:

        def work(rank: int) -> scaletorch.Plan:
            del rank
            module = spread(seeded(Mlp), batch(), axes, recipe)
            optimizer = _adamw(module)
            _steps(module, optimizer)
            model, state = get_state_dict(module, optimizer)
            dcp.save({
                "model": model,
                "optimizer": state
            },
                     checkpoint_id=folder)
            return module.plan

        return run_ranks(math.prod(axes.values()), work)[0]

    @staticmethod
    def _resumed(folder: str, axes: dict[str, int],
                 plan: scaletorch.Plan) -> list[dict[str, torch.Tensor]]:

        def work(rank: int) -> dict[str, torch.Tensor]:
            del rank
            module = spread(seeded(Mlp), batch(), axes, plan)
            optimizer = _adamw(module)
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
            _steps(module, optimizer)
            return {n: whole(t) for n, t in module.state_dict().items()}

        return run_ranks(math.prod(axes.values()), work)


if __name__ == "__main__":
    unittest.main()
