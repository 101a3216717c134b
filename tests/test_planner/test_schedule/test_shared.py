"""Schedules on ranks that share processors."""

from __future__ import annotations

import unittest

from hypothesis import given, settings
from hypothesis import strategies as st

from planner.schedule.engine import finish_times, makespan
from planner.schedule.graph import build_graph
from planner.schedule.named import make_schedule
from planner.schedule.simulation import simulate
from planner.schedule.times import StageTimes

_RANKS, _MICROBATCHES = 3, 4
_SECONDS = st.lists(st.floats(0.0, 2.0), min_size=_RANKS, max_size=_RANKS)


def _times(speedup: float, *rows: list[float]) -> StageTimes:
    return StageTimes.in_parts(*rows, alone_speedup=speedup)


class TestShared(unittest.TestCase):

    def test_by_hand(self) -> None:
        """Forward: one alone, two at once, one alone; so the backward."""
        graph = build_graph(make_schedule("gpipe", ranks=2, microbatches=2))
        times = _times(2.0, [1.0, 1.0], [1.0, 1.0], [1.0, 1.0])
        found = {
            str(a): end
            for a, end in zip(graph.actions, finish_times(graph, times))
        }
        self.assertEqual(
            found, {
                "0F0": 0.5,
                "0F1": 1.5,
                "1F0": 1.5,
                "1F1": 2.0,
                "1B0": 3.0,
                "1B1": 5.0,
                "0B0": 5.0,
                "0B1": 6.0
            })
        simulated = simulate(graph, times)
        self.assertEqual(simulated.makespan_s, 6.0)
        self.assertEqual(simulated.row(0)[0][1:], (0.0, 0.5))
        self.assertEqual(simulated.idle_s, (1.5, 1.5))

    def test_replicas_are_at_work_as_in_the_mean(self) -> None:
        """Ranks of two pipelines, 1.5 of each at work: alone a rank has four
        parts of 1 + 1.5 ranks, and beside the other four of 2 + 1.5."""
        graph = build_graph(make_schedule("gpipe", ranks=2, microbatches=2))
        times = StageTimes.in_parts([1.0, 1.0], [1.0, 1.0], [1.0, 1.0],
                                    alone_speedup=2.0,
                                    replicas=2)
        alone, both = 4 / 2.5, 4 / 3.5
        self.assertAlmostEqual(makespan(graph, times),
                               (1 + 1 + 2 + 2) / alone + (1 + 2) / both)

    def test_who_reduces_is_at_work(self) -> None:
        """The second rank reduces while the first ends its backward: no
        quicker than with both at work, until it is done."""
        graph = build_graph(make_schedule("1f1b", ranks=2, microbatches=1))

        def span_s(reduce_s: float) -> float:
            return makespan(
                graph,
                StageTimes.in_parts([1.0, 1.0], [1.0, 1.0], [1.0, 1.0],
                                    alone_speedup=2.0,
                                    reduce_s=[0.0, reduce_s]))

        # A forward and a backward of each, one after the other.
        self.assertEqual(span_s(0.0), 3.0)
        self.assertEqual(span_s(0.5), 3.25)
        self.assertEqual(span_s(9.0), 4.0)

    def test_replicas_that_reduce_leave_less(self) -> None:
        """Of two pipelines that do nothing but reduce in the end."""
        graph = build_graph(make_schedule("gpipe", ranks=2, microbatches=2))
        spans = [
            makespan(
                graph,
                StageTimes.in_parts([1.0, 1.0], [1.0, 1.0], [1.0, 1.0],
                                    alone_speedup=2.0,
                                    replicas=2,
                                    reduce_s=[s, s])) for s in (0.0, 1.0, 2.0)
        ]
        self.assertEqual(spans, sorted(set(spans)))

    def test_messages_are_no_quicker(self) -> None:
        graph = build_graph(make_schedule("gpipe", ranks=2, microbatches=1))
        times = _times(2.0, [1.0, 1.0], [1.0, 1.0], [1.0, 1.0])
        self.assertEqual(makespan(graph, times, p2p_s=0.25), 3.5)

    @settings(deadline=None, max_examples=50)
    @given(speedup=st.floats(1.0, 4.0),
           rows=st.tuples(_SECONDS, _SECONDS, _SECONDS),
           name=st.sampled_from(["gpipe", "1f1b", "zbh1"]))
    def test_bounds(self, speedup: float, rows: tuple[list[float], ...],
                    name: str) -> None:
        """No rank is slower than with all at work or faster than alone, and
        all together do no more than with all at work."""
        graph = build_graph(
            make_schedule(name, ranks=_RANKS, microbatches=_MICROBATCHES))
        alone, found = (makespan(graph, _times(s, *rows))
                        for s in (1.0, speedup))
        work = _MICROBATCHES * sum(map(sum, rows)) / _RANKS
        self.assertLessEqual(found, alone * (1 + 1e-9))
        self.assertGreaterEqual(found * (1 + 1e-9), max(alone / speedup, work))

    def test_links_that_are_busy(self) -> None:
        """Where hardly anything is shared, as where nothing is."""
        rows = [1.0, 3.0, 2.0], [2.0, 1.0, 2.0], [1.0, 2.0, 2.0]
        for name in ("gpipe", "1f1b", "zbh1"):
            graph = build_graph(
                make_schedule(name, ranks=_RANKS, microbatches=_MICROBATCHES))
            alone, shared = (finish_times(graph,
                                          _times(speedup, *rows),
                                          2.0,
                                          occupancy_s=1.5)
                             for speedup in (1.0, 1 + 1e-9))
            with self.subTest(name):
                for end_s, other_s in zip(alone, shared, strict=True):
                    self.assertAlmostEqual(end_s, other_s, places=5)

    def test_slower_alone(self) -> None:
        with self.assertRaisesRegex(ValueError, "alone_speedup"):
            _times(0.5, [1.0], [1.0], [1.0])


if __name__ == "__main__":
    unittest.main()
