"""The event model of whole steps, and the buckets of parameters."""

from __future__ import annotations

import dataclasses
import functools
import unittest

import torch
from torch import nn

from planner.candidate import Candidate
from planner.capture.capture import capture
from planner.cluster.spec import ClusterSpec, Coefficient
from planner.cost.conversion import ConversionCost
from planner.cost.state_moves import Bucket, StateMoves
from planner.cost.timeline import Streams, run
from planner.cost.ways import Writer, exposed_buckets
from planner.ir.mesh import MeshSpec
from planner.planning import Planning
from planner.recipes import RECIPES
from tests.test_planner.test_planning.programs import slow_cluster

_WIDTH, _LAYERS = 16, 3


@functools.cache
def _planning(
    bandwidth_bytes_per_s: float = 1e9,
    coefficients: tuple[tuple[str, float], ...] = ()
) -> Planning:
    layers = [nn.Linear(_WIDTH, _WIDTH, bias=False) for _ in range(_LAYERS)]
    program = capture(nn.Sequential(*layers),
                      (torch.zeros(64, _WIDTH), torch.zeros(64, _WIDTH)),
                      loss_fn=nn.functional.mse_loss)
    return Planning(
        program, _with(slow_cluster(4, bandwidth_bytes_per_s), coefficients))


def _with(cluster: ClusterSpec, coefficients: tuple[tuple[str, float],
                                                    ...]) -> ClusterSpec:
    own = tuple(
        Coefficient(name=n, value=v, source="made up")
        for n, v in coefficients)
    return dataclasses.replace(cluster,
                               device=dataclasses.replace(cluster.device,
                                                          coefficients=own))


def _candidate(planning: Planning, recipe: str, axis: str) -> Candidate:
    return planning.from_recipe(RECIPES[recipe](), MeshSpec((axis, ), (4, )))


class TestBuckets(unittest.TestCase):

    def _moves(self, recipe: str, bucket_bytes: int) -> StateMoves:
        planning = _planning()
        candidate = _candidate(planning, recipe, "dp")
        cost: ConversionCost = planning.tables(candidate.layout.mesh).cost
        return StateMoves(planning.program,
                          candidate.layout,
                          cost,
                          bucket_bytes=bucket_bytes)

    def test_what_stays_on_a_rank_waits_for_no_message(self) -> None:
        sent, local = (Bucket(what="parameters",
                              kind=kind,
                              axis=0,
                              size_bytes=1.0,
                              count=1,
                              time_s=time_s,
                              is_local=kind == "mask")
                       for kind, time_s in (("all_gather", 5.0), ("mask",
                                                                  1.0)))
        writer = Writer()
        first = writer.start(sent, "forward")
        writer.wait(writer.start(local, "forward"))
        writer.compute(2.0)
        writer.wait(first)
        found = run(writer.actions, Streams())
        self.assertEqual((found.time_s, found.exposed_s), (5.0, {0: 2.0}))
        shown = exposed_buckets(writer.buckets, found.exposed_s,
                                MeshSpec(("tp", ), (4, )))
        self.assertEqual([e.exposed_s for e in shown], [2.0, 1.0])

    def test_gradients_travel_together(self) -> None:
        own = _WIDTH * _WIDTH * 4
        *sent, left = self._moves("ddp", 2**20).reductions()
        self.assertFalse(any(sent))
        (bucket, ) = left
        self.assertEqual((bucket.kind, bucket.count, bucket.size_bytes),
                         ("all_reduce", _LAYERS, _LAYERS * own))

    def test_full_buckets_are_sent_in_the_backward_s_order(self) -> None:
        own = _WIDTH * _WIDTH * 4
        sent = self._moves("ddp", own).reductions()
        self.assertEqual([b.count for place in sent for b in place],
                         [1] * _LAYERS)
        self.assertFalse(sent[-1])

    def test_parameters_are_gathered_ahead_and_again(self) -> None:
        own = _WIDTH * _WIDTH * 4
        moves = self._moves("fsdp", own)
        units = moves.gathers()
        self.assertEqual(sum(b.count for u in units for b in u.buckets),
                         _LAYERS)
        again = [u.first for u in moves.gathers_again()]
        self.assertEqual(again, sorted(again, reverse=True))
        self.assertTrue(
            all(b.kind == "all_gather" for u in units for b in u.buckets))
        scattered = moves.reductions()
        self.assertEqual({b.kind
                          for p in scattered
                          for b in p}, {"reduce_scatter"})


