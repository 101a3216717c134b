"""Branch and bound finds what trying everything finds."""

from __future__ import annotations

import dataclasses
import itertools
import unittest
from unittest import mock

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.cluster.spec import ClusterSpec
from planner.joint.branch import Branching
from planner.joint.links import Links
from planner.joint.score import CellScores
from planner.joint.space import AXES, Cell, Point, Space
from tests.test_planner.test_joint.made_up import (MadeUp, Sum, mixed_nodes,
                                                   scores_on, search,
                                                   two_nodes)

TIMES = st.floats(1e-4, 1e-2)
SIZES = st.floats(1e3, 1e8)


@st.composite
def programs(draw: st.DrawFn) -> MadeUp:
    count = draw(st.integers(1, 4))

    def row(values: st.SearchStrategy[float]) -> tuple[float, ...]:
        return tuple(draw(st.lists(values, min_size=count, max_size=count)))

    return MadeUp(forward_s=row(TIMES),
                  input_s=row(TIMES),
                  weight_s=row(TIMES),
                  parameter_bytes=row(SIZES),
                  saved_bytes=row(SIZES),
                  losses=draw(st.tuples(*[st.floats(1.0, 2.5)] * 3)),
                  start_s=draw(st.floats(0.0, 1e-3)))


def spaces(program: MadeUp, ranks: int, batch: int) -> Space:
    return Space(ranks=ranks,
                 batch=batch,
                 blocks=len(program.forward_s),
                 positions=2,
                 experts=2)


def everything(program: MadeUp, space: Space,
               cluster: ClusterSpec) -> list[Sum]:
    found, links = [], Links(cluster)
    for cell in space.cells():
        scores = scores_on(program, cluster, links, cell)
        found += [Sum.of(p, scores) for p in space.points(cell)]
    return found


