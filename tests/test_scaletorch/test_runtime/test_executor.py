from __future__ import annotations

import copy
import dataclasses
import unittest
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from planner.capture.capture import capture
from planner.cluster import load_cluster
from planner.ir.mesh import MeshSpec
from planner.ir.plan import Plan
from planner.planning import Planning
from scaletorch import auto_parallelize, parallel
from scaletorch.runtime.call import run_call
from scaletorch.runtime.executor import Executor
from scaletorch.runtime.parameters import Feed
from scaletorch.runtime.ranks import run_ranks


class Layer(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(16, 64)
        self.down = nn.Linear(64, 16)
        self.dropout = nn.Dropout(0.3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.dropout(self.down(torch.tanh(self.up(x)).exp()))


class Deep(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return (x * x).mean()


def plan(recipe: parallel.Recipe, *, recompute: bool) -> Plan:
    torch.manual_seed(0)
    program = capture(Deep(), (torch.randn(8, 16), ))
    planning = Planning(program, load_cluster("cpu-gloo").resized(2))
    made = planning.plan_of(
        planning.from_recipe(recipe, MeshSpec(("dp", ), (2, ))))
    classes = tuple(sorted(program.classes)) if recompute else ()
    return dataclasses.replace(made, recompute=classes)


def on_two_ranks(
    made: Plan,
    use: Callable[[nn.Module, torch.Tensor], Any],
) -> list[Any]:
    torch.manual_seed(0)
    model, x = Deep().double(), torch.randn(8, 16).double()
    models = [copy.deepcopy(model) for _ in range(2)]

    def work(rank: int) -> Any:
        mesh = init_device_mesh("cpu", (2, ), mesh_dim_names=("dp", ))
        module = auto_parallelize(models[rank],
                                  mesh,
                                  cluster="cpu-gloo",
                                  example_inputs=(x, ),
                                  plan=made)
        return use(module, x)

    return run_ranks(2, work)


def gradients(module: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    loss = module(x)
    loss.backward()
    found = [loss.detach()]
    for parameter in module.parameters():
        grad = parameter.grad
        found.append(grad.full_tensor() if isinstance(grad, DTensor) else grad)
    return found


class TestRecompute(unittest.TestCase):

    def test_a_plan_with_recompute_parses_back(self) -> None:
        made = plan(parallel.fsdp(), recompute=True)
        self.assertTrue(made.recompute)
        self.assertEqual(Plan.from_yaml(made.to_yaml()), made)

    def test_an_unknown_block_is_refused(self) -> None:
        made = dataclasses.replace(plan(parallel.ddp(), recompute=False),
                                   recompute=("Layr", ))
        with self.assertRaisesRegex(ValueError, "Layr.*did you mean Layer"):
            made.resolve(capture(Deep(), (torch.randn(8, 16), )))

    def test_the_same_numbers_are_drawn_again(self) -> None:

        def seeded(call: Any, state: Any, inputs: Any, seed: int,
                   agree: Any) -> Any:
            # The ranks are threads, and whose draw comes first is open.
            del seed
            return run_call(call, state, inputs, 3, agree)

        for recipe in (parallel.ddp(), parallel.fsdp()):
            with mock.patch("scaletorch.module.run_call", seeded):
                kept, again = (on_two_ranks(plan(recipe, recompute=recompute),
                                            gradients)
                               for recompute in (False, True))
            for rank in range(2):
                for a, b in zip(kept[rank], again[rank], strict=True):
                    torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


class TestMemory(unittest.TestCase):

    def kept_bytes(self, recompute: bool) -> int:
        """What a call keeps for its backward, beside the parameters."""
        tapes = []
        run = Executor.forward

        def forward(executor: Executor, values: Any, seed: int, *, tape: Any,
                    agree: Any) -> Any:
            tapes.append(tape)
            return run(executor, values, seed, tape=tape, agree=agree)

        def use(module: nn.Module, x: torch.Tensor) -> None:
            module(x)

        with mock.patch.object(Executor, "forward", forward):
            on_two_ranks(plan(parallel.fsdp(), recompute=recompute), use)
        kept = {
            t.untyped_storage().data_ptr(): t.untyped_storage().nbytes()
            for operands, others in tapes[0].saved
            for t in (*operands, *others) if t is not None
        }
        return sum(kept.values())

    def test_no_gathered_parameter_is_kept(self) -> None:
        # Four layers of 4 samples: in 16, after tanh and exp 64 + 64,
        # a mask of 16; the parameters of a layer alone are 2000 numbers.
        self.assertLess(self.kept_bytes(False), 8 * 4 * 4 * (64 * 3 + 16 * 3))

    def test_recomputed_blocks_keep_their_operands_only(self) -> None:
        self.assertLessEqual(self.kept_bytes(True), 8 * 4 * 16 * (4 + 2))

    def test_gathered_parameters_die_after_their_unit(self) -> None:
        alive: dict[int, list[int]] = {}
        arrive = Feed.arrive

        def counted(feed: Feed, number: int) -> Any:
            seen, counts = feeds.setdefault(id(feed), ([], []))
            values = arrive(feed, number)
            counts.append(sum(r() is not None for r in seen))
            seen += [weakref.ref(v) for v in values.values()]
            alive[id(feed)] = counts
            return values

        feeds: dict[int, tuple[list[Any], list[int]]] = {}
        init = Executor.__init__

        def small(executor: Executor, *args: Any, **kwargs: Any) -> None:
            init(executor, *args, **kwargs, bucket_bytes=0)

        with mock.patch.object(Feed, "arrive", counted), \
                mock.patch.object(Executor, "__init__", small):
            on_two_ranks(plan(parallel.fsdp(), recompute=False), gradients)
        self.assertTrue(all(len(seen) >= 8 for seen, _ in feeds.values()))
        self.assertEqual({c for counts in alive.values() for c in counts}, {0})


class Words(nn.Module):

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(4, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.words(tokens)
        for layer in self.layers:
            x = layer(x).relu()
        return x.mean()


class TestErrors(unittest.TestCase):

    def test_they_name_the_block(self) -> None:

        def work(rank: int) -> list[str]:
            del rank
            module = auto_parallelize(Words(),
                                      1,
                                      cluster="cpu-gloo",
                                      example_inputs=(torch.tensor([0]), ))
            with self.assertRaises(IndexError) as caught:
                module(torch.tensor([7]))
            return caught.exception.__notes__

        (notes, ) = run_ranks(1, work)
        self.assertEqual(len(notes), 1)
        self.assertRegex(notes[0], "^in the forward pass of (words|glue)")


if __name__ == "__main__":
    unittest.main()