class TestStep(unittest.TestCase):

    def test_never_more_than_the_sum_where_nothing_interferes(self) -> None:
        for recipe, axis in (("ddp", "dp"), ("megatron", "tp")):
            found = _candidate(_planning(), recipe, axis).price
            assert found.step is not None
            self.assertLessEqual(found.step.time_s, found.time_s * (1 + 1e-9))
            self.assertGreaterEqual(found.step.time_s, found.compute_s)

    def test_parts_add_up(self) -> None:
        price = _candidate(_planning(), "megatron", "tp").price
        assert price.step is not None
        rest = (price.step.time_s - price.compute_s - price.step.exposed_s -
                price.step.straggling_s - price.step.interference_s -
                price.step.around_s)
        self.assertGreaterEqual(rest, -1e-12)

    def test_collectives_are_known_by_name(self) -> None:
        price = _candidate(_planning(), "ddp", "dp").price
        assert price.step is not None
        named = {(e.where, e.kind, e.axis): e for e in price.step.exposures}
        gradients = named["gradients", "all_reduce", "dp"]
        self.assertEqual(gradients.value, f"{_LAYERS} packed")
        self.assertGreater(gradients.exposed_s, 0)
        self.assertLessEqual(gradients.exposed_s,
                             gradients.time_s * (1 + 1e-9))
        self.assertEqual(price.step.by_axis()["dp"][1], price.step.exposed_s)

    def test_faster_links_are_never_slower(self) -> None:
        for recipe, axis in (("ddp", "dp"), ("fsdp", "dp"), ("megatron",
                                                             "tp")):
            times = [
                _candidate(_planning(rate), recipe, axis).time_s
                for rate in (1e7, 1e8, 1e9, 1e10)
            ]
            self.assertEqual(times, sorted(times, reverse=True))

    def test_interference_and_stragglers_take_time(self) -> None:
        plain = _candidate(_planning(), "megatron", "tp")
        for coefficients in ((("interference", 1.0), ), (("straggling", 0.5),
                                                         ("straggling_limit_s",
                                                          1e-3)), (("call_s",
                                                                    1e-3), )):
            other = _candidate(_planning(1e9, coefficients), "megatron", "tp")
            self.assertGreaterEqual(other.time_s, plain.time_s)
        assert other.price.step is not None
        self.assertGreaterEqual(other.price.step.around_s, 1e-3)

    def test_the_host_launches_every_kernel(self) -> None:
        # Each layer has a product, its two gradients and a sum over tp for
        # every second one; the loss a kernel each way, and it divides what
        # it takes. Nothing on the device takes as long as one launch.
        coefficients = (("dispatch_s", 1.0), ("queue_order", 20.0))
        slow = _candidate(_planning(1e9, coefficients), "ddp", "dp").price
        quick = _candidate(_planning(), "ddp", "dp").price
        assert slow.step is not None and quick.step is not None
        launches = sum(call.work.forward_kernels + call.work.backward_kernels
                       for call in _planning().facts.known_calls["Sequential"])
        self.assertGreaterEqual(slow.step.time_s, launches)
        self.assertLess(slow.step.time_s, launches + 4)
        self.assertAlmostEqual(slow.step.host_s + quick.step.time_s,
                               slow.step.time_s,
                               places=3)
        self.assertEqual(quick.step.host_s, 0)

    def test_the_search_knows_what_waves_take(self) -> None:
        waves = (("wave_elements", 500.0), )
        mesh = MeshSpec(("dp", "tp"), (2, 2))
        for chosen in (RECIPES["ddp"]() * RECIPES["megatron"](),
                       RECIPES["fsdp"]() * RECIPES["megatron"](True)):
            found = _planning(1e9, waves).from_recipe(chosen, mesh)
            self.assertGreater(
                found.price.compute_s,
                _planning().from_recipe(chosen, mesh).price.compute_s)
        free, *_ = _planning(1e9, waves).candidates([mesh])
        self.assertLessEqual(free.bound_s, free.bounded_s * (1 + 1e-9))

    def test_the_optimizer_counts(self) -> None:
        candidate = _candidate(_planning(), "ddp", "dp")
        size = _LAYERS * _WIDTH * _WIDTH * 4
        self.assertEqual(candidate.memory.trained, size)
        # 7 passes at 10 GB/s, and one launch of 10 ns.
        self.assertAlmostEqual(candidate.optimizer_s, 7 * size / 1e10 + 1e-8)
        self.assertEqual(candidate.time_s,
                         candidate.run_s + candidate.optimizer_s)
        sharded = _candidate(_planning(), "fsdp", "dp")
        self.assertEqual(sharded.memory.trained, size // 4)


if __name__ == "__main__":
    unittest.main()