class TestExactness(unittest.TestCase):

    @settings(max_examples=12, deadline=None)
    @given(programs(), st.sampled_from([2, 4, 8]), st.sampled_from([4, 8]),
           st.sampled_from([1e8, 1e10]), st.floats(0.3, 1.2))
    def test_equals_trying_everything(self, program: MadeUp, ranks: int,
                                      batch: int, rate: float,
                                      room: float) -> None:
        cluster = two_nodes(max(1, ranks // 2), rate)
        self._check(program, ranks, batch, cluster, room)

    @settings(max_examples=6, deadline=None)
    @given(programs(), st.sampled_from([2, 4]), st.sampled_from([1e8, 1e10]),
           st.floats(0.3, 1.2))
    def test_on_devices_of_two_kinds(self, program: MadeUp, ranks: int,
                                     rate: float, room: float) -> None:
        cluster = mixed_nodes(ranks // 2, rate)
        self._check(program, ranks, 4, cluster, room)

    def _check(self, program: MadeUp, ranks: int, batch: int,
               cluster: ClusterSpec, room: float) -> None:
        space = spaces(program, ranks, batch)
        every = everything(program, space, cluster)
        sizes = sorted(s.memory_bytes for s in every)
        limit = room * sizes[len(sizes) // 2]
        fitting = [s for s in every if s.memory_bytes <= limit]
        found = search(program, space, cluster, limit)
        if not fitting:
            self.assertEqual(min(f.memory_bytes for f in found.found),
                             sizes[0])
            return
        best_s = min(s.run_s for s in fitting)
        times_s = {s.point: s.run_s for s in every}
        for split, score in found.scored.items():
            self.assertEqual(split, tuple(score.point.sizes[n] for n in AXES))
            self.assertLessEqual(score.time_s,
                                 times_s[score.point] * (1 + 1e-9))
        self.assertAlmostEqual(found.best_s, best_s, delta=1e-9 * best_s)
        self.assertAlmostEqual(found.bound_s, best_s, delta=1e-9 * best_s)
        self.assertLessEqual(len(found.found), len(every))

    @settings(max_examples=5, deadline=None)
    @given(programs(), st.sampled_from([1e8, 1e10]))
    def test_no_schedule_beats_the_bound(self, program: MadeUp,
                                         rate: float) -> None:
        cluster, space = two_nodes(2, rate), spaces(program, 4, 16)
        links = Links(cluster)
        for cell in space.cells():
            scores = scores_on(program, cluster, links, cell)
            for point in space.points(cell):
                whole = Sum.of(point, scores).run_s
                self.assertLessEqual(
                    scores.score(point).time_s, whole * (1 + 1e-9))


class TestRunnersUp(unittest.TestCase):

    BLOCKS = MadeUp(forward_s=(1e-3, ) * 4,
                    input_s=(1e-3, ) * 4,
                    weight_s=(1e-3, ) * 4,
                    parameter_bytes=(1e6, ) * 4,
                    saved_bytes=(1e6, ) * 4)

    def _search(self, runners_up: int) -> Branching[Sum]:
        return search(self.BLOCKS,
                      spaces(self.BLOCKS, 8, 8),
                      two_nodes(4, 1e9),
                      runners_up=runners_up)

    def test_one_on_each_other_split(self) -> None:
        plain, compared = self._search(0), self._search(2)
        before = len(plain.found)
        splits = [tuple(f.point.sizes.values()) for f in compared.found]
        self.assertEqual(compared.found[:before], plain.found)
        self.assertEqual(len(splits), before + 2)
        self.assertEqual(len(set(splits[before:]) - set(splits[:before])), 2)
        self.assertEqual(compared.bound_s, plain.bound_s)
        self.assertEqual(compared.best_s, plain.best_s)

    def test_other_ways_on_sizes_that_are_given(self) -> None:
        sizes = {"pp": 4, "dp": 2, "ep": 1, "cp": 1, "tp": 1}
        space = dataclasses.replace(spaces(self.BLOCKS, 8, 8), fixed=sizes)
        plain, compared = (search(self.BLOCKS,
                                  space,
                                  two_nodes(4, 1e9),
                                  runners_up=number) for number in (0, 3))
        ways = {
            f.point._replace(order=())
            for f in compared.found[len(plain.found):]
        }
        self.assertEqual(len(ways), 3)
        self.assertEqual(compared.bound_s, plain.bound_s)
        self.assertEqual(compared.best_s, plain.best_s)


class TestRoom(unittest.TestCase):

    BLOCKS = MadeUp(forward_s=(1e-3, ) * 6,
                    input_s=(1e-3, ) * 6,
                    weight_s=(1e-3, ) * 6,
                    parameter_bytes=(1e8, ) * 6,
                    saved_bytes=(1e6, ) * 6)

    def _scored(self, small_bytes: int) -> tuple[CellScores, Point]:
        """On a slow device, then a quick one with so much memory."""
        cluster = mixed_nodes(1, 1e10)
        other, = cluster.others
        device = dataclasses.replace(other.device, memory_bytes=small_bytes)
        cluster = dataclasses.replace(cluster,
                                      others=(dataclasses.replace(
                                          other, device=device), ))
        cell = Cell(rows=1)
        return (scores_on(self.BLOCKS, cluster, Links(cluster),
                          cell), Point(cell=cell, pp=2, dp=1, microbatches=4))

    def test_the_best_cut_that_fits(self) -> None:
        """Parameters, gradients and state of a block take 4e8 bytes."""
        first = [
            self._scored(room)[0].cuts(self._scored(room)[1]).starts[1]
            for room in (10**10, int(1.5e9), int(1e9))
        ]
        self.assertEqual(first, [2, 3, 4])

    def test_what_fits_nowhere_is_cut_as_if_all_did(self) -> None:
        roomy, point = self._scored(10**10)
        tight, _ = self._scored(10**8)
        self.assertEqual(tight.cuts(point).cuts, roomy.cuts(point).cuts)
        self.assertGreater(tight.score(point).memory_bytes, 10**8)


class TestCertificate(unittest.TestCase):

    PROGRAM = MadeUp(forward_s=(1e-3, ) * 4,
                     input_s=(1e-3, ) * 4,
                     weight_s=(1e-3, ) * 4,
                     parameter_bytes=(1e6, ) * 4,
                     saved_bytes=(1e5, ) * 4)

    def test_most_is_pruned(self) -> None:
        space = spaces(self.PROGRAM, 8, 32)
        found = search(self.PROGRAM, space, two_nodes(4, 1e10))
        self.assertEqual(found.bound_s, found.best_s)
        self.assertLess(len(found.found), space.count() / 20)

    def test_tolerance_is_what_is_left(self) -> None:
        space = spaces(self.PROGRAM, 8, 32)
        exact = search(self.PROGRAM, space, two_nodes(4, 1e10))
        rough = search(self.PROGRAM, space, two_nodes(4, 1e10), tolerance=0.05)
        self.assertLessEqual(len(rough.found), len(exact.found))
        self.assertLessEqual(rough.bound_s, exact.best_s)
        self.assertGreaterEqual(rough.bound_s, 0.95 * rough.best_s)

    def test_plans_quicker_than_thought_widen_the_gap(self) -> None:
        space = spaces(self.PROGRAM, 8, 32)
        exact = search(self.PROGRAM, space, two_nodes(4, 1e10))
        quicker = search(self.PROGRAM, space, two_nodes(4, 1e10), priced=0.98)
        self.assertEqual(exact.short, 0.0)
        self.assertAlmostEqual(quicker.short, 0.02)
        self.assertAlmostEqual(quicker.best_s, 0.98 * exact.best_s)
        self.assertAlmostEqual(quicker.bound_s, 0.98 * exact.best_s)
        slower = search(self.PROGRAM, space, two_nodes(4, 1e10), priced=1.02)
        self.assertEqual(slower.short, 0.0)

    def test_stops_in_time_with_a_bound(self) -> None:
        space = spaces(self.PROGRAM, 8, 32)
        whole = search(self.PROGRAM, space, two_nodes(4, 1e10))
        stopped = search(self.PROGRAM, space, two_nodes(4, 1e10), until_s=0.0)
        self.assertEqual(stopped.found, [])
        self.assertLessEqual(stopped.bound_s, whole.best_s)
        self.assertGreater(stopped.bound_s, 0.0)

    def test_stopped_early_prices_what_it_laid_out(self) -> None:
        """By a clock that ticks whenever it is read."""
        space = spaces(self.PROGRAM, 8, 32)
        whole = search(self.PROGRAM, space, two_nodes(4, 1e10))
        for ticks in (40, 50, 70):
            clock = itertools.count()
            with mock.patch("planner.joint.branch.time.monotonic",
                            side_effect=clock.__next__):
                stopped = search(self.PROGRAM,
                                 space,
                                 two_nodes(4, 1e10),
                                 until_s=ticks)
            self.assertTrue(stopped.found)
            self.assertLess(stopped.bound_s, whole.best_s)
            self.assertGreaterEqual(stopped.best_s, whole.best_s)


if __name__ == "__main__":
    unittest.main()
