from __future__ import annotations

import dataclasses
import unittest
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist

from passes.collectives import AxisRef
from passes.shard_parameters import ParameterMove, parameter_move
from planner.ir.layout import Layout, R, S, V
from planner.rules.registry import TensorSpec
from scaletorch.runtime.groups import Groups
from scaletorch.runtime.parameters import Feed, plan_units
from scaletorch.runtime.ranks import run_ranks
from scaletorch.runtime.reduction import Reducer, Route


def movement(name: str,
             shape: tuple[int, ...],
             rest: Layout,
             *,
             regather: bool = True) -> ParameterMove:
    spec = TensorSpec(shape=shape, dtype=torch.float64, requires_grad=True)
    made = parameter_move(name, spec, rest, (V, ), regather=regather)
    assert made is not None
    return made


class TestPlanUnits(unittest.TestCase):

    def setUp(self) -> None:
        self.moves = {n: movement(n, (4, 4), (S(0), )) for n in "abc"}

    def test_steps_join_up_to_the_limit(self) -> None:
        steps = [(i, {n: m}) for i, (n, m) in enumerate(self.moves.items())]
        units = plan_units(steps, 2 * 128)
        self.assertEqual([u.first for u in units], [0, 2])
        self.assertEqual([[list(b.moves) for b in u.buckets] for u in units],
                         [[["a", "b"]], [["c"]]])

    def test_what_is_gathered_again_dies_with_its_last_reader(self) -> None:
        a, b = self.moves["a"], self.moves["b"]
        steps = [(0, {"a": a}), (1, {"a": a, "b": b}), (2, {"a": a})]
        units = plan_units(steps, 256)
        self.assertEqual([dict(u.dies) for u in units], [{"a": 2, "b": 1}])
        units = plan_units(steps, 0)
        self.assertEqual([dict(u.dies) for u in units], [{
            "a": 0
        }, {
            "a": 1,
            "b": 1
        }, {
            "a": 2
        }])

    def test_what_is_kept_is_gathered_once(self) -> None:
        kept = dataclasses.replace(self.moves["a"], regather=False)
        units = plan_units([(0, {"a": kept}), (3, {"a": kept})], 0)
        self.assertEqual([u.first for u in units], [0])
        self.assertEqual(dict(units[0].dies), {})


def groups(rank: int) -> Groups:
    world = dist.group.WORLD
    axis = AxisRef(name=world.group_name, size=2, coordinate=rank)
    return Groups.of(["dp"], [axis], [world])


class TestMovements(unittest.TestCase):
    """On two ranks, against the whole tensors."""

    shapes = {
        "rows": ((4, 3), (S(0), )),
        "columns": ((3, 4), (S(1), )),
        "two columns": ((3, 2), (S(1), )),
        "two in the middle": ((3, 2, 5), (S(1), )),
        "pair": ((2, ), (S(0), )),
        "nothing": ((1, 0, 2), (S(2), )),
        "vector": ((6, ), (S(0), )),
        "whole": ((2, 5), (R, ))
    }

    def test_gathered_parameters_are_whole(self) -> None:
        torch.manual_seed(0)
        whole = {
            n: torch.randn(s).double()
            for n, (s, _) in self.shapes.items() if n != "whole"
        }
        moves = {n: movement(n, *self.shapes[n]) for n in whole}

        def work(rank: int) -> dict[str, torch.Tensor]:
            local = {
                n: x.chunk(2, self.shapes[n][1][0].dim)[rank]
                for n, x in whole.items()
            }
            feed = Feed(plan_units([(0, moves)], 1 << 20), local, groups(rank))
            return feed.arrive(0)

        for found in run_ranks(2, work):
            for name, x in whole.items():
                self.assertTrue(torch.equal(found[name], x), name)
                self.assertTrue(found[name].is_contiguous(), name)

    def test_gradients_are_summed_and_cut(self) -> None:
        torch.manual_seed(0)
        grads = {
            n: torch.randn(2, *s).double()
            for n, (s, _) in self.shapes.items()
        }
        routes = [Route.of(movement(n, *self.shapes[n])) for n in grads]

        def work(rank: int) -> list[dict[str, torch.Tensor]]:
            found = []
            for limit in (0, 1 << 20):
                reducer = Reducer(groups(rank), limit)
                for route in routes:
                    reducer.add(route, grads[route.source][rank])
                found.append(dict(reducer.finish()))
            return found

        for rank, results in enumerate(run_ranks(2, work)):
            for found in results:
                for name, (_, (rest, )) in self.shapes.items():
                    wanted = grads[name].sum(0)
                    if rest.is_shard:
                        wanted = wanted.chunk(2, rest.dim)[rank]
                    self.assertTrue(torch.equal(found[name], wanted), name)

    def test_memory_of_buffers_is_given_back_whoever_holds_them(self) -> None:
        """As a backend's thread does, until it has its turn."""
        names = ("rows", "columns")
        moves = {n: movement(n, *self.shapes[n]) for n in names}
        gathering = dist.all_gather_single
        scattering = dist.reduce_scatter_single
        gathered: list[torch.Tensor] = []
        scattered: list[torch.Tensor] = []

        def gather(whole: torch.Tensor, sent: torch.Tensor,
                   **options: Any) -> Any:
            gathered.extend((whole, sent))
            return gathering(whole, sent, **options)

        def scatter(out: torch.Tensor, sent: torch.Tensor,
                    **options: Any) -> Any:
            scattered.append(sent)
            return scattering(out, sent, **options)

        def work(rank: int) -> None:
            local = {n: torch.ones(6).double() for n in names}
            local["rows"] = local["rows"].view(2, 3)
            local["columns"] = local["columns"].view(3, 2)
            Feed(plan_units([(0, moves)], 1 << 20), local,
                 groups(rank)).arrive(0)
            reducer = Reducer(groups(rank), 1 << 20)
            for name, move in moves.items():
                reducer.add(Route.of(move), torch.ones(self.shapes[name][0]))
            reducer.finish()

        with mock.patch.multiple(dist,
                                 all_gather_single=gather,
                                 reduce_scatter_single=scatter):
            run_ranks(2, work)
        self.assertEqual((len(gathered), len(scattered)), (4, 2))
        for buffer in (*gathered, *scattered):
            self.assertEqual(buffer.untyped_storage().nbytes(), 0)

    def test_two_uses_of_a_parameter_are_one_summand(self) -> None:
        route = Route.of(movement("x", (4, ), (R, )))

        def work(rank: int) -> list[tuple[str, torch.Tensor]]:
            reducer = Reducer(groups(rank), 1 << 20)
            for _ in range(2):
                reducer.add(route, torch.ones(4).double())
            return reducer.finish()

        for (name, grad), in run_ranks(2, work):
            self.assertEqual((name, grad.tolist()), ("x", [4.0] * 4))


if __name__ == "__main__":
    unittest.main()
